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
use crate::metrics::counters;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

const QUEUE_SIZES: [u16; 1] = [16];
const QUEUE: u32 = 0;
const TIMER: u32 = 1;
/// Bytes for one request; a driver that wants more asks again. Linux asks for 64.
const MAX_REQUEST: usize = 256;

counters! {
    /// Counters since the start, under the names of Firecracker's metrics.
    pub struct RngMetrics {
        /// Requests that were answered.
        entropy_event_count,
        /// Bytes that guests got.
        entropy_bytes,
        /// Times that the host had no bytes.
        host_rng_fails,
        /// Times that the limit had more to give after it had held requests back.
        rate_limiter_event_count,
    }
}

/// What the device has done so far.
pub struct RngCounts {
    throttle: Arc<Throttle>,
    metrics: Arc<RngMetrics>,
}

impl RngCounts {
    /// All of it by Firecracker's names.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let mut figures = self.metrics.figures();
        figures.push(("entropy_rate_limiter_throttled", self.throttle.throttled()));
        figures
    }
}

/// The device.
pub struct Rng {
    throttle: Arc<Throttle>,
    metrics: Arc<RngMetrics>,
    worker: WorkerSlot<RngWorker>,
}

impl Rng {
    /// Gives as much as `limit` lets it.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new(limit: Option<&RateLimiter>) -> std::io::Result<Self> {
        let throttle = Throttle::new(limit, 1)?;
        Ok(Self { throttle, metrics: Arc::default(), worker: WorkerSlot::new() })
    }

    /// What it has done so far.
    pub fn counts(&self) -> RngCounts {
        RngCounts { throttle: Arc::clone(&self.throttle), metrics: Arc::clone(&self.metrics) }
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
        let (meter, metrics) = (Meter::new(Arc::clone(&self.throttle), 0, TIMER), Arc::clone(&self.metrics));
        self.worker.start("rng", context, |mut context| {
            Ok(RngWorker {
                queue: context.take_queue(),
                memory: context.memory,
                interrupt: context.interrupt,
                chain: Chain::default(),
                meter,
                metrics,
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
        Ok(DeviceState { device: self.throttle.to_value(), ..self.worker.save("rng")? })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        self.throttle.restore_value("rng", state)
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
    metrics: Arc<RngMetrics>,
}

impl Worker for RngWorker {
    fn sources(&self) -> Vec<Source> {
        [Source::readable(self.queue.event(), QUEUE)].into_iter().chain(self.meter.source()).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, chain, meter, metrics } = self;
        if token == TIMER {
            metrics.rate_limiter_event_count.add(1);
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
            let got = io::random(&mut bytes[..wanted]).unwrap_or_else(|_| {
                metrics.host_rng_fails.add(1);
                0
            });
            let given = chain.write_at(memory, 0, &bytes[..got]);
            metrics.entropy_event_count.add(1);
            metrics.entropy_bytes.add(given as u64);
            Ok(given as u32)
        })
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}
