//! How VMs end, seen from outside: exit code and last record say the same, and say the truth.

use crate::common::{HANG, Vm, kvm, out};
use vmm::api::status::{ExitReason, Record, Step};

fn ends(code: &[&[u8]]) -> ExitReason {
    Vm::new(&code.concat()).end()
}

#[test]
fn a_write_of_s5_to_the_sleep_register_is_a_shutdown() {
    if kvm() {
        assert_eq!(ends(&[&out(0x600, 0x34), HANG]), ExitReason::GuestShutdown);
    }
}

#[test]
fn the_reset_register_and_the_i8042_are_a_reboot() {
    if kvm() {
        assert_eq!(ends(&[&out(0x602, 1), HANG]), ExitReason::GuestReboot);
        assert_eq!(ends(&[&out(0x64, 0xfe), HANG]), ExitReason::GuestReboot);
    }
}

#[test]
fn pvpanic_is_a_panic_even_if_a_reboot_follows() {
    if kvm() {
        assert_eq!(ends(&[&out(0x505, 1), &out(0x602, 1), HANG]), ExitReason::GuestPanic);
    }
}

#[test]
fn a_triple_fault_is_a_crash() {
    if kvm() {
        // `ud2` with no interrupt table.
        assert_eq!(ends(&[&[0x0f, 0x0b]]), ExitReason::GuestCrash);
    }
}

#[test]
fn an_instruction_that_kvm_can_not_emulate_is_the_guest_s_crash() {
    if kvm() {
        // `fninit; fldz; fstp qword [0xd0000000]`, where a device would be.
        let store = [0xdb, 0xe3, 0xd9, 0xee, 0xdd, 0x1d, 0, 0, 0, 0xd0];
        assert_eq!(ends(&[&store, HANG]), ExitReason::GuestCrash);
    }
}

/// `mov eax, address; jmp eax`.
fn jump(address: u32) -> Vec<u8> {
    [&[0xb8][..], &address.to_le_bytes(), &[0xff, 0xe0]].concat()
}

#[test]
fn a_jump_or_an_exception_to_where_nothing_is_is_the_guest_s_crash() {
    if !kvm() {
        return;
    }
    assert_eq!(ends(&[&jump(0xd000_0000)]), ExitReason::GuestCrash);
    // `lidt` of a whole table at 0xd0000000, whose description is at 0x600000, and `ud2`.
    let describe = [
        &[0x66, 0xc7, 0x05, 0, 0, 0x60, 0, 0xff, 0x07][..],
        &[0xc7, 0x05, 2, 0, 0x60, 0, 0, 0, 0, 0xd0],
        &[0x0f, 0x01, 0x1d, 0, 0, 0x60, 0],
    ];
    assert_eq!(ends(&[&describe.concat(), &[0x0f, 0x0b]]), ExitReason::GuestCrash);
}

#[test]
fn a_jump_to_where_nothing_is_may_be_the_host_s_doing_where_pages_can_go() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&jump(0xd000_0000));
    std::fs::File::create(vm.path("memory")).unwrap().set_len(32 << 20).unwrap();
    vm.config["machine-config"]["memory_backing"] = serde_json::json!({"private_file": vm.path("memory")});
    assert_eq!(vm.end(), ExitReason::InternalError);
}

#[test]
fn steps_are_recorded_in_order_and_the_exit_comes_last() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(&[&out(0x600, 0x34), HANG].concat());
    vm.end();
    let records = vm.records();
    let steps: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Milestone { step, at_us } => Some((*step, *at_us)),
            Record::Exit { .. } | Record::DeviceLost { .. } => None,
        })
        .collect();
    let names: Vec<_> = steps.iter().map(|(step, _)| *step).collect();
    let expected = [Step::ProcessStart, Step::Configured, Step::VmBuilt, Step::KernelLoaded, Step::FirstRun];
    assert_eq!(names, expected);
    assert!(steps.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    assert_eq!(records.len(), steps.len() + 1);
}

#[test]
fn accesses_where_nothing_is_do_no_harm() {
    if !kvm() {
        return;
    }
    // mov eax, [0xd0000000 + 64 * n]; mov [...], eax: windows of devices that are not there, and beyond.
    let mut code = Vec::new();
    for address in (0u32..64).map(|n| 0xcfff_ff00 + 64 * n) {
        code.extend([0xa1].into_iter().chain(address.to_le_bytes()));
        code.extend([0xa3].into_iter().chain(address.to_le_bytes()));
    }
    code.extend(out(0x80, 0x55));
    code.extend(out(0x600, 0x34));
    assert_eq!(ends(&[&code, HANG]), ExitReason::GuestShutdown);
}

#[test]
fn a_mapped_kernel_runs_like_one_that_was_read() {
    if kvm() {
        let mut vm = Vm::new(&[out(0x600, 0x34), vec![0; 9000]].concat());
        vm.config["boot-source"]["load"] = "map".into();
        assert_eq!(vm.end(), ExitReason::GuestShutdown);
    }
}

#[test]
fn there_is_room_for_64_devices() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&[&out(0x600, 0x34), HANG].concat());
    let drive = |n: usize| serde_json::json!({"drive_id": n.to_string(), "is_removable": true});
    vm.config["drives"] = (0..63).map(drive).collect();
    vm.config["entropy"] = serde_json::json!({});
    assert_eq!(vm.end(), ExitReason::GuestShutdown);
}

#[test]
fn devices_of_every_kind_can_be_given() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&[&out(0x600, 0x34), HANG].concat());
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    vm.config["drives"] = serde_json::json!([
        {"drive_id": "one", "path_on_host": vm.path("disk")},
        {"drive_id": "two", "concat": [vm.path("disk"), vm.path("disk")]},
    ]);
    vm.config["vsock"] = serde_json::json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
    vm.config["entropy"] = serde_json::json!({});
    vm.config["vial"]["console"] = serde_json::json!({"output": vm.path("console")});
    assert_eq!(vm.end(), ExitReason::GuestShutdown);
}

#[test]
fn an_end_that_nobody_wanted_is_told_on_the_standard_error_and_as_an_error_in_the_log() {
    if !kvm() {
        return;
    }
    for (code, says) in [
        (out(0x505, 1), Some("vial-vmm: the guest's kernel has panicked\n")),
        // A sleep state that it was never offered.
        (out(0x600, 0x24), Some("vial-vmm: the guest has broken a device's rules: ")),
        (out(0x600, 0x34), None),
        (out(0x602, 1), None),
    ] {
        let vm = Vm::new(&[&code, HANG].concat());
        let log = vm.path("log").to_str().unwrap().to_owned();
        let output = vm.run_with(&["--log-path".into(), log, "--level".into(), "Error".into()]);
        let said = String::from_utf8(output.stderr).unwrap();
        let logged = std::fs::read_to_string(vm.path("log")).unwrap();
        match says {
            Some(says) => {
                assert!(said.starts_with(says) && said.lines().count() == 1, "{said}");
                assert!(logged.contains("The VM has ended: Guest"), "{logged}");
            }
            None => assert_eq!((said.as_str(), logged.as_str()), ("", "")),
        }
    }
}
