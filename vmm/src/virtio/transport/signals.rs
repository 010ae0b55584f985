//! The way from a device to its driver, shared by transport, workers and those who change a device from outside.

use crate::lock::lock;
use crate::virtio::Interrupt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// "A queue has used buffers", as in InterruptStatus (section 4.2.2) and the ISR status (section 4.1.4.5).
pub const QUEUE: u32 = 1;
/// "The configuration changed", as in both of them.
pub const CONFIG: u32 = 2;

/// What raises an interrupt: one line for everything (MMIO), or a message for each queue and one for the configuration (MSI-X).
pub trait Wire: Send + Sync {
    /// Calls the driver because of a queue.
    fn queue(&self, index: u16);
    /// Calls the driver because of the configuration.
    fn config(&self);
}

/// InterruptStatus, DEVICE_NEEDS_RESET, the generation of the configuration space, and the wire.
pub struct Signals {
    status: AtomicU32,
    needs_reset: AtomicBool,
    // A lock and no atomic: what the driver reads between two equal generations must be of one.
    generation: Mutex<u32>,
    wire: Arc<dyn Wire>,
}

impl Signals {
    pub(super) fn new(wire: Arc<dyn Wire>) -> Self {
        let (status, needs_reset) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { status, needs_reset, generation: Mutex::new(0), wire }
    }

    /// Changes the configuration space by `change` and tells the driver, if there is one. While the space changes nobody can
    /// read its generation, so a driver that reads a field in two halves notices (section 2.5.1).
    pub fn change_config<T>(&self, change: impl FnOnce() -> T) -> T {
        let mut generation = self.lock();
        let result = change();
        *generation = generation.wrapping_add(1);
        drop(generation);
        self.raise_config();
        result
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        lock(&self.generation)
    }

    /// The bits that the driver has not acknowledged.
    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// Clears bits; those that were set.
    pub(crate) fn acknowledge(&self, bits: u32) -> u32 {
        self.status.fetch_and(!bits, Ordering::SeqCst) & bits
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(crate) fn generation(&self) -> u32 {
        *self.lock()
    }

    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
    }

    pub(super) fn restore(&self, status: u32, generation: u32, needs_reset: bool) {
        self.status.store(status, Ordering::SeqCst);
        *self.lock() = generation;
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
    }

    fn raise_config(&self) {
        self.status.fetch_or(CONFIG, Ordering::SeqCst);
        self.wire.config();
    }
}

impl Interrupt for Signals {
    fn queue(&self, index: u16) {
        self.status.fetch_or(QUEUE, Ordering::SeqCst);
        self.wire.queue(index);
    }

    fn config(&self) {
        self.change_config(|| ());
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.raise_config();
    }
}
