//! The MMIO transport (virtio 1.2, section 4.2.2): one page of registers, one interrupt line, one kick event per queue.
//!
//! A driver that breaks the order of section 3.1.1 is not followed: writes that don't belong to the present step are
//! ignored, as are accesses of the wrong width. Only the rings themselves can end a VM.

mod interrupt;
mod registers;
mod state;

#[cfg(test)]
mod tests;

pub use interrupt::MmioInterrupt;
pub use state::TransportState;

use super::{ActivateContext, DeviceError, DeviceQueue, FaultSink, GuestMemory, VirtioDevice, WorkerLoop};
use state::QueueSetup;
use std::io;
use std::sync::Arc;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of address space that a device takes.
pub const REGION_SIZE: u64 = 0x1000;

/// Offset of QueueNotify, for ioeventfds.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// What the transport itself offers for every device.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The registers in front of one device.
pub struct MmioTransport {
    memory: GuestMemory,
    device: Box<dyn VirtioDevice>,
    workers: WorkerLoop,
    faults: FaultSink,
    interrupt: Arc<MmioInterrupt>,
    events: Vec<Arc<EventFd>>,
    queues: Vec<QueueSetup>,
    status: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
}

impl MmioTransport {
    /// Puts registers in front of `device`.
    ///
    /// # Errors
    /// No event can be made.
    pub fn new(
        memory: GuestMemory,
        device: Box<dyn VirtioDevice>,
        workers: WorkerLoop,
        faults: FaultSink,
    ) -> io::Result<Self> {
        let line = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Self::with_line(memory, device, workers, faults, line)
    }

    /// The same with an interrupt line that may be other devices' too; the driver finds out whose by each one's InterruptStatus.
    ///
    /// Whoever shares a pin of an interrupt controller must share the event as well: KVM makes an edge of it by raising and
    /// lowering the pin, and what another event raises in between is lost.
    ///
    /// # Errors
    /// No event can be made.
    pub fn with_line(
        memory: GuestMemory,
        device: Box<dyn VirtioDevice>,
        workers: WorkerLoop,
        faults: FaultSink,
        line: Arc<EventFd>,
    ) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        let events = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new));
        Ok(Self {
            events: events.collect::<io::Result<_>>()?,
            queues: sizes.iter().map(|size| QueueSetup::new(*size)).collect(),
            interrupt: Arc::new(MmioInterrupt::new(line)),
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

    /// One event per queue, for an ioeventfd at [`QUEUE_NOTIFY`] that matches the queue's index (32 bits).
    /// They are the same ones as long as the transport lives.
    pub fn queue_events(&self) -> &[Arc<EventFd>] {
        &self.events
    }

    /// The interrupt line, edge triggered: an irqfd.
    pub fn interrupt(&self) -> &EventFd {
        self.interrupt.event()
    }

    /// The way to the driver, for those who change a device from outside.
    pub fn signals(&self) -> Arc<MmioInterrupt> {
        Arc::clone(&self.interrupt)
    }

    /// The device behind the registers.
    pub fn device(&self) -> &dyn VirtioDevice {
        self.device.as_ref()
    }

    /// Takes the device out of the event loop; its rings stay as they are.
    pub fn pause(&mut self) {
        self.device.pause();
    }

    /// Lets a paused device go on.
    ///
    /// # Errors
    /// The event loop is gone.
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        self.device.resume()
    }

    fn device_features(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    /// Whether the driver is at the step where features are chosen.
    fn negotiating(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    /// Whether the driver is at the step where queues are set up.
    fn setting_up(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// A write to the Status register: section 2.1 has the bits, 3.1.1 their order.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let known = VIRTIO_CONFIG_S_ACKNOWLEDGE
            | VIRTIO_CONFIG_S_DRIVER
            | VIRTIO_CONFIG_S_FEATURES_OK
            | VIRTIO_CONFIG_S_DRIVER_OK
            | VIRTIO_CONFIG_S_FAILED;
        let new = value & known & !self.status;
        // A driver must not clear bits, and must not go on after it gave up.
        if value & self.status != self.status || self.has(VIRTIO_CONFIG_S_FAILED) {
            return;
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
            interrupt: Arc::clone(&self.interrupt) as _,
            features: self.driver_features,
            workers: self.workers.clone(),
            faults: self.faults.clone(),
        };
        self.device.activate(context)
    }

    fn give_up(&self, what: String) {
        use super::Interrupt as _;
        self.interrupt.needs_reset();
        self.faults.report(self.device.name(), what);
    }

    fn event_idx(&self) -> bool {
        self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0
    }

    fn selected(&mut self) -> Option<&mut QueueSetup> {
        self.queues.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    /// QueueReady: the rings must be memory, all of them.
    fn write_queue_ready(&mut self, ready: bool) {
        let event_idx = self.event_idx();
        let memory = self.memory.clone();
        let select = self.queue_select;
        let Some(setup) = self.selected() else { return };
        setup.ready = ready;
        if ready && !setup.build(event_idx).is_ok_and(|queue| queue.is_valid(&memory)) {
            setup.ready = false;
            self.give_up(format!("the rings of queue {select} are misaligned or not in guest memory"));
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        for (setup, event) in self.queues.iter_mut().zip(&self.events) {
            *setup = QueueSetup::new(setup.max_size);
            // A kick from before the reset means nothing after it.
            let _ = event.read();
        }
        self.interrupt.clear();
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
    }
}
