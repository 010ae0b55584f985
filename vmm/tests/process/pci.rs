//! Devices on a PCI bus, in the pod profile and under its filters.

use crate::client::spawn_listening;
use crate::common::{HANG, Vm, inherit, kvm, out, set, until};
use serde_json::json;
use std::fs::{File, OpenOptions};
use vmm::api::status::ExitReason;

/// Configuration space of the first device, and where its BAR is until it is moved.
const DEVICE: u32 = 0xe000_8000;
const BAR: u32 = 0xe800_8000;
/// Where this guest moves it.
const MOVED: u32 = 0xefff_8000;

/// A guest that finds its disk, moves its BAR, and sets messages up, masks them and changes them: all that a vCPU thread then asks
/// KVM for has to be allowed by its filter.
fn driver() -> Vec<u8> {
    [
        until(DEVICE, 0x1042_1af4),
        until(DEVICE + 0x10, BAR | 4),
        // Memory on: there are registers, such as the one that selects features.
        set(DEVICE + 4, 6),
        set(BAR + 8, 1),
        until(BAR + 8, 1),
        set(DEVICE + 4, 0),
        set(DEVICE + 0x10, MOVED),
        set(DEVICE + 4, 6),
        until(MOVED + 8, 1),
        until(BAR + 8, u32::MAX),
        // MSI-X is the last capability: five of virtio's lie before it.
        set(DEVICE + 0x98, 0xc000_0000),
        set(MOVED + 0x4000, 0xfee0_0000),
        set(MOVED + 0x4008, 0x31),
        set(MOVED + 0x400c, 0),
        set(DEVICE + 0x98, 0x8000_0000),
        set(MOVED + 0x4008, 0x32),
        set(MOVED + 0x400c, 1),
        set(MOVED + 0x400c, 0),
        until(MOVED + 0x4008, 0x32),
        out(0x600, 0x34),
        HANG.to_vec(),
    ]
    .concat()
}

#[test]
fn a_guest_moves_its_disk_and_sets_up_its_messages() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&driver());
    let kernel = File::open(vm.path("kernel")).unwrap();
    let status = OpenOptions::new().append(true).create(true).open(vm.path("status")).unwrap();
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    let disk = OpenOptions::new().read(true).write(true).open(vm.path("disk")).unwrap();
    vm.config["boot-source"]["kernel_image_path"] = json!({"fd": inherit(&kernel)});
    vm.config["drives"] = json!([{"drive_id": "disk", "path_on_host": {"fd": inherit(&disk)}}]);
    vm.config["vial"] = json!({"profile": "pod", "transport": "pci", "status": {"fd": inherit(&status)}});
    let (mut child, _client) = spawn_listening(&mut vm);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_eq!(vm.reason().0, ExitReason::GuestShutdown);
}

#[test]
fn without_pci_there_is_no_bus() {
    if !kvm() {
        return;
    }
    let code = [until(DEVICE, u32::MAX), until(0xe000_0000, u32::MAX), out(0x600, 0x34), HANG.to_vec()];
    assert_eq!(Vm::new(&code.concat()).end(), ExitReason::GuestShutdown);
}

#[test]
fn a_bus_has_room_for_31_devices() {
    if !kvm() {
        return;
    }
    for (count, reason) in [(31, ExitReason::GuestShutdown), (32, ExitReason::BadConfig)] {
        let mut vm = Vm::new(&[out(0x600, 0x34), HANG.to_vec()].concat());
        let drive = |number: i32| json!({"drive_id": number.to_string(), "is_removable": true});
        vm.config["drives"] = (0..count).map(drive).collect();
        vm.config["vial"]["transport"] = "pci".into();
        assert_eq!(vm.end(), reason);
    }
}
