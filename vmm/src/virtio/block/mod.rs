//! virtio-blk (virtio 1.2, section 5.2): a raw file read and written, or files one after the other read only. They can be exchanged
//! while the guest runs; a removable drive has them only now and then.
//!
//! Data go between files and guest memory without a copy, through an io_uring for each queue where there is one, else by system
//! calls that are waited for.

mod config;
mod direct;
mod disk;
#[allow(unsafe_code)]
mod flights;
mod metrics;
mod request;
#[allow(unsafe_code)]
mod ring;
#[cfg(test)]
#[path = "."]
mod over_mmio {
    use crate::virtio::testing::Guest;
    #[path = "limit_tests.rs"]
    mod limit_tests;
    #[path = "ring_tests.rs"]
    #[allow(unsafe_code)]
    mod ring_tests;
    #[path = "tests.rs"]
    mod tests;
}
#[cfg(test)]
#[path = "."]
mod over_pci {
    use crate::virtio::testing::PciGuest as Guest;
    #[path = "limit_tests.rs"]
    mod limit_tests;
    #[path = "ring_tests.rs"]
    #[allow(unsafe_code)]
    mod ring_tests;
    #[path = "tests.rs"]
    mod tests;
}
mod tray;
mod worker;

pub use config::{BlockConfig, BlockConfigError};
pub use disk::check;
pub use metrics::BlockMetrics;
pub use ring::Ring;
pub use tray::Tray;

use super::limiter::{Meter, Throttle};
use super::worker::{Still, WorkerSlot};
use super::{ActivateContext, Chain, DeviceError, DeviceState, VirtioDevice, WorkerLoop};
use crate::lock::lock;
use disk::Disk;
use flights::Flights;
use request::Limits;
use std::sync::{Arc, Mutex, MutexGuard};
use tray::Slot;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use worker::{BlockWorker, Common};

/// Bytes in a sector, the unit of the protocol.
pub const SECTOR: u64 = 512;
/// Requests that one queue holds at most.
pub const QUEUE_SIZE: u16 = 128;
/// Requests that one ring has under way at most; in tests few, so that there is often no room.
const ROOM: u16 = if cfg!(test) { 4 } else { QUEUE_SIZE };
/// Bytes of a serial.
const SERIAL_LEN: usize = 20;

/// One queue.
#[derive(Clone)]
struct Lane {
    worker: WorkerSlot<BlockWorker>,
    // Here while there is no worker: it can't be made again.
    flights: Arc<Mutex<Option<Flights>>>,
}

impl Lane {
    fn flights(&self) -> MutexGuard<'_, Option<Flights>> {
        lock(&self.flights)
    }

    /// Lets go of the file that was in the slot before, of which nothing is under way.
    fn change(&self, still: &mut Still<'_, BlockWorker>, slot: &Slot) {
        let disk = slot.disk();
        // A worker's, or one that waits for a worker.
        if let Some(flights) = still.get().and_then(|worker| worker.flights.as_mut()) {
            flights.change(&disk);
        } else if let Some(flights) = self.flights().as_mut() {
            flights.change(&disk);
        }
    }
}

/// The device.
pub struct Block {
    name: String,
    id: String,
    slot: Arc<Slot>,
    read_only: bool,
    removable: bool,
    flush: bool,
    direct: bool,
    block: u32,
    serial: [u8; SERIAL_LEN],
    throttle: Arc<Throttle>,
    metrics: Arc<BlockMetrics>,
    queue_sizes: Vec<u16>,
    lanes: Vec<Lane>,
    loops: Vec<WorkerLoop>,
}

impl Block {
    /// A disk.
    ///
    /// # Errors
    /// Its files don't make one.
    pub fn new(config: BlockConfig) -> Result<Self, BlockConfigError> {
        let BlockConfig { id, files, read_only, removable, direct, .. } = config;
        if files.is_empty() && !removable {
            return Err(BlockConfigError::NoFiles(id));
        }
        if files.len() > 1 && !read_only {
            return Err(BlockConfigError::ConcatWritable(id));
        }
        let disk = match removable {
            true => Disk::without_medium(read_only),
            false => Disk::new(&id, files, read_only, direct)?,
        };
        let block = disk.block();
        let slot = Slot::new(disk);
        let disk = slot.disk();
        let mut serial = [0; SERIAL_LEN];
        let text = config.serial.as_ref().unwrap_or(&id).as_bytes();
        let len = text.len().min(SERIAL_LEN);
        serial[..len].copy_from_slice(&text[..len]);
        let queues = config.queues.max(1);
        let throttle = match Throttle::new(config.limit.as_ref(), queues.into()) {
            Ok(throttle) => throttle,
            Err(source) => return Err(BlockConfigError::Timers { id, source }),
        };
        let mut rings = config.rings.into_iter();
        let lanes = (0..queues).map(|_| Lane {
            worker: WorkerSlot::new(),
            flights: Arc::new(Mutex::new(rings.next().map(|ring| Flights::new(ring, ROOM, &disk)))),
        });
        Ok(Self {
            name: format!("block {id}"),
            id,
            read_only,
            removable,
            flush: config.flush,
            direct,
            block,
            serial,
            throttle,
            metrics: Arc::default(),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            lanes: lanes.collect(),
            loops: config.loops,
            slot,
        })
    }

