//! Guests that break the virtio specification and the machine, from inside: `acts.rs` is the table.
//!
//! Each is a kernel of a few hundred bytes that drives real devices of a real `vial-vmm` wrongly. It either survives, which it shows by
//! driving them rightly afterwards, or is ended for the reason that it is one's own fault. In no case does the VMM panic, hang,
//! write more than a few lines, or grow.

mod acts;
pub mod code;
pub mod driver;

use crate::client::spawn_listening;
use crate::common::{HANG, Vm, kvm, peak_memory_kib};
use acts::{ACTS, End};
use code::Code;
use driver::Bus;
use serde_json::json;
use std::io::Read;
use vmm::api::status::ExitReason;

/// KiB that a VMM with 32 MiB of guest memory may have had in use: all of that, and room for itself.
const MEMORY_KIB: i64 = (32 << 10) + (16 << 10);
/// Bytes that it may say about a guest that misbehaves as fast as it can.
const SAID: usize = 4096;

/// A VM whose guest does `act` with a disk, sockets, entropy and a console on `bus`.
pub fn vm(bus: Bus, act: fn(&mut Code)) -> Vm {
    let mut code = Code::on(bus);
    act(&mut code);
    let mut vm = Vm::new(code.hang().bytes());
    let mut disk = vec![0; 64 << 10];
    disk[512..1024].fill(0xff);
    std::fs::write(vm.path("disk"), disk).unwrap();
    vm.config["drives"] = json!([{"drive_id": "disk", "path_on_host": vm.path("disk")}]);
    vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
    vm.config["entropy"] = json!({});
    vm.config["vial"]["console"] = json!({"output": vm.path("console")});
    vm.config["vial"]["transport"] = match bus {
        Bus::Mmio => "mmio".into(),
        Bus::Pci => "pci".into(),
    };
    vm
}

#[test]
fn guests_that_break_the_rules_over_mmio_survive_or_are_ended_for_it() {
    all_acts(Bus::Mmio);
}

#[test]
fn guests_that_break_the_rules_over_pci_survive_or_are_ended_for_it() {
    all_acts(Bus::Pci);
}

fn all_acts(bus: Bus) {
    if !kvm() {
        return;
    }
    let mut wrong = Vec::new();
    for (name, act, end) in ACTS {
        let vm = vm(bus, *act);
        let mut process = vm.spawn();
        let (code, peak) = peak_memory_kib(&process.0);
        let Some(code) = code else {
            wrong.push(format!("{name}: it hangs, or was killed"));
            continue;
        };
        let mut said = String::new();
        process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let (reason, detail) = vm.reason();
        let right = match (end, reason) {
            (End::Survives | End::Either, ExitReason::GuestShutdown) => true,
            (End::Fault(words), ExitReason::GuestFault) => detail.contains(words),
            (End::Either, ExitReason::GuestFault) => true,
            _ => false,
        };
        if !right || code != reason.code() {
            wrong.push(format!("{name}: {reason:?} ({code}): {detail}"));
        }
        if peak > MEMORY_KIB || said.len() > SAID || said.contains("panic") {
            wrong.push(format!("{name}: {peak} KiB, {} bytes said: {said:.200}", said.len()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ACTS.len(), wrong.join("\n"));
}

#[test]
fn a_power_button_that_a_guest_ignores_may_be_pressed_for_ever() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let (mut child, mut client) = spawn_listening(&mut vm);
    for _ in 0..3000 {
        assert_eq!(client.ask("power_button")["state"], "running");
    }
    client.ask("stop");
    let (code, peak) = peak_memory_kib(&child.0);
    assert_eq!(code, Some(ExitReason::Stopped.code()));
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
