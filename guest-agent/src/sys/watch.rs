//! Waiting for descriptors with the async runtime.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a non-blocking descriptor for reading and writing.
///
/// # Errors
/// When its kind can't be watched.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE | Interest::WRITABLE)
}

/// Watches a non-blocking descriptor for reading.
///
/// # Errors
/// As [`watch`].
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE)
}

/// Watches a descriptor for urgent data, which is how cgroup files announce a change.
///
/// # Errors
/// As [`watch`].
pub fn watch_urgent(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::PRIORITY)
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and the AsyncFd owns it until it is deregistered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
