//! Signals that a command line passes on.

use crate::error::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that go to the container. Made before the container is asked for, so that none is missed and a start that was given up is
/// cleaned away before the command line ends.
#[derive(Debug)]
pub struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Watches from now on.
    ///
    /// # Errors
    /// When that can't be set up.
    pub fn watch() -> Result<Self> {
        Self::new().map_err(Error::io("watch for signals"))
    }

    fn new() -> std::io::Result<Self> {
        let numbers =
            [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];
        let watch = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        Ok(Self(numbers.into_iter().map(watch).collect::<std::io::Result<_>>()?))
    }

    /// The next one's number.
    pub async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
