//! Acts against what the host has: files, sockets, processes.

use super::*;

pub fn files() -> Vec<Act> {
    let at = || n(libc::AT_FDCWD);
    let tree = |errors| Second::Jail(TREE, errors);
    let how = || words([0, 0, 0]);
    vec![
        act("open a file of the host", [sys(libc::SYS_open, [text("/etc/passwd"), n(0), n(0)])], tree(GONE)),
        Act {
            filter: Filter::LetsOpen,
            ..act(
                "open it with openat",
                [sys(libc::SYS_openat, [at(), text("/etc/passwd"), n(0)])],
                tree(GONE),
            )
        },
        act(
            "open it with openat2",
            [sys(libc::SYS_openat2, [at(), text("/etc/passwd"), how(), n(24)])],
            tree(GONE),
        ),
        Act {
            filter: Filter::LetsOpen,
            ..act(
                "another VM's files through /proc",
                [sys(libc::SYS_openat, [at(), text("/proc/1/root/etc/passwd"), n(0)])],
                tree(GONE),
            )
        },
        Act {
            filter: Filter::LetsOpen,
            ..act(
                "/dev/kvm, to make another VM",
                [sys(libc::SYS_openat, [at(), text("/dev/kvm"), n(libc::O_RDWR)])],
                tree(GONE),
            )
        },
        act(
            "list the root folder",
            [sys(libc::SYS_open, [text("/"), n(libc::O_DIRECTORY), n(0)])],
            Second::Jail("Landlock", &[libc::EACCES]),
        ),
        act(
            "make a file",
            [sys(libc::SYS_open, [text("/x"), n(libc::O_CREAT | libc::O_WRONLY), n(0o600)])],
            Second::Jail("Landlock, read-only tree", &[libc::EACCES, libc::EROFS]),
        ),
        act(
            "make a folder",
            [sys(libc::SYS_mkdir, [text("/x"), n(0o700)])],
            Second::Jail("Landlock, read-only tree", &[libc::EACCES, libc::EROFS]),
        ),
        act(
            "make a device file",
            [sys(libc::SYS_mknod, [text("/x"), n(libc::S_IFBLK | 0o600), n(0x800)])],
            Second::Jail("Landlock, read-only tree", &[libc::EACCES, libc::EROFS, libc::EPERM]),
        ),
        act(
            "make a link",
            [sys(libc::SYS_symlink, [text("/etc"), text("/x")])],
            Second::Jail("Landlock, read-only tree", &[libc::EACCES, libc::EROFS]),
        ),
        act("remove a file", [sys(libc::SYS_unlink, [text("/etc/passwd")])], tree(GONE)),
        act("rename a file", [sys(libc::SYS_rename, [text("/etc/passwd"), text("/etc/x")])], tree(GONE)),
        act("ask for a file by path", [sys(libc::SYS_stat, [text("/etc/passwd"), zeroes(256)])], tree(GONE)),
        act(
            "the same with newfstatat",
            [sys(libc::SYS_newfstatat, [at(), text("/etc/passwd"), zeroes(256), n(0)])],
            tree(GONE),
        ),
        Act {
            // fstat(2) is this call with an empty path; filters don't see text.
            filter: Filter::LetsLook,
            ..act(
                "the same, dressed up as fstat",
                [sys(libc::SYS_newfstatat, [at(), text("/etc/passwd"), zeroes(256), n(libc::AT_EMPTY_PATH)])],
                tree(GONE),
            )
        },
        act(
            "leave through a file handle",
            [sys(
                libc::SYS_open_by_handle_at,
                [n(2), Arg::Bytes([&[8, 0, 0, 0, 1][..], &[0; 27]].concat()), n(0)],
            )],
            Second::Jail(CAPABILITIES, EPERM),
        ),
        act(
            "make a file handle",
            [sys(libc::SYS_name_to_handle_at, [at(), text("/etc/passwd"), zeroes(128), zeroes(8), n(0)])],
            tree(&[libc::ENOENT, libc::EINVAL]),
        ),
        act(
            "watch files: inotify",
            [sys(libc::SYS_inotify_init1, [n(0)])],
            nobody("paths to watch are not there"),
        ),
        act(
            "watch files: fanotify",
            [sys(libc::SYS_fanotify_init, [n(0x4), n(0)])],
            Second::Jail(CAPABILITIES, EPERM),
        ),
        act(
            "change a disk's limits: quotactl",
            [sys(libc::SYS_quotactl, [n(0x0080_0004), text("/dev/sda"), n(0), zeroes(64)])],
            tree(&[libc::ENOENT, libc::EINVAL, libc::ENODEV, libc::ENOSYS]),
        ),
    ]
}

