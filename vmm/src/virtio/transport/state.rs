//! What the registers remember, and how that crosses from one process to another.

use super::Core;
use crate::virtio::pci::PciState;
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
    pub(crate) fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, desc_table: 0, avail_ring: 0, used_ring: 0, ready: false }
    }

    /// The queue, if size and alignment are right. A queue that is not ready becomes one that never has buffers.
    pub(crate) fn build(&self, event_idx_enabled: bool) -> Result<Queue, Error> {
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

/// What all transports remember, and their device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreState {
    /// The device type, so that states are not mixed up.
    pub device_type: u32,
    /// Device status, without DEVICE_NEEDS_RESET.
    pub status: u32,
    /// DEVICE_NEEDS_RESET.
    pub needs_reset: bool,
    /// What the driver accepted.
    pub driver_features: u64,
    /// Which half of the device's features is read.
    pub device_features_select: u32,
    /// Which half of the driver's features is meant.
    pub driver_features_select: u32,
    /// Which queue is meant.
    pub queue_select: u32,
    /// InterruptStatus, or the ISR status.
    pub interrupt_status: u32,
    /// The generation of the configuration space.
    pub config_generation: u32,
    /// The queues as the driver set them up.
    pub queues: Vec<QueueSetup>,
    /// The rings as they are, and the device.
    pub device: DeviceState,
}

/// Everything about a transport and its device that a new process needs. A driver knows which transport it speaks through, so a
/// state goes to a transport of its own kind only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "snake_case", deny_unknown_fields)]
pub enum TransportState {
    /// Of [`crate::virtio::mmio::MmioTransport`].
    Mmio {
        /// All that it has.
        core: CoreState,
    },
    /// Of [`crate::virtio::pci::PciTransport`].
    Pci {
        /// What all transports have.
        core: CoreState,
        /// Its own registers.
        pci: PciState,
    },
}

impl Core {
    /// For [`super::Transport::save`].
    ///
    /// # Errors
    /// The device is not paused.
    pub(crate) fn save(&mut self) -> Result<CoreState, DeviceError> {
        Ok(CoreState {
            device_type: self.device.device_type(),
            status: self.status,
            needs_reset: self.signals.is_broken(),
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            interrupt_status: self.signals.status(),
            config_generation: self.signals.generation(),
            queues: self.queues.clone(),
            device: self.device.save()?,
        })
    }

    /// Says in what a saved state does not fit this device.
    pub(crate) fn bad_state(&self, why: &str) -> DeviceError {
        DeviceError::BadState { device: self.device.name().to_owned(), why: why.to_owned() }
    }

    /// For [`super::Transport::restore`]; whoever calls it has put its own registers in place.
    ///
    /// # Errors
    /// The state is of another device, or its rings are not in this guest's memory.
    pub(crate) fn restore(&mut self, state: &CoreState) -> Result<(), DeviceError> {
        let rings = self.check(state)?;
        self.device.restore(&state.device.device)?;
        self.status = state.status;
        self.driver_features = state.driver_features;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.queues.clone_from(&state.queues);
        self.signals.restore(state.interrupt_status, state.config_generation, state.needs_reset);
        if let Some(rings) = rings {
            // Once another program has an event it can't be written any more without waiting; so far none has.
            let shared = self.device.shares_events();
            if shared {
                self.kick_all();
            }
            self.activate_with(rings)?;
            // It touches nothing before somebody says that the rest of the machine is there too.
            // Nothing is under way; a thread of the device's own may just take its worker in.
            while !self.device.pause() {
                std::thread::yield_now();
            }
            if !shared {
                self.kick_all();
            }
        }
        Ok(())
    }

    /// A kick may have been lost with the old process.
    fn kick_all(&self) {
        for event in &self.events {
            let _ = event.write(1);
        }
    }

    /// The rings of an active device, if the state can be this device's.
    fn check(&self, state: &CoreState) -> Result<Option<Vec<Queue>>, DeviceError> {
        if state.device_type != self.device.device_type() {
            return Err(self.bad_state("it is of another device type"));
        }
        if state.driver_features & !self.device_features() != 0 {
            return Err(self.bad_state("its driver uses features that this device lacks"));
        }
        let sizes = state.queues.iter().map(|setup| setup.max_size);
        if !sizes.eq(self.device.queue_sizes().iter().copied()) {
            return Err(self.bad_state("its queues are others"));
        }
        if state.status & VIRTIO_CONFIG_S_DRIVER_OK == 0 || state.needs_reset {
            return Ok(None);
        }
        if state.device.queues.len() != state.queues.len() {
            return Err(self.bad_state("rings are missing"));
        }
        let ring = |(snapshot, setup): (&QueueSnapshot, &QueueSetup)| {
            // A larger ring than the device has would make longer chains than it expects.
            if snapshot.max_size != setup.max_size {
                return Err(self.bad_state("a ring is larger or smaller than its queue"));
            }
            let queue = Queue::try_from(*snapshot).map_err(|_| self.bad_state("a ring is misaligned"))?;
            if queue.ready() && !queue.is_valid(&self.memory) {
                return Err(self.bad_state("a ring is not in guest memory"));
            }
            Ok(queue)
        };
        state.device.queues.iter().zip(&state.queues).map(ring).collect::<Result<_, _>>().map(Some)
    }
}
