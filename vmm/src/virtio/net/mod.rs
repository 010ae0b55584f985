//! virtio-net (virtio 1.2, section 5.1) on a TAP: one pair of queues or several, checksum and segmentation offload both ways,
//! mergeable receive buffers.
//!
//! Frames go between guest memory and the TAP without a copy here. The header in front of each is the TAP's own
//! (`IFF_VNET_HDR`), so the host kernel is who reads and checks it.

mod control;
mod metrics;
mod pair;
mod tap;
#[cfg(test)]
#[path = "."]
mod over_mmio {
    use crate::virtio::testing::Guest;
    #[path = "kernel_tests.rs"]
    #[allow(unsafe_code)]
    mod kernel_tests;
    #[path = "metadata_tests.rs"]
    mod metadata_tests;
    #[path = "pairs_tests.rs"]
    mod pairs_tests;
    #[path = "tests.rs"]
    #[allow(unsafe_code)]
    mod tests;
    #[path = "uso_tests.rs"]
    #[allow(unsafe_code)]
    mod uso_tests;
}
#[cfg(test)]
#[path = "."]
mod over_pci {
    use crate::virtio::testing::PciGuest as Guest;
    #[path = "kernel_tests.rs"]
    #[allow(unsafe_code)]
    mod kernel_tests;
    #[path = "metadata_tests.rs"]
    mod metadata_tests;
    #[path = "pairs_tests.rs"]
    mod pairs_tests;
    #[path = "tests.rs"]
    #[allow(unsafe_code)]
    mod tests;
    #[path = "uso_tests.rs"]
    #[allow(unsafe_code)]
    mod uso_tests;
}
#[allow(unsafe_code)]
pub mod vhost;
mod worker;

pub use metrics::NetMetrics;

use super::limiter::{SavedLimiter, Throttle};
use super::worker::WorkerSlot;
use super::{ActivateContext, Chain, DeviceError, DeviceState, VirtioDevice};
use crate::api::config::RateLimiter;
use crate::lock::lock;
use crate::mmds::Wire;
use control::ControlWorker;
use pair::PairWorker;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tap::Tap;
pub use tap::TapError;
use vhost::{Vhost, VhostWorker};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use vmm_sys_util::eventfd::EventFd;
use worker::NetWorker;

const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 16;

/// What a network device is made of.
#[derive(Debug)]
pub struct NetConfig {
    /// Its name, for messages.
    pub id: String,
    /// The queues of a TAP, attached with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, and `IFF_MULTI_QUEUE` if there are several: each is
    /// for a pair of the guest's. One at least.
    pub taps: Vec<File>,
    /// The guest's address on it.
    pub mac: [u8; 6],
    /// The largest packet that the guest had better send.
    pub mtu: Option<u16>,
    /// An open `/dev/vhost-net`, for one pair of queues without limits.
    pub vhost: Option<File>,
    /// How much the guest may receive.
    pub receive_limit: Option<RateLimiter>,
    /// How much the guest may send.
    pub transmit_limit: Option<RateLimiter>,
}

/// What may be changed and read from outside: clones are about the same device.
#[derive(Clone)]
pub struct Limits {
    /// What the guest receives.
    pub receive: Arc<Throttle>,
    /// What the guest sends.
    pub transmit: Arc<Throttle>,
    /// What it has received and sent; nothing is known of what vhost-net moves.
    pub metrics: Arc<NetMetrics>,
    /// Whether frames pass here and can be limited.
    pub limitable: bool,
}

impl Limits {
    /// All figures by name. A frame is one call here, so some are the same under two of Firecracker's names.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let Self { metrics, receive, transmit, .. } = self;
        let more = [
            ("rx_count", metrics.rx_packets_count.get()),
            ("tx_count", metrics.tx_packets_count.get()),
            ("tap_write_fails", metrics.tx_fails.get()),
            ("rx_rate_limiter_throttled", receive.throttled()),
            ("tx_rate_limiter_throttled", transmit.throttled()),
        ];
        metrics.figures().into_iter().chain(more).collect()
    }
}

/// What workers and the configuration space share.
#[derive(Clone)]
struct Common {
    mac: Arc<Mutex<[u8; 6]>>,
    /// Pairs of queues that the driver uses.
    pairs: Arc<AtomicU16>,
    /// Until the TAP is deleted; no new one ever takes its place.
    link: Arc<AtomicBool>,
    metrics: Arc<NetMetrics>,
    /// A neighbour in this process, if the guest may ask for metadata here.
    metadata: Option<Arc<Mutex<Wire>>>,
}

