//! A running VM from outside: signals, control requests, the pod profile.

use crate::client::{Client, spawn_listening};
use crate::common::{HANG, Process, SPIN, Vm, inherit, kvm, out};
use serde_json::json;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use vmm::api::status::{ExitReason, Record, Step};

fn signal(child: &Process, signal: i32) {
    let pid = child.0.id().cast_signed();
    // SAFETY: a signal to a child that was not waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn sigterm_ends_a_guest_that_hangs_or_spins_or_is_paused() {
    if !kvm() {
        return;
    }
    for (code, pause, vcpus) in [(HANG, false, 1), (SPIN, false, 2), (SPIN, true, 4)] {
        let mut vm = Vm::new(code);
        vm.config["machine-config"]["vcpu_count"] = vcpus.into();
        let (mut child, mut client) = spawn_listening(&mut vm);
        let action = if pause { "pause" } else { "info" };
        client.ask(action);
        signal(&child, libc::SIGTERM);
        assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
        assert_eq!(vm.reason(), (ExitReason::Stopped, "SIGTERM".into()));
    }
}

#[test]
fn a_vm_can_be_paused_and_resumed_hundreds_of_times() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(SPIN);
    vm.config["machine-config"]["vcpu_count"] = 3.into();
    let (mut child, mut client) = spawn_listening(&mut vm);
    for _ in 0..300 {
        assert_eq!(client.ask("pause")["state"], "paused");
        assert_eq!(client.ask("resume")["state"], "running");
    }
    // Asking twice is no mistake.
    for action in ["pause", "pause", "info"] {
        assert_eq!(client.ask(action)["state"], "paused");
    }
    client.ask("stop");
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    assert_eq!(vm.reason(), (ExitReason::Stopped, "by request".into()));
}

#[test]
fn exits_are_counted_by_reason() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&[out(0x80, 1), out(0x80, 2), SPIN.to_vec()].concat());
    let (mut child, mut client) = spawn_listening(&mut vm);
    // The guest may not have come to its second write yet: a pause does not end before the vCPU has left KVM_RUN, so asking
    // again makes progress and not just time pass.
    loop {
        client.ask("pause");
        if client.ask("resume")["exits"]["io_out"] == 2 {
            break;
        }
    }
    client.ask("stop");
    child.0.wait().unwrap();
}

#[test]
fn what_drivers_have_made_of_devices_can_be_asked() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    vm.config["entropy"] = json!({});
    let (mut child, mut client) = spawn_listening(&mut vm);
    let answer = client.ask("devices");
    let devices = answer["devices"].as_array().unwrap();
    let rng = devices.iter().find(|device| device["name"] == "rng").unwrap();
    let expected = json!({
        "name": "rng", "type": 4, "state": "without a driver", "asked_for": false, "queues": 1, "features": "0x0",
    });
    assert_eq!(*rng, expected);
    client.ask("stop");
    child.0.wait().unwrap();
}

#[test]
fn rubbish_on_the_control_socket_is_refused_and_harms_nobody() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let (mut child, mut client) = spawn_listening(&mut vm);
    assert!(client.send(b"{\"action\":\"frob\"}\n")["fault_message"].is_string());
    assert!(client.send(b"\xff\xfe\n")["fault_message"].is_string());
    let mut flood = Client::connect(&vm.path("ready"));
    assert!(flood.send(&[b'x'; 5000])["fault_message"].as_str().unwrap().contains("longer than 4096"));
    // Connections that come and say nothing, and more of them than are kept.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(vm.path("ready")).unwrap()).collect();
    assert_eq!(client.ask("info")["state"], "running");
    drop(silent);
    client.ask("stop");
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn the_pod_profile_runs_on_inherited_descriptors_alone() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&[&out(0x600, 0x34), HANG].concat());
    let open = |name: &str| {
        std::fs::OpenOptions::new().read(true).append(true).create(true).open(vm.path(name)).unwrap()
    };
    let (kernel, status, console) = (open("kernel"), open("status"), open("console"));
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    let disk = std::fs::OpenOptions::new().read(true).write(true).open(vm.path("disk")).unwrap();
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
    let listener = UnixListener::bind(vm.path("vsock")).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    vm.config = json!({
        "boot-source": {"kernel_image_path": {"fd": inherit(&kernel)}},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 32},
        "drives": [{"drive_id": "disk", "path_on_host": {"fd": inherit(&disk)}}],
        "vsock": {
            "guest_cid": 3,
            "uds_path": {"fd": inherit(&listener)},
            "host_ports": [{"port": 1024, "fd": inherit(&theirs)}],
        },
        "entropy": {},
        "vial": {
            "profile": "pod",
            "status": {"fd": inherit(&status)},
            "console": {"output": {"fd": inherit(&console)}},
        },
    });
    let mut child = vm.spawn_with(&["--kvm-fd".into(), inherit(&kvm).to_string()]);
    drop(theirs);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_eq!(vm.reason().0, ExitReason::GuestShutdown);
    // The VMM has let go of what it inherited.
    assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn every_thread_is_confined_once_the_guest_runs() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(SPIN);
    vm.config["machine-config"]["vcpu_count"] = 3.into();
    let (mut child, mut client) = spawn_listening(&mut vm);
    client.ask("info");
    let mut names = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", child.0.id())).unwrap() {
        let task = task.unwrap().path();
        // A thread that has ended may be listed a little longer.
        let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        // So may the loader; and KVM keeps a helper of its own among a VM's threads, which never leaves the kernel.
        if field("Name:") == "loader" || field("Name:").starts_with("kvm-") {
            continue;
        }
        names.push(field("Name:").to_owned());
        // SECCOMP_MODE_FILTER.
        assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2", "1"), "{names:?}");
    }
    names.sort();
    assert_eq!(names, ["vcpu0", "vcpu1", "vcpu2", "vial-vmm"]);
    client.ask("stop");
    child.0.wait().unwrap();
}

#[test]
fn a_killed_vmm_leaves_no_exit_record() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(SPIN);
    let (mut child, mut client) = spawn_listening(&mut vm);
    client.ask("info");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert!(matches!(vm.records().last(), Some(Record::Milestone { step: Step::FirstRun, .. })));
}

#[test]
fn limits_can_be_changed_and_nonsense_is_refused() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    vm.config["drives"] = json!([{
        "drive_id": "data", "path_on_host": vm.path("disk"),
        "rate_limiter": {"bandwidth": {"size": 1000, "one_time_burst": 10, "refill_time": 100}},
    }]);
    let (_child, mut client) = spawn_listening(&mut vm);
    let mut change = |drive: &str, refill_time: u64| {
        client.ask_with(
            &json!({"action": "update_drive", "drive_id": drive, "rate_limiter": {"ops": {"size": 1, "refill_time": refill_time}}}),
            &[],
        )
    };
    assert_eq!(change("data", 10)["state"], "running");
    for (drive, refill_time, expected) in
        [("other", 10, "no drive \"other\""), ("data", 1 << 32, "ops.refill_time is 4294967296 ms")]
    {
        let answer = change(drive, refill_time);
        assert!(answer["fault_message"].as_str().unwrap().contains(expected), "{answer}");
    }
    let answer = client.ask_with(&json!({"action": "update_interface", "iface_id": "eth0"}), &[]);
    assert!(answer["fault_message"].as_str().unwrap().contains("no interface \"eth0\""), "{answer}");
}
