//! Acts for more memory, rights and kernel than was given.

use super::*;
use crate::injector::Entry;

pub fn memory() -> Vec<Act> {
    let code = "code of one's own, with no more rights than before";
    let (read, execute) = (libc::PROT_READ, libc::PROT_EXEC);
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let map = |rights| sys(libc::SYS_mmap, [n(0), n(4096), n(rights), n(anonymous), n(-1), n(0)]);
    vec![
        act("map executable memory", [map(read | execute)], nobody(code)),
        act(
            "make memory executable",
            [map(read), sys(libc::SYS_mprotect, [Arg::Got(0), n(4096), n(read | execute)])],
            nobody(code),
        ),
        act(
            "the same with pkey_mprotect",
            [map(read), sys(libc::SYS_pkey_mprotect, [Arg::Got(0), n(4096), n(read | execute), n(-1)])],
            nobody(code),
        ),
        act(
            "have all that is readable executable: personality",
            [sys(libc::SYS_personality, [n(0x0400_0000)])],
            nobody(code),
        ),
        act(
            "shared memory: shmget",
            [sys(libc::SYS_shmget, [n(0), n(4096), n(0o1600)])],
            nobody("an IPC namespace of its own"),
        ),
        act(
            "a message queue",
            [sys(libc::SYS_mq_open, [text("x"), n(libc::O_CREAT), n(0o600), n(0)])],
            nobody("an IPC namespace of its own"),
        ),
        act(
            "hold pages back: userfaultfd",
            [sys(libc::SYS_userfaultfd, [n(1)])],
            nobody("stops its own threads in the kernel, which helps to attack it"),
        ),
        act(
            "hidden memory: memfd_secret",
            [sys(libc::SYS_memfd_secret, [n(0)])],
            nobody("nothing by itself"),
        ),
        act(
            "another process's memory: process_madvise",
            [sys(libc::SYS_process_madvise, [n(2), n(0), n(0), n(0), n(0)])],
            Second::Jail("no such descriptor", &[libc::EBADF, libc::EINVAL]),
        ),
        act(
            "lock all memory",
            [sys(libc::SYS_mlockall, [n(libc::MCL_FUTURE)])],
            nobody("bounded by RLIMIT_MEMLOCK, and by its cgroup"),
        ),
        act(
            "segments of its own: modify_ldt",
            [sys(libc::SYS_modify_ldt, [n(0), zeroes(16), n(16)])],
            nobody("more of the kernel to attack"),
        ),
    ]
}

pub fn privileges() -> Vec<Act> {
    let no = || Second::Jail(CAPABILITIES, EPERM);
    let prctl = |option: i32, value: u64| sys(libc::SYS_prctl, [n(option), Arg::N(value), n(0), n(0), n(0)]);
    vec![
        act("become root: setuid", [sys(libc::SYS_setuid, [n(0)])], no()),
        act("become root: setresuid", [sys(libc::SYS_setresuid, [n(0), n(0), n(0)])], no()),
        act("root's group: setgid", [sys(libc::SYS_setgid, [n(0)])], no()),
        act("more groups", [sys(libc::SYS_setgroups, [n(1), zeroes(4)])], no()),
        act(
            "take capabilities",
            [sys(
                libc::SYS_capset,
                [Arg::Bytes([0x2008_0522u32.to_ne_bytes(), [0; 4]].concat()), Arg::Bytes(vec![0xff; 24])],
            )],
            no(),
        ),
        act(
            "keep capabilities over an exec",
            [prctl(libc::PR_CAP_AMBIENT, 2)],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::EINVAL]),
        ),
        act("be traceable: PR_SET_DUMPABLE", [prctl(libc::PR_SET_DUMPABLE, 1)], nobody("nothing by itself")),
        act(
            "move its own image: PR_SET_MM",
            [prctl(libc::PR_SET_MM, 1)],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::EINVAL]),
        ),
        act(
            "another filter: seccomp",
            [sys(libc::SYS_seccomp, [n(1), n(0), zeroes(16)])],
            nobody("filters only add up: nothing"),
        ),
        act("a namespace of its own", [sys(libc::SYS_unshare, [n(libc::CLONE_NEWNS)])], no()),
        act(
            "a user namespace",
            [sys(libc::SYS_unshare, [n(libc::CLONE_NEWUSER)])],
            nobody("capabilities over new namespaces: the kernel's most attacked code"),
        ),
        act(
            "another's namespace: setns",
            [sys(libc::SYS_setns, [n(2), n(0)])],
            Second::Jail("no such descriptor", &[libc::EINVAL, libc::EBADF]),
        ),
        act("mount", [sys(libc::SYS_mount, [text("x"), text("/"), text("tmpfs"), n(0), n(0)])], no()),
        act("unmount", [sys(libc::SYS_umount2, [text("/"), n(2)])], no()),
        act("mount: fsopen", [sys(libc::SYS_fsopen, [text("tmpfs"), n(0)])], no()),
        act(
            "mount: open_tree",
            [sys(libc::SYS_open_tree, [n(libc::AT_FDCWD), text("/"), n(1)])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::EACCES]),
        ),
        act("another root: pivot_root", [sys(libc::SYS_pivot_root, [text("/"), text("/")])], no()),
        act("another root: chroot", [sys(libc::SYS_chroot, [text("/")])], no()),
        act(
            "more descriptors than its limit",
            [sys(libc::SYS_prlimit64, [n(0), n(7), words([1 << 20, 1 << 20]), n(0)])],
            no(),
        ),
    ]
}

