//! Letting clients in when there may be no descriptor left for them.

use rustix::process::{Resource, getrlimit};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A descriptor that is kept for the moment when there is no other: with it the next client can be let in and turned away. Without, it
/// would go on waiting, its listener would stay readable, and the loop would go round for ever.
pub struct Spare(Option<EventFd>);

impl Default for Spare {
    /// Keeps one from now on: at the first client there may be none left.
    fn default() -> Self {
        Self(EventFd::new(EFD_NONBLOCK).ok())
    }
}

impl Spare {
    /// Lets the next client in; `None` if there is none, or if it was turned away.
    pub fn accept(&mut self, listener: &UnixListener) -> Option<UnixStream> {
        if self.0.is_none() {
            self.0 = EventFd::new(EFD_NONBLOCK).ok();
        }
        match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                if is_shortage(&error) && self.0.take().is_some() {
                    // Dropped at once: it reads an end. Nobody there any more is as good.
                    drop(listener.accept());
                    self.0 = EventFd::new(EFD_NONBLOCK).ok();
                }
                None
            }
        }
    }
}

/// Descriptors that connections, of which a guest can make as many as it likes, leave to the rest of the VM: clients of its API, files for
/// drives, devices that are plugged in. Of a process that may have few it is half of them.
const RESERVE: u64 = 512;

/// How far connections may use up the process's descriptors.
///
/// The default admits none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ceiling(RawFd);

impl Ceiling {
    /// For what this process may have now. No filter lets a thread ask.
    pub fn of_process() -> Self {
        Self::below(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// For a process that may have `limit` descriptors.
    pub fn below(limit: u64) -> Self {
        Self(RawFd::try_from(limit - RESERVE.min(limit / 2)).unwrap_or(RawFd::MAX))
    }

    /// Whether a connection may have this descriptor. The kernel gives the lowest number that is free: one that is too high says that
    /// those below are taken, whoever has them.
    pub fn admits(self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() < self.0
    }
}

/// EMFILE of the process, ENFILE of the host.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_the_rest() {
        for (limit, most) in [(0, 0), (64, 32), (1024, 512), (2048, 1536), (u64::MAX, RawFd::MAX)] {
            assert_eq!(Ceiling::below(limit).0, most, "{limit}");
        }
        assert!(!Ceiling::below(0).admits(&io::stdin()));
        assert!(Ceiling::below(2).admits(&io::stdin()));
    }
}
