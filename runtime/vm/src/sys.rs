//! System calls that have no safe wrapper among our libraries. All `unsafe` of launching is here.

use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// CLOCK_MONOTONIC, microseconds.
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is negative, and the sum is far from overflow.
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// linux/sched.h; libc's constant of that name is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What clone3 gave to whom.
#[derive(Debug)]
pub enum Cloned {
    /// We are the child.
    Child,
    /// We are the parent.
    Parent {
        /// The child's id.
        pid: i32,
        /// The child's descriptor.
        pidfd: OwnedFd,
    },
}

/// The kernel's `struct clone_args` (linux/sched.h) up to `cgroup`, size 88.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Has a descriptor watched for becoming readable. Only inside a runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always gives the number of the descriptor that it owns, and keeps it open.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Gives a single-threaded process namespaces of its own.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: what is dangerous, sharing of descriptors and file system state between threads, can't arise with one thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Version of this kernel's Landlock; none when it has none or it is switched off.
pub(crate) fn landlock_abi() -> Option<i32> {
    const SYS_LANDLOCK_CREATE_RULESET: libc::c_long = 444;
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag and without attributes the call only answers a question.
    let abi = unsafe { libc::syscall(SYS_LANDLOCK_CREATE_RULESET, std::ptr::null::<u8>(), 0usize, VERSION) };
    i32::try_from(abi).ok().filter(|abi| *abi > 0)
}

/// Number of threads of this process.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Forks a process that has one thread only. `Ok(None)` is the child.
///
/// # Errors
/// When there is more than one thread (as a kind [`io::ErrorKind::Unsupported`]), or the kernel refuses.
pub(crate) fn fork_single_threaded() -> io::Result<Option<i32>> {
    if thread_count()? != 1 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: with one thread, the child's copy of every lock and of the allocator is consistent.
    match check(unsafe { libc::fork() }.into())? {
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

/// clone3 with a descriptor for the child, as fork and not as a thread. The caller has one thread only.
///
/// # Errors
/// When the kernel refuses: EPERM without privileges, ENOSPC at a limit, …
pub(crate) fn clone_process(namespaces: libc::c_int, cgroup: Option<&OwnedFd>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces as u64 | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` has the size and layout that is passed; without CLONE_VM the child runs on a copy of this stack,
    // as after fork, and the process has one thread, so its copy of every lock is consistent.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel wrote a new descriptor there, which nobody else owns.
    Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Executes the file behind a descriptor. Returns only the reason why not.
pub(crate) fn exec_fd(file: &OwnedFd, args: &[CString]) -> io::Error {
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: both vectors end with a null and point to strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Marks all descriptors from this one on to be closed by exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: no descriptor is closed here, only flagged.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
    })?;
    Ok(())
}

/// Closes every descriptor above `number` and gives back an owner of `number` itself, closed by exec: for a forked copy
/// of a program, none of whose owners runs again.
pub(crate) fn close_all_above(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: called once, by a forked process that has left its program's code and its owners of descriptors behind.
    unsafe {
        check(libc::syscall(libc::SYS_close_range, number as u32 + 1, u32::MAX, 0))?;
        check(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Makes `number` a copy of a descriptor that survives exec. What was there is closed.
///
/// # Safety
/// Nobody may own `number`, or whoever does must never use it again: for a process about to exec.
pub(crate) unsafe fn place_fd(fd: &OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: the caller vouches for `number`; `fd` is open.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}

/// A copy with a number of at least `least`, closed by exec.
pub(crate) fn copy_above(fd: &OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), least)?)
}

/// Gives up all supplementary groups, then takes these ids for good. The process has one thread.
pub(crate) fn become_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain calls; an empty list of groups needs no pointer.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()).into())?;
        check(libc::setresgid(gid, gid, gid).into())?;
        check(libc::setresuid(uid, uid, uid).into())?;
    }
    Ok(())
}

/// Whether a signal is ignored or has its default effect.
pub(crate) fn ignore_signal(signal: libc::c_int, ignore: bool) -> io::Result<()> {
    // SAFETY: neither disposition runs code of ours.
    let old = unsafe { libc::signal(signal, if ignore { libc::SIG_IGN } else { libc::SIG_DFL }) };
    if old == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets all signals through again, whatever the program that forked us had blocked.
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into())?;
    }
    Ok(())
}

/// Ends this process at once, without destructors or flushing: for a forked copy of a larger program.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches nothing.
    unsafe { libc::_exit(code) }
}

/// Attaches a descriptor of /dev/net/tun to a TAP device, with virtio-net headers and without packet information.
///
/// # Errors
/// EPERM without the right to, EBUSY when another program has it.
pub(crate) fn attach_tap(tun: &OwnedFd, name: &str) -> io::Result<()> {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }.into())?;
    Ok(())
}
