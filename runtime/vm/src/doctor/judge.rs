//! What the facts mean: a pure function, so that every verdict can be tested on any machine.

use super::facts::{Facts, NftFacts};
use super::kvm::Probe;
use super::{Check, Status};
use crate::cgroup::CONTROLLERS;

/// Oldest kernel whose calls we use: close_range with CLOEXEC.
const OLDEST_KERNEL: (u32, u32) = (5, 11);
/// KiB of memory with which one small pod runs, and with which it is comfortable.
const MEMORY_KIB: (u64, u64) = (256 << 10, 1 << 20);
/// Bytes of disk, likewise.
const DISK: (u64, u64) = (256 << 20, 2 << 30);

fn check(name: &str, status: Status, found: impl Into<String>, meaning: &str, mend: &str) -> Check {
    Check { name: name.into(), status, found: found.into(), meaning: meaning.into(), mend: mend.into() }
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    check(name, Status::Ok, found, "", "")
}

/// All verdicts.
pub fn judge(facts: &Facts) -> Vec<Check> {
    vec![
        system(facts),
        judge_kvm(&facts.kvm, facts.cpu_virtualisation, facts.in_vm),
        user(facts),
        parts(facts),
        cgroup(facts),
        landlock(facts),
        memory(facts),
        disk(facts),
        tun(facts),
        nftables(facts),
        forwarding(facts),
    ]
}

fn system(facts: &Facts) -> Check {
    let found = format!("Linux {} on {}", facts.kernel, facts.arch);
    if facts.arch != "x86_64" {
        return check(
            "system",
            Status::Fail,
            found,
            "Vial runs on x86_64 only so far.",
            "Use an x86_64 machine.",
        );
    }
    let mut numbers = facts.kernel.split(['.', '-', '+']).map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_KERNEL => check(
            "system",
            Status::Fail,
            found,
            "This kernel lacks system calls that Vial isolates its VMs with.",
            "Update to Linux 5.11 or later.",
        ),
        _ => ok("system", found),
    }
}

/// The verdict on KVM alone.
pub fn judge_kvm(probe: &Probe, cpu_virtualisation: bool, in_vm: bool) -> Check {
    let switch_on = if in_vm {
        "This machine is a virtual machine itself: switch on nested virtualisation for it on its host, or use one of bare metal."
    } else {
        "Switch on VT-x or AMD-V (SVM) in the firmware's set-up, then load the module: modprobe kvm-intel, or modprobe kvm-amd."
    };
    match probe {
        Probe::Works => {
            ok("kvm", "guest instructions run as they should (INT3, POPCNT, XGETBV and a few dozen more)")
        }
        Probe::NoDevice { errno } if matches!(*errno, libc::EACCES | libc::EPERM) => check(
            "kvm",
            Status::Fail,
            "/dev/kvm exists, but this user may not open it",
            "Without KVM no VM can be started.",
            "Run vial as root, or join the group that owns the device: usermod -aG kvm $USER, then log in again.",
        ),
        Probe::NoDevice { .. } if cpu_virtualisation => check(
            "kvm",
            Status::Fail,
            "there is no /dev/kvm, though the processor can virtualise",
            "Without KVM no VM can be started.",
            "Load the module: modprobe kvm-intel, or modprobe kvm-amd. If it refuses, virtualisation is locked in the firmware's set-up.",
        ),
        Probe::NoDevice { .. } => check(
            "kvm",
            Status::Fail,
            "there is no /dev/kvm, and the processor does not offer virtualisation",
            "Without KVM no VM can be started.",
            switch_on,
        ),
        Probe::NoVm { call, errno } if *errno == libc::EBUSY => check(
            "kvm",
            Status::Fail,
            format!("{call} fails: another hypervisor holds the processor's virtualisation"),
            "Without KVM no VM can be started.",
            "End the other hypervisor (VirtualBox or VMware), or unload its modules.",
        ),
        Probe::NoVm { call, errno } => check(
            "kvm",
            Status::Fail,
            format!("/dev/kvm opens, but {call} fails: {}", std::io::Error::from_raw_os_error(*errno)),
            "Without a working KVM no VM can be started.",
            switch_on,
        ),
        Probe::Broken { step, exit } => check(
            "kvm",
            Status::Fail,
            format!("/dev/kvm makes a VM, but its guest fails at {step}: {exit}"),
            "This KVM does not run kernel code on the processor itself (as kvm-pvm, a software substitute, does not): no Linux guest boots here.",
            "Use bare metal or a virtual machine with nested virtualisation. To try Vial here nevertheless: tools/testbed COMMAND runs it \
             on an emulated host, slow but true.",
        ),
    }
}

fn user(facts: &Facts) -> Check {
    if facts.uid == 0 {
        return ok("user", "root");
    }
    check(
        "user",
        Status::Warn,
        format!("user id {}", facts.uid),
        "vial vm works, but its VM processes share your user id and have no limits of memory and processor; pods need root.",
        "Run vial as root.",
    )
}

fn parts(facts: &Facts) -> Check {
    let folder = facts.parts_dir.display();
    if facts.parts_missing.is_empty() {
        return ok("parts", format!("VM monitor, guest kernel and agent in {folder}"));
    }
    check(
        "parts",
        Status::Fail,
        format!("{} missing in {folder}", facts.parts_missing.join(", ")),
        "VMs are made from these parts.",
        "Build them with tools/build, or set VIAL_LIB_DIR to the folder that has them.",
    )
}

