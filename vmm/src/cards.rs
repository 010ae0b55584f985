//! What is told of devices without waiting for them.

use crate::backplane::Attached;
use crate::virtio::{Core, Transport};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

/// A device as [`crate::machine::Machine::each_device`] finds it.
pub enum Seen<'a> {
    /// With what its driver has made of it.
    Free(&'a Core),
    /// In its driver's hands just now: a reset may have to wait for a back end.
    Busy(&'a Card),
}

/// What never changes about a device.
pub struct Card {
    device: Weak<Mutex<dyn Transport>>,
    /// See [`crate::virtio::VirtioDevice::name`].
    pub name: String,
    /// Its virtio device type.
    pub device_type: u32,
    /// How many queues it has.
    pub queues: usize,
}

impl Card {
    /// Of a device that no guest uses yet.
    pub fn of(transport: &Attached) -> Self {
        let core = lock(transport);
        let device = core.core().device();
        let (name, device_type) = (device.name().to_owned(), device.device_type());
        let queues = device.queue_sizes().len();
        Self { device: Arc::downgrade(transport), name, device_type, queues }
    }

    /// Calls `visit` with a device, without waiting for what may take long.
    pub fn see(cards: &[Self], transport: &Attached, visit: impl FnOnce(Seen<'_>)) {
        let card = cards.iter().find(|card| card.device.ptr_eq(&Arc::downgrade(transport)));
        match (transport.try_lock(), card) {
            (Ok(transport), _) => visit(Seen::Free(transport.core())),
            (Err(TryLockError::WouldBlock), Some(card)) => visit(Seen::Busy(card)),
            // What was plugged in later has no back end: nobody holds it for longer than a register takes.
            _ => visit(Seen::Free(lock(transport).core())),
        }
    }
}

/// A device, when its driver is done with it.
pub fn lock(transport: &Attached) -> MutexGuard<'_, dyn Transport + 'static> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}
