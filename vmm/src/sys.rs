//! System calls that the standard library does not have: clock, signals, descriptors by number, TAP devices.
//!
//! One of the crate's few modules with `unsafe`; everything that it offers is safe to call.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};

/// CLOCK_MONOTONIC in microseconds: comparable between processes of one host.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write; the call can't fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1000
}

/// Whether `fd` is an open descriptor of this process.
pub fn check_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFD takes no pointer.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over an inherited descriptor.
///
/// # Safety
/// Nobody else in this process may own `fd`: whoever calls this keeps a list of the numbers taken.
pub unsafe fn take_descriptor(fd: RawFd) -> io::Result<File> {
    check_open(fd)?;
    // SAFETY: it is open, and the caller says that it is nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Blocks `signals` in this thread and those that it starts, and gives a descriptor to read them from.
pub fn signal_descriptor(signals: &[c_int]) -> io::Result<File> {
    let set = vmm_sys_util::signal::create_sigset(signals).map_err(io::Error::from)?;
    // SAFETY: `set` is valid for the read; the old mask is not asked for.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: `set` is valid for the read.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened above and is nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// TUNSETIFF of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Attaches `tun`, a fresh `/dev/net/tun`, to the TAP `name` with a virtio-net header on each packet.
pub fn attach_tap(tun: &File, name: &str) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have 1 to 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: `request` is a valid ifreq for the time of the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes reads and writes of `file` return instead of waiting.
pub fn set_nonblocking(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: neither command takes a pointer.
    unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        if flags < 0 || libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// An eventfd as a file, so that its reads come without `unsafe`.
pub fn into_file(event: vmm_sys_util::eventfd::EventFd) -> File {
    // SAFETY: the number is given up by one owner and taken by the next.
    unsafe { File::from_raw_fd(event.into_raw_fd()) }
}
