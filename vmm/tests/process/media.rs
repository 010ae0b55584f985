//! Media of removable drives, in the pod profile and under its filters: what the host does, and what of it a guest sees.

use crate::client::{Client, spawn_listening};
use crate::common::{HANG, Process, Vm, inherit, kvm, out, set, until};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use vmm::api::status::ExitReason;

/// Window of the first device.
const WINDOW: u32 = 0xd000_0000;
const INTERRUPT_STATUS: u32 = WINDOW + 0x60;
const INTERRUPT_ACK: u32 = WINDOW + 0x64;
const CAPACITY: u32 = WINDOW + 0x100;

/// A pod-profile VM with two removable drives, `image` and `upper`, that runs `code`.
struct Pod {
    vm: Vm,
    child: Process,
    client: Client,
}

impl Pod {
    fn start(code: &[u8]) -> Self {
        Self::start_with(code, |vm, _| {
            vm.config["drives"] = json!([
                {"drive_id": "image", "is_removable": true, "is_read_only": true},
                {"drive_id": "upper", "is_removable": true},
            ]);
        })
    }

    /// With drives of its own, and a disk of 8 sectors for one of them.
    fn start_with(code: &[u8], drives: impl FnOnce(&mut Vm, &File)) -> Self {
        let mut vm = Vm::new(code);
        let disk = make_disk(&vm, "disk", 8);
        let kernel = File::open(vm.path("kernel")).unwrap();
        let status = OpenOptions::new().append(true).create(true).open(vm.path("status")).unwrap();
        vm.config["boot-source"]["kernel_image_path"] = json!({"fd": inherit(&kernel)});
        vm.config["vial"] = json!({"profile": "pod", "status": {"fd": inherit(&status)}});
        drives(&mut vm, &disk);
        let (child, client) = spawn_listening(&mut vm);
        Self { vm, child, client }
    }

    fn disk(&self, name: &str, sectors: u64) -> File {
        make_disk(&self.vm, name, sectors)
    }

    fn insert(&mut self, drive: &str, files: &[&File]) -> Value {
        let numbers: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        let request = json!({"action": "insert", "drive_id": drive, "files": files.len()});
        self.client.ask_with(&request, &numbers)
    }

    /// Comes back when the guest has written to its device so often.
    fn acknowledged(&mut self, writes: u64) {
        // A pause ends when the guest has left KVM_RUN, so asking again makes progress and not just time pass.
        while self.client.ask("resume")["exits"]["mmio_write"] != writes {
            self.client.ask("pause");
        }
    }

    /// Whether the VMM has a file open.
    fn has_open(&self, name: &str) -> bool {
        let path = self.vm.path(name);
        let table = std::fs::read_dir(format!("/proc/{}/fd", self.child.0.id())).unwrap();
        // What it closes meanwhile is gone when it is looked at.
        table
            .into_iter()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|file| file == path))
    }

    fn eject(&mut self, drive: &str) -> Value {
        self.client.ask_with(&json!({"action": "eject", "drive_id": drive}), &[])
    }
}

fn make_disk(vm: &Vm, name: &str, sectors: u64) -> File {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.open(vm.path(name)).unwrap();
    file.set_len(sectors * 512).unwrap();
    file
}

fn is_refused(reply: &Value, why: &str) {
    let message = reply["fault_message"].as_str().unwrap_or_else(|| panic!("{reply} is no refusal"));
    assert!(message.contains(why), "{message}");
}

#[test]
fn a_guest_sees_media_come_and_go() {
    if !kvm() {
        return;
    }
    // What it has seen it acknowledges, by the only writes that it does.
    let empty = [until(CAPACITY, 1), set(INTERRUPT_ACK, 0)].concat();
    let next =
        |sectors| [until(CAPACITY, sectors), until(INTERRUPT_STATUS, 2), set(INTERRUPT_ACK, 2)].concat();
    let code = [empty, next(8), next(1), next(24), out(0x600, 0x34), HANG.to_vec()].concat();
    let mut pod = Pod::start(&code);
    let (one, two) = (pod.disk("one", 8), pod.disk("two", 16));
    pod.acknowledged(1);
    assert_eq!(pod.insert("image", &[&one])["state"], "running");
    pod.acknowledged(2);
    assert_eq!(pod.eject("image")["state"], "running");
    pod.acknowledged(3);
    assert_eq!(pod.insert("image", &[&two, &one])["state"], "running");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(0));
    assert_eq!(pod.vm.reason().0, ExitReason::GuestShutdown);
}

