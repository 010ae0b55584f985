//! What the registers remember, and how that crosses from one process to another.

use super::MmioTransport;
use crate::virtio::{DeviceError, DeviceState, QueueSnapshot};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_DRIVER_OK;
use virtio_queue::{Error, Queue, QueueT};

/// What the driver said of a queue, before anything believes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSetup {
    /// What the device offers.
    pub max_size: u16,
    /// What the driver chose.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring.
    pub avail_ring: u64,
    /// Guest physical address of the used ring.
    pub used_ring: u64,
    /// Whether the driver finished.
    pub ready: bool,
}

impl QueueSetup {
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, desc_table: 0, avail_ring: 0, used_ring: 0, ready: false }
    }

    /// The queue, if size and alignment are right. A queue that is not ready becomes one that never has buffers.
    pub(super) fn build(&self, event_idx_enabled: bool) -> Result<Queue, Error> {
        let Self { max_size, size, desc_table, avail_ring, used_ring, ready } = *self;
        if !ready {
            return Queue::new(max_size);
        }
        let (next_avail, next_used) = (0, 0);
        let state = QueueSnapshot {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        };
        state.try_into()
    }
}

/// Everything about a transport and its device that a new process needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// The device type, so that states are not mixed up.
    pub device_type: u32,
    /// Status register, without DEVICE_NEEDS_RESET.
    pub status: u32,
    /// DEVICE_NEEDS_RESET.
    pub needs_reset: bool,
    /// What the driver accepted.
    pub driver_features: u64,
    /// DeviceFeaturesSel.
    pub device_features_select: u32,
    /// DriverFeaturesSel.
    pub driver_features_select: u32,
    /// QueueSel.
    pub queue_select: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// The queues as the driver set them up.
    pub queues: Vec<QueueSetup>,
    /// The rings as they are, and the device.
    pub device: DeviceState,
}

impl MmioTransport {
    /// Saves a paused device and its registers.
    ///
    /// # Errors
    /// It is not paused.
    pub fn save(&mut self) -> Result<TransportState, DeviceError> {
        Ok(TransportState {
            device_type: self.device.device_type(),
            status: self.status,
            needs_reset: self.interrupt.is_broken(),
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.generation(),
            queues: self.queues.clone(),
            device: self.device.save()?,
        })
    }

    /// Takes over a saved state; an active device runs at once. To be called on a new transport.
    ///
    /// # Errors
    /// The state is of another device, or its rings are not in this guest's memory.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError> {
        let bad =
            |why: &str| DeviceError::BadState { device: self.device.name().to_owned(), why: why.to_owned() };
        if state.device_type != self.device.device_type() {
            return Err(bad("it is of another device type"));
        }
        if state.driver_features & !self.device_features() != 0 {
            return Err(bad("its driver uses features that this device lacks"));
        }
        let sizes = state.queues.iter().map(|setup| setup.max_size);
        if !sizes.eq(self.device.queue_sizes().iter().copied()) {
            return Err(bad("its queues are others"));
        }
        let active = state.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && !state.needs_reset;
        let mut rings = Vec::new();
        if active {
            if state.device.queues.len() != state.queues.len() {
                return Err(bad("rings are missing"));
            }
            for snapshot in &state.device.queues {
                let queue = Queue::try_from(*snapshot).map_err(|_| bad("a ring is misaligned"))?;
                if queue.ready() && !queue.is_valid(&self.memory) {
                    return Err(bad("a ring is not in guest memory"));
                }
                rings.push(queue);
            }
        }
        self.device.restore(&state.device.device)?;
        self.status = state.status;
        self.driver_features = state.driver_features;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.queues.clone_from(&state.queues);
        self.interrupt.restore(state.interrupt_status, state.config_generation, state.needs_reset);
        if active {
            self.activate_with(rings)?;
            // A kick may have been lost with the old process.
            for event in &self.events {
                let _ = event.write(1);
            }
        }
        Ok(())
    }
}