impl Common {
    fn mac(&self) -> [u8; 6] {
        *lock(&self.mac)
    }

    fn metadata(&self) -> Option<MutexGuard<'_, Wire>> {
        self.metadata.as_ref().map(|wire| lock(wire))
    }

    fn set_mac(&self, mac: [u8; 6]) {
        *lock(&self.mac) = mac;
    }
}

/// What a driver of several pairs has chosen.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    pairs: u16,
    mac: [u8; 6],
}

/// What another process is told of a device besides its rings. What the TAP must know follows from the features that the driver accepted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedNet {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen: Option<Chosen>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receive: Option<SavedLimiter>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transmit: Option<SavedLimiter>,
}

/// The device.
pub struct Net {
    name: String,
    taps: Vec<Arc<Tap>>,
    mac: [u8; 6],
    mtu: Option<u16>,
    common: Common,
    limits: Limits,
    queue_sizes: Vec<u16>,
    lanes: Vec<WorkerSlot<PairWorker>>,
    vhost: Option<Arc<Vhost>>,
    calls: Option<Arc<[EventFd; 2]>>,
    control: WorkerSlot<ControlWorker>,
    /// Which queues the workers have, in the order in which they tell of them.
    order: Vec<usize>,
}

impl Net {
    /// A device on this TAP, which gets its header size and offloads set.
    ///
    /// # Errors
    /// It is no TAP, or one without the header.
    pub fn new(config: NetConfig) -> Result<Self, TapError> {
        let taps = config.taps.into_iter().enumerate().map(|(index, file)| Tap::new(file, index == 0));
        let taps = taps.collect::<Result<Vec<_>, _>>()?;
        if taps.is_empty() {
            return Err(TapError::None);
        }
        let throttle = |limit| Throttle::new(limit, taps.len()).map_err(TapError::Timers);
        let limits = Limits {
            receive: throttle(config.receive_limit.as_ref())?,
            transmit: throttle(config.transmit_limit.as_ref())?,
            metrics: Arc::default(),
            limitable: config.vhost.is_none(),
        };
        let mut net = Self::with_taps(taps, config.mac, config.mtu, limits);
        net.name = format!("net {}", config.id);
        if let Some(file) = config.vhost {
            net.vhost = Some(Arc::new(Vhost::new(file).map_err(TapError::Vhost)?));
            net.calls = Some(Arc::new(vhost::calls().map_err(TapError::Vhost)?));
        }
        Ok(net)
    }

    /// A device on `file`, which keeps frames apart and does not block, and is no TAP: for fuzz targets.
    #[cfg(feature = "stand-in")]
    pub fn standing_in(file: File, mac: [u8; 6]) -> Self {
        let limits = Limits {
            receive: Arc::new(Throttle::unlimited(1)),
            transmit: Arc::new(Throttle::unlimited(1)),
            metrics: Arc::default(),
            limitable: true,
        };
        Self::with_taps(vec![Tap::pretend(file)], mac, None, limits)
    }