fn cgroup(facts: &Facts) -> Check {
    let Some(found) = &facts.cgroup else {
        return check(
            "cgroup",
            Status::Warn,
            "no cgroup v2 is mounted",
            "VM processes can't be limited in memory and processor time beyond their own size.",
            "Mount it: mount -t cgroup2 none /sys/fs/cgroup; with systemd boot with systemd.unified_cgroup_hierarchy=1.",
        );
    };
    let place = found.mount.display();
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|c| !found.controllers.iter().any(|f| f == c)).collect();
    if !found.writable {
        let (meaning, mend) =
            ("VM processes run without limits of memory and processor time.", "Run vial as root.");
        return check("cgroup", Status::Warn, format!("cgroup v2 at {place} is not writable"), meaning, mend);
    }
    if missing.is_empty() {
        return ok("cgroup", format!("cgroup v2 at {place} with {}", CONTROLLERS.join(", ")));
    }
    check(
        "cgroup",
        Status::Warn,
        format!("cgroup v2 at {place} lacks {}", missing.join(", ")),
        "Limits of these kinds are not enforced on VM processes; the guest's own memory is bounded all the same.",
        "Hand all controllers to version 2: boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all.",
    )
}

fn landlock(facts: &Facts) -> Check {
    match facts.landlock_abi {
        Some(abi) => ok("landlock", format!("ABI version {abi}")),
        None => check(
            "landlock",
            Status::Warn,
            "not available",
            "One of several walls around VM processes is missing.",
            "Boot with landlock in the list of lsm=, on Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK.",
        ),
    }
}

fn memory(facts: &Facts) -> Check {
    let found = format!("{} MiB available", facts.memory_available_kib >> 10);
    match facts.memory_available_kib {
        n if n < MEMORY_KIB.0 => {
            check("memory", Status::Fail, found, "A pod needs some 256 MiB.", "End something, or add memory.")
        }
        n if n < MEMORY_KIB.1 => {
            check("memory", Status::Warn, found, "It is enough for a few small pods.", "Add memory for more.")
        }
        _ => ok("memory", found),
    }
}

fn disk(facts: &Facts) -> Check {
    let found = format!("{} MiB free for {}", facts.disk_free >> 20, facts.data_dir.display());
    let mend = "Free some space, or set VIAL_DATA_DIR to a folder on a larger disk.";
    match facts.disk_free {
        n if n < DISK.0 => {
            check("disk", Status::Fail, found, "Images and writable layers have no room.", mend)
        }
        n if n < DISK.1 => {
            check("disk", Status::Warn, found, "There is room for a few small images only.", mend)
        }
        _ => ok("disk", found),
    }
}

fn tun(facts: &Facts) -> Check {
    let meaning = "Pods have their loopback only (those with -p or --network routed do not start), and VMs no network devices.";
    match facts.tun_errno {
        None => ok("tun", "/dev/net/tun opens"),
        Some(libc::EACCES | libc::EPERM) => {
            check("tun", Status::Warn, "this user may not open /dev/net/tun", meaning, "Run vial as root.")
        }
        Some(errno) => {
            let found = format!("/dev/net/tun: {}", std::io::Error::from_raw_os_error(errno));
            check("tun", Status::Warn, found, meaning, "Load the module: modprobe tun.")
        }
    }
}

fn nftables(facts: &Facts) -> Check {
    let meaning = "Pods have their loopback only (those with -p or --network routed do not start), and this machine's firewall can't be seen.";
    match &facts.nft {
        NftFacts::Works => ok("nftables", "the ruleset can be read"),
        NftFacts::NoProgram => check(
            "nftables",
            Status::Warn,
            "there is no nft program",
            meaning,
            "Install it: apt-get install nftables.",
        ),
        NftFacts::Failed(words) => {
            let mend =
                if facts.uid == 0 { "Load the module: modprobe nf_tables." } else { "Run vial as root." };
            check("nftables", Status::Warn, format!("nft fails: {words}"), meaning, mend)
        }
    }
}

/// Chains whose owners the network tells to let pods through: iptables' (Docker's and ufw's too).
const TOLD: [&str; 3] = ["ip filter FORWARD", "ip6 filter FORWARD", "ip filter FORWARD (iptables-legacy)"];

fn forwarding(facts: &Facts) -> Check {
    let firewall = &facts.firewall;
    let managers = match firewall.managers.as_slice() {
        [] => String::new(),
        managers => format!(" (rules of {} are loaded)", managers.join(", ")),
    };
    if firewall.dropping.is_empty() {
        return ok("forwarding", format!("no other firewall drops forwarded packets{managers}"));
    }
    let dropping = firewall.dropping.join("; ");
    let told = |chain: &String| TOLD.contains(&chain.as_str()) && facts.iptables;
    let others: Vec<&String> = firewall.dropping.iter().filter(|chain| !told(chain)).collect();
    if others.is_empty() {
        let found = format!(
            "{dropping} drops forwarded packets{managers}; Vial inserts rules for its interfaces there while pods run"
        );
        return ok("forwarding", found);
    }
    let others = others.into_iter().map(String::as_str).collect::<Vec<_>>();
    check(
        "forwarding",
        Status::Warn,
        format!("dropped unless a rule allows it: {dropping}{managers}"),
        "Packets between pods and other machines are lost in that firewall: an accept in Vial's own table does not undo a drop in another.",
        &mend_forwarding(&others),
    )
}

fn mend_forwarding(chains: &[&str]) -> String {
    if chains.iter().all(|chain| TOLD.contains(chain)) {
        return "Install iptables, so that Vial can insert its rules there: apt-get install iptables.".into();
    }
    let rules = chains.iter().filter(|chain| !TOLD.contains(chain)).flat_map(|chain| {
        ["iifname", "oifname"].map(|side| format!("nft insert rule {chain} {side} 'vial*' accept"))
    });
    format!(
        "Let pods' interfaces through where that firewall is configured, or for now: {}.",
        rules.collect::<Vec<_>>().join("; ")
    )
}

#[cfg(test)]
mod tests;