pub fn kernel() -> Vec<Act> {
    let no = || Second::Jail(CAPABILITIES, EPERM);
    let more = "more of the kernel to attack";
    vec![
        act(
            "a BPF program",
            [sys(libc::SYS_bpf, [n(5), zeroes(128), n(128)])],
            nobody("where the host lets every user load them"),
        ),
        act(
            "performance counters",
            [sys(libc::SYS_perf_event_open, [zeroes(128), n(0), n(-1), n(-1), n(0)])],
            nobody("where the host lets every user count; side channels"),
        ),
        act("io_uring", [sys(libc::SYS_io_uring_setup, [n(4), zeroes(120)])], nobody(more)),
        act(
            "keys: add_key",
            [sys(libc::SYS_add_key, [text("user"), text("x"), text("x"), n(1), n(-2)])],
            nobody(more),
        ),
        act("keys: keyctl", [sys(libc::SYS_keyctl, [n(0), n(-3), n(0)])], nobody(more)),
        act(
            "load a module",
            [sys(libc::SYS_init_module, [zeroes(8), n(8), text("")])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::ENOSYS]),
        ),
        act(
            "load a module from a file",
            [sys(libc::SYS_finit_module, [n(2), text(""), n(0)])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::ENOSYS]),
        ),
        act(
            "another kernel: kexec_load",
            [sys(libc::SYS_kexec_load, [n(0), n(0), n(0), n(0xff)])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::ENOSYS]),
        ),
        act("restart the host", [sys(libc::SYS_reboot, [n(0), n(0), n(0), n(0)])], no()),
        act("swapon", [sys(libc::SYS_swapon, [text("/x"), n(0)])], no()),
        act("name the host", [sys(libc::SYS_sethostname, [text("x"), n(1)])], no()),
        // A tick of no length, which nobody may set: who may set any hears EINVAL.
        act(
            "set the clock",
            [sys(libc::SYS_adjtimex, [Arg::Bytes([&[0, 0x40][..], &[0; 254]].concat())])],
            no(),
        ),
        act(
            "ports of the machine: iopl",
            [sys(libc::SYS_iopl, [n(3)])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::ENOSYS]),
        ),
        act(
            "ports of the machine: ioperm",
            [sys(libc::SYS_ioperm, [n(0x80), n(1), n(1)])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::ENOSYS]),
        ),
        act(
            "the kernel's log",
            [sys(libc::SYS_syslog, [n(3), zeroes(16), n(16)])],
            nobody("where the host lets every user read it: kernel addresses"),
        ),
        act("accounting", [sys(libc::SYS_acct, [text("/x")])], no()),
        act("the terminal's session: vhangup", [sys(libc::SYS_vhangup, [])], no()),
        act("calls with x32 numbers", [sys(libc::SYS_getpid | 0x4000_0000, [])], nobody(more)),
        act(
            "calls as a 32-bit program",
            // open("/etc/passwd") of that table.
            [Call { entry: Entry::Int80, number: 5, arguments: vec![n(0), n(0), n(0)] }],
            nobody(more),
        ),
        act("a system call that is not there", [sys(1023, [])], nobody("nothing")),
    ]
}

