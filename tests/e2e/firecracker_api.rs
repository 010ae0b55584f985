//! Firecracker's way of starting a VM, with curl as the client: through the jailer and requests, and from a configuration file.

use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use vial_tests::bare::{Tap, busybox, command_line, part};
use vial_tests::fixtures;
use vial_tests::limit::Limit;

const SECTOR: usize = 512;

/// Status and body.
fn curl(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--write-out",
        "\n%{http_code}",
        "--request",
        method,
        "--unix-socket",
    ]);
    command.arg(socket).arg(format!("http://localhost{path}"));
    if !body.is_null() {
        command.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
    }
    let output = command.output().expect("curl is there");
    let text = String::from_utf8(output.stdout.clone()).expect("answers are UTF-8");
    let (body, status) = text.rsplit_once('\n').expect("curl writes the status behind the body");
    (status.parse().unwrap_or_else(|_| panic!("{method} {path}: {output:?}")), body.to_owned())
}

fn done(socket: &Path, method: &str, path: &str, body: &Value) {
    assert_eq!(curl(socket, method, path, body), (204, String::new()), "{method} {path} {body}");
}

fn state(socket: &Path) -> String {
    let (status, body) = curl(socket, "GET", "/", &Value::Null);
    assert_eq!(status, 200, "{body}");
    let info: Value = serde_json::from_str(&body).expect("it is JSON");
    info["state"].as_str().expect("it has a state").to_owned()
}

/// A guest's console: a named pipe, so that whoever reads it waits exactly as long as he has to.
struct Console {
    path: PathBuf,
    // Opened before the VMM, which wants a reader; not waited for.
    _reader: File,
}

impl Console {
    fn new(path: &Path) -> Self {
        let made = Command::new("mkfifo").args(["-m", "666"]).arg(path).status();
        assert!(made.expect("mkfifo is there").success());
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        Self { path: path.to_owned(), _reader: reader.expect("the pipe was made") }
    }

    /// To be called when the VMM has opened its end: then reading waits, and ends with the VMM.
    fn read(self) -> Lines {
        Lines(BufReader::new(File::open(&self.path).expect("the pipe is there")))
    }
}

struct Lines(BufReader<File>);

impl Lines {
    fn wait_for(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            let read = self.0.read_line(&mut line).expect("it is text");
            assert_ne!(read, 0, "the VM has ended before it said {words}");
        }
    }
}

/// A process, for so long at most; a test that fails takes it along.
struct Process {
    child: Child,
    _limit: Limit,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).spawn().expect("it can be run");
        // What its guest said was read already.
        let limit = Limit::on_vmm(&child, Path::new("/dev/null"));
        Self { child, _limit: limit }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to one that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the VMM says on its log, the standard output, that the API is there.
fn served(child: &mut Child) {
    let mut log = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("The API is served") {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("the log is text"), 0, "it ended");
    }
    // Nobody reads it any more; the log never waits for its reader.
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).expect("the file is ours");
}

