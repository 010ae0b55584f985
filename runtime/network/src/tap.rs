//! A TAP that lives as long as somebody holds its descriptor: the one `unsafe` of this crate, an ioctl.

use crate::NetworkError;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// What all our interfaces' names begin with; the kernel puts the lowest free number behind it.
pub const PREFIX: &str = "vial";

/// The device that makes them. To open it makes nothing.
///
/// # Errors
/// As [`create`].
pub fn open() -> Result<OwnedFd, NetworkError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/net/tun", flags, Mode::empty())
        .map_err(NetworkError::errno("open /dev/net/tun (modprobe tun may help)"))
}

/// Makes a TAP with virtio-net headers and without packet information, and gives its name. It is not persistent: with the last copy of the
/// descriptor the interface goes, and with it its addresses, routes and neighbours. So a VM's end leaves nothing, whoever else lives.
///
/// # Errors
/// Without `/dev/net/tun`, or without the right to use it.
pub fn create() -> Result<(OwnedFd, String), NetworkError> {
    let tun = open()?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(PREFIX.bytes().chain(*b"%d")) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made < 0 {
        return Err(NetworkError::System { what: "make a TAP device", source: io::Error::last_os_error() });
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8 as char);
    Ok((tun, name.collect()))
}
