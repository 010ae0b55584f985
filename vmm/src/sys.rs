//! System calls that the standard library does not have: clock, signals, descriptors by number and in messages, TAP devices.
//!
//! One of the crate's few modules with `unsafe`; everything that it offers is safe to call.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

/// CLOCK_MONOTONIC in microseconds: comparable between processes of one host.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write; the call can't fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1000
}

/// CPU time of this process in microseconds.
pub fn cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write; the call can't fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1000
}

/// Makes all threads that are started from now on share the memory allocator's first arena. In each other arena glibc gives memory back only
/// after it has read /proc/sys/vm/overcommit_memory (`shrink_heap`), which no filter allows: a `free` would be a thread's end.
pub fn share_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two numbers and sets one of the allocator's, under its lock.
    let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    assert_eq!(taken, 1, "glibc takes any number of arenas");
}

/// Makes a write beyond RLIMIT_FSIZE an error (EFBIG) instead of the process's end. Children have it so too.
pub fn ignore_file_size_signal() {
    // SAFETY: no handler is set, so nothing runs in its place.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Lets such a write be the process's end again, as for every program that does not ask otherwise.
pub fn heed_file_size_signal() {
    // SAFETY: no handler is set; the kernel's own default is.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
}

/// Lets this process have as many descriptors as it may: the lower limit that shells give is for programs that use `select`.
pub fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Whoever does not let it leaves the process with what it has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Bytes that nobody can guess.
pub fn secret() -> [u8; 32] {
    let mut bytes = [0; 32];
    random(&mut bytes).expect("the kernel gives up to 256 bytes whole, and it has started long ago");
    bytes
}

/// Whether `fd` is an open descriptor of this process.
pub fn check_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFD takes no pointer.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets no descriptor from `first` on through an exec: what this process was given goes no further.
pub fn close_at_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers, and nothing is closed now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: no pointers; none of the flags that are passed here takes descriptors apart between threads.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A mount namespace of its own for this process, which must have one thread.
pub fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

/// A PID namespace for the children of this process.
pub fn unshare_pids() -> io::Result<()> {
    unshare(libc::CLONE_NEWPID)
}

/// Goes on in a child of this process, which must have one thread and ends with status 0.
pub fn go_on_in_a_child() -> io::Result<()> {
    // SAFETY: there is no other thread whose locks the child would find taken.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        _ => std::process::exit(0),
    }
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

/// The standard output once more, so that a device may own it.
pub fn standard_output() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Random numbers of the host's kernel.
pub fn random(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: the kernel writes at most the buffer's length; up to 256 bytes come at once.
    let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    match usize::try_from(got) {
        Ok(got) if got == buffer.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
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

/// Whether this network namespace has an interface of that name. By a socket and a request that the filters let through where interfaces
/// can be plugged in.
///
/// # Errors
/// It can't be asked: this process has no descriptor left.
pub fn interface_exists(name: &str) -> io::Result<bool> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if !put_name(&mut request, name) {
        return Ok(false);
    }
    let socket = UnixDatagram::unbound()?;
    // SAFETY: `request` is a valid ifreq for the time of the call.
    Ok(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request) == 0 })
}

/// Whether `name` can be an interface's, and is now in `request`.
fn put_name(request: &mut libc::ifreq, name: &str) -> bool {
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return false;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    true
}

/// TUNSETIFF of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Attaches `tun`, a fresh `/dev/net/tun`, to the TAP `name` with a virtio-net header on each packet.
pub fn attach_tap(tun: &File, name: &str, multi_queue: bool) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if !put_name(&mut request, name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have 1 to 15 bytes"));
    }
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
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

/// Whether a write to `file` takes something, or fails, at once: what is full would wait.
pub fn has_room(file: &impl AsFd) -> bool {
    is_ready(&file.as_fd(), libc::POLLOUT, 0)
}

/// Whether a read of `file` finds something, or fails, at once or within `patience`, in whole milliseconds. Interrupted it says no early.
pub fn is_readable(file: &impl AsRawFd, patience: std::time::Duration) -> bool {
    // Rounded up, so that who asks again and again until a time does not ask without end in the last millisecond.
    let millis = c_int::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
    is_ready(file, libc::POLLIN, millis)
}

fn is_ready(file: &impl AsRawFd, events: libc::c_short, millis: c_int) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    // SAFETY: the kernel reads and writes this one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, millis) == 1 }
}

/// Whether `file` is a Unix socket that listens.
pub fn listens(file: &impl AsFd) -> bool {
    let option = |name| {
        let (mut value, mut len): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes into `value`, and how many into `len`.
        let result =
            unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len) };
        (result == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX) && option(libc::SO_ACCEPTCONN) == Some(1)
}

/// What came in one read of a socket.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; none is the end.
    pub bytes: usize,
    /// Descriptors that came with them, closed by exec.
    pub files: Vec<File>,
    /// More descriptors came than `MAX`, or than this process may have.
    pub lost: bool,
}

/// Reads without waiting, and takes up to `MAX` descriptors that come along (SCM_RIGHTS). Bytes behind those that descriptors came
/// with are left for the next read (unix(7)).
///
/// # Errors
/// What recvmsg(2) says.
pub fn receive<const MAX: usize>(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: only arithmetic.
    let room = unsafe { libc::CMSG_SPACE((MAX * size_of::<RawFd>()) as u32) } as usize;
    // Of u64, because a cmsghdr has to be aligned as one.
    let mut control = vec![0u64; room.div_ceil(size_of::<u64>())];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the message names `buffer` and `control`, which outlive the call, with their lengths.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    let mut files = Vec::new();
    // SAFETY: the kernel filled `control` up to the length that it put into the message; the macros don't go further.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header that is not null lies in `control` as a whole.
        let (kind, length) =
            unsafe { (((*header).cmsg_level, (*header).cmsg_type), (*header).cmsg_len as usize) };
        if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: only arithmetic.
            let data = length.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            for index in 0..data / size_of::<RawFd>() {
                // SAFETY: the header's length says that so many numbers follow it; they may lie unaligned. The kernel has just
                // opened each for us, and nobody else knows it.
                files.push(unsafe {
                    File::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().add(index).read_unaligned())
                });
            }
        }
        // SAFETY: as for the first one.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(Received { bytes, files, lost: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// An eventfd as a file, so that its reads come without `unsafe`.
pub fn into_file(event: vmm_sys_util::eventfd::EventFd) -> File {
    // SAFETY: the number is given up by one owner and taken by the next.
    unsafe { File::from_raw_fd(event.into_raw_fd()) }
}
