//! virtio-rng (virtio 1.2, section 5.4): the host kernel's randomness.

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
use super::queue::drain_while;
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    VirtioDevice, io,
};
use crate::api::config::RateLimiter;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

const QUEUE_SIZES: [u16; 1] = [16];
const QUEUE: u32 = 0;
const TIMER: u32 = 1;
/// Bytes for one request; a driver that wants more asks again. Linux asks for 64.
const MAX_REQUEST: usize = 256;

/// The device.
pub struct Rng {
    throttle: Arc<Throttle>,
    worker: WorkerSlot<RngWorker>,
}

impl Rng {
    /// Gives as much as `limit` lets it.
    pub fn new(limit: Option<&RateLimiter>) -> Self {
        Self { throttle: Throttle::new(limit), worker: WorkerSlot::new() }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn name(&self) -> &str {
        "rng"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let meter = Meter::new(Arc::clone(&self.throttle), 0, TIMER);
        self.worker.start("rng", context, |mut context| {
            Ok(RngWorker {
                queue: context.take_queue(),
                memory: context.memory,
                interrupt: context.interrupt,
                chain: Chain::default(),
                meter,
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
        self.worker.save("rng")
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}

struct RngWorker {
    memory: GuestMemory,
    queue: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    meter: Meter,
}

impl Worker for RngWorker {
    fn sources(&self) -> Vec<Source> {
        [Source::readable(self.queue.event(), QUEUE)].into_iter().chain(self.meter.source()).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, chain, meter } = self;
        if token == TIMER {
            meter.fired();
        }
        if meter.is_waiting() {
            queue.clear_event();
            return Ok(());
        }
        let wanted = |chain: &Chain| (chain.writable_len() as usize).min(MAX_REQUEST);
        let admit = |chain: &Chain| meter.admit(wanted(chain) as u64, interest);
        drain_while(queue, memory, interrupt.as_ref(), chain, admit, |chain| {
            let mut bytes = [0; MAX_REQUEST];
            let wanted = wanted(chain);
            // It can't fail for so few bytes; if it did, an honest zero makes the driver ask again.
            let got = io::random(&mut bytes[..wanted]).unwrap_or(0);
            Ok(chain.write_at(memory, 0, &bytes[..got]) as u32)
        })
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}
