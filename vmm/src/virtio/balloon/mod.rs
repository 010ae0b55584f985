//! virtio-balloon (virtio 1.2, section 5.5): memory that the guest does not need goes back to the host, because it was asked for some
//! (inflate), because it was asked what is free (hinting), or because it says what has become free (reporting).
//!
//! Pages that were given back are not taken from the guest: it may use them again at any time and finds zeroes there.

mod metrics;
mod shared;
mod worker;

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

pub use metrics::BalloonMetrics;
pub use shared::{BalloonControl, BalloonError};

use super::worker::WorkerSlot;
use super::{ActivateContext, DeviceError, DeviceState, VirtioDevice};
use crate::api::config;
use crate::memory::Recipe;
use shared::Shared;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use worker::BalloonWorker;

/// Features (5.5.3).
const F_STATS_VQ: u64 = 1;
const F_DEFLATE_ON_OOM: u64 = 2;
const F_FREE_PAGE_HINT: u64 = 3;
const F_PAGE_REPORTING: u64 = 5;

const QUEUE_SIZE: u16 = 256;
/// Offset of `actual`, the only field that drivers write.
const ACTUAL: u64 = 4;

/// The device.
pub struct Balloon {
    shared: Arc<Shared>,
    recipe: Recipe,
    features: u64,
    queues: Vec<u16>,
    worker: WorkerSlot<BalloonWorker>,
}

impl Balloon {
    /// A balloon in a guest whose memory is of this kind.
    ///
    /// # Errors
    /// No timer can be made.
    pub fn new(config: &config::Balloon, recipe: Recipe) -> std::io::Result<Self> {
        let optional = [
            (config.stats_polling_interval_s > 0, F_STATS_VQ),
            (config.free_page_hinting, F_FREE_PAGE_HINT),
            (config.free_page_reporting, F_PAGE_REPORTING),
        ];
        // Inflate and deflate are always there, and each of these features brings a queue (5.5.2).
        let mut queues = vec![QUEUE_SIZE; 2];
        let mut features = if config.deflate_on_oom { 1 << F_DEFLATE_ON_OOM } else { 0 };
        for (_, feature) in optional.into_iter().filter(|(wanted, _)| *wanted) {
            queues.push(QUEUE_SIZE);
            features |= 1 << feature;
        }
        Ok(Self { shared: Shared::new(config)?, recipe, features, queues, worker: WorkerSlot::new() })
    }

    /// What may be changed and asked while it runs.
    pub fn control(&self) -> BalloonControl {
        BalloonControl::new(Arc::clone(&self.shared), self.features)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn name(&self) -> &str {
        "balloon"
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_space(&self.shared.config_space(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(bytes)) = (offset, data.try_into()) {
            self.shared.set_actual(u32::from_le_bytes(bytes));
        }
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let (shared, recipe) = (Arc::clone(&self.shared), self.recipe.clone());
        self.worker.start("balloon", context, |context| Ok(BalloonWorker::new(context, shared, recipe)))
    }

    fn reset(&mut self) {
        self.worker.stop();
        self.shared.forget();
    }

    fn pause(&mut self) -> bool {
        self.worker.pause()
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        let mut state = self.worker.save("balloon")?;
        state.device = self.shared.save();
        Ok(state)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        let bad = |why| DeviceError::BadState { device: "balloon".into(), why };
        self.shared.restore(state).map_err(|error| bad(error.to_string()))
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}
