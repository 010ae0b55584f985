//! What is told of devices without waiting for them.

use crate::api::control::{Device, DeviceState};
use crate::backplane::Attached;
use crate::lock::lock;
use crate::virtio::{Core, Transport};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_NEEDS_RESET,
};

/// What never changes about a device.
pub struct Card {
    device: Weak<Mutex<dyn Transport>>,
    name: String,
    device_type: u32,
    queues: usize,
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

    /// Whether the device was let go of.
    pub fn is_gone(&self) -> bool {
        self.device.strong_count() == 0
    }

    /// What can be told of a device without waiting for what may take long; `asked_for`: the guest was asked to let go of it.
    pub fn look(cards: &[Self], transport: &Attached, asked_for: bool) -> Device {
        let card = cards.iter().find(|card| card.device.ptr_eq(&Arc::downgrade(transport)));
        match (transport.try_lock(), card) {
            (Ok(transport), _) => free(transport.core(), asked_for),
            // In its driver's hands just now: a reset may have to wait for a back end.
            (Err(TryLockError::WouldBlock), Some(Self { name, device_type, queues, .. })) => Device {
                name: name.clone(),
                device_type: *device_type,
                state: DeviceState::Busy,
                asked_for,
                queues: *queues,
                features: None,
            },
            // It was poisoned; every device has a card.
            _ => free(lock(transport).core(), asked_for),
        }
    }
}

fn free(core: &Core, asked_for: bool) -> Device {
    let device = core.device();
    let state = match core.status() {
        status if status & VIRTIO_CONFIG_S_NEEDS_RESET != 0 => DeviceState::NeedsReset,
        status if status & VIRTIO_CONFIG_S_FAILED != 0 => DeviceState::GivenUp,
        status if status & VIRTIO_CONFIG_S_DRIVER_OK != 0 => DeviceState::InUse,
        0 => DeviceState::NoDriver,
        _ => DeviceState::SettingUp,
    };
    Device {
        name: device.name().to_owned(),
        device_type: device.device_type(),
        state,
        asked_for,
        queues: device.queue_sizes().len(),
        features: Some(format!("{:#x}", core.driver_features())),
    }
}
