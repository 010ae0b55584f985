//! Where vCPU threads wait while the VM is paused.

use crate::lock::lock;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Open: vCPUs run. Closed: each waits as soon as it comes by, until it opens.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    opened: Condvar,
    parked: EventFd,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    waiting: usize,
}

impl Gate {
    /// An open gate.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { state: Mutex::default(), opened: Condvar::new(), parked: EventFd::new(EFD_NONBLOCK)? })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Closes it. vCPUs must be kicked afterwards: those in the guest don't come by on their own.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Opens it.
    pub fn open(&self) {
        self.lock().closed = false;
        self.opened.notify_all();
    }

    /// How many wait.
    pub fn parked(&self) -> usize {
        self.lock().waiting
    }

    /// Becomes readable whenever one begins to wait.
    pub fn parked_event(&self) -> &EventFd {
        &self.parked
    }

    /// Counts a vCPU that will never come by again as waiting, so that nobody waits for it.
    pub fn retire(&self) {
        self.lock().waiting += 1;
        // As in `pass`.
        let _ = self.parked.write(1);
    }

    /// Waits while the gate is closed; `true` if it had to.
    pub fn pass(&self) -> bool {
        let mut state = self.lock();
        if !state.closed {
            return false;
        }
        state.waiting += 1;
        // Can only fail after 2⁶⁴ − 2 unread writes.
        let _ = self.parked.write(1);
        while state.closed {
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

    #[test]
    fn a_closed_gate_holds_threads_until_it_opens() {
        let gate = Arc::new(Gate::new().unwrap());
        assert!(!gate.pass());
        gate.close();
        let shared = Arc::clone(&gate);
        let thread = std::thread::spawn(move || shared.pass());
        // The event comes when the thread is parked, so nothing here depends on time.
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, gate.parked_event().as_raw_fd(), event).unwrap();
        assert_eq!(epoll.wait(-1, &mut [EpollEvent::default()]).unwrap(), 1);
        assert_eq!(gate.parked(), 1);
        gate.open();
        assert!(thread.join().unwrap());
        assert_eq!(gate.parked(), 0);
    }
}
