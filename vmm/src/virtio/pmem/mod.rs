//! virtio-pmem (virtio 1.2, section 5.19): a file in the guest's address space, which reads and writes it without requests; they are only
//! for flushing.

#[cfg(test)]
#[path = "."]
mod over_mmio {
    use crate::virtio::testing::Guest;
    #[path = "tests.rs"]
    mod tests;
}
#[cfg(test)]
#[path = "."]
mod over_pci {
    use crate::virtio::testing::PciGuest as Guest;
    #[path = "tests.rs"]
    mod tests;
}

use super::limiter::{Meter, Throttle};
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    VirtioDevice,
};
use crate::api::config::RateLimiter;
use crate::memory::PmemMapping;
use crate::metrics::counters;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;

const QUEUE_SIZES: [u16; 1] = [64];
const QUEUE: u32 = 0;
const TIMER: u32 = 1;
/// VIRTIO_PMEM_REQ_TYPE_FLUSH, the only kind of request.
const FLUSH: u32 = 0;
/// What it is answered: done, or an I/O error (5.19.7.2).
const DONE: u32 = 0;
const FAILED: u32 = 1;

/// The device.
pub struct Pmem {
    name: String,
    control: PmemControl,
    worker: WorkerSlot<PmemWorker>,
}

impl Pmem {
    /// Shows the guest what is mapped, and flushes as often as `limit` lets it.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new(id: &str, mapping: PmemMapping, limit: Option<&RateLimiter>) -> std::io::Result<Self> {
        let control = PmemControl {
            id: id.to_owned(),
            mapping: Arc::new(mapping),
            throttle: Throttle::new(limit, 1)?,
            metrics: Arc::default(),
        };
        Ok(Self { name: format!("pmem {id}"), control, worker: WorkerSlot::new() })
    }

    /// What changes it from outside.
    pub fn control(&self) -> PmemControl {
        self.control.clone()
    }
}

/// The outer half of a device.
#[derive(Clone)]
pub struct PmemControl {
    id: String,
    mapping: Arc<PmemMapping>,
    throttle: Arc<Throttle>,
    metrics: Arc<PmemMetrics>,
}

counters! {
    /// Counters since the start, under the names of Firecracker's metrics; `flush_count` is ours.
    pub struct PmemMetrics {
        /// Kicks.
        queue_event_count,
        /// Flushes.
        flush_count,
        /// Requests that failed, or were none.
        event_fails,
    }
}

impl PmemControl {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What limits flushes.
    pub fn limit(&self) -> &Throttle {
        &self.throttle
    }

    /// Takes the file out of the guest's address space, when the guest has let go of the device. For the VMM thread only.
    pub fn take_out(&self) {
        self.mapping.take_out();
    }

    /// What it has done so far, by Firecracker's names.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let mut figures = self.metrics.figures();
        figures.push(("rate_limiter_throttled_events", self.throttle.throttled()));
        figures
    }
}

impl VirtioDevice for Pmem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_PMEM
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    /// `struct virtio_pmem_config`: start and size (5.19.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = [self.control.mapping.start, self.control.mapping.len].map(u64::to_le_bytes).concat();
        super::read_space(&space, offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let control = self.control.clone();
        let meter = Meter::new(Arc::clone(&control.throttle), 0, TIMER);
        self.worker.start(&self.name, context, |mut context| {
            Ok(PmemWorker {
                queue: context.take_queue(),
                memory: context.memory,
                interrupt: context.interrupt,
                chain: Chain::default(),
                control,
                meter,
            })
        })
    }

    fn reset(&mut self) {
        self.worker.stop();
    }

    fn pause(&mut self) -> bool {
        self.worker.pause()
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        Ok(DeviceState { device: self.control.throttle.to_value(), ..self.worker.save(&self.name)? })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        // What the guest wrote is in the file, and a flush is never under way.
        self.control.throttle.restore_value(&self.name, state)
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}

fn flush(mapping: &PmemMapping, metrics: &PmemMetrics) -> bool {
    metrics.flush_count.add(1);
    mapping.flush().is_ok()
}

fn is_flush(chain: &Chain, memory: &GuestMemory) -> bool {
    let mut kind = [0; 4];
    chain.read_at(memory, 0, &mut kind) == kind.len() && u32::from_le_bytes(kind) == FLUSH
}

/// Says in `chain` whether what it asked for is done; how many bytes that took.
fn answer(chain: &Chain, memory: &GuestMemory, done: bool, metrics: &PmemMetrics) -> Result<u32, RingError> {
    if !done {
        metrics.event_fails.add(1);
    }
    match chain.write_at(memory, 0, &if done { DONE } else { FAILED }.to_le_bytes()) {
        4 => Ok(4),
        _ => Err(RingError::Malformed("has no room for its answer")),
    }
}

struct PmemWorker {
    memory: GuestMemory,
    queue: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    control: PmemControl,
    meter: Meter,
}

impl Worker for PmemWorker {
    fn sources(&self) -> Vec<Source> {
        [Source::readable(self.queue.event(), QUEUE)].into_iter().chain(self.meter.source()).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, chain, control, meter } = self;
        let PmemControl { mapping, metrics, .. } = control;
        match token {
            TIMER => meter.fired(),
            _ => metrics.queue_event_count.add(1),
        }
        if meter.is_waiting() {
            queue.clear_event();
            return Ok(());
        }
        queue.clear_event();
        queue.quiet(memory)?;
        let mut budget = queue.size();
        loop {
            let batch = queue.waiting(memory)?.min(budget);
            if batch == 0 {
                queue.signal(memory, interrupt.as_ref())?;
                if budget == 0 {
                    queue.come_back();
                    return Ok(());
                }
                if !queue.listen(memory)? {
                    return Ok(());
                }
                continue;
            }
            // One flush is good for all requests that wait when it begins, and for none that comes later: what they promise was written
            // before they came. So it is paid for once.
            if !meter.admit(mapping.file_len, interest) {
                return queue.signal(memory, interrupt.as_ref());
            }
            let mut flushed = None;
            for _ in 0..batch {
                if !queue.pop(memory, chain)? {
                    return queue.signal(memory, interrupt.as_ref());
                }
                budget -= 1;
                let done = is_flush(chain, memory) && *flushed.get_or_insert_with(|| flush(mapping, metrics));
                let written = answer(chain, memory, done, metrics)?;
                queue.complete(memory, chain.head(), written)?;
            }
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}
