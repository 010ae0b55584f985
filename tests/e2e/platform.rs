//! What the machine itself is made of, seen by Linux in it: `vial-vmm` alone, without launcher or daemon.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use vial_tests::fixtures;
use vial_tests::host::Vial;
use vial_tests::limit::Limit;

/// The installed VMM, or another part beside it.
fn part(name: &str) -> PathBuf {
    let program = std::fs::canonicalize(Vial::program()).expect("the program is installed");
    program.parent().and_then(Path::parent).expect("it is in a bin folder").join("lib/vial").join(name)
}

/// A script as a word of the kernel's command line.
fn script(lines: &[&str]) -> String {
    format!("script={}", lines.join(";").replace(' ', "${IFS}"))
}

/// Runs a VM to its end; what it wrote to its consoles.
fn run(folder: &Path, config: &Value) -> String {
    let document = folder.join("config.json");
    std::fs::write(&document, config.to_string()).expect("the folder is writable");
    let mut command = Command::new(part("vial-vmm"));
    let command = command.args(["--no-api", "--config-file"]).arg(&document);
    let console = folder.join("console");
    let written = std::fs::File::create(&console).expect("the folder is writable");
    let child = command.stdin(Stdio::null()).stdout(written).stderr(Stdio::piped()).spawn();
    let child = child.expect("the VMM can be run");
    let _limit = Limit::on_vmm(&child, &console);
    let output = child.wait_with_output().expect("it is our child");
    let console = std::fs::read(console).expect("it was made");
    let text = String::from_utf8_lossy(&console).replace('\r', "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{text}");
    text
}

#[test]
fn debians_own_kernel_and_initrd_boot_from_debians_own_disk() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let script = script(&["uname -r", "nproc", "mount|grep vda", "echo o>/proc/sysrq-trigger", "sleep 9"]);
    let text = run(
        folder.path(),
        &json!({
            "boot-source": {
                "kernel_image_path": fixtures::folder().join("debian-cloud.vmlinuz"),
                "initrd_path": fixtures::folder().join("debian-cloud.initrd"),
                "boot_args": format!("console=ttyS0 quiet panic=-1 init=/vial-test {script}"),
            },
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
            "drives": [{
                "drive_id": "root",
                "path_on_host": fixtures::folder().join("debian-cloud.ext4"),
                "is_read_only": true,
                "is_root_device": true,
            }],
            "serial": {},
        }),
    );
    assert!(text.contains("-cloud-amd64\n2\n/dev/vda on / type ext4 (ro"), "{text}");
}

/// A VM under way: lines that its guest writes, and its control socket.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    socket: PathBuf,
    seen: String,
    _limit: Limit,
}

impl Running {
    fn start(folder: &Path, config: &Value) -> Self {
        let document = folder.join("config.json");
        std::fs::write(&document, config.to_string()).expect("the folder is writable");
        let mut command = Command::new(part("vial-vmm"));
        let command = command.args(["--no-api", "--config-file"]).arg(&document).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the VMM can be run");
        let output = child.stdout.take().expect("it was asked for");
        let lines = BufReader::new(output).lines();
        // What it said was read already.
        let limit = Limit::on_vmm(&child, Path::new("/dev/null"));
        Self { child, lines, socket: folder.join("control"), seen: String::new(), _limit: limit }
    }

    /// Reads until the guest writes `word` at the start of a line; the line.
    fn until(&mut self, word: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.expect("a console has text").replace('\r', "");
            self.seen += &line;
            self.seen.push('\n');
            if line.starts_with(word) {
                return line;
            }
        }
        panic!("the guest ended without {word:?}:\n{}", self.seen);
    }

    fn ask(&self, request: &Value) {
        let mut socket = UnixStream::connect(&self.socket).expect("the VMM listens");
        writeln!(socket, "{request}").expect("it reads");
        let mut reply = String::new();
        BufReader::new(socket).read_line(&mut reply).expect("it answers");
        assert!(!reply.contains("fault_message"), "{request}: {reply}");
    }

    /// Memory of the process, in MiB.
    fn resident_mib(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).expect("the process lives");
        let line = text.lines().find(|line| line.starts_with("Pss:")).expect("the kernel counts it");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kib >> 10
    }
}

