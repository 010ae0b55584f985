//! What every transport has in common (virtio 1.2, sections 2.1, 2.2 and 3.1): status, features, queues, activation. MMIO and PCI
//! only map their registers to it.
//!
//! A driver that breaks the order of section 3.1.1 is not followed: what does not belong to the present step is ignored. Only
//! the rings themselves can end a VM.

pub mod signals;
mod state;

pub use signals::{Signals, Wire};
pub use state::{CoreState, QueueSetup, TransportState};

use super::{ActivateContext, DeviceError, DeviceQueue, FaultSink, GuestMemory, VirtioDevice, WorkerLoop};
use crate::bus::BusDevice;
use crate::metrics::InterruptMetrics;
use std::io;
use std::sync::Arc;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the transport itself offers for every device.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A device behind its registers, as the machine sees it.
pub trait Transport: BusDevice {
    /// What all transports share.
    fn core(&self) -> &Core;

    /// The same, to change it.
    fn core_mut(&mut self) -> &mut Core;

    /// Saves a paused device and its registers.
    ///
    /// # Errors
    /// It is not paused.
    fn save(&mut self) -> Result<TransportState, DeviceError>;

    /// Takes over a saved state; an active device is paused then. To be called on a new transport.
    ///
    /// # Errors
    /// The state is of another device or transport, or its rings are not in this guest's memory.
    fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError>;
}

/// What a device and its driver have agreed on, whichever registers they did it through.
pub struct Core {
    memory: GuestMemory,
    device: Box<dyn VirtioDevice>,
    workers: WorkerLoop,
    faults: FaultSink,
    signals: Arc<Signals>,
    events: Vec<Arc<EventFd>>,
    queues: Vec<QueueSetup>,
    status: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
}

/// What a transport is made of besides its device.
#[derive(Clone)]
pub struct Surroundings {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Where workers run.
    pub workers: WorkerLoop,
    /// Where a guest's fault is reported.
    pub faults: FaultSink,
    /// Where interrupts are counted.
    pub interrupts: Arc<InterruptMetrics>,
}

