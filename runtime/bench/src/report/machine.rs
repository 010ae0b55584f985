//! The machine in two lines, and what of it matters when two reports differ.

use super::blocks::Block;
use crate::result::{Document, MachineKind};

pub fn blocks(document: &Document) -> Vec<Block> {
    let machine = &document.machine;
    let kind = match machine.kind {
        MachineKind::BareMetal => "bare metal",
        MachineKind::Nested => "a virtual machine, in which VMs are nested",
        MachineKind::Emulated => "an emulated processor",
    };
    let gib = |kib: u64| kib as f64 / f64::from(1 << 20);
    let hardware = format!(
        "{} with {} processors and {:.1} GiB ({:.1} available), {kind}.",
        machine.cpu,
        machine.cpus,
        gib(machine.memory_kib),
        gib(machine.available_kib)
    );
    let software = format!(
        "{}, Linux {}, {}, governor {}, huge pages {}, load {:.2}, {:.0} % busy before the first start.",
        machine.os,
        machine.kernel,
        machine.kvm_module.as_deref().unwrap_or("no KVM module"),
        if machine.governors.is_empty() { "unknown".to_owned() } else { machine.governors.join(" and ") },
        machine.huge_pages.as_deref().unwrap_or("unknown"),
        machine.load,
        100.0 * machine.busy,
    );
    vec![Block::Text(hardware), Block::Text(software)]
}

/// What Linux does against faults of the processor, as (fault, answer).
pub fn mitigations(document: &Document) -> Vec<(&str, &str)> {
    document.machine.mitigations.iter().map(|(fault, answer)| (fault.as_str(), answer.as_str())).collect()
}
