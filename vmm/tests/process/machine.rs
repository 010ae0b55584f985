//! What a machine is made of: processors and memory, as the guest finds them.

use crate::breaking::code::Code;
use crate::breaking::driver::{CONFIG, DATA, DISK, QUEUE_READY, RING, Ring, SOCKETS, STATUS, WRITE};
use crate::client::spawn_listening;
use crate::common::{HANG, Vm, kvm, out, peak_memory_kib, until};
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
    // As Firecracker has it, in a file of its own.
    let path = vm.path("template");
    std::fs::write(&path, vm.config["cpu-config"].to_string()).unwrap();
    vm.config["cpu-config"] = json!(path);
    let seen = leaf(&mut vm, 0x8000_0002, 0);
    assert_eq!((seen[0], seen[2]), (0x01, 0xaa));
    for (content, says) in [("{", "is not JSON"), (r#"{"leaf":1}"#, "unknown field `leaf`")] {
        std::fs::write(&path, content).unwrap();
        let output = vm.run();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), told.contains(says)), (Some(2), true), "{told}");
    }
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

#[test]
fn a_guest_reads_in_its_vmclock_that_it_is_a_copy() {
    if !kvm() {
        return;
    }
    // `mov al, [0xdf000]; mov dx, 0x3f8; out dx, al`, the first letter of the magic number; then until the disruption marker is 1:
    // `mov al, [0xdf010]; cmp al, 1; jne`.
    let clock = [0xa0, 0, 0xf0, 0x0d, 0, 0x66, 0xba, 0xf8, 0x03, 0xee];
    let wait = [0xa0, 0x10, 0xf0, 0x0d, 0, 0x3c, 1, 0x75, 0xf7];
    let mut vm = Vm::new(&[&clock, wait.as_slice(), &out(0x600, 0x34), HANG].concat());
    vm.config["serial"] = json!({"serial_out_path": vm.path("serial")});
    let (mut child, mut client) = spawn_listening(&mut vm);
    assert_eq!(client.ask("new_generation")["state"], "running");
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::GuestShutdown.code()));
    assert_eq!(std::fs::read_to_string(vm.path("serial")).unwrap(), "V");
}

#[test]
fn memory_devices_are_made_asked_and_refused() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    std::fs::write(vm.path("pmem"), [7; 5000]).unwrap();
    for backing in ["anonymous", "shared"] {
        vm.config["machine-config"]["memory_backing"] = json!(backing);
        let _ = std::fs::remove_file(vm.path("ready"));
        vm.config["pmem"] = json!([
            {"id": "a", "path_on_host": vm.path("pmem")},
            {"id": "b", "path_on_host": vm.path("pmem"), "read_only": true},
        ]);
        vm.config["memory-hotplug"] = json!({"total_size_mib": 1024});
        vm.config["balloon"] =
            json!({"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1});
        let (mut child, mut client) = spawn_listening(&mut vm);
        let mut ask = |request: serde_json::Value| client.ask_with(&request, &[]);
        for (request, refusal) in [
            (json!({"action": "hotplug_memory", "requested_size_mib": 512}), None),
            (
                json!({"action": "hotplug_memory", "requested_size_mib": 2048}),
                Some("give at most total_size_mib"),
            ),
            (
                json!({"action": "hotplug_memory", "requested_size_mib": 3}),
                Some("give a multiple of block_size_mib"),
            ),
            (json!({"action": "balloon", "amount_mib": 8}), None),
            (json!({"action": "balloon", "amount_mib": 33}), Some("the guest has 32 MiB")),
        ] {
            let reply = ask(request);
            match refusal {
                None => assert_eq!(reply["state"], "running", "{reply}"),
                Some(words) => assert!(reply["fault_message"].as_str().unwrap().contains(words), "{reply}"),
            }
        }
        assert_eq!(ask(json!({"action": "pause"}))["state"], "paused");
        assert_eq!(ask(json!({"action": "resume"}))["state"], "running");
        ask(json!({"action": "stop"}));
        assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    }
    std::fs::write(vm.path("pmem"), []).unwrap();
    vm.config["vial"]["control"] = json!(vm.path("control"));
    assert_eq!(vm.end(), ExitReason::BadConfig);
    assert!(vm.reason().1.contains("it is empty"), "{}", vm.reason().1);
}

#[test]
fn a_disk_reads_into_memory_that_is_plugged_in_and_no_farther() {
    if !kvm() {
        return;
    }
    // The device behind the disk, and the start of its memory.
    const MEMORY: u32 = SOCKETS;
    const START: u64 = 4 << 30;
    let (ring, request) = (Ring(0x42_0000), 0x61_0000);
    let mut code = Code::default();
    // Until half a GiB is asked for; then its first block, 2 MiB, is plugged in.
    code.negotiate(MEMORY, 1 << 28 | 2)
        .place(MEMORY, 0, ring)
        .set(MEMORY + QUEUE_READY, 1)
        .set(MEMORY + STATUS, 15);
    code.raw(&until(MEMORY + CONFIG + 48, 512 << 20));
    code.w64(request, 0).w64(request + 8, START).w64(request + 16, 1);
    code.descriptor(ring, 0, request.into(), 24, 1, 1);
    code.descriptor(ring, 1, (request + 0x100).into(), 10, WRITE, 0);
    code.offer(ring, 0, 0, 1).kick(MEMORY, 0).wait(ring.used_index(), 1).expect(request + 0x100, 0);
    // The last sector of the block, and the one behind it.
    code.set_up(DISK, 0, RING).read_request(RING, 0).w64(RING.descriptor(1), START + (2 << 20) - 512);
    code.offer(RING, 0, 0, 1).kick(DISK, 0).wait(RING.used_index(), 1).expect(DATA + 0x2000, 0);
    code.w64(RING.descriptor(1), START + (2 << 20)).offer(RING, 1, 0, 2).kick(DISK, 0);
    // VIRTIO_BLK_S_IOERR.
    code.wait(RING.used_index(), 2).expect(DATA + 0x2000, 1).power_off();
    let mut vm = Vm::new(code.bytes());
    std::fs::write(vm.path("disk"), [7; 4096]).unwrap();
    vm.config["drives"] = json!([{"drive_id": "disk", "path_on_host": vm.path("disk")}]);
    vm.config["memory-hotplug"] = json!({"total_size_mib": 1024});
    for backing in ["anonymous", "shared"] {
        let _ = std::fs::remove_file(vm.path("ready"));
        let _ = std::fs::remove_file(vm.path("status"));
        vm.config["machine-config"]["memory_backing"] = json!(backing);
        let (child, mut client) = spawn_listening(&mut vm);
        client.post(&json!({"action": "hotplug_memory", "requested_size_mib": 512}));
        // A guest whose read succeeds hangs.
        assert_eq!(peak_memory_kib(&child.0).0, Some(ExitReason::GuestShutdown.code()));
    }
}
