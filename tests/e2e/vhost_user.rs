//! A disk of qemu-storage-daemon's and a file system of virtiofsd's under Linux: what goes in comes out, and the VM survives one of them.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use vial_tests::fixtures;
use vial_tests::host::{Vial, path};
use vial_tests::talk::Talk;

/// The number that back ends inherit their socket as.
const SOCKET: i32 = 3;
const DISK_MIB: u64 = 16;

/// A back end that goes when the test does.
struct BackEnd(Child);

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command` with a socket that is listened on already: whoever connects waits for nothing.
fn start(mut command: Command, socket: &Path) -> BackEnd {
    let listener = UnixListener::bind(socket).expect("a socket can be bound");
    let number = listener.as_raw_fd();
    // SAFETY: dup2 and fcntl may be called between fork and exec, and touch no memory.
    unsafe {
        command.pre_exec(move || {
            let result = if number == SOCKET {
                libc::fcntl(number, libc::F_SETFD, 0)
            } else {
                libc::dup2(number, SOCKET)
            };
            if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    BackEnd(child.expect("the back end is installed"))
}

/// virtiofsd, in C or in Rust.
fn virtiofsd(shared: &Path) -> Command {
    let places = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
    let program = places.into_iter().find(|place| Path::new(place).exists());
    let program = program.expect("tools/test has installed virtiofsd");
    let mut command = Command::new(program);
    command.arg(format!("--fd={SOCKET}"));
    match program.contains("qemu") {
        true => command.args(["-o", &format!("source={}", path(shared)), "-o", "sandbox=chroot"]),
        false => command.args(["--shared-dir", path(shared), "--sandbox", "chroot"]),
    };
    command
}

const SCRIPT: &str = "
dd if=/tmp/big of=/dev/vda bs=64k conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
head -c 3000000 /dev/vda | tee /tmp/back | cmp - /tmp/big && echo same
# The device's status: everything that a driver sets, and DEVICE_NEEDS_RESET.
while ! grep -q 4f /sys/bus/virtio/devices/virtio0/status; do sleep 1; done
cat /tmp/word
poweroff -n -f
";

#[test]
fn linux_uses_a_disk_and_files_of_others_and_outlives_a_back_end() {
    let vial = Vial::new();
    let folder = |name: &str| vial.data().join(name);
    let (shared, disk) = (folder("shared"), folder("disk"));
    std::fs::create_dir(&shared).expect("a folder can be made");
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in [("big", &big[..]), ("word", b"still here\n"), ("run", SCRIPT.as_bytes())] {
        std::fs::write(shared.join(name), bytes).expect("a file can be written");
    }
    std::fs::File::create(&disk).and_then(|disk| disk.set_len(DISK_MIB << 20)).expect("a disk can be made");
    let mut storage = Command::new("qemu-storage-daemon");
    storage.args(["--blockdev", &format!("driver=file,node-name=d,filename={}", path(&disk))]);
    let export = "type=vhost-user-blk,id=e,node-name=d,writable=on,addr.type=fd,addr.str=";
    storage.args(["--export", &format!("{export}{SOCKET}")]);
    let (disk_socket, fs_socket) = (folder("disk.sock"), folder("fs.sock"));
    let mut storage = start(storage, &disk_socket);
    let files = start(virtiofsd(&shared), &fs_socket);

    let initrd = fixtures::busybox_initrd();
    let (disk_at, fs_at) =
        (format!("socket={}", path(&disk_socket)), format!("tag=host,socket={}", path(&fs_socket)));
    let boot = "mount${IFS}-t${IFS}virtiofs${IFS}host${IFS}/tmp;cp${IFS}/tmp/run${IFS}/run;sh${IFS}/run";
    let append = format!("quiet panic=-1 script={boot}");
    let args =
        ["vm", "run", "--initrd", path(&initrd), "--append", &append, "--disk", &disk_at, "--fs", &fs_at];
    let mut guest = Talk::start(&vial, &args);
    guest.says("same\r\n");
    storage.0.kill().expect("it lives");
    guest.says("still here\r\n");
    let ended = guest.ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    for file in [shared.join("back"), disk.clone()] {
        let bytes = std::fs::read(&file).expect("it is there");
        assert!(bytes.starts_with(&big), "{} is not what the guest wrote", file.display());
    }
    drop(files);
    vial.leaves_nothing();
}
