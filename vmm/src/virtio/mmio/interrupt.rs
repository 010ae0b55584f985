//! The one interrupt line of an MMIO device and the registers that go with it.

use crate::virtio::Interrupt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// InterruptStatus, DEVICE_NEEDS_RESET and ConfigGeneration, shared with workers; all else belongs to the transport.
pub struct MmioInterrupt {
    status: AtomicU32,
    needs_reset: AtomicBool,
    // A lock and no atomic: what the driver reads between two equal generations must be of one.
    generation: Mutex<u32>,
    line: Arc<EventFd>,
}

impl MmioInterrupt {
    pub(super) fn new(line: Arc<EventFd>) -> Self {
        Self {
            status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            generation: Mutex::new(0),
            line,
        }
    }

    /// Changes the configuration space by `change` and tells the driver, if there is one. While the space changes nobody can
    /// read its generation, so a driver that reads a field in two halves notices (section 4.2.2.1).
    pub fn change_config<T>(&self, change: impl FnOnce() -> T) -> T {
        let mut generation = self.lock();
        let result = change();
        *generation = generation.wrapping_add(1);
        drop(generation);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
        result
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.line
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn generation(&self) -> u32 {
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
        if status != 0 {
            // The edge may have been lost with the old interrupt controller; one too many harms nobody.
            let _ = self.line.write(1);
        }
    }

    fn raise(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
        // It fails only if the counter is full, and then the interrupt is pending anyway.
        let _ = self.line.write(1);
    }
}

impl Interrupt for MmioInterrupt {
    fn queue(&self, _index: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn config(&self) {
        self.change_config(|| ());
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }
}
