//! Letting clients in when there may be no descriptor left for them.

use std::io;
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

/// EMFILE of the process, ENFILE of the host.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
