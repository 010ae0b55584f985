//! Mutexes of which a thread that panicked leaves nothing half done, so that others go on with them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock, whoever had it before.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
