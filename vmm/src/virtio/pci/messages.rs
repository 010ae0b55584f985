//! Which message calls the driver for what (section 4.1.5.1.2).

use super::common::mapped;
use crate::metrics::InterruptMetrics;
use crate::virtio::transport::Wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use vmm_sys_util::eventfd::EventFd;

/// VIRTIO_MSI_NO_VECTOR: the driver is not called.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Shared with the device's worker: no lock is on the way of an interrupt.
pub(super) struct Vectors {
    events: Vec<Arc<EventFd>>,
    enabled: AtomicBool,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    metrics: Arc<InterruptMetrics>,
}

impl Vectors {
    pub(super) fn new(events: Vec<Arc<EventFd>>, queues: usize, metrics: Arc<InterruptMetrics>) -> Self {
        Self {
            events,
            enabled: AtomicBool::new(false),
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            metrics,
        }
    }

    pub(super) fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::SeqCst);
    }

    pub(super) fn config(&self) -> u16 {
        self.config.load(Ordering::SeqCst)
    }

    pub(super) fn set_config(&self, vector: u16) {
        self.config.store(mapped(vector, self.events.len()), Ordering::SeqCst);
    }

    fn slot(&self, queue: u32) -> Option<&AtomicU16> {
        self.queues.get(usize::try_from(queue).ok()?)
    }

    pub(super) fn queue(&self, queue: u32) -> u16 {
        self.slot(queue).map_or(NO_VECTOR, |slot| slot.load(Ordering::SeqCst))
    }

    pub(super) fn set_queue(&self, queue: u32, vector: u16) {
        if let Some(slot) = self.slot(queue) {
            slot.store(mapped(vector, self.events.len()), Ordering::SeqCst);
        }
    }

    /// After a reset nothing is mapped (4.1.5.1.2.1).
    pub(super) fn forget(&self) {
        self.config.store(NO_VECTOR, Ordering::SeqCst);
        self.queues.iter().for_each(|slot| slot.store(NO_VECTOR, Ordering::SeqCst));
    }

    fn raise(&self, vector: u16) {
        // Without MSI-X there is no other interrupt: the ISR status says what there would be.
        if self.enabled.load(Ordering::SeqCst)
            && let Some(event) = self.events.get(usize::from(vector))
        {
            self.metrics.triggers.add(1);
            // It fails only if the counter is full, and then the interrupt is pending anyway.
            let _ = event.write(1);
        }
    }
}

impl Wire for Vectors {
    fn queue(&self, index: u16) {
        self.raise(Self::queue(self, index.into()));
    }

    fn config(&self) {
        self.raise(Self::config(self));
    }
}
