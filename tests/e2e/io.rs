//! A disk of several queues behind rings, and an interface of vhost-net, under Linux: what goes in comes out, and both change while
//! the guest runs. `vial-vmm` alone, without launcher or daemon.

use serde_json::json;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use vial_tests::fixtures;
use vial_tests::host::Vial;
use vial_tests::limit::Limit;

const TAP: &str = "viale2eio";
const DISK_MIB: u64 = 32;
const MOVED_MIB: usize = 8;

fn part(name: &str) -> PathBuf {
    let program = std::fs::canonicalize(Vial::program()).expect("the program is installed");
    program.parent().and_then(Path::parent).expect("it is in a bin folder").join("lib/vial").join(name)
}

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().expect("ip can be run").success(), "{words}");
}

/// A TAP that goes when the test does.
pub struct Tap(&'static str);

impl Tap {
    pub fn new(name: &'static str) -> Self {
        ip(&format!("tuntap add dev {name} mode tap vnet_hdr"));
        Self(name)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", self.0]).status();
    }
}

/// A running VMM, whose console is its standard output; a test that fails takes it along.
struct Vmm {
    child: Child,
    console: BufReader<std::process::ChildStdout>,
    _limit: Limit,
}

impl Vmm {
    /// Runs the VMM with this configuration, which is kept in `folder`, and what else its command line shall have.
    fn start<'a>(
        folder: &Path,
        config: &serde_json::Value,
        more: impl IntoIterator<Item = &'a OsStr>,
    ) -> Self {
        let file = folder.join("config");
        std::fs::write(&file, config.to_string()).expect("the folder is writable");
        let mut command = Command::new(part("vial-vmm"));
        let command = command.arg("--config-file").arg(file).args(more);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the VMM can be run");
        let console = BufReader::new(child.stdout.take().expect("it is a pipe"));
        // What it said was read already.
        let limit = Limit::on_vmm(&child, Path::new("/dev/null"));
        Self { child, console, _limit: limit }
    }

    /// The line that begins with this word, without it.
    fn says(&mut self, word: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = Vec::new();
            let read = self.console.read_until(b'\n', &mut line).expect("the console can be read");
            let line = String::from_utf8_lossy(&line);
            all.push_str(&line);
            assert!(read > 0, "no {word} in {all}");
            if let Some(rest) = line.trim().strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request under way: its answer can be read.
fn asked(socket: &Path, request: &serde_json::Value) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(socket).expect("the VM is there");
    writeln!(stream, "{request}").expect("it listens");
    BufReader::new(stream)
}

fn answer(mut from: BufReader<UnixStream>) -> String {
    let mut answer = String::new();
    from.read_line(&mut answer).expect("it answers");
    answer
}

fn control(socket: &Path, request: &serde_json::Value) {
    let answer = answer(asked(socket, request));
    assert!(answer.contains("\"state\""), "{answer}");
}

/// A script that is too long for a kernel's command line, or has words that don't survive there, as a disk of whole sectors, filled up with
/// empty lines.
pub fn write_script(disk: &Path, lines: &str) {
    let mut script = lines.to_owned() + "\n";
    script.extend(std::iter::repeat_n('\n', script.len().next_multiple_of(512) - script.len()));
    std::fs::write(disk, script).expect("the folder is writable");
}

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
        "boot-source": {
            "kernel_image_path": part("vmlinux"),
            "initrd_path": fixtures::busybox_initrd(),
            "boot_args": "console=hvc0 quiet panic=-1 script=sh${IFS}/dev/vdb",
        },
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 128},
        "drives": [
            {
                "drive_id": "data", "path_on_host": path("disk"), "cache_type": "Writeback", "io_engine": "Async",
                "num_queues": 2, "io_threads": 1, "direct": true,
            },
            {"drive_id": "script", "path_on_host": path("script"), "is_read_only": true},
        ],
        "network-interfaces": [{"iface_id": "eth0", "host_dev_name": TAP, "vhost_net": "/dev/vhost-net"}],
        "vial": {"console": {"output": "/dev/stdout"}, "control": path("control")},
    });
    let mut vmm = Vmm::start(folder.path(), &config, [OsStr::new("--no-api")]);

    assert_eq!(vmm.says("@queues"), "2");
    assert_eq!((vmm.says("@first"), vmm.says("@second")), ("same".into(), "same".into()));
    let before = disk.metadata().expect("it is there").blocks();
    vmm.says("@discarded");
    let after = disk.metadata().expect("it is there").blocks();
    assert!(after + 8 * 2048 <= before + 64, "{before} blocks before, {after} after");
    // It grows, and the guest hears of it.
    disk.set_len((DISK_MIB + 1) << 20).expect("a file can be long");
    control(&path("control"), &json!({"action": "update_drive", "drive_id": "data", "measure": true}));
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
    assert_eq!(vmm.child.wait().expect("it ends").code(), Some(0));
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