    fn with_taps(taps: Vec<Tap>, mac: [u8; 6], mtu: Option<u16>, limits: Limits) -> Self {
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * taps.len()];
        // Who has one pair has nothing to choose, and starts without the steps that a queue costs.
        queue_sizes.extend((taps.len() > 1).then_some(CONTROL_QUEUE_SIZE));
        Self {
            name: "net".into(),
            lanes: taps.iter().map(|_| WorkerSlot::new()).collect(),
            control: WorkerSlot::new(),
            vhost: None,
            calls: None,
            taps: taps.into_iter().map(Arc::new).collect(),
            mac,
            mtu,
            common: Common {
                mac: Arc::new(Mutex::new(mac)),
                pairs: Arc::new(AtomicU16::new(1)),
                link: Arc::new(AtomicBool::new(true)),
                metrics: Arc::clone(&limits.metrics),
                metadata: None,
            },
            limits,
            queue_sizes,
            order: Vec::new(),
        }
    }

    /// The same with the metadata service as a neighbour.
    pub fn with_metadata(mut self, wire: Wire) -> Self {
        self.common.metadata = Some(Arc::new(Mutex::new(wire)));
        self
    }

    /// What of it may be changed and read while it runs.
    pub fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn has_pairs(&self) -> bool {
        self.taps.len() > 1
    }

    /// Starts the workers. Without VIRTIO_NET_F_MQ the control queue is the third and the rest is not used (section 5.1.2).
    fn start(&mut self, mut context: ActivateContext) -> Result<(), DeviceError> {
        let pairs = if context.features & 1 << VIRTIO_NET_F_MQ != 0 { self.taps.len() } else { 1 };
        let mut queues = std::mem::take(&mut context.queues).into_iter();
        let like = |context: &ActivateContext| ActivateContext {
            memory: context.memory.clone(),
            queues: Vec::new(),
            interrupt: Arc::clone(&context.interrupt),
            features: context.features,
            workers: context.workers.clone(),
            faults: context.faults.clone(),
        };
        let mut wakers = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate().take(pairs) {
            let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) else { break };
            wakers.push(receive.waker());
            let (tap, common, limits) = (Arc::clone(&self.taps[index]), self.common.clone(), &self.limits);
            let unserved = if index == 0 { self.taps[pairs..].to_vec() } else { Vec::new() };
            let kernel = self.vhost.clone().zip(self.calls.clone());
            lane.start(&self.name, like(&context), |context| {
                Ok(match kernel {
                    Some(kernel) => {
                        let queues = [receive, transmit];
                        PairWorker::Kernel(VhostWorker::new(context, queues, tap, common, kernel))
                    }
                    None => {
                        let queues = (receive, transmit);
                        let taps = (tap, unserved);
                        PairWorker::Own(NetWorker::new(context, queues, taps, common, limits, index))
                    }
                })
            })?;
        }
        self.order = (0..2 * pairs).collect();
        if let Some(queue) = queues.next() {
            let common = self.common.clone();
            self.order.extend(2 * pairs..self.queue_sizes.len());
            self.control.start(&self.name, like(&context), |context| {
                Ok(ControlWorker {
                    memory: context.memory,
                    queue,
                    interrupt: context.interrupt,
                    common,
                    wakers,
                    unused: queues.collect(),
                    chain: Chain::default(),
                })
            })?;
        }
        Ok(())
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
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let pairs = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;
        1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | 1 << VIRTIO_NET_F_STATUS
            | if self.has_pairs() { pairs } else { 0 }
            | if self.mtu.is_some() { 1 << VIRTIO_NET_F_MTU } else { 0 }
            | self.taps.iter().fold(u64::MAX, |all, tap| all & tap.features())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: the address, the status, the most pairs, the MTU (section 5.1.4).
        let up = self.common.link.load(Ordering::Relaxed);
        let status = if up { VIRTIO_NET_S_LINK_UP as u16 } else { 0 };
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.common.mac());
        space[6..8].copy_from_slice(&status.to_le_bytes());
        space[8..10].copy_from_slice(&(self.taps.len() as u16).to_le_bytes());
        space[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        super::read_space(&space, offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        self.start(context)
    }

    fn reset(&mut self) {
        self.lanes.iter_mut().for_each(|lane| drop(lane.stop()));
        self.control.stop();
        self.common.pairs.store(1, Ordering::Relaxed);
        self.common.set_mac(self.mac);
    }

    fn pause(&mut self) -> bool {
        let mut still = self.control.pause();
        for lane in &mut self.lanes {
            still &= lane.pause();
        }
        still
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        let mut told = Vec::new();
        for lane in &self.lanes {
            told.extend(lane.save(&self.name)?.queues);
        }
        told.extend(self.control.save(&self.name)?.queues);
        let mut queues: Vec<_> = self.order.iter().zip(told).collect();
        queues.sort_by_key(|(index, _)| **index);
        let chosen = || Chosen { pairs: self.common.pairs.load(Ordering::Relaxed), mac: self.common.mac() };
        let saved = SavedNet {
            chosen: self.has_pairs().then(chosen),
            receive: self.limits.receive.save(),
            transmit: self.limits.transmit.save(),
        };
        let device = serde_json::to_value(saved).expect("it has only numbers");
        Ok(DeviceState { queues: queues.into_iter().map(|(_, queue)| queue).collect(), device })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        let bad = |why: String| DeviceError::BadState { device: self.name.clone(), why };
        let saved = Option::<SavedNet>::deserialize(state).map_err(|error| bad(error.to_string()))?;
        let Some(saved) = saved else { return Ok(()) };
        if let Some(Chosen { pairs, mac }) = saved.chosen {
            if !(1..=self.taps.len()).contains(&pairs.into()) {
                return Err(bad(format!("{pairs} pairs of queues where there are {}", self.taps.len())));
            }
            self.common.pairs.store(pairs, Ordering::Relaxed);
            self.common.set_mac(mac);
        }
        self.limits.receive.restore(saved.receive.as_ref());
        self.limits.transmit.restore(saved.transmit.as_ref());
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.lanes.iter_mut().try_for_each(WorkerSlot::resume)?;
        self.control.resume()
    }
}
