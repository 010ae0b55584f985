//! A container that attacks its agent, and through it the host: by its first process and by exec.

use vial_tests::fixtures;
use vial_tests::host::{Vial, path};

/// Tries each forbidden act and prints the names of those that *worked*; so nothing printed but the last line is good.
const ATTACKS: &str = r#"
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try:
        if act() is not False:
            print("worked:", name)
    except (OSError, ValueError):
        pass
def call(number, *args):
    result = libc.syscall(number, *args)
    if result == -1:
        raise OSError(ctypes.get_errno())
def raw_disk():
    for minor in (0, 16):
        os.mknod("/tmp/disk%d" % minor, 0o60600, os.makedev(254, minor))
        os.close(os.open("/tmp/disk%d" % minor, os.O_RDONLY))
def memory():
    os.mknod("/tmp/mem", 0o20600, os.makedev(1, 1))
    os.close(os.open("/tmp/mem", os.O_RDONLY))
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
attempt("vsock socket", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("vsock socket by socketpair", lambda: call(53, 40, 1, 0, (ctypes.c_int * 2)()))
attempt("raw disk", raw_disk)
attempt("physical memory", memory)
attempt("mount", lambda: call(165, b"none", b"/mnt", b"tmpfs", 0, 0))
attempt("unshare of a user namespace", lambda: call(272, 0x10000000))
attempt("unshare of a mount namespace in a user namespace", lambda: call(272, 0x10020000))
attempt("setns", lambda: call(308, os.open("/proc/1/ns/mnt", os.O_RDONLY), 0))
attempt("reboot", lambda: call(169, 0xfee1dead, 672274793, 0, 0))
attempt("kexec", lambda: call(246, 0, 0, 0, 0))
attempt("bpf", lambda: call(321, 0, 0, 0))
attempt("keyctl", lambda: call(250, 0, -3, 0))
attempt("kernel modules", lambda: call(175, 0, 0, b""))
attempt("sysrq", lambda: write("/proc/sysrq-trigger", "h"))
attempt("sysctl of the kernel", lambda: write("/proc/sys/kernel/core_pattern", "|/x"))
attempt("own memory limit", lambda: write("/sys/fs/cgroup/memory.max", "max"))
attempt("another cgroup", lambda: os.mkdir("/sys/fs/cgroup/escape"))
attempt("seeing the agent", lambda: any(open("/proc/%s/comm" % p).read().strip() in ("init", "vial-agent") for p in os.listdir("/proc") if p.isdigit()))
attempt("setting the clock", lambda: call(227, 0, (ctypes.c_long * 2)(1, 0)))
attempt("setting the host name", lambda: call(170, b"x", 1))
attempt("io_uring", lambda: call(425, 1, 0))
print("done")
"#;

fn debian() -> Vial {
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&fixtures::debian())]).ok();
    vial
}

#[test]
fn no_forbidden_act_works_from_the_first_process() {
    let vial = debian();
    assert_eq!(vial.run(["run", "--rm", "debian:vial", "python3", "-c", ATTACKS]).ok(), "done\n");
    vial.leaves_nothing();
}

#[test]
fn no_forbidden_act_works_from_exec() {
    let vial = debian();
    vial.run(["run", "-d", "--name", "one", "debian:vial", "sleep", "1000"]).ok();
    assert_eq!(vial.run(["exec", "one", "python3", "-c", ATTACKS]).ok(), "done\n");
    vial.leaves_nothing();
}