/// A request under way over HTTP: the first line of the answer can be read.
fn http(api: &Path, method: &str, path: &str, body: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(api).expect("the API is served");
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: vm\r\nContent-Length: {length}\r\n\r\n{body}")
        .expect("it listens");
    BufReader::new(stream)
}

#[test]
fn a_disk_that_hangs_holds_up_a_pause_and_nothing_else() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let freezer = Freezer::mount(folder.path());
    let (disk, socket, api) =
        (freezer.0.join("disk"), folder.path().join("control"), folder.path().join("api"));
    std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("the file system is writable");
    let writes = "dd if=/dev/urandom of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null&&echo @wrote";
    write_script(&folder.path().join("script"), &format!("while :;do {writes};done"));
    let config = json!({
        "boot-source": {
            "kernel_image_path": part("vmlinux"),
            "initrd_path": fixtures::busybox_initrd(),
            "boot_args": "console=hvc0 quiet panic=-1 script=sh${IFS}/dev/vdb",
        },
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        "drives": [
            {"drive_id": "data", "path_on_host": disk, "cache_type": "Writeback", "io_engine": "Async"},
            {"drive_id": "script", "path_on_host": folder.path().join("script"), "is_read_only": true},
        ],
        "vial": {"console": {"output": "/dev/stdout"}, "control": socket},
    });
    let mut vmm = Vmm::start(folder.path(), &config, [OsStr::new("--api-sock"), api.as_os_str()]);
    let (pause, resume, info) =
        (json!({"action": "pause"}), json!({"action": "resume"}), json!({"action": "info"}));

    vmm.says("@wrote");
    freezer.freeze();
    vial_tests::talk::until("a write hangs", || hangs(vmm.child.id()));
    let waiting = asked(&socket, &pause);
    assert!(answer(asked(&socket, &info)).contains("\"running\""));
    let other =
        answer(asked(&socket, &json!({"action": "update_drive", "drive_id": "data", "measure": true})));
    assert!(other.contains("has requests under way that its disk has not answered within 2s"), "{other}");
    assert!(answer(asked(&socket, &resume)).contains("\"running\""));
    assert!(answer(waiting).contains("resumed before"), "the pause was given up");

    // Over HTTP too. Of many who wait the newest do.
    let waiting = http(&api, "PATCH", "/vm", r#"{"state":"Paused"}"#);
    assert!(answer(http(&api, "GET", "/", "")).contains(" 200 "));
    let later: Vec<_> = (0..4).map(|_| asked(&socket, &pause)).collect();
    assert!(answer(waiting).contains(" 400 "));
    assert!(answer(http(&api, "PATCH", "/vm", r#"{"state":"Resumed"}"#)).contains(" 204 "));
    assert!(later.into_iter().all(|waiting| answer(waiting).contains("resumed before")));

    let (waiting, other) = (asked(&socket, &pause), http(&api, "PATCH", "/vm", r#"{"state":"Paused"}"#));
    assert!(answer(asked(&socket, &info)).contains("\"running\""));
    freezer.thaw();
    assert!(answer(waiting).contains("\"paused\""));
    assert!(answer(other).contains(" 204 "));
    assert!(answer(asked(&socket, &resume)).contains("\"running\""));
    vmm.says("@wrote");
    vmm.says("@wrote");
    answer(asked(&socket, &json!({"action": "stop"})));
    assert_eq!(vmm.child.wait().expect("it ends").code(), Some(13));
}

/// The VMM's own tests of vhost-net and of TAPs, with a guest of their own: no VM is booted, but they need root and this host's kernel.
#[test]
fn devices_of_the_kernel_keep_what_the_units_of_the_vmm_expect_of_them() {
    let tests = std::env::var_os("VIAL_VMM_TESTS");
    let tests = tests.expect("VIAL_VMM_TESTS names the VMM's unit tests, a program; tools/test sets it");
    let ran = Command::new(tests).args(["--ignored", "--test-threads=1"]).output().expect("it can be run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains(" 4 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