    /// What changes it from outside.
    pub fn tray(&self) -> Tray {
        Tray {
            id: self.id.clone(),
            read_only: self.read_only,
            removable: self.removable,
            direct: self.direct,
            block: self.block,
            slot: Arc::clone(&self.slot),
            lanes: self.lanes.clone(),
            throttle: Arc::clone(&self.throttle),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// `struct virtio_blk_config`, section 5.2.4.
    fn config_space(&self) -> [u8; 60] {
        let mut space = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.slot.disk().len() / SECTOR).to_le_bytes());
        put(8, &Limits::SEGMENT_BYTES.to_le_bytes());
        put(12, &Limits::SEGMENTS.to_le_bytes());
        put(20, &self.block.to_le_bytes());
        put(34, &(self.lanes.len() as u16).to_le_bytes());
        put(36, &Limits::DISCARD_SECTORS.to_le_bytes());
        put(40, &Limits::DISCARD_RANGES.to_le_bytes());
        // In sectors: a hole smaller than a page frees nothing.
        put(44, &8u32.to_le_bytes());
        put(48, &Limits::ZERO_SECTORS.to_le_bytes());
        put(52, &Limits::ZERO_RANGES.to_le_bytes());
        // Write-zeroes may give space back.
        put(56, &[1]);
        space
    }

    /// Starts the worker of each queue.
    fn start(&mut self, mut context: ActivateContext) -> Result<(), DeviceError> {
        let common = Common {
            slot: Arc::clone(&self.slot),
            serial: self.serial,
            write_through: self.flush && context.features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            features: context.features,
            metrics: Arc::clone(&self.metrics),
        };
        let queues = std::mem::take(&mut context.queues);
        for ((index, queue), lane) in (0..).zip(queues).zip(&mut self.lanes) {
            let workers = self.loops.get(index % self.loops.len().max(1));
            let context = ActivateContext {
                memory: context.memory.clone(),
                queues: Vec::new(),
                interrupt: Arc::clone(&context.interrupt),
                features: context.features,
                workers: workers.unwrap_or(&context.workers).clone(),
                faults: context.faults.clone(),
            };
            let meter = Meter::new(Arc::clone(&self.throttle), index, worker::TIMER);
            let (common, flights) = (common.clone(), Arc::clone(&lane.flights));
            lane.worker.start(&self.name, context, |context| {
                let mut flights = lock(&flights).take();
                // Who exchanged the files just now may have found neither a worker nor these; he finds this worker, or it the new files.
                if let Some(flights) = &mut flights {
                    flights.change(&common.slot.disk());
                }
                Ok(BlockWorker {
                    memory: context.memory,
                    queue,
                    interrupt: context.interrupt,
                    meter,
                    common,
                    flights,
                    chain: Chain::default(),
                })
            })?;
        }
        Ok(())
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        let writing = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        always
            | if self.flush { 1 << VIRTIO_BLK_F_FLUSH } else { 0 }
            | if self.lanes.len() > 1 { 1 << VIRTIO_BLK_F_MQ } else { 0 }
            | if self.read_only { 1 << VIRTIO_BLK_F_RO } else { writing }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_space(&self.config_space(), offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        self.start(context)
    }

    fn reset(&mut self) {
        for lane in &mut self.lanes {
            if let Some(worker) = lane.worker.stop() {
                let mut flights = lane.flights();
                *flights = worker.flights;
                // The files may have been exchanged meanwhile.
                if let Some(flights) = flights.as_mut() {
                    flights.change(&self.slot.disk());
                }
            }
        }
    }

    fn pause(&mut self) -> bool {
        // Each of them, so that none begins anything new while another finishes.
        let mut still = true;
        for lane in &mut self.lanes {
            still &= lane.worker.pause();
        }
        still
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        let mut state = DeviceState { device: self.throttle.to_value(), ..DeviceState::default() };
        for lane in &self.lanes {
            state.queues.extend(lane.worker.save(&self.name)?.queues);
        }
        Ok(state)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        // A pause ends when nothing is under way, so there is never a request to remember.
        self.throttle.restore_value(&self.name, state)
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.lanes.iter_mut().try_for_each(|lane| lane.worker.resume())
    }
}
