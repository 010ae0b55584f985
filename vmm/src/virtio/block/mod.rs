//! virtio-blk (virtio 1.2, section 5.2): a raw file read and written, or files one after the other read only. They are there for
//! good, or a medium that a [`Tray`] puts in and takes out.
//!
//! I/O is synchronous, from and to guest memory without a copy.

mod disk;
mod request;
#[cfg(test)]
mod tests;
mod tray;

pub use tray::Tray;

use super::limiter::{Meter, Throttle};
use super::queue::drain_while;
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    VirtioDevice,
};
use crate::api::config::RateLimiter;
use crate::api::control::MAX_FILES;
use disk::Disk;
use request::Limits;
use std::fs::File;
use std::io;
use std::sync::Arc;
use tray::Slot;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

/// Bytes in a sector, the unit of the protocol.
pub const SECTOR: u64 = 512;
/// Bytes of a serial.
const SERIAL_LEN: usize = 20;
const QUEUE_SIZES: [u16; 1] = [128];
const QUEUE: u32 = 0;
const TIMER: u32 = 1;

/// What a block device is made of.
#[derive(Debug)]
pub struct BlockConfig {
    /// Its name; the first 20 bytes are the serial that the guest reads.
    pub id: String,
    /// Raw images or block devices, open for reading and, if the disk is, for writing. Several become one disk.
    pub files: Vec<File>,
    /// Whether the guest may not write. Needed when there is more than one file.
    pub read_only: bool,
    /// How much the guest may read and write.
    pub limit: Option<RateLimiter>,
}

impl BlockConfig {
    /// A disk without limits.
    pub fn new(id: impl Into<String>, files: Vec<File>, read_only: bool) -> Self {
        Self { id: id.into(), files, read_only, limit: None }
    }
}

/// A disk that can't be one.
#[derive(Debug, thiserror::Error)]
pub enum BlockConfigError {
    /// No files.
    #[error("drive {0} has no files: name at least one")]
    NoFiles(String),
    /// Several files can be read only.
    #[error("drive {0} is made of several files: make it read only")]
    ConcatWritable(String),
    /// A file is not whole sectors.
    #[error("file {index} of drive {id} is {len} bytes long: it must be a multiple of 512")]
    Size {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// In bytes.
        len: u64,
    },
    /// There is a medium in the drive.
    #[error("drive {0} has a medium: eject it first")]
    Present(String),
    /// Too few or too many files for a medium.
    #[error("a medium of drive {id} is made of 1 to {most} files, and {count} came")]
    Count {
        /// Which drive.
        id: String,
        /// How many came.
        count: usize,
        /// How many may.
        most: usize,
    },
    /// A pipe, a folder, a socket, a character device.
    #[error("file {index} of the medium for drive {id} is neither a regular file nor a block device")]
    NotData {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
    },
    /// A medium without a byte.
    #[error("the medium for drive {0} is empty: it must have 512 bytes at least")]
    Empty(String),
    /// Its size can't be found out.
    #[error("the size of file {index} of drive {id} is unknown: {source}")]
    Io {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// What the system says.
        source: io::Error,
    },
}

/// The device.
pub struct Block {
    name: String,
    slot: Arc<Slot>,
    read_only: bool,
    serial: [u8; SERIAL_LEN],
    throttle: Arc<Throttle>,
    worker: WorkerSlot<BlockWorker>,
}

impl Block {
    /// A disk of these files.
    ///
    /// # Errors
    /// They don't make a disk.
    pub fn new(config: BlockConfig) -> Result<Self, BlockConfigError> {
        let BlockConfig { id, files, read_only, limit } = config;
        if files.is_empty() {
            return Err(BlockConfigError::NoFiles(id));
        }
        if files.len() > 1 && !read_only {
            return Err(BlockConfigError::ConcatWritable(id));
        }
        let disk = Disk::new(&id, files, read_only)?;
        Ok(Self::with(&id, Slot::new(disk), read_only, limit.as_ref()))
    }

    /// A drive without a medium, and what puts one in.
    pub fn removable(id: &str, read_only: bool, limit: Option<&RateLimiter>) -> (Self, Tray) {
        let slot = Slot::new(Disk::without_medium(read_only));
        let tray = Tray::new(id.to_owned(), read_only, Arc::clone(&slot), MAX_FILES);
        (Self::with(id, slot, read_only, limit), tray)
    }

    fn with(id: &str, slot: Arc<Slot>, read_only: bool, limit: Option<&RateLimiter>) -> Self {
        let mut serial = [0; SERIAL_LEN];
        let len = id.len().min(SERIAL_LEN);
        serial[..len].copy_from_slice(&id.as_bytes()[..len]);
        let throttle = Throttle::new(limit);
        Self { name: format!("block {id}"), slot, read_only, serial, throttle, worker: WorkerSlot::new() }
    }

    /// Its limit, to be changed while it runs.
    pub fn limit(&self) -> Arc<Throttle> {
        Arc::clone(&self.throttle)
    }

    /// `struct virtio_blk_config`, section 5.2.4.
    fn config_space(&self) -> [u8; 60] {
        let mut space = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.slot.disk().len() / SECTOR).to_le_bytes());
        put(8, &Limits::SEGMENT_BYTES.to_le_bytes());
        put(12, &Limits::SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &1u16.to_le_bytes());
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
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH;
        always
            | if self.read_only {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_space(&self.config_space(), offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let (slot, serial) = (Arc::clone(&self.slot), self.serial);
        let meter = Meter::new(self.limit(), 0, TIMER);
        self.worker.start(&self.name, context, |context| Ok(BlockWorker::new(context, slot, serial, meter)))
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
        // Requests are synchronous, so there is never one in flight to remember.
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}

struct BlockWorker {
    memory: GuestMemory,
    queue: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    slot: Arc<Slot>,
    serial: [u8; SERIAL_LEN],
    // A driver that can't flush is promised that what it wrote is durable (section 5.2.6.2).
    write_through: bool,
    meter: Meter,
}

impl BlockWorker {
    fn new(mut context: ActivateContext, slot: Arc<Slot>, serial: [u8; SERIAL_LEN], meter: Meter) -> Self {
        Self {
            queue: context.take_queue(),
            memory: context.memory,
            interrupt: context.interrupt,
            chain: Chain::default(),
            slot,
            serial,
            write_through: context.features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            meter,
        }
    }
}

impl Worker for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = Source::readable(self.queue.event(), QUEUE);
        [kick].into_iter().chain(self.meter.source()).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, chain, slot, serial, write_through, meter } = self;
        if token == TIMER {
            meter.fired();
        }
        if meter.is_waiting() {
            queue.clear_event();
            return Ok(());
        }
        let disk = slot.disk();
        let admit = |chain: &Chain| meter.admit(request::bytes(chain), interest);
        drain_while(queue, memory, interrupt.as_ref(), chain, admit, |chain| {
            request::serve(memory, chain, &disk, serial, *write_through)
        })
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}
