//! virtio-pmem (virtio 1.2, section 5.19): a file in the guest's address space, which reads and writes it without requests; they are only
//! for flushing.

#[cfg(test)]
mod tests;

use super::queue::drain;
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    VirtioDevice,
};
use crate::memory::PmemMapping;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;

const QUEUE_SIZES: [u16; 1] = [64];
/// VIRTIO_PMEM_REQ_TYPE_FLUSH, the only kind of request.
const FLUSH: u32 = 0;
/// What it is answered: done, or an I/O error (5.19.7.2).
const DONE: u32 = 0;
const FAILED: u32 = 1;

/// The device.
pub struct Pmem {
    name: String,
    mapping: Arc<PmemMapping>,
    worker: WorkerSlot<PmemWorker>,
}

impl Pmem {
    /// Shows the guest what is mapped.
    pub fn new(id: &str, mapping: PmemMapping) -> Self {
        Self { name: format!("pmem {id}"), mapping: Arc::new(mapping), worker: WorkerSlot::new() }
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
        let space = [self.mapping.start, self.mapping.len].map(u64::to_le_bytes).concat();
        super::read_space(&space, offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let mapping = Arc::clone(&self.mapping);
        self.worker.start(&self.name, context, |mut context| {
            Ok(PmemWorker {
                queue: context.take_queue(),
                memory: context.memory,
                interrupt: context.interrupt,
                chain: Chain::default(),
                mapping,
            })
        })
    }

    fn reset(&mut self) {
        self.worker.stop();
    }

    fn pause(&mut self) {
        self.worker.pause();
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        self.worker.save(&self.name)
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        // What the guest wrote is in the file, and a flush is never under way.
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}

struct PmemWorker {
    memory: GuestMemory,
    queue: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    mapping: Arc<PmemMapping>,
}

impl Worker for PmemWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source::readable(self.queue.event(), 0)]
    }

    fn process(&mut self, _token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, chain, mapping } = self;
        // One flush is good for all requests of a batch: what they promise was written before they came.
        let mut flushed = None;
        drain(queue, memory, interrupt.as_ref(), chain, |chain| {
            let mut kind = [0; 4];
            let known =
                chain.read_at(memory, 0, &mut kind) == kind.len() && u32::from_le_bytes(kind) == FLUSH;
            let answer = match known {
                true if *flushed.get_or_insert_with(|| mapping.flush().is_ok()) => DONE,
                _ => FAILED,
            };
            match chain.write_at(memory, 0, &answer.to_le_bytes()) {
                4 => Ok(4),
                _ => Err(RingError::Malformed("has no room for its answer")),
            }
        })
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}
