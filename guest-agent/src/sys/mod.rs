//! System calls that no library wraps safely: the only place in this crate with `unsafe`.
//!
//! Each module wraps one family behind a safe function and must know nothing of containers or of the protocol.

pub mod bpf;
pub mod caps;
pub mod ioctl;
pub mod process;
pub mod seccomp;
pub mod watch;

use std::io;

/// Turns the result of a system call into an [`io::Result`].
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
