//! A disk of several queues behind rings, and an interface of vhost-net, under Linux: what goes in comes out, and both change while
//! the guest runs. `vial-vmm` alone, without launcher or daemon.

use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vial_tests::bare::{Tap, Vmm, busybox, heard, ip, write_script};

const TAP: &str = "viale2eio";
const DISK_MIB: u64 = 32;
const MOVED_MIB: usize = 8;

#[test]
fn disks_with_rings_and_interfaces_of_vhost_net_keep_what_they_are_given() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let path = |name: &str| folder.path().join(name);
    let disk = std::fs::File::create(path("disk")).expect("the folder is writable");
    disk.set_len(DISK_MIB << 20).expect("a file can be long");
    let _tap = Tap::new(TAP);
    ip(&format!("addr add 10.98.0.1/24 dev {TAP}"));
    ip(&format!("link set {TAP} up"));
    let listener = TcpListener::bind("10.98.0.1:7001").expect("the address is ours");
    let blocks = DISK_MIB * 2048;
    let lines = [
        format!("dd if=/dev/urandom of=/tmp/x bs=1M count={MOVED_MIB} 2>/dev/null"),
        "echo @queues $(ls /sys/block/vda/mq|wc -l)".into(),
        "echo @mtu $(cat /sys/class/net/eth0/mtu)".into(),
        "dd if=/tmp/x of=/dev/vda bs=1M oflag=direct 2>/dev/null".into(),
        "dd if=/tmp/x of=/dev/vda bs=4k seek=3000 conv=fsync 2>/dev/null".into(),
        "echo 3 >/proc/sys/vm/drop_caches".into(),
        "sha256sum </tmp/x >/tmp/s".into(),
        format!(
            "dd if=/dev/vda bs=1M count={MOVED_MIB} iflag=direct 2>/dev/null|sha256sum|cmp - /tmp/s&&echo @first same"
        ),
        format!(
            "dd if=/dev/vda bs=4k skip=3000 count={} 2>/dev/null|sha256sum|cmp - /tmp/s&&echo @second same",
            MOVED_MIB * 256
        ),
        "sync&&blkdiscard -o 0 -l 8388608 /dev/vda&&echo @discarded".into(),
        format!(
            "while [ $(cat /sys/block/vda/size) = {blocks} ];do sleep 1;done;echo @size $(cat /sys/block/vda/size)"
        ),
        "ip addr add 10.98.0.2/24 dev eth0&&ip link set eth0 up".into(),
        "nc 10.98.0.1 7001 </tmp/x".into(),
        "echo @sent $(cat /tmp/s)".into(),
        "nc -l -p 7000 >/tmp/y & echo @listens".into(),
        "wait; cmp /tmp/x /tmp/y&&echo @received same".into(),
        "poweroff -f".into(),
    ];
    write_script(&path("script"), &lines.join("\n"));
    let config = json!({
        "boot-source": busybox(&["sh /dev/vdb"]),
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 128},
        "drives": [
            {
                "drive_id": "data", "path_on_host": path("disk"), "cache_type": "Writeback", "io_engine": "Async",
                "num_queues": 2, "io_threads": 1, "direct": true,
            },
            {"drive_id": "script", "path_on_host": path("script"), "is_read_only": true},
        ],
        "network-interfaces": [{"iface_id": "eth0", "host_dev_name": TAP, "vhost_net": "/dev/vhost-net", "mtu": 1400}],
        "vial": heard(folder.path()),
    });
    let mut vmm = Vmm::start(folder.path(), &config);

    assert_eq!((vmm.says("@queues"), vmm.says("@mtu")), ("2".into(), "1400".into()));
    assert_eq!((vmm.says("@first"), vmm.says("@second")), ("same".into(), "same".into()));
    let before = disk.metadata().expect("it is there").blocks();
    vmm.says("@discarded");
    let after = disk.metadata().expect("it is there").blocks();
    assert!(after + 8 * 2048 <= before + 64, "{before} blocks before, {after} after");
    // It grows, and the guest hears of it.
    disk.set_len((DISK_MIB + 1) << 20).expect("a file can be long");
    vmm.does(&json!({"action": "update_drive", "drive_id": "data", "measure": true}));
    assert_eq!(vmm.says("@size"), ((DISK_MIB + 1) * 2048).to_string());

    let mut bytes = Vec::new();
    let (mut stream, _) = listener.accept().expect("the guest connects");
    stream.read_to_end(&mut bytes).expect("the guest sends");
    drop(stream);
    assert_eq!(bytes.len(), MOVED_MIB << 20);
    assert!(!vmm.says("@sent").is_empty());
    vmm.says("@listens");
    // Its listener may be there a moment later than its words.
    let mut stream =
        vial_tests::talk::until("the guest listens", || TcpStream::connect("10.98.0.2:7000").ok());
    stream.write_all(&bytes).expect("the guest receives");
    drop(stream);
    assert_eq!(vmm.says("@received"), "same");
    assert_eq!(vmm.end().0.code(), Some(0));
}

