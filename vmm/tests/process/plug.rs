//! Devices that are plugged in and unplugged, in the pod profile and under its filters: what the host does, and what of it a guest sees.

use crate::client::{Client, spawn_listening};
use crate::common::{HANG, Process, Vm, inherit, kvm, set, until};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use vmm::api::status::ExitReason;

/// Configuration space of slots 1 and 2.
pub const FIRST: u32 = 0xe000_8000;
pub const SECOND: u32 = 0xe001_0000;
/// The register block.
pub const ARRIVED: u16 = 0x620;
pub const LEAVING: u16 = 0x624;
pub const EJECT: u16 = 0x628;
pub const BLOCK: u32 = 0x1042_1af4;
const VIRTIO_PMEM: u32 = 0x105b_1af4;

/// `mov dx, port; in eax, dx; cmp eax, value; jne` back.
pub fn until_in(port: u16, value: u32) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    [&[0x66, 0xba, low, high, 0xed, 0x3d][..], &value.to_le_bytes(), &[0x75, 0xf4]].concat()
}

/// `mov dx, port; mov eax, value; out dx, eax`.
pub fn out_word(port: u16, value: u32) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    [&[0x66, 0xba, low, high, 0xb8][..], &value.to_le_bytes(), &[0xef]].concat()
}

/// A pod-profile VM on a PCI bus, with one drive `first`.
struct Pod {
    vm: Vm,
    child: Process,
    client: Client,
}

impl Pod {
    fn start(code: &[u8], transport: &str) -> Self {
        let mut vm = Vm::new(code);
        let kernel = File::open(vm.path("kernel")).unwrap();
        let status = OpenOptions::new().append(true).create(true).open(vm.path("status")).unwrap();
        vm.config["boot-source"]["kernel_image_path"] = json!({"fd": inherit(&kernel)});
        vm.config["vial"] =
            json!({"profile": "pod", "transport": transport, "status": {"fd": inherit(&status)}});
        vm.config["drives"] = json!([{"drive_id": "first", "is_removable": true}]);
        let (child, client) = spawn_listening(&mut vm);
        Self { vm, child, client }
    }

    fn disk(&self) -> File {
        std::fs::write(self.vm.path("disk"), [0; 4096]).unwrap();
        OpenOptions::new().read(true).write(true).open(self.vm.path("disk")).unwrap()
    }

    fn plug(&mut self, device: Value, files: &[&File]) -> Value {
        let numbers: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        let request = json!({"action": "plug", "device": device, "files": files.len()});
        self.client.ask_with(&request, &numbers)
    }

    fn unplug(&mut self, device: Value) -> Value {
        self.client.ask_with(&json!({"action": "unplug", "device": device}), &[])
    }

    fn has_open(&self, name: &str) -> bool {
        let path = self.vm.path(name);
        let table = std::fs::read_dir(format!("/proc/{}/fd", self.child.0.id())).unwrap();
        table
            .into_iter()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|file| file == path))
    }
}

fn is_refused(reply: &Value, why: &str) {
    let message = reply["fault_message"].as_str().unwrap_or_else(|| panic!("{reply} is no refusal"));
    assert!(message.contains(why), "{message}");
}

fn drive(id: &str) -> Value {
    json!({"drive": {"drive_id": id, "path_on_host": {"fd": 0}}})
}

