//! How a VM ends: the first reason that anyone gives is the one that counts.

use crate::api::status::ExitReason;
use crate::lock::lock;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The reason.
    pub reason: ExitReason,
    /// More, for people.
    pub detail: String,
}

/// Where any thread says that the VM has to end. Clones share the place.
#[derive(Debug, Clone)]
pub struct EndSignal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ending: Mutex<Option<Ending>>,
    event: EventFd,
}

impl EndSignal {
    /// A VM that has not ended.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Inner { ending: Mutex::new(None), event: EventFd::new(EFD_NONBLOCK)? })))
    }

    /// Ends the VM; later reasons are ignored, since they may well be consequences of the first.
    pub fn end(&self, reason: ExitReason, detail: impl Into<String>) {
        let mut ending = lock(&self.0.ending);
        ending.get_or_insert_with(|| Ending { reason, detail: detail.into() });
        // Fails only when 2⁶⁴ − 2 writes are unread: then the reader is awake anyway.
        let _ = self.0.event.write(1);
    }

    /// Why it ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        lock(&self.0.ending).clone()
    }

    /// Becomes readable when the VM has ended.
    pub fn event(&self) -> &EventFd {
        &self.0.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let signal = EndSignal::new().unwrap();
        assert_eq!(signal.ending(), None);
        signal.clone().end(ExitReason::GuestPanic, "");
        signal.end(ExitReason::GuestReboot, "after the panic");
        assert_eq!(signal.ending().unwrap().reason, ExitReason::GuestPanic);
    }
}