/// A file system of its own whose writes can be made to hang; it goes with the test.
struct Freezer(PathBuf);

impl Freezer {
    fn mount(folder: &Path) -> Self {
        let (image, place) = (folder.join("image"), folder.join("mounted"));
        let file = std::fs::File::create(&image).expect("the folder is writable");
        file.set_len(64 << 20).expect("a file can be long");
        std::fs::create_dir(&place).expect("the folder is writable");
        run("mkfs.ext4", &["-q", "-F"], &image);
        let status = Command::new("mount").args(["-o", "loop"]).args([&image, &place]).status();
        assert!(status.expect("mount can be run").success());
        Self(place)
    }

    fn freeze(&self) {
        run("fsfreeze", &["-f"], &self.0);
    }

    fn thaw(&self) {
        run("fsfreeze", &["-u"], &self.0);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Frozen or not: a frozen one can't be unmounted, and what hangs in it not be killed.
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, options: &[&str], path: &Path) {
    let status = Command::new(program).args(options).arg(path).status().expect("it can be run");
    assert!(status.success(), "{program} {options:?} {path:?}: {status}");
}

/// Whether a kernel thread of this process's rings waits for a disk.
fn hangs(process: u32) -> Option<()> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
    let hung = |stat: String| stat.contains("(iou-wrk-") && stat.contains(") D ");
    let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.any(hung).then_some(())
}

#[test]
fn a_disk_that_hangs_holds_up_a_pause_and_nothing_else() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let freezer = Freezer::mount(folder.path());
    let disk = freezer.0.join("disk");
    std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("the file system is writable");
    let writes = "dd if=/dev/urandom of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null&&echo @wrote";
    write_script(&folder.path().join("script"), &format!("while :;do {writes};done"));
    let config = json!({
        "boot-source": busybox(&["sh /dev/vdb"]),
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        "drives": [
            {"drive_id": "data", "path_on_host": disk, "cache_type": "Writeback", "io_engine": "Async"},
            {"drive_id": "script", "path_on_host": folder.path().join("script"), "is_read_only": true},
        ],
        "vial": heard(folder.path()),
    });
    let mut vmm = Vmm::start(folder.path(), &config);
    let (pause, resume, info) =
        (json!({"action": "pause"}), json!({"action": "resume"}), json!({"action": "info"}));

    vmm.says("@wrote");
    freezer.freeze();
    vial_tests::talk::until("a write hangs", || hangs(vmm.id()));
    let waiting = vmm.ask(&pause);
    assert!(vmm.ask(&info).line().contains("\"running\""));
    let other = vmm.ask(&json!({"action": "update_drive", "drive_id": "data", "measure": true})).line();
    assert!(other.contains("has requests under way that its disk has not answered within 2s"), "{other}");
    assert!(vmm.ask(&resume).line().contains("\"running\""));
    assert!(waiting.line().contains("resumed before"), "the pause was given up");

    // Over HTTP too. Of many who wait the newest do.
    let waiting = vmm.http("PATCH", "/vm", r#"{"state":"Paused"}"#);
    assert!(vmm.http("GET", "/", "").line().contains(" 200 "));
    let later: Vec<_> = (0..4).map(|_| vmm.ask(&pause)).collect();
    assert!(waiting.line().contains(" 400 "));
    assert!(vmm.http("PATCH", "/vm", r#"{"state":"Resumed"}"#).line().contains(" 204 "));
    assert!(later.into_iter().all(|waiting| waiting.line().contains("resumed before")));

    let (waiting, other) = (vmm.ask(&pause), vmm.http("PATCH", "/vm", r#"{"state":"Paused"}"#));
    assert!(vmm.ask(&info).line().contains("\"running\""));
    freezer.thaw();
    assert!(waiting.line().contains("\"paused\""));
    assert!(other.line().contains(" 204 "));
    assert!(vmm.ask(&resume).line().contains("\"running\""));
    vmm.says("@wrote");
    vmm.says("@wrote");
    vmm.does(&json!({"action": "stop"}));
    assert_eq!(vmm.end().0.code(), Some(13));
}

/// The VMM's own tests of vhost-net and of TAPs, with a guest of their own: no VM is booted, but they need root and this host's kernel.
#[test]
fn devices_of_the_kernel_keep_what_the_units_of_the_vmm_expect_of_them() {
    let tests = std::env::var_os("VIAL_VMM_TESTS");
    let tests = tests.expect("VIAL_VMM_TESTS names the VMM's unit tests, a program; tools/test sets it");
    let ran = Command::new(tests).args(["--ignored", "--test-threads=1"]).output().expect("it can be run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains(" 6 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
