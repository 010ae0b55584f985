//! Forking a helper, replacing a process, signalling.

use super::check;
use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;

/// Highest signal number of Linux.
const SIGNAL_MAX: libc::c_int = 64;

/// Forks; the child runs `body` with only the descriptors in `keep` (and 0 to 2) open and leaves with its result.
///
/// The child starts with default signal dispositions and nothing blocked: a handler inherited from the async runtime would write
/// to a descriptor number that means something else in the child.
///
/// # Errors
/// When the kernel has no room for another process.
pub fn fork(keep: &[RawFd], body: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the agent has a single thread, so no lock can be held by another one at the moment of the fork, and the child may
    // allocate and use the standard library freely.
    let pid = unsafe { libc::fork() };
    if pid != 0 {
        return check(pid.into()).map(|pid| pid as i32);
    }
    reset_signals();
    close_all_but(keep);
    let code = body();
    // SAFETY: ends the process without running the parent's exit handlers or destructors a second time.
    unsafe { libc::_exit(code) }
}

fn reset_signals() {
    // SAFETY: sigset_t is plain data that sigemptyset fills in; signal() on a number that can't be changed only fails.
    unsafe {
        for signal in 1..=SIGNAL_MAX {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// The ranges of descriptors to close so that only 0 to 2 and `keep` stay.
fn gaps(keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut sorted: Vec<u32> = keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32).collect();
    sorted.sort_unstable();
    let mut gaps = Vec::with_capacity(sorted.len() + 1);
    let mut next = 3;
    for fd in sorted {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = next.max(fd + 1);
    }
    gaps.push((next, u32::MAX));
    gaps
}

fn close_all_but(keep: &[RawFd]) {
    for (first, last) in gaps(keep) {
        // SAFETY: runs in a fresh child that leaves through _exit: no owner of these descriptors will use or close them again.
        unsafe {
            libc::syscall(libc::SYS_close_range, first, last, 0);
        }
    }
}

/// Replaces the process; returns only with the error.
pub fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in a null pointer and point to strings that outlive the call.
    unsafe {
        // Rust programs ignore SIGPIPE, and an ignored signal stays ignored over execve.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr());
    }
    io::Error::last_os_error()
}

/// Sends a signal to one process.
///
/// # Errors
/// When the process is gone or the number is no signal.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// A child that has ended and is not reaped yet: its id, and whether SIGKILL ended it.
pub fn ended_child() -> Option<(i32, bool)> {
    // SAFETY: siginfo_t is plain data; all zeroes is a valid value, and the one that stays if no child has ended.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid fills in `info`, which lives that long.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) };
    check(result.into()).ok()?;
    // SAFETY: of what waitid returns these are the valid fields (waitid(2)).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    (pid != 0).then_some((pid, info.si_code == libc::CLD_KILLED && status == libc::SIGKILL))
}

/// Whether the calling process may execute the file, by its effective user, groups and capabilities.
pub fn may_execute(path: &CString) -> bool {
    // SAFETY: the string outlives the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_leave_what_is_kept() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[3, 4]), [(5, u32::MAX)]);
        assert_eq!(gaps(&[9, 5, 0, 5]), [(3, 4), (6, 8), (10, u32::MAX)]);
    }
}