#[test]
fn what_is_ejected_is_let_go() {
    if !kvm() {
        return;
    }
    let mut pod = Pod::start(HANG);
    for pause in [false, true] {
        if pause {
            pod.client.ask("pause");
        }
        assert!(pod.insert("upper", &[&pod.disk("medium", 4)])["exits"].is_object());
        assert!(pod.has_open("medium"));
        is_refused(&pod.insert("upper", &[&pod.disk("other", 4)]), "has a medium");
        assert!(pod.eject("upper")["exits"].is_object());
        assert!(!pod.has_open("medium") && !pod.has_open("other"));
        assert!(pod.eject("upper")["exits"].is_object());
    }
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn what_can_not_be_a_medium_is_refused_and_let_go() {
    if !kvm() {
        return;
    }
    let mut pod = Pod::start(HANG);
    let disk = pod.disk("disk", 1);
    let odd = pod.disk("odd", 1);
    odd.set_len(513).unwrap();
    is_refused(&pod.insert("nothing", &[&disk]), "no drive \"nothing\"");
    is_refused(&pod.eject("nothing"), "no drive");
    is_refused(&pod.insert("upper", &[&disk, &disk]), "1 to 1 files, and 2 came");
    is_refused(&pod.insert("image", &[]), "0 came");
    is_refused(&pod.insert("image", &[&disk, &odd]), "multiple of 512");
    is_refused(&pod.insert("image", &[&pod.disk("empty", 0)]), "is empty");
    let folder = File::open(pod.vm.folder.path()).unwrap();
    is_refused(&pod.insert("image", &[&disk, &folder]), "file 1 of drive image is neither");
    // Not open for what the guest would do; whoever appends loses what was meant for another place.
    let writing = OpenOptions::new().write(true).open(pod.vm.path("disk")).unwrap();
    is_refused(&pod.insert("image", &[&writing]), "is not open for reading");
    let appending = OpenOptions::new().read(true).append(true).open(pod.vm.path("disk")).unwrap();
    is_refused(&pod.insert("upper", &[&appending]), "without O_APPEND");
    assert!(pod.insert("image", &[&appending])["exits"].is_object());
    assert!(pod.eject("image")["exits"].is_object());
    let request = json!({"action": "insert", "drive_id": "image", "files": 2});
    is_refused(&pod.client.ask_with(&request, &[disk.as_raw_fd()]), "speaks of 2 files and brought 1");
    // None of those files is kept, nor those that come with requests that want none.
    assert!(pod.client.ask_with(&json!({"action": "info"}), &[disk.as_raw_fd()])["exits"].is_object());
    assert!(!pod.has_open("disk") && !pod.has_open("odd") && !pod.has_open("empty"));
    // Too many end the connection, and nothing else.
    let many = vec![disk.as_raw_fd(); 241];
    is_refused(&pod.client.ask_with(&json!({"action": "info"}), &many), "more than 240 descriptors");
    pod.client = Client::connect(&pod.vm.path("ready"));
    let most: Vec<_> = std::iter::repeat_n(&disk, 240).collect();
    assert!(pod.insert("image", &most)["exits"].is_object());
    pod.client.ask("stop");
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn a_drive_with_rings_and_threads_gets_another_file_and_grows() {
    if !kvm() {
        return;
    }
    let step = |sectors, n| [until(CAPACITY, sectors), set(INTERRUPT_ACK, n)].concat();
    let code = [step(8, 0), step(16, 2), step(24, 2), out(0x600, 0x34), HANG.to_vec()].concat();
    let mut pod = Pod::start_with(&code, |vm, disk| {
        vm.config["drives"] = json!([{
            "drive_id": "data", "path_on_host": {"fd": inherit(disk)}, "cache_type": "Writeback",
            "io_engine": "Async", "num_queues": 2, "io_threads": 2, "serial": "one",
        }]);
    });
    let update = |pod: &mut Pod, measure: bool, files: &[&File]| {
        let numbers: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        let request =
            json!({"action": "update_drive", "drive_id": "data", "measure": measure, "files": files.len()});
        pod.client.ask_with(&request, &numbers)
    };
    pod.acknowledged(1);
    let other = pod.disk("other", 16);
    assert!(update(&mut pod, false, &[&other])["exits"].is_object());
    pod.acknowledged(2);
    assert!(!pod.has_open("disk"));
    is_refused(&pod.insert("data", &[&other]), "is not removable");
    is_refused(&update(&mut pod, false, &[&other, &other]), "1 to 1 files, and 2 came");
    // The guest may write, and what it wrote would fail.
    let look = File::open(pod.vm.path("other")).unwrap();
    is_refused(&update(&mut pod, false, &[&look]), "is not open for reading and writing");
    let appending = OpenOptions::new().read(true).append(true).open(pod.vm.path("other")).unwrap();
    is_refused(&update(&mut pod, false, &[&appending]), "without O_APPEND");
    is_refused(&update(&mut pod, false, &[]), "nothing to change");
    other.set_len(24 * 512).unwrap();
    assert!(update(&mut pod, true, &[])["exits"].is_object());
    assert_eq!(pod.child.0.wait().unwrap().code(), Some(0));
}
