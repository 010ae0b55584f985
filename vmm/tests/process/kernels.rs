//! Kernels of both forms, entered in both ways.

use crate::common::{HANG, Vm, kvm, out};
use serde_json::json;
use vmm::api::status::ExitReason;

/// A bzImage (Documentation/arch/x86/boot.rst) whose 64-bit entry is `code`.
fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024 + 0x200];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    file.extend_from_slice(code);
    file.resize(file.len().next_multiple_of(16), 0);
    let paragraphs = ((file.len() - 1024) / 16) as u32;
    file[0x1f4..0x1f8].copy_from_slice(&paragraphs.to_le_bytes());
    file
}

#[test]
fn a_bzimage_is_entered_in_long_mode_with_its_own_header_in_the_zero_page() {
    if !kvm() {
        return;
    }
    // `mov eax, [rsi + 0x202]; cmp eax, "HdrS"; jne hang`, then off.
    let found = [&[0x8b, 0x86, 0x02, 0x02, 0, 0, 0x3d], b"HdrS".as_slice(), &[0x75, 0x07]].concat();
    let vm = Vm::new(HANG);
    std::fs::write(vm.path("kernel"), bzimage(&[&found, &out(0x600, 0x34), HANG].concat())).unwrap();
    assert_eq!(vm.end(), ExitReason::GuestShutdown);
}

#[test]
fn the_serial_port_is_there_only_when_asked_for_and_writes_all_before_the_end() {
    if !kvm() {
        return;
    }
    let code = [&out(0x3f8, b'o'), out(0x3f8, b'k').as_slice(), &out(0x600, 0x34), HANG].concat();
    let mut vm = Vm::new(&code);
    assert_eq!(String::from_utf8(vm.run().stdout).unwrap(), "");
    vm.config["serial"] = json!({});
    assert_eq!(String::from_utf8(vm.run().stdout).unwrap(), "ok");
    vm.config["serial"] = json!({"serial_out_path": vm.path("serial")});
    assert_eq!(vm.end(), ExitReason::GuestShutdown);
    assert_eq!(std::fs::read_to_string(vm.path("serial")).unwrap(), "ok");
}

#[test]
fn both_entries_of_a_vmlinux_work() {
    if !kvm() {
        return;
    }
    for entry in ["pvh", "linux64"] {
        let mut vm = Vm::new(&[&out(0x600, 0x34), HANG].concat());
        vm.config["boot-source"]["entry"] = json!(entry);
        assert_eq!(vm.end(), ExitReason::GuestShutdown, "{entry}");
    }
}