impl Core {
    /// For `device`, whose driver is called through `wire`.
    ///
    /// # Errors
    /// No event can be made.
    pub(crate) fn new(
        surroundings: Surroundings,
        device: Box<dyn VirtioDevice>,
        wire: Arc<dyn Wire>,
    ) -> io::Result<Self> {
        let Surroundings { memory, workers, faults, .. } = surroundings;
        let sizes = device.queue_sizes();
        let events = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new));
        Ok(Self {
            events: events.collect::<io::Result<_>>()?,
            queues: sizes.iter().map(|size| QueueSetup::new(*size)).collect(),
            signals: Arc::new(Signals::new(wire)),
            memory,
            device,
            workers,
            faults,
            status: 0,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        })
    }

    /// One event per queue, for ioeventfds where its driver kicks.
    /// They are the same ones as long as the transport lives.
    pub fn queue_events(&self) -> &[Arc<EventFd>] {
        &self.events
    }

    /// The way to the driver, for those who change a device from outside.
    pub fn signals(&self) -> Arc<Signals> {
        Arc::clone(&self.signals)
    }

    /// The device behind the registers.
    pub fn device(&self) -> &dyn VirtioDevice {
        self.device.as_ref()
    }

    /// Features that the driver accepted.
    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// Takes the device out of the event loop; its rings stay as they are. False if the host still has something under way for it, see
    /// [`VirtioDevice::pause`].
    #[must_use]
    pub fn pause(&mut self) -> bool {
        self.device.pause()
    }

    /// Lets a paused device go on.
    ///
    /// # Errors
    /// The event loop is gone.
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        self.device.resume()
    }

    /// Reads the configuration space into `data`, which was cleared.
    pub(crate) fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Writes the configuration space, if there is a driver.
    pub(crate) fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.has(VIRTIO_CONFIG_S_DRIVER) {
            self.device.write_config(offset, data);
        }
    }

    fn device_features(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES & self.device.ring_features()
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    /// Whether the driver is at the step where features are chosen.
    fn negotiating(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    /// Whether the driver is at the step where queues are set up.
    pub(crate) fn setting_up(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// Which half of the device's features is read.
    pub(crate) fn select_device_features(&mut self, half: u32) {
        self.device_features_select = half;
    }

    /// Which half of the driver's features is meant.
    pub(crate) fn select_driver_features(&mut self, half: u32) {
        self.driver_features_select = half;
    }

    /// Which queue is meant.
    pub(crate) fn select_queue(&mut self, queue: u32) {
        self.queue_select = queue;
    }

    /// The selectors as they were written: device features, driver features, queue.
    pub(crate) fn selects(&self) -> (u32, u32, u32) {
        (self.device_features_select, self.driver_features_select, self.queue_select)
    }

    /// The selected half of what is offered.
    pub(crate) fn device_features_half(&self) -> u32 {
        half(self.device_features(), self.device_features_select)
    }

    /// The selected half of what was accepted.
    pub(crate) fn driver_features_half(&self) -> u32 {
        half(self.driver_features, self.driver_features_select)
    }

    /// Writes the selected half of what the driver accepts.
    pub(crate) fn accept_features(&mut self, value: u32) {
        if self.negotiating() {
            set_half(&mut self.driver_features, self.driver_features_select, value);
        }
    }

    /// The device status, DEVICE_NEEDS_RESET included.
    pub(crate) fn status(&self) -> u32 {
        self.status | if self.signals.is_broken() { VIRTIO_CONFIG_S_NEEDS_RESET } else { 0 }
    }

    /// A write of the device status: section 2.1 has the bits, 3.1.1 their order. True if it was a reset.
    pub(crate) fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let known = VIRTIO_CONFIG_S_ACKNOWLEDGE
            | VIRTIO_CONFIG_S_DRIVER
            | VIRTIO_CONFIG_S_FEATURES_OK
            | VIRTIO_CONFIG_S_DRIVER_OK
            | VIRTIO_CONFIG_S_FAILED;
        let new = value & known & !self.status;
        // A driver must not clear bits, and must not go on after it gave up.
        if value & self.status != self.status || self.has(VIRTIO_CONFIG_S_FAILED) {
            return false;
        }
        // One write may set several bits; each still has to find what it builds on.
        if new & VIRTIO_CONFIG_S_ACKNOWLEDGE != 0 {
            self.status |= VIRTIO_CONFIG_S_ACKNOWLEDGE;
        }
        if new & VIRTIO_CONFIG_S_DRIVER != 0 && self.has(VIRTIO_CONFIG_S_ACKNOWLEDGE) {
            self.status |= VIRTIO_CONFIG_S_DRIVER;
        }
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 && self.negotiating() && self.features_acceptable() {
            self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if new & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status |= VIRTIO_CONFIG_S_FAILED;
        } else if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.setting_up() {
            self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
            self.activate();
        }
        false
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.device_features() == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        let queues =
            self.queues.iter().map(|setup| setup.build(self.event_idx()).map_err(|why| why.to_string()));
        let queues: Result<Vec<Queue>, String> = queues.collect();
        let outcome = queues.and_then(|queues| self.activate_with(queues).map_err(|error| error.to_string()));
        if let Err(what) = outcome {
            self.give_up(what);
        }
    }

    fn activate_with(&mut self, queues: Vec<Queue>) -> Result<(), DeviceError> {
        let events = self.events.iter().cloned();
        let queues = (0..).zip(queues).zip(events);
        let context = ActivateContext {
            memory: self.memory.clone(),
            queues: queues.map(|((index, queue), event)| DeviceQueue::new(index, queue, event)).collect(),
            interrupt: Arc::clone(&self.signals) as _,
            features: self.driver_features,
            workers: self.workers.clone(),
            faults: self.faults.clone(),
        };
        self.device.activate(context)
    }

    fn give_up(&self, what: String) {
        use super::Interrupt as _;
        self.signals.needs_reset();
        self.faults.report(self.device.name(), what);
    }

    fn event_idx(&self) -> bool {
        self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0
    }

    /// The selected queue, if there is one.
    pub(crate) fn queue(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected queue while the driver may set it up: not before the features are agreed on, nor after DRIVER_OK, nor when it
    /// is in use (sections 4.1.4.3.2 and 4.2.2.2).
    pub(crate) fn queue_to_set_up(&mut self) -> Option<&mut QueueSetup> {
        if !self.setting_up() {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_select).ok()?).filter(|setup| !setup.ready)
    }

    /// The driver says that the selected queue is set up, or takes that back: the rings must be memory, all of them.
    pub(crate) fn set_queue_ready(&mut self, ready: bool) {
        if !self.setting_up() {
            return;
        }
        let (event_idx, select) = (self.event_idx(), self.queue_select);
        let Some(setup) = usize::try_from(select).ok().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        setup.ready = ready;
        if ready && !setup.build(event_idx).is_ok_and(|queue| queue.is_valid(&self.memory)) {
            setup.ready = false;
            self.give_up(format!("the rings of queue {select} are misaligned or not in guest memory"));
        }
    }

    /// A kick that no ioeventfd took. One for another program is lost: only the kernel writes its events without ever waiting.
    pub(crate) fn notify(&mut self, index: u32) {
        if self.device.shares_events() {
            return;
        }
        let event = usize::try_from(index).ok().and_then(|index| self.events.get(index));
        if let Some(event) = event.filter(|_| self.has(VIRTIO_CONFIG_S_DRIVER_OK)) {
            let _ = event.write(1);
        }
    }

    pub(crate) fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(|setup| *setup = QueueSetup::new(setup.max_size));
        // A kick from before the reset means nothing after it. Whoever shares the events finds it, and nothing in the ring.
        if !self.device.shares_events() {
            self.events.iter().for_each(|event| drop(event.read()));
        }
        self.signals.clear();
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
    }
}

/// The half of a 64-bit field that a selector means; there are two.
pub(crate) fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Replaces one half of a 64-bit field.
pub(crate) fn set_half(target: &mut u64, select: u32, value: u32) {
    match select {
        0 => *target = *target & !u64::from(u32::MAX) | u64::from(value),
        1 => *target = *target & u64::from(u32::MAX) | u64::from(value) << 32,
        _ => {}
    }
}
