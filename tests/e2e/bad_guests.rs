//! Guests that never become pods, and disks without room: a clear error each, and nothing left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use vial_tests::fixtures;
use vial_tests::host::{Ran, Vial, path, signal};
use vial_tests::talk::until;

/// A folder of parts like the installed one, each of which can be exchanged.
struct Parts(tempfile::TempDir);

impl Parts {
    fn installed() -> Self {
        let folder = tempfile::tempdir().expect("a folder for parts");
        for part in ["vial-vmm", "vmlinux", "initrd.cpio"] {
            symlink(Self::original(part), folder.path().join(part)).expect("a link can be made");
        }
        Self(folder)
    }

    fn original(part: &str) -> PathBuf {
        let program = fs::canonicalize(Vial::program()).expect("the program is installed");
        program.parent().and_then(Path::parent).expect("it is in a bin folder").join("lib/vial").join(part)
    }

    /// Removes one, and puts this in its place.
    fn exchange(&self, part: &str, content: Option<&[u8]>) {
        let file = self.0.path().join(part);
        fs::remove_file(&file).expect("it was there");
        if let Some(content) = content {
            fs::write(&file, content).expect("a file can be written");
        }
    }

    fn restore(&self, part: &str) {
        let file = self.0.path().join(part);
        let _ = fs::remove_file(&file);
        symlink(Self::original(part), file).expect("a link can be made");
    }

    /// A command whose daemon, if it starts one, uses these parts and gives guests this long.
    fn run(&self, vial: &Vial, args: &[&str], seconds: &str) -> Ran {
        let mut command = vial.command(args);
        command.env("VIAL_LIB_DIR", self.0.path()).env("VIAL_START_TIMEOUT_S", seconds);
        vial.output(command)
    }
}

/// The fixtures' initial file system with another init: of several archives in a row the kernel takes the last.
fn initrd(init: &str) -> Vec<u8> {
    let mut bytes = fs::read(fixtures::busybox_initrd()).expect("the fixture can be read");
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    for (name, mode, content) in [("init\0", 0o100_755, init), ("TRAILER!!!\0", 0, "")] {
        let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len(), 0];
        bytes.extend(b"070701");
        bytes.extend(fields.map(|field| format!("{field:08x}")).concat().bytes());
        bytes.extend(name.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

const RUN: [&str; 4] = ["run", "--rm", "busybox", "true"];

#[test]
fn guests_that_never_become_pods_are_told_apart_and_leave_nothing() {
    let vial = Vial::with_busybox();
    vial.run(["daemon", "stop"]).ok();
    let parts = Parts::installed();
    let kernel = fs::read(Parts::original("vmlinux")).expect("the kernel can be read");
    let hangs = "#!/bin/busybox sh\nwhile :; do /bin/busybox sleep 1000; done\n";
    let leaves = "#!/bin/busybox sh\n/bin/busybox poweroff -f\n";
    let panics = "#!/bin/busybox sh\nexit 1\n";
    // Part, what stands in its place, seconds until the agent must have reported, words of the error.
    let rows: [(&str, Option<Vec<u8>>, &str, &str); 8] = [
        ("initrd.cpio", Some(initrd(hangs)), "3", "within 3s"),
        ("vmlinux", None, "60", "vmlinux"),
        ("vmlinux", Some(b"not a kernel".to_vec()), "60", "ELF"),
        ("vmlinux", Some(kernel[..kernel.len() / 2].to_vec()), "60", "kernel"),
        ("initrd.cpio", None, "60", "initrd.cpio"),
        ("initrd.cpio", Some(initrd(leaves)), "60", "powered off"),
        ("initrd.cpio", Some(initrd(panics)), "60", "panicked"),
        ("initrd.cpio", Some(b"no archive".to_vec()), "60", "panicked"),
    ];
    for (part, content, seconds, says) in rows {
        parts.exchange(part, content.as_deref());
        let ran = parts.run(&vial, &RUN, seconds).fails(125, says);
        assert!(ran.stderr.starts_with("vial: ") && ran.stdout.is_empty(), "{ran:?}");
        assert_eq!(vial.run(["ps", "-aq"]).ok(), "", "{says}");
        parts.restore(part);
        if seconds != "60" {
            // The next one starts with the next row's patience.
            vial.run(["daemon", "stop"]).ok();
        }
    }
    // The same daemon, the right parts again.
    parts.run(&vial, &RUN, "60").ok();
    vial.leaves_nothing();
}

/// A file system of this size over the data folder, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(folder: &Path, mib: u32) -> Self {
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small", path(folder)]).status();
        assert!(mounted.expect("mount can be run").success());
        Self(folder.to_owned())
    }

    /// Bytes of it that can still be written.
    fn fill(&self) {
        let file = fs::File::create(self.0.join("filler")).expect("a file can be made");
        let block = [0x5a; 4096];
        while std::io::Write::write_all(&mut &file, &block).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The daemon may run, and goes after this.
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
            return;
        }
        // A process of the VM that ended last may hold it a moment longer than it is known by anybody.
        let unmount = || Command::new("umount").arg(&self.0).output().expect("umount can be run");
        until("nobody holds the small disk", || unmount().status.success().then_some(()));
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn an_image_that_does_not_fit_is_refused_and_leaves_no_part() {
    let vial = Vial::new();
    let image = fixtures::debian();
    // Too little to begin with, and enough for a beginning.
    for mib in [24, 128] {
        let disk = SmallDisk::over(vial.data(), mib);
        vial.run(["load", "-i", path(&image)]).fails(1, "no space");
        assert_eq!(vial.run(["images", "-q"]).ok(), "");
        for folder in ["tmp", "images", "merged"] {
            assert_eq!(files(&vial.data().join("images").join(folder)), Vec::<PathBuf>::new(), "{mib} MiB");
        }
        vial.run(["daemon", "stop"]).ok();
        drop(disk);
    }
    vial.leaves_nothing();
}

#[test]
fn a_new_daemon_on_a_full_disk_can_free_it() {
    let vial = Vial::new();
    let disk = SmallDisk::over(vial.data(), 160);
    vial.run(["load", "-q", "-i", path(&fixtures::busybox())]).ok();
    vial.run(["create", "--name", "old", "busybox"]).ok();
    vial.run(["daemon", "stop"]).ok();
    disk.fill();
    assert!(vial.run(["ps", "-a"]).ok().contains("old"));
    vial.run(["rm", "old"]).ok();
    vial.run(["rmi", "busybox"]).ok();
    assert_eq!(vial.run(["images", "-q"]).ok(), "");
    vial.run(["daemon", "stop"]).ok();
    // With room, the reserve is there for the next time; without it somebody has to make room by hand.
    disk.empty();
    vial.run(["images"]).ok();
    vial.run(["daemon", "stop"]).ok();
    fs::remove_file(vial.data().join("reserve")).expect("it is there");
    disk.fill();
    let told = format!("the disk of {} is full", vial.data().display());
    vial.run(["images"]).fails(1, &told);
    disk.empty();
    assert_eq!(vial.run(["images", "-q"]).ok(), "");
    vial.run(["daemon", "stop"]).ok();
    drop(disk);
    vial.leaves_nothing();
}

#[test]
fn a_container_for_which_there_is_no_room_is_refused_and_leaves_nothing() {
    let vial = Vial::new();
    let disk = SmallDisk::over(vial.data(), 160);
    vial.run(["load", "-q", "-i", path(&fixtures::busybox())]).ok();
    vial.run(RUN).ok();
    disk.fill();
    vial.run(RUN).fails(125, "space");
    let layer = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "ext4");
    assert_eq!(files(&vial.data().join("upper")).into_iter().find(layer), None);
    assert_eq!(files(&vial.data().join("logs")), Vec::<PathBuf>::new());
    disk.empty();
    assert_eq!(vial.run(["ps", "-aq"]).ok(), "");
    vial.run(RUN).ok();
    vial.run(["daemon", "stop"]).ok();
    drop(disk);
    vial.leaves_nothing();
}

