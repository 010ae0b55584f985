//! Waiting that has a limit where it has to: the VMM's own thread has others to serve.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// How long who settles a worker waits for it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// However long the host takes: for a vCPU's thread, whose guest has asked for it.
    Endless,
    /// Until then: for the VMM's own thread, which has others to serve.
    Until(Instant),
}

impl Patience {
    /// For one look.
    pub(super) fn none() -> Self {
        Self::Until(Instant::now())
    }

    /// What is left of it; nothing, where it is endless.
    pub(super) fn left(self) -> Option<Duration> {
        match self {
            Self::Endless => None,
            Self::Until(by) => Some(by.saturating_duration_since(Instant::now())),
        }
    }
}

/// How often is looked whether a lock is free. Whoever has one of a worker's has it for one batch, or waits for a disk.
const LOOK: Duration = Duration::from_millis(1);

/// The lock, if it can be had within `patience`.
pub(super) fn lock_within<T>(lock: &Mutex<T>, patience: Patience) -> Option<MutexGuard<'_, T>> {
    if matches!(patience, Patience::Endless) {
        return Some(crate::lock::lock(lock));
    }
    loop {
        match lock.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        if patience.left().is_some_and(|left| left.is_zero()) {
            return None;
        }
        std::thread::park_timeout(LOOK);
    }
}