pub fn sockets() -> Vec<Act> {
    let socket = |family: i32, kind: i32| sys(libc::SYS_socket, [n(family), n(kind), n(0)]);
    let connect = |[address, length]: [Arg; 2]| sys(libc::SYS_connect, [Arg::Got(0), address, length]);
    let tcp = || socket(libc::AF_INET, libc::SOCK_STREAM);
    let unix_stream = || socket(libc::AF_UNIX, libc::SOCK_STREAM);
    vec![
        Act {
            filter: Filter::LetsConnect,
            ..act(
                "connect to a program of the host by path",
                [unix_stream(), connect(unix("/run/vial/vial.sock\0"))],
                Second::Jail(TREE, GONE),
            )
        },
        Act {
            filter: Filter::LetsConnect,
            ..act(
                "the same by an abstract name",
                [unix_stream(), connect(unix("\0vial-jail-proof"))],
                Second::Jail(NETWORK, &[libc::ECONNREFUSED, libc::EPERM]),
            )
        },
        act(
            "connect to a TCP port of the host",
            [tcp(), connect([Arg::HostPort, n(16)])],
            Second::Jail("network namespace, Landlock", &[libc::ENETUNREACH, libc::EACCES]),
        ),
        act(
            "send UDP packets",
            [
                socket(libc::AF_INET, libc::SOCK_DGRAM),
                sys(libc::SYS_sendto, [Arg::Got(0), text("x"), n(1), n(0), Arg::HostPort, n(16)]),
            ],
            Second::Jail(NETWORK, &[libc::ENETUNREACH]),
        ),
        act(
            "listen on a TCP port",
            [
                tcp(),
                sys(
                    libc::SYS_bind,
                    [Arg::Got(0), Arg::Bytes([&[2, 0, 0x1f, 0x90][..], &[0; 12]].concat()), n(16)],
                ),
            ],
            nobody("Landlock from version 4 on; else a port of an empty network namespace"),
        ),
        act(
            "read raw packets: AF_PACKET",
            [socket(libc::AF_PACKET, libc::SOCK_RAW)],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::EAFNOSUPPORT]),
        ),
        act(
            "change interfaces and routes: AF_NETLINK",
            [
                socket(libc::AF_NETLINK, libc::SOCK_RAW),
                // RTM_NEWLINK with NLM_F_REQUEST | NLM_F_ACK: the answer is an error message.
                sys(
                    libc::SYS_sendto,
                    [
                        Arg::Got(0),
                        Arg::Bytes(
                            [&[32, 0, 0, 0, 16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16]].concat(),
                        ),
                        n(32),
                        n(0),
                        n(0),
                        n(0),
                    ],
                ),
            ],
            nobody("an empty network namespace, and no capability to change even that"),
        ),
        act(
            "speak to the host over AF_VSOCK",
            [socket(libc::AF_VSOCK, libc::SOCK_STREAM)],
            nobody("it is not of a namespace: hosts that are VMs themselves may listen there"),
        ),
        act(
            "the kernel's ciphers: AF_ALG",
            [socket(libc::AF_ALG, libc::SOCK_SEQPACKET)],
            nobody("more of the kernel to attack"),
        ),
        act(
            "a pair of sockets",
            [sys(libc::SYS_socketpair, [n(libc::AF_UNIX), n(1), n(0), zeroes(8)])],
            nobody("nothing by itself"),
        ),
    ]
}