#[test]
fn an_end_on_a_full_disk_is_told_noted_and_cleared_away() {
    let vial = Vial::new();
    let disk = SmallDisk::over(vial.data(), 200);
    vial.run(["load", "-q", "-i", path(&fixtures::busybox())]).ok();
    vial.run(["pod", "create", "--containers", "2", "two"]).ok();
    for name in ["removed", "stopped", "killed"] {
        vial.run(["run", "-d", "--name", name, "busybox", "sleep", "100000"]).ok();
    }
    vial.run(["run", "-d", "--pod", "two", "--name", "member", "busybox", "sleep", "100000"]).ok();
    disk.fill();
    vial.run(["stop", "-t", "1", "stopped"]).ok();
    vial.run(["rm", "-f", "removed"]).ok();
    // With nothing kept for this day either.
    let _ = fs::remove_file(vial.data().join("reserve"));
    disk.fill();
    vial.run(["kill", "killed"]).ok();
    assert_eq!(vial.run(["wait", "killed", "stopped"]).ok(), "137\n137\n");
    vial.run(["kill", "member"]).ok();
    assert_eq!(vial.run(["wait", "member"]).ok(), "137\n");
    assert_eq!(vial.run(["ps", "-q"]).ok(), "");
    vial.run(["pod", "stop", "two"]).ok();
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    disk.empty();
    let told = vial.run(["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok();
    for name in ["stopped", "killed", "member"] {
        assert!(told.contains(&format!("{name} Exited (137)")), "{told}");
    }
    vial.run(["start", "stopped", "member"]).ok();
    vial.run(["rm", "-f", "stopped", "killed"]).ok();
    vial.run(["pod", "rm", "-f", "two"]).ok();
    vial.run(["daemon", "stop"]).ok();
    drop(disk);
    vial.leaves_nothing();
}
