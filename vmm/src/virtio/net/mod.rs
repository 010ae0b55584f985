//! virtio-net (virtio 1.2, section 5.1) on a TAP: one pair of queues, checksum and segmentation offload both ways,
//! mergeable receive buffers.
//!
//! Frames go between guest memory and the TAP without a copy here. The header in front of each is the TAP's own
//! (`IFF_VNET_HDR`), so the host kernel is who reads and checks it.

mod tap;
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
mod worker;

use super::limiter::Throttle;
use super::worker::WorkerSlot;
use super::{ActivateContext, DeviceError, DeviceState, VirtioDevice};
use crate::api::config::RateLimiter;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tap::Tap;
pub use tap::TapError;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use worker::NetWorker;

const QUEUE_SIZES: [u16; 2] = [256, 256];

/// What a network device is made of.
#[derive(Debug)]
pub struct NetConfig {
    /// A TAP, attached with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    pub tap: File,
    /// The guest's address on it.
    pub mac: [u8; 6],
    /// How much the guest may receive.
    pub receive_limit: Option<RateLimiter>,
    /// How much the guest may send.
    pub transmit_limit: Option<RateLimiter>,
}

/// What limits a device, from outside: clones change the same device.
#[derive(Clone)]
pub struct Limits {
    /// What the guest receives.
    pub receive: Arc<Throttle>,
    /// What the guest sends.
    pub transmit: Arc<Throttle>,
}

/// The device.
pub struct Net {
    name: String,
    tap: Arc<Tap>,
    mac: [u8; 6],
    /// Until the TAP is deleted; no new one ever takes its place.
    link: Arc<AtomicBool>,
    limits: Limits,
    worker: WorkerSlot<NetWorker>,
}

impl Net {
    /// A device on this TAP, which gets its header size and offloads set.
    ///
    /// # Errors
    /// It is no TAP, or one without the header.
    pub fn new(config: NetConfig) -> Result<Self, TapError> {
        let NetConfig { tap, mac, receive_limit, transmit_limit } = config;
        let limits = Limits {
            receive: Throttle::new(receive_limit.as_ref()),
            transmit: Throttle::new(transmit_limit.as_ref()),
        };
        Ok(Self::with_tap(Tap::new(tap)?, mac, limits))
    }

    fn with_tap(tap: Tap, mac: [u8; 6], limits: Limits) -> Self {
        let [a, b, c, d, e, f] = mac;
        let name = format!("net {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let link = Arc::new(AtomicBool::new(true));
        Self { name, tap: Arc::new(tap), mac, link, limits, worker: WorkerSlot::new() }
    }

    /// Its limits, to be changed while it runs.
    pub fn limits(&self) -> Limits {
        self.limits.clone()
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MRG_RXBUF | 1 << VIRTIO_NET_F_STATUS | self.tap.features()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: the address, then the status (section 5.1.4).
        let up = self.link.load(Ordering::Relaxed);
        let status = if up { VIRTIO_NET_S_LINK_UP as u16 } else { 0 }.to_le_bytes();
        let mut space = [0; 8];
        space[..6].copy_from_slice(&self.mac);
        space[6..].copy_from_slice(&status);
        super::read_space(&space, offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let (tap, link, limits) = (Arc::clone(&self.tap), Arc::clone(&self.link), &self.limits);
        self.worker.start(&self.name, context, |context| Ok(NetWorker::new(context, tap, link, limits)))
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
        // What the TAP must know follows from the features that the driver accepted.
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}