#[test]
fn a_drive_comes_and_goes_with_the_guest_s_consent() {
    if !kvm() {
        return;
    }
    // Twice: sees it arrive, switches it on, is asked for it, lets go of it. In the end there is nothing, and it says so by a write.
    let once = [
        until_in(ARRIVED, 1 << 2),
        until(SECOND, BLOCK),
        set(SECOND + 4, 6),
        until_in(LEAVING, 1 << 2),
        // Not asked for: stays.
        out_word(EJECT, 1 << 1),
        out_word(EJECT, 1 << 2),
    ]
    .concat();
    let end = [until(SECOND, u32::MAX), until(FIRST, BLOCK), set(FIRST + 4, 6), HANG.to_vec()].concat();
    let code = [once.clone(), once, end].concat();
    let mut pod = Pod::start(&code, "pci");
    for _ in 0..2 {
        let disk = pod.disk();
        assert_eq!(pod.plug(drive("second"), &[&disk])["state"], "running");
        assert!(pod.has_open("disk"));
        let reply = pod.unplug(json!({"drive": "second"}));
        assert_eq!(reply["state"], "running");
        assert!(!pod.has_open("disk"));
    }
    // A pause ends when the guest has left KVM_RUN, so asking again makes progress and not just time pass.
    while pod.client.ask("resume")["exits"]["mmio_write"] != 3 {
        pod.client.ask("pause");
    }
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn what_makes_no_disk_is_not_plugged_in() {
    if !kvm() {
        return;
    }
    let mut pod = Pod::start(HANG, "pci");
    let disk = pod.disk();
    let open = |options: &OpenOptions| options.open(pod.vm.path("disk")).unwrap();
    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
    let (folder, neither) = (File::open("/").unwrap(), "is neither a regular file nor a block device");
    let (reading, writing) = (open(OpenOptions::new().read(true)), open(OpenOptions::new().write(true)));
    let appending = open(OpenOptions::new().read(true).append(true));
    let drive = |read_only: bool| json!({"drive": {"drive_id": "second", "path_on_host": {"fd": 0}, "is_read_only": read_only}});
    let pmem =
        |read_only: bool| json!({"pmem": {"id": "p", "path_on_host": {"fd": 0}, "read_only": read_only}});
    for (device, file, why) in [
        (drive(false), &zero, neither),
        (drive(true), &zero, neither),
        (drive(true), &folder, neither),
        (pmem(true), &folder, neither),
        (drive(false), &reading, "is not open for reading and writing"),
        (pmem(false), &reading, "is not open for reading and writing"),
        (drive(true), &writing, "is not open for reading"),
        (pmem(true), &writing, "is not open for reading"),
        (drive(false), &appending, "without O_APPEND"),
    ] {
        is_refused(&pod.plug(device, &[file]), why);
    }
    drop(disk);
    assert!(!pod.has_open("disk"));
    assert_eq!(pod.plug(drive(true), &[&appending])["state"], "running");
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn persistent_memory_is_mapped_when_it_comes_and_unmapped_when_it_goes() {
    if !kvm() {
        return;
    }
    let pmem = VIRTIO_PMEM;
    let once =
        [until_in(ARRIVED, 1 << 2), until(SECOND, pmem), until_in(LEAVING, 1 << 2), out_word(EJECT, 1 << 2)];
    let code = [&once.concat()[..], &once.concat(), HANG].concat();
    let mut pod = Pod::start(&code, "pci");
    let path = pod.vm.path("disk").to_str().unwrap().to_owned();
    let process = pod.child.0.id();
    let is_mapped = || std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap().contains(&path);
    for _ in 0..2 {
        let disk = pod.disk();
        let device = json!({"pmem": {"id": "p", "path_on_host": {"fd": 0}}});
        assert_eq!(pod.plug(device.clone(), &[&disk])["state"], "running");
        assert!(is_mapped() && pod.has_open("disk"));
        is_refused(&pod.plug(device, &[&disk]), "pmem \"p\" already");
        assert_eq!(pod.unplug(json!({"pmem": "p"}))["state"], "running");
        assert!(!is_mapped() && !pod.has_open("disk"));
    }
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn what_can_not_be_plugged_in_is_refused_and_let_go() {
    if !kvm() {
        return;
    }
    let mut pod = Pod::start(HANG, "pci");
    let disk = pod.disk();
    is_refused(&pod.plug(drive("first"), &[&disk]), "drive \"first\" already");
    is_refused(&pod.plug(drive("second"), &[]), "speaks of 0 files");
    is_refused(&pod.plug(drive("second"), &[&disk, &disk]), "brought 2 descriptors");
    let path = json!({"drive": {"drive_id": "second", "path_on_host": "/x"}});
    is_refused(&pod.plug(path, &[&disk]), "can't have a path");
    let tap = json!({"interface": {"iface_id": "eth0", "host_dev_name": {"fd": 0}}});
    is_refused(&pod.plug(tap, &[&disk]), "can't be used");
    let empty = tempfile::tempfile().unwrap();
    let pmem = |id: &str| json!({"pmem": {"id": id, "path_on_host": {"fd": 0}}});
    is_refused(&pod.plug(pmem("p"), &[&empty]), "it is empty");
    let root = json!({"pmem": {"id": "p", "path_on_host": {"fd": 0}, "root_device": true}});
    is_refused(&pod.plug(root, &[&disk]), "can't have root_device");
    is_refused(&pod.unplug(json!({"pmem": "p"})), "no pmem \"p\"");
    is_refused(&pod.unplug(json!({"drive": "nothing"})), "no drive \"nothing\"");
    is_refused(&pod.unplug(json!({"interface": "first"})), "no interface \"first\"");
    assert!(!pod.has_open("disk"));
    // As many as there are slots, while the VM stands still too.
    pod.client.ask("pause");
    for number in 2..32 {
        let device = json!({"drive": {"drive_id": number.to_string(), "is_removable": true}});
        assert_eq!(pod.plug(device, &[])["state"], "paused", "{number}");
    }
    is_refused(&pod.plug(drive("second"), &[&disk]), "31 slots");
    assert_eq!(pod.client.ask("resume")["state"], "running");
    // Nobody waits for a guest that does not let go; of those who ask for the same device the oldest is given up.
    for drive in ["2", "3"].repeat(4) {
        pod.client.post(&json!({"action": "unplug", "device": {"drive": drive}}));
    }
    for _ in 0..100 {
        is_refused(&pod.unplug(json!({"drive": "2"})), "4 newer requests wait");
    }
    assert_eq!(pod.client.ask("info")["state"], "running");
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn without_a_bus_nothing_is_plugged_in() {
    if !kvm() {
        return;
    }
    let mut pod = Pod::start(HANG, "mmio");
    let disk = pod.disk();
    is_refused(&pod.plug(drive("second"), &[&disk]), "on a PCI bus only");
    is_refused(&pod.unplug(json!({"drive": "first"})), "on a PCI bus only");
    assert!(!pod.has_open("disk"));
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}
