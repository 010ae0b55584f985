//! Vectored I/O straight between files and guest memory: with a disk's ring (`block/ring.rs`, `block/flights.rs`) and vhost's requests (`net/vhost.rs`) the only unsafe code of the devices.
//!
//! The kernel reads or writes the ranges while the guest may change them too. That is no data race of Rust's: no reference
//! to the memory exists, only ranges that [`VolatileSlice`] vouches for.

use crate::door::Ceiling;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::Bitmap;

/// The kernel takes this many ranges at once (`UIO_MAXIOV`).
const MAX_RANGES: usize = 1024;

/// Ranges of guest memory as the kernel takes them.
#[derive(Default)]
pub(super) struct Vectors(Vec<libc::iovec>);

// SAFETY: the pointers mean the same in every thread: guest memory is mapped for the rest of the process's life.
unsafe impl Send for Vectors {}

impl Vectors {
    /// Replaces what it holds.
    pub(super) fn fill(&mut self, slices: &[VolatileSlice<'_>]) {
        self.0.clear();
        self.0.extend(slices.iter().take(MAX_RANGES).map(vector));
    }

    pub(super) fn as_slice(&self) -> &[libc::iovec] {
        &self.0
    }
}

fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

fn vectors(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    slices.iter().take(MAX_RANGES).map(vector).collect()
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn count(vectors: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX)
}

/// readv(2).
pub(super) fn readv(file: &impl AsFd, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(into);
    // SAFETY: every vector is a range that its VolatileSlice keeps mapped while `into` is borrowed; the kernel writes no
    // further than each one's length.
    let read = check(unsafe { libc::readv(file.as_fd().as_raw_fd(), vectors.as_ptr(), count(&vectors)) })?;
    dirty(into, read);
    Ok(read)
}

/// writev(2).
pub(super) fn writev(file: &impl AsFd, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(from);
    // SAFETY: as in `readv`, and the kernel only reads.
    check(unsafe { libc::writev(file.as_fd().as_raw_fd(), vectors.as_ptr(), count(&vectors)) })
}

/// sendmsg(2) with MSG_NOSIGNAL: a peer that is gone is an error and never a signal.
pub(super) fn send(socket: &impl AsFd, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut vectors = vectors(from);
    // SAFETY: msghdr is plain data for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len() as _;
    // SAFETY: as in `writev`; `vectors` outlives the call and the message names nothing else.
    check(unsafe {
        libc::sendmsg(socket.as_fd().as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    })
}

/// preadv(2) until the ranges are full.
///
/// # Errors
/// The file ended or failed.
pub(super) fn read_exact_at(
    file: &impl AsFd,
    mut into: Vec<VolatileSlice<'_>>,
    mut offset: u64,
) -> io::Result<()> {
    while !into.is_empty() {
        let vectors = vectors(&into);
        let at = position(offset)?;
        // SAFETY: as in `readv`.
        let read = unsafe { libc::preadv(file.as_fd().as_raw_fd(), vectors.as_ptr(), count(&vectors), at) };
        match check(read) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                dirty(&into, read);
                advance(&mut into, read);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// pwritev(2) until all is written.
///
/// # Errors
/// The file failed or is full.
pub(super) fn write_all_at(
    file: &impl AsFd,
    mut from: Vec<VolatileSlice<'_>>,
    mut offset: u64,
) -> io::Result<()> {
    while !from.is_empty() {
        let vectors = vectors(&from);
        let at = position(offset)?;
        // SAFETY: as in `writev`.
        let written =
            unsafe { libc::pwritev(file.as_fd().as_raw_fd(), vectors.as_ptr(), count(&vectors), at) };
        match check(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                advance(&mut from, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// fallocate(2), never changing the file's size.
///
/// # Errors
/// EOPNOTSUPP where the file system can't, and what else the kernel says.
pub(super) fn fallocate(file: &impl AsFd, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let (fd, mode) = (file.as_fd().as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE);
    // SAFETY: the call touches no memory of ours.
    match unsafe { libc::fallocate(fd, mode, position(offset)?, position(len)?) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// ioctl(2) of a TAP with an unsigned argument.
///
/// # Errors
/// What the kernel says.
pub(super) fn ioctl_ulong(file: &impl AsFd, request: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only used for requests whose argument is a plain number.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request as _, value) } as isize).map(drop)
}

/// ioctl(2) of a TAP with a pointer to an int that the kernel reads.
///
/// # Errors
/// What the kernel says.
pub(super) fn ioctl_int(file: &impl AsFd, request: libc::c_ulong, value: libc::c_int) -> io::Result<()> {
    // SAFETY: only used for requests that read one int.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request as _, &raw const value) } as isize).map(drop)
}

/// Makes reads and writes answer EAGAIN where they would wait. By fcntl(2), where the standard library uses an ioctl that no
/// filter of system calls needs to allow.
///
/// # Errors
/// What fcntl(2) says.
pub(super) fn set_nonblocking(file: &impl AsFd) -> io::Result<()> {
    add_flag(file, libc::O_NONBLOCK)
}

/// Makes reads and writes go around the page cache.
///
/// # Errors
/// EINVAL where the file system can't.
pub(super) fn set_direct(file: &impl AsFd) -> io::Result<()> {
    add_flag(file, libc::O_DIRECT)
}

fn add_flag(file: &impl AsFd, flag: libc::c_int) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL touch no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    check(flags as isize)?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | flag) } as isize).map(drop)
}

/// getrandom(2).
///
/// # Errors
/// What the kernel says; never for up to 256 bytes once the machine's pool is ready.
pub(super) fn random(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length.
    check(unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn advance(slices: &mut Vec<VolatileSlice<'_>>, mut by: usize) {
    let whole = slices.iter().take_while(|slice| {
        let fits = slice.len() <= by;
        by -= if fits { slice.len() } else { 0 };
        fits
    });
    let whole = whole.count();
    slices.drain(..whole);
    if by > 0
        && let Some(first) = slices.first_mut()
        && let Ok(rest) = first.offset(by)
    {
        *first = rest;
    }
}

/// Tells a dirty bitmap, where there is one, what the kernel wrote behind its back.
pub(super) fn dirty(slices: &[VolatileSlice<'_>], mut len: usize) {
    for slice in slices {
        let part = slice.len().min(len);
        slice.bitmap().mark_dirty(0, part);
        len -= part;
    }
}

/// Flags of a TAP, by TUNGETIFF.
///
/// # Errors
/// It is no TAP.
pub(crate) fn tap_flags(file: &impl AsFd) -> io::Result<libc::c_int> {
    /// `_IOR('T', 210, unsigned int)`; what it fills is a `struct ifreq`.
    const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
    // SAFETY: ifreq is plain data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one ifreq.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNGETIFF as _, &raw mut request) } as isize)?;
    // SAFETY: TUNGETIFF sets the flags of the union, and any bits are a valid short.
    Ok(unsafe { request.ifr_ifru.ifru_flags }.into())
}

/// Takes up a queue of a TAP or lets go of it, by TUNSETQUEUE; `flag` is IFF_ATTACH_QUEUE or IFF_DETACH_QUEUE.
///
/// # Errors
/// What the kernel says.
pub(super) fn tap_queue(file: &impl AsFd, flag: libc::c_int) -> io::Result<()> {
    /// `_IOW('T', 217, int)`; what it reads is a `struct ifreq`.
    const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;
    // SAFETY: ifreq is plain data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flag as libc::c_short;
    // SAFETY: the kernel reads one ifreq.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETQUEUE as _, &raw const request) } as isize)
        .map(drop)
}

/// Connects to a Unix stream socket without ever waiting: a listener that is full is an error. The socket does not block.
///
/// # Errors
/// What socket(2) and connect(2) say; EAGAIN if the listener's queue is full; ENAMETOOLONG.
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    connect_unix_below(path, Ceiling::below(u64::MAX))
}

/// The same for whom a guest asks, as far as descriptors may be used up for it.
///
/// # Errors
/// As [`connect_unix`]; EMFILE beyond `ceiling`.
pub(super) fn connect_unix_below(path: &Path, ceiling: Ceiling) -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call touches no memory.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    check(fd as isize)?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if !ceiling.admits(&socket) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    // SAFETY: sockaddr_un is plain data for which zeroes are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte stays 0 and ends the name.
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of an address that lives until the call returns.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } as isize)?;
    Ok(socket.into())
}
