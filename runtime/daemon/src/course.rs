//! Something that begins, goes on and ends while others wait for that: its phase, and whether its beginning is still wanted.

use tokio::sync::watch;

/// Where it is, in phases of its own.
#[derive(Debug)]
pub struct Course<P> {
    phase: watch::Sender<P>,
    cancelled: watch::Sender<bool>,
}

impl<P: Clone> Course<P> {
    /// One in its first phase.
    pub fn new(phase: P) -> Self {
        Self { phase: watch::Sender::new(phase), cancelled: watch::Sender::new(false) }
    }

    /// Where it is now.
    pub fn phase(&self) -> P {
        self.phase.borrow().clone()
    }

    /// It goes on.
    pub fn enter(&self, phase: P) {
        self.phase.send_replace(phase);
    }

    /// Waits for a phase.
    pub async fn wait(&self, until: impl FnMut(&P) -> bool) -> P {
        // The sender is in `self`, so it can't be gone.
        match self.phase.subscribe().wait_for(until).await {
            Ok(phase) => phase.clone(),
            Err(_) => self.phase(),
        }
    }

    /// Gives its beginning up.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Waits until its beginning is given up.
    pub async fn cancelled(&self) {
        if self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending().await
        }
    }
}