pub fn descriptors() -> Vec<Act> {
    let row =
        |name, request| act(name, [ioctl(request)], nobody("more of the drivers behind its descriptors"));
    vec![
        row("ioctl KVM_CREATE_DEVICE", 0xc00c_aee0),
        row("ioctl KVM_GET_DIRTY_LOG", 0x4010_ae42),
        row("ioctl KVM_SET_PIT", 0x8048_ae66),
        Act { filter: Filter::LetsPlug, ..row("ioctl TUNSETIFF: another TAP", 0x4004_54ca) },
        row("ioctl TUNSETPERSIST: keep a TAP", 0x4004_54cb),
        row("ioctl TUNATTACHFILTER: a program on a TAP", 0x4010_54d5),
        row("ioctl KVM_SET_DEVICE_ATTR", 0x4018_aee1),
        row("ioctl KVM_X86_SET_MSR_FILTER", 0x4188_aec6),
        Act {
            filter: Filter::LetsRoute,
            ..row("ioctl KVM_SET_GSI_ROUTING: where interrupts go", 0x4008_ae6a)
        },
        Act { filter: Filter::LetsShare, ..row("ioctl VHOST_SET_OWNER: a thread of the kernel's", 0xaf01) },
        Act {
            filter: Filter::LetsShare,
            ..row("ioctl VHOST_SET_MEM_TABLE: what that thread writes to", 0x4008_af03)
        },
        Act {
            filter: Filter::LetsStop,
            ..row("ioctl VHOST_NET_SET_BACKEND: which TAP it serves", 0x4008_af30)
        },
        row("ioctl VHOST_SET_LOG_BASE: more that it writes to", 0x4008_af04),
        row("ioctl VHOST_SET_VRING_ERR", 0x4008_af22),
        row("ioctl VHOST_VSOCK_SET_GUEST_CID", 0x4008_af60),
        row("ioctl TUNSETOWNER", 0x4004_54cc),
        row("ioctl TIOCSTI: type on a terminal", 0x5412),
        row("ioctl TIOCSCTTY: take a terminal", 0x540e),
        row("ioctl FIOCLEX", 0x5451),
        row("ioctl FICLONE", 0x4004_9409),
        row("ioctl FS_IOC_SETFLAGS", 0x4008_6602),
        row("ioctl SIOCSIFFLAGS: an interface", 0x8914),
        row("ioctl BLKRRPART: partitions of a disk", 0x125f),
        row("ioctl SG_IO: raw commands to a disk", 0x2285),
        row("ioctl LOOP_SET_FD", 0x4c00),
        act(
            "lock a file: flock",
            [sys(libc::SYS_flock, [n(2), n(libc::LOCK_EX | libc::LOCK_NB)])],
            nobody("locks on files that it has open"),
        ),
        act(
            "leases: fcntl F_SETLEASE",
            [sys(libc::SYS_fcntl, [n(2), n(libc::F_SETLEASE), n(0)])],
            nobody("holds others up who open a file that it has open"),
        ),
        act(
            "signals from files: fcntl F_SETOWN",
            [sys(libc::SYS_fcntl, [n(2), n(libc::F_SETOWN), n(1)])],
            nobody("signals to its own processes only: PID namespace"),
        ),
        act(
            "shorten a file",
            [sys(libc::SYS_ftruncate, [n(2), n(0)])],
            nobody("files that it may write to anyway"),
        ),
        act("a file's rights: fchmod", [sys(libc::SYS_fchmod, [n(2), n(0o777)])], no_owner()),
        act("a file's owner: fchown", [sys(libc::SYS_fchown, [n(2), n(0), n(0)])], no_owner()),
        act(
            "splice files",
            [sys(libc::SYS_splice, [n(2), n(0), n(2), n(0), n(1), n(0)])],
            nobody("Dirty Pipe's way in"),
        ),
        act(
            "copy between files",
            [sys(libc::SYS_copy_file_range, [n(2), n(0), n(2), n(0), n(1), n(0)])],
            nobody("between files that it has open"),
        ),
    ]
}

fn no_owner() -> Second {
    Second::Jail("files belong to root", EPERM)
}