/// Whether `part` is somewhere in `whole`.
fn memmem(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// What the guest does; it tells each step, and waits for what the host does next.
const STEPS: &str = r#"
echo region $(cat /sys/bus/nd/devices/region0/size)
mkdir /pmem && mount -t ext4 -o dax=always /dev/pmem0 /pmem && mount | grep pmem0
echo written-past-every-cache >/pmem/new
sync
umount /pmem
cat /sys/devices/system/cpu/cpu3/topology/thread_siblings_list
total() { awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
before=$(total)
echo up $(nproc) $before
until dmesg | grep -q 'virtual machine fork'; do sleep 0.2; done
until [ $(total) -ge $((before + 256)) ]; do sleep 0.2; done
mount -t tmpfs none /tmp
dd if=/dev/zero of=/tmp/fill bs=1M count=150 2>/dev/null
rm /tmp/fill
echo plugged
until [ $(total) -le $((before + 256 - 140)) ]; do sleep 0.2; done
echo inflated
sleep 1000
"#;

#[test]
fn one_guest_sees_threads_of_cores_pmem_hotplug_balloon_and_that_it_is_a_copy() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("tree")).expect("the folder is writable");
    std::fs::write(at("tree/steps"), STEPS).expect("the folder is writable");
    let mut mke2fs = Command::new("mke2fs");
    let mke2fs =
        mke2fs.args(["-q", "-t", "ext4", "-b", "4096", "-d"]).args([at("tree"), at("steps")]).arg("32M");
    // It tells of each file all the same.
    let mke2fs = mke2fs.stdout(Stdio::null());
    assert!(mke2fs.status().expect("e2fsprogs is installed").success());
    std::fs::copy(at("steps"), at("pmem")).expect("the folder is writable");
    let script = script(&["mkdir /mnt", "mount -t ext4 /dev/vda /mnt", "sh /mnt/steps"]);
    let mut vm = Running::start(
        folder.path(),
        &json!({
            "boot-source": {
                "kernel_image_path": part("vmlinux"),
                "initrd_path": fixtures::busybox_initrd(),
                "boot_args": format!("console=hvc0 panic=-1 memhp_default_state=online_movable {script}"),
            },
            "machine-config": {"vcpu_count": 4, "mem_size_mib": 256, "smt": true},
            "drives": [{"drive_id": "steps", "path_on_host": at("steps")}],
            "pmem": [{"id": "p", "path_on_host": at("pmem")}],
            "memory-hotplug": {"total_size_mib": 512},
            "balloon": {"amount_mib": 0, "deflate_on_oom": false},
            "vial": {"console": {"output": "/dev/stdout"}, "control": at("control")},
        }),
    );
    vm.until("up 4 ");
    assert!(vm.seen.contains("region 33554432"), "{}", vm.seen);
    assert!(vm.seen.contains("/dev/pmem0 on /pmem type ext4 (rw,relatime,dax=always)"), "{}", vm.seen);
    let pmem = std::fs::read(at("pmem")).expect("it is a file");
    assert!(memmem(&pmem, b"written-past-every-cache"), "what the guest wrote is not in the file");
    assert!(vm.seen.lines().any(|line| line == "2-3"), "{}", vm.seen);
    vm.ask(&json!({"action": "new_generation"}));
    vm.ask(&json!({"action": "hotplug_memory", "requested_size_mib": 256}));
    vm.until("plugged");
    let filled = vm.resident_mib();
    vm.ask(&json!({"action": "balloon", "amount_mib": 150}));
    vm.until("inflated");
    let given = vm.resident_mib();
    assert!(given + 80 <= filled, "{filled} MiB before the balloon, {given} MiB after it");
    vm.ask(&json!({"action": "stop"}));
    vm.child.wait().expect("it ends");
}