#[test]
fn curl_boots_pauses_patches_and_shuts_down_a_jailed_guest() {
    let folder = tempfile::tempdir().expect("there is room");
    let jail = folder.path().join("vial-vmm/one/root");
    std::fs::create_dir_all(&jail).expect("there is room");
    std::fs::copy(part("vmlinux"), jail.join("kernel")).expect("there is room");
    std::fs::copy(fixtures::busybox_initrd(), jail.join("initrd")).expect("there is room");
    for name in ["one", "two"] {
        let mut content = vec![b'.'; 8 * SECTOR];
        content[..3].copy_from_slice(name.as_bytes());
        std::fs::write(jail.join(name), content).expect("there is room");
        open_to_all(&jail.join(name));
    }
    let console = Console::new(&jail.join("console"));
    let mut command = Command::new(part("vial-jailer"));
    command.args([
        "--id",
        "one",
        "--uid",
        "12345",
        "--gid",
        "12345",
        "--cgroup",
        "pids.max=50",
        "--exec-file",
    ]);
    command.arg(part("vial-vmm")).arg("--chroot-base-dir").arg(folder.path());
    command.args(["--", "--level", "info", "--boot-timer"]);
    let mut process = Process::start(command);
    let child = &mut process.child;
    served(child);
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("it lives");
    assert!(group.contains("/vial-vmm/one"), "{group}");
    let socket = &jail.join("run/firecracker.socket");
    assert_eq!(state(socket), "Not started");
    let append = command_line(&[
        "trap 'echo button; poweroff -f' 38",
        "echo up",
        "until head -c 3 /dev/vda | grep two; do sleep 1; done",
        "echo patched",
        "while :; do sleep 1; done",
    ]);
    done(socket, "PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 128}));
    let boot = json!({"kernel_image_path": "/kernel", "initrd_path": "/initrd", "boot_args": append});
    done(socket, "PUT", "/boot-source", &boot);
    done(
        socket,
        "PUT",
        "/drives/data",
        &json!({"drive_id": "data", "path_on_host": "/one", "is_root_device": false}),
    );
    done(socket, "PUT", "/vsock", &json!({"guest_cid": 3, "uds_path": "/vsock"}));
    done(socket, "PUT", "/vial", &json!({"console": {"output": "/console"}}));
    done(socket, "PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    let mut console = console.read();
    console.wait_for("up");
    done(socket, "PATCH", "/vm", &json!({"state": "Paused"}));
    assert_eq!(state(socket), "Paused");
    done(socket, "PATCH", "/vm", &json!({"state": "Resumed"}));
    assert_eq!(state(socket), "Running");
    done(socket, "PATCH", "/drives/data", &json!({"drive_id": "data", "path_on_host": "/two"}));
    console.wait_for("patched");
    let (status, text) = curl(socket, "GET", "/vial/metrics", &Value::Null);
    assert!(status == 200 && text.contains("vial_vcpu_exit_"), "{text}");
    done(socket, "PUT", "/actions", &json!({"action_type": "SendCtrlAltDel"}));
    console.wait_for("button");
    assert_eq!(child.wait().expect("it is our child").code(), Some(0));
    std::fs::remove_dir("/sys/fs/cgroup/vial-vmm/one").expect("nobody is in the group any more");
}

#[test]
fn a_configuration_file_boots_at_once_and_the_api_is_where_firecracker_has_it() {
    let folder = tempfile::tempdir().expect("there is room");
    let console = Console::new(&folder.path().join("console"));
    let config = json!({
        "boot-source": busybox(&[
            "ip link set lo up; ip link set eth0 up; ip addr add 172.16.0.2/30 dev eth0",
            "ip route add 169.254.169.254 dev eth0",
            "ask() { wget -q -O - \"$@\"; echo; }",
            "ask http://169.254.169.254/",
            "ask --header 'Accept: application/json' http://169.254.169.254/latest/meta-data",
            "ask http://169.254.169.254/long | wc -c",
            "echo up; sleep 1000",
        ]),
        "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "vialmmds0"}],
        "mmds-config": {"network_interfaces": ["eth0"]},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 128, "smt": false},
        "metrics": {"metrics_path": folder.path().join("metrics")},
        "vial": {"console": {"output": folder.path().join("console")}},
    });
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).expect("there is room");
    let mut command = Command::new(part("vial-vmm"));
    let metadata = folder.path().join("metadata.json");
    let document = json!({"latest": {"meta-data": {"ami-id": "ami-1"}}, "long": "x".repeat(40_000)});
    std::fs::write(&metadata, document.to_string()).expect("there is room");
    command.arg("--metadata").arg(&metadata).args(["--level", "info", "--config-file"]).arg(&path);
    let mut process = Process::start(command);
    let child = &mut process.child;
    served(child);
    let socket = Path::new("/run/firecracker.socket");
    assert_eq!(state(socket), "Running");
    let mut console = console.read();
    for line in ["latest/", "long", r#"{"ami-id":"ami-1"}"#, "40001", "up"] {
        console.wait_for(line);
    }
    done(socket, "PUT", "/mmds", &json!({"a": 1}));
    done(socket, "PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    assert_eq!(child.wait().expect("it is our child").code(), Some(13));
    let metrics = std::fs::read_to_string(folder.path().join("metrics")).expect("there are metrics");
    let last: Value =
        serde_json::from_str(metrics.lines().last().expect("a line at the end")).expect("it is JSON");
    assert_eq!(last["put_api_requests"]["mmds_count"], 1);
    let _ = std::fs::remove_file(socket);
}

/// Linux' side of what comes and goes; it says what it has seen.
const COMES_AND_GOES: [&str; 10] = [
    "echo up",
    "until [ -b /dev/vda ]; do sleep 0.1; done",
    "echo drive $(head -c 3 /dev/vda)",
    "until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done",
    "until [ -b /dev/pmem0 ]; do sleep 0.1; done",
    "mkdir /p; mount -t ext4 -o dax=always /dev/pmem0 /p; echo kept > /p/new; sync; umount /p; echo memory $?",
    "there() { [ -b /dev/vda ] || [ -b /dev/pmem0 ] || [ -e /sys/class/net/eth0 ]; }",
    "while there; do sleep 0.1; done",
    "echo gone",
    "poweroff -f",
];

#[test]
fn disks_networks_and_memory_come_and_go_with_linux_consent() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("disk"), [b"one".to_vec(), vec![b'.'; SECTOR - 3]].concat()).expect("there is room");
    let mut mke2fs = Command::new("mke2fs");
    let mke2fs =
        mke2fs.args(["-q", "-t", "ext4", "-b", "4096"]).arg(at("memory")).arg("16M").stdout(Stdio::null());
    assert!(mke2fs.status().expect("e2fsprogs is installed").success());
    let console = Console::new(&at("console"));
    let mut command = Command::new(part("vial-vmm"));
    command.args(["--enable-pci", "--level", "info", "--api-sock"]).arg(at("api"));
    let mut process = Process::start(command);
    let child = &mut process.child;
    served(child);
    let socket = &at("api");
    done(socket, "PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 128}));
    done(socket, "PUT", "/boot-source", &busybox(&COMES_AND_GOES));
    done(socket, "PUT", "/vial", &json!({"console": {"output": at("console")}}));
    done(socket, "PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    // From the start to the end, whenever one begins to read.
    let listener = std::thread::spawn({
        let socket = socket.clone();
        move || curl(&socket, "GET", "/vial/events", &Value::Null).1
    });
    let mut console = console.read();
    console.wait_for("up");
    let files = json!({"drive_id": "d", "concat": [at("disk"), at("disk")], "is_read_only": true});
    done(socket, "PUT", "/drives/d", &files);
    console.wait_for("drive one");
    let tap = json!({"iface_id": "n", "host_dev_name": "vialplug0"});
    let (status, why) = curl(socket, "PUT", "/network-interfaces/n", &tap);
    assert!(status == 400 && why.contains("vialplug0"), "{status} {why}");
    let _tap = Tap::new("vialplug0");
    done(socket, "PUT", "/network-interfaces/n", &tap);
    done(socket, "PUT", "/pmem/p", &json!({"id": "p", "path_on_host": at("memory")}));
    console.wait_for("memory 0");
    let (_, metrics) = curl(socket, "GET", "/vial/metrics", &Value::Null);
    let flushes = metrics.lines().find(|line| line.starts_with("vial_pmem_flush_count_total"));
    assert!(flushes.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    for path in ["/pmem/p", "/drives/d", "/network-interfaces/n"] {
        done(socket, "DELETE", path, &Value::Null);
    }
    console.wait_for("gone");
    let events = listener.join().expect("curl ends with the stream");
    assert_eq!(events.matches(r#""event":"unplugged""#).count(), 3, "{events}");
    assert_eq!(child.wait().expect("it is our child").code(), Some(0));
    let memory = std::fs::read(at("memory")).expect("it is a file");
    assert!(memory.windows(5).any(|window| window == b"kept\n"), "what the guest wrote is not in the file");
}
