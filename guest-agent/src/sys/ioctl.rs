//! Three ioctls: bringing an interface up, crediting entropy, and stopping a file system.

use super::check;
use std::io;
use std::os::fd::AsRawFd;

/// `RNDADDENTROPY`, `_IOW('R', 0x03, int[2])` (linux/random.h).
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)` (linux/ext4.h).
const EXT4_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH` (linux/ext4.h).
const WITHOUT_LOG: u32 = 2;

/// Brings a network interface up.
///
/// # Errors
/// When there is no such interface.
pub fn interface_up(name: &str) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero, as the name must end in one.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }.into()).map(drop)
}

/// Mixes bytes into the kernel's random pool and credits them as entropy. At most 512 bytes are used.
///
/// # Errors
/// When the device can't be opened or the kernel refuses.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 512],
    }
    let mut info = PoolInfo { entropy_bits: 0, size: 0, bytes: [0; 512] };
    let used = bytes.len().min(info.bytes.len());
    info.bytes[..used].copy_from_slice(&bytes[..used]);
    info.size = used as libc::c_int;
    info.entropy_bits = info.size * 8;
    let device = std::fs::OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads a rand_pool_info whose `size` says how many bytes follow, and those are in the array.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &info) }.into()).map(drop)
}

/// Stops the ext4 of which this is a file or directory: nothing more becomes part of it, and the next mount replays its journal.
///
/// # Errors
/// When it is another file system.
pub fn stop_ext4(of: &std::fs::File) -> io::Result<()> {
    // SAFETY: EXT4_IOC_SHUTDOWN reads one u32.
    check(unsafe { libc::ioctl(of.as_raw_fd(), EXT4_SHUTDOWN, &WITHOUT_LOG) }.into()).map(drop)
}