pub fn processes() -> Vec<Act> {
    let new = "processes that no thread's filter was made for; its cgroup counts them";
    let remote = |call: i64| sys(call, [Arg::HostPid, words([4096, 8]), n(1), words([4096, 8]), n(1), n(0)]);
    vec![
        act(
            "a thread: clone",
            [sys(libc::SYS_clone, [n(libc::SIGCHLD), n(0), n(0), n(0), n(0)])],
            nobody(new),
        ),
        act(
            "a process: clone3",
            [sys(libc::SYS_clone3, [words([0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0]), n(64)])],
            nobody(new),
        ),
        act("a process: fork", [sys(libc::SYS_fork, [])], nobody(new)),
        act(
            "another program: execve",
            [sys(libc::SYS_execve, [text("/bin/sh"), n(0), n(0)])],
            Second::Jail(TREE, GONE),
        ),
        act(
            "another program: execveat",
            [sys(libc::SYS_execveat, [n(libc::AT_FDCWD), text("/bin/sh"), n(0), n(0), n(0)])],
            Second::Jail(TREE, GONE),
        ),
        act(
            "a program out of memory",
            [
                sys(libc::SYS_memfd_create, [text("x"), n(0)]),
                sys(libc::SYS_write, [Arg::Got(0), text("not a program"), n(13)]),
                sys(libc::SYS_execveat, [Arg::Got(0), text(""), n(0), n(0), n(libc::AT_EMPTY_PATH)]),
            ],
            nobody("it would run with the same rights, and without tools around it"),
        ),
        act(
            "trace a process of the host",
            [sys(libc::SYS_ptrace, [n(16), Arg::HostPid, n(0), n(0)])],
            Second::Jail(PIDS, NOBODY),
        ),
        act("read its memory", [remote(libc::SYS_process_vm_readv)], Second::Jail(PIDS, NOBODY)),
        act("write its memory", [remote(libc::SYS_process_vm_writev)], Second::Jail(PIDS, NOBODY)),
        act("kill it", [sys(libc::SYS_kill, [Arg::HostPid, n(0)])], Second::Jail(PIDS, NOBODY)),
        act("kill everything", [sys(libc::SYS_kill, [n(-1), n(0)])], Second::Jail(PIDS, NOBODY)),
        act(
            "signal a thread of it: tgkill",
            [sys(libc::SYS_tgkill, [Arg::HostPid, Arg::HostPid, n(0)])],
            Second::Jail(PIDS, NOBODY),
        ),
        act(
            "signal a thread of it: tkill",
            [sys(libc::SYS_tkill, [Arg::HostPid, n(0)])],
            Second::Jail(PIDS, NOBODY),
        ),
        act(
            "queue a signal for it",
            [sys(libc::SYS_rt_sigqueueinfo, [Arg::HostPid, n(0), zeroes(128)])],
            Second::Jail(PIDS, &[libc::ESRCH, libc::EPERM]),
        ),
        act(
            "hold it: pidfd_open",
            [sys(libc::SYS_pidfd_open, [Arg::HostPid, n(0)])],
            Second::Jail(PIDS, NOBODY),
        ),
        act(
            "signal it through a descriptor",
            [sys(libc::SYS_pidfd_send_signal, [n(2), n(0), n(0), n(0)])],
            Second::Jail("no such descriptor", &[libc::EBADF, libc::EINVAL]),
        ),
        act(
            "take its descriptors: pidfd_getfd",
            [sys(libc::SYS_pidfd_getfd, [n(2), n(0), n(0)])],
            Second::Jail("no such descriptor", &[libc::EBADF, libc::EINVAL]),
        ),
        act(
            "compare with it: kcmp",
            [sys(libc::SYS_kcmp, [n(1), Arg::HostPid, n(0), n(0), n(0)])],
            Second::Jail(PIDS, &[libc::ESRCH, libc::ENOSYS]),
        ),
        act(
            "change its limits",
            [sys(libc::SYS_prlimit64, [Arg::HostPid, n(7), n(0), zeroes(16)])],
            Second::Jail(PIDS, NOBODY),
        ),
        act(
            "real-time priority",
            [sys(libc::SYS_sched_setscheduler, [n(0), n(1), Arg::Bytes(vec![1, 0, 0, 0])])],
            Second::Jail(CAPABILITIES, EPERM),
        ),
        act(
            "a better priority",
            [sys(libc::SYS_setpriority, [n(0), n(0), n(-20)])],
            Second::Jail(CAPABILITIES, &[libc::EPERM, libc::EACCES]),
        ),
    ]
}
