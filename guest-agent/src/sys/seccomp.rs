//! seccomp(2).

use super::check;
use seccompiler::sock_filter;
use std::io;

/// Adds a filter to the calling thread.
///
/// seccompiler's own function is not used because it sets no_new_privs, which would break every set-user-ID program in a container.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN and without no_new_privs; EINVAL when the program is not valid.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: both sock_filter types are the kernel's repr(C) struct; the kernel copies the program and does not write to it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &fprog) }).map(drop)
}
