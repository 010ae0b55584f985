//! Virtio devices and the transport in front of them (virtio 1.2, OASIS committee specification 01).
//!
//! A device never knows how its registers are reached or which interrupt a queue raises: it gets an [`ActivateContext`]
//! and an [`Interrupt`]. A transport never knows what a device does: it has a [`VirtioDevice`], and what it has in common with other
//! transports is in [`transport`]. Neither knows which VM it
//! belongs to, and no device opens a file: it is given open ones.
//!
//! What a guest writes is hostile. Descriptors are checked once, in [`chain`]; a request that makes no sense gets the
//! error its device type has for that; a ring that breaks the specification stops the device (DEVICE_NEEDS_RESET) and is
//! reported to the [`FaultSink`], which ends the VM.

pub mod balloon;
pub mod block;
mod chain;
#[cfg(test)]
mod chain_tests;
pub mod console;
#[allow(unsafe_code)]
pub(crate) mod io;
pub mod limiter;
pub mod mem;
pub mod mmio;
pub mod net;
mod patience;
pub mod pci;
pub mod pmem;
mod queue;
#[cfg(test)]
mod queue_tests;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod vhost_user;
pub mod vsock;
mod worker;

pub use chain::{Chain, RingError};
pub use queue::{DeviceQueue, QueueSnapshot};
pub use transport::{Core, Signals, Surroundings, Transport, TransportState};

use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub use crate::memory::GuestMemory;

/// What runs in the event loop.
pub type Subscriber = Box<dyn event_manager::MutEventSubscriber + Send>;

/// The loop that runs devices' workers: they add themselves when the guest's driver is ready and leave at a reset.
pub type WorkerLoop = event_manager::RemoteEndpoint<Subscriber>;

/// Takes reports of guests that broke a device's contract beyond repair; the VM is to end.
#[derive(Clone)]
pub struct FaultSink(Arc<ReportFault>);

type ReportFault = dyn Fn(&str, String) + Send + Sync;

impl FaultSink {
    /// `report` is called with the device's name and what the guest did. It may be called from any thread, more than
    /// once, and must not block.
    pub fn new(report: impl Fn(&str, String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Reports that the guest broke `device`.
    pub fn report(&self, device: &str, what: String) {
        (self.0)(device, what);
    }
}

/// How a device calls its driver. The transport decides what becomes of it: one line and a status register (MMIO) or a
/// vector per queue (MSI-X).
pub trait Interrupt: Send + Sync {
    /// Buffers of this queue were used.
    fn queue(&self, index: u16);
    /// The configuration space changed.
    fn config(&self);
    /// The device hit an error that only a reset mends (DEVICE_NEEDS_RESET, section 2.1.2).
    fn needs_reset(&self);
}

/// All that a device needs to run. It is moved into the worker, so nothing on the data path is shared with a vCPU thread.
pub struct ActivateContext {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// As many as [`VirtioDevice::queue_sizes`] has, in that order.
    /// A queue that the driver left disabled is there too and never has buffers.
    pub queues: Vec<DeviceQueue>,
    /// The way to the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// What the driver accepted, transport features included.
    pub features: u64,
    /// Where workers run.
    pub workers: WorkerLoop,
    /// Where a guest's fault is reported.
    pub faults: FaultSink,
}

impl ActivateContext {
    /// The next queue, in order: a transport gives as many as [`VirtioDevice::queue_sizes`] has, so it is there.
    fn take_queue(&mut self) -> DeviceQueue {
        self.queues.remove(0)
    }
}

/// Reads from a configuration space; bytes behind its end are left alone.
fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or_default();
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}

/// Why a device could not do what was asked; the guest is not to blame.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It runs already.
    #[error("{0} is already active: reset it first")]
    AlreadyActive(String),
    /// The event loop is gone.
    #[error("the event loop does not take the worker of {device}: {source}; the VM is ending")]
    EventLoop {
        /// Which device.
        device: String,
        /// What the loop said.
        source: event_manager::Error,
    },
    /// A saved state does not fit this device.
    #[error("the saved state does not fit {device}: {why}")]
    BadState {
        /// Which device.
        device: String,
        /// What does not fit.
        why: String,
    },
    /// It can't be saved, or not restored, whatever the state is.
    #[error("{device} can't be saved and restored: {why}")]
    NoState {
        /// Which device.
        device: String,
        /// Why not.
        why: String,
    },
    /// It must be paused for this.
    #[error("{0} must be paused before its state is saved")]
    NotPaused(String),
    /// A call to the system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What a device looks like between two processes: its rings and whatever it keeps of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The rings, if the device is active.
    pub queues: Vec<QueueSnapshot>,
    /// The device's own state; `null` if there is none.
    pub device: serde_json::Value,
}

/// A virtio device, seen from its transport.
pub trait VirtioDevice: Send {
    /// Section 5, "Device Types": the device ID.
    fn device_type(&self) -> u32;

    /// A name for messages, such as `block rootfs`.
    fn name(&self) -> &str;

    /// The largest size of each queue, powers of two up to 32768.
    fn queue_sizes(&self) -> &[u16];

    /// What this device offers, without what the transport adds (VERSION_1, INDIRECT_DESC, EVENT_IDX).
    fn features(&self) -> u64;

    /// Which features of the rings it knows, of those that the transport offers for it: all, unless somebody else serves them.
    fn ring_features(&self) -> u64 {
        u64::MAX
    }

    /// Whether another program has the queues' events too, and may do with them what it likes: whether they wait belongs to the open
    /// file, which it shares, so that neither a read nor a write of one ever ends for sure.
    fn shares_events(&self) -> bool {
        false
    }

    /// Reads the configuration space. Bytes behind its end stay as they are in `data` (the transport clears it first).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. Most devices have nothing to write there and ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// DRIVER_OK: starts the worker.
    ///
    /// # Errors
    /// The device is active already, or the event loop is gone.
    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError>;

    /// Stops the worker and forgets what the driver set up. When it returns the device touches guest memory no more.
    fn reset(&mut self);

    /// Stops the worker and keeps its state, unless the host still has something under way for it: false then, and the caller asks again until
    /// it has not, or resumes the device. Meanwhile nothing new is begun. A device that is not active or paused already stays as it is.
    fn pause(&mut self) -> bool;

    /// Says what a new process needs to go on from here.
    ///
    /// # Errors
    /// The device is running.
    fn save(&mut self) -> Result<DeviceState, DeviceError>;

    /// Takes over the device's own part of a saved state. Called before `activate`, which gets the restored queues.
    ///
    /// # Errors
    /// The state is another device's or makes no sense.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError>;

    /// Lets a paused worker go on.
    ///
    /// # Errors
    /// The event loop is gone.
    fn resume(&mut self) -> Result<(), DeviceError>;
}
