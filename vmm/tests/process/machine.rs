//! What a machine is made of: processors and memory, as the guest finds them.

use crate::common::{HANG, Vm, kvm, out};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use vmm::api::status::ExitReason;

/// `mov eax, leaf; mov ecx, subleaf; cpuid`, then AL, BL, CL and DL to the serial port.
fn cpuid(leaf: u32, subleaf: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(leaf.to_le_bytes());
    code.push(0xb9);
    code.extend(subleaf.to_le_bytes());
    // `mov esi, edx; mov dx, 0x3f8; out dx, al`, and the others by way of AL.
    code.extend([0x0f, 0xa2, 0x89, 0xd6, 0x66, 0xba, 0xf8, 0x03, 0xee]);
    code.extend([0x88, 0xd8, 0xee, 0x88, 0xc8, 0xee, 0x89, 0xf0, 0xee]);
    code
}

/// The low bytes of the four registers.
fn leaf(vm: &mut Vm, leaf: u32, subleaf: u32) -> Vec<u8> {
    let code = [&cpuid(leaf, subleaf), out(0x600, 0x34).as_slice(), HANG].concat();
    std::fs::write(vm.path("kernel"), crate::common::kernel(&code)).unwrap();
    vm.config["serial"] = json!({});
    vm.run().stdout
}

#[test]
fn topology_is_as_smt_says() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    vm.config["machine-config"]["vcpu_count"] = 8.into();
    // Bits of the thread's number, threads of a core, level and its kind.
    assert_eq!(leaf(&mut vm, 0xb, 0)[..3], [0, 1, 0]);
    assert_eq!(leaf(&mut vm, 0xb, 1)[..3], [3, 8, 1]);
    vm.config["machine-config"]["smt"] = true.into();
    assert_eq!(leaf(&mut vm, 0xb, 0)[..3], [1, 2, 0]);
    assert_eq!(leaf(&mut vm, 0xb, 1)[..3], [3, 8, 1]);
}

#[test]
fn cpu_templates_change_what_the_guest_sees() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let registers =
        json!([{"register": "eax", "bitmap": "0b00000001"}, {"register": "ecx", "bitmap": "0b10101010"}]);
    let change = |leaf: &str| json!({"leaf": leaf, "subleaf": "0", "flags": 0, "modifiers": registers});
    vm.config["cpu-config"] = json!({
        "kvm_capabilities": ["0", "!1000"],
        "cpuid_modifiers": [change("0x80000002")],
        // IA32_TSC_ADJUST, which every KVM has.
        "msr_modifiers": [{"addr": "0x3b", "bitmap": "0b0"}],
    });
    let seen = leaf(&mut vm, 0x8000_0002, 0);
    assert_eq!((seen[0], seen[2]), (0x01, 0xaa));
    for (field, value, says) in [
        ("cpuid_modifiers", json!([change("0x12345")]), "CPUID leaf 0x12345"),
        ("kvm_capabilities", json!(["100000"]), "capability 100000"),
    ] {
        vm.config["cpu-config"] = json!({field: value});
        assert_eq!(vm.end(), ExitReason::BadConfig);
        assert!(vm.reason().1.contains(says), "{}", vm.reason().1);
    }
}

#[test]
fn every_kind_of_memory_runs_a_guest() {
    if !kvm() {
        return;
    }
    // `mov [0x1000000], 0x37; mov al, [0x1000000]; mov dx, 0x3f8; out dx, al`.
    let code = [0xc6, 0x05, 0, 0, 0, 1, 0x37, 0xa0, 0, 0, 0, 1, 0x66, 0xba, 0xf8, 0x03, 0xee];
    let mut vm = Vm::new(&[&code, out(0x600, 0x34).as_slice(), HANG].concat());
    vm.config["serial"] = json!({});
    let file = vm.path("memory");
    std::fs::File::create(&file).unwrap().set_len(32 << 20).unwrap();
    for (field, value) in [
        ("memory_backing", json!("anonymous")),
        ("memory_backing", json!("shared")),
        ("memory_backing", json!({"private_file": file})),
        ("huge_pages", json!("Transparent")),
        ("track_dirty_pages", json!(true)),
    ] {
        vm.config["machine-config"] = json!({"vcpu_count": 1, "mem_size_mib": 32, field: value});
        let output = vm.run();
        assert_eq!(output.stdout, b"7", "{field} {value}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Not a byte of it was written.
    assert_eq!(std::fs::metadata(&file).unwrap().blocks(), 0);
    vm.config["machine-config"] =
        json!({"vcpu_count": 1, "mem_size_mib": 64, "memory_backing": {"private_file": file}});
    assert_eq!(vm.end(), ExitReason::BadConfig);
}
