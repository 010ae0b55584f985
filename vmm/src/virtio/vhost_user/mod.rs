//! Devices that are another program's: vhost-user front ends of disks and file systems.
//!
//! The driver's rings and all of guest memory are given to a *back end* behind a Unix socket, such as a storage daemon or virtiofsd. Kicks
//! and interrupts go between it and the guest; this process only speaks the protocol: before there is a driver, when one is ready, at a
//! reset or pause. A back end that goes, says nothing or breaks the protocol costs the guest that device (DEVICE_NEEDS_RESET) and not
//! the VM; it does not come back.

mod dialogue;
mod link;
mod message;
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
mod terms;
#[cfg(test)]
#[allow(unsafe_code)]
pub mod test_back_end;
mod worker;

pub use link::{LIMIT, LinkError, prepare};
pub use terms::BackEndError;

use super::patience::{Patience, lock_within};
use super::worker::WorkerSlot;
use super::{ActivateContext, DeviceError, DeviceState, Interrupt, Signals, VirtioDevice};
use crate::lock::lock;
use link::{Link, deadline};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use terms::{Terms, Wants, agree, config_space};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_GEOMETRY, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::{VIRTIO_ID_BLOCK, VIRTIO_ID_FS};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use worker::BackEndWorker;

/// Bytes of a disk's configuration space, up to the fields of VIRTIO_BLK_F_WRITE_ZEROES.
pub const CONFIG_LEN: usize = 60;
/// Where it says how many queues there are (`num_queues`).
const QUEUES_AT: usize = 34;
/// Bytes of a file system's tag at most (section 5.11.4).
pub const MAX_TAG: usize = 36;
/// Requests that a disk's queue holds.
const BLOCK_QUEUE: u16 = 128;
/// Requests that a file system's queue holds: Linux makes its requests as large as a queue is long.
const FS_QUEUE: u16 = 1024;
/// What a driver may be offered of a disk's features: of others, such as a cache mode that is written, this front end knows nothing.
const BLOCK_FEATURES: u64 = 1 << VIRTIO_BLK_F_SIZE_MAX
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_GEOMETRY
    | 1 << VIRTIO_BLK_F_RO
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_TOPOLOGY
    | 1 << VIRTIO_BLK_F_MQ
    | 1 << VIRTIO_BLK_F_DISCARD
    | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

/// Hears of devices that have lost their back end; the VM goes on.
#[derive(Clone)]
pub struct LossSink(Arc<ReportLoss>);

type ReportLoss = dyn Fn(&str, &str) + Send + Sync;

impl LossSink {
    /// `report` is called with the device's name and why, from any thread and once for each device; it must not block.
    pub fn new(report: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }
}

/// What device, worker and those who change the device from outside share.
struct BackEnd {
    name: String,
    link: Mutex<Link>,
    space: Mutex<Vec<u8>>,
    losses: LossSink,
}

impl BackEnd {
    fn link(&self) -> MutexGuard<'_, Link> {
        lock(&self.link)
    }

    fn space(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.space)
    }

    /// Gives the back end up and says so, once; true if that was now.
    fn lose(&self, link: &mut Link, error: &LinkError) -> bool {
        let first = link.lose();
        if first {
            (self.losses.0)(&self.name, &crate::chain(error));
        }
        first
    }
}

/// A disk behind a back end.
#[derive(Debug, Clone)]
pub struct BlockSettings {
    /// Name of the drive.
    pub id: String,
    /// Whether the driver is offered flushes, if the back end has them.
    pub flush: bool,
    /// Queues.
    pub queues: u8,
}

/// A file system behind a back end.
#[derive(Debug, Clone)]
pub struct FsSettings {
    /// What the guest mounts, [`MAX_TAG`] bytes at most.
    pub tag: String,
    /// Queues of requests; there is one more for what must not wait behind them.
    pub queues: u8,
}

/// The device.
pub struct VhostUser {
    device_type: u32,
    features: u64,
    ring_features: u64,
    queue_sizes: Vec<u16>,
    back_end: Arc<BackEnd>,
    calls: Arc<[EventFd]>,
    slot: WorkerSlot<BackEndWorker>,
}

impl VhostUser {
    /// A disk; `socket` is one of [`prepare`].
    ///
    /// # Errors
    /// The back end is none for it.
    pub fn block(
        settings: &BlockSettings,
        socket: UnixStream,
        losses: LossSink,
    ) -> Result<Self, BackEndError> {
        let BlockSettings { id, flush, queues } = settings;
        let queue_sizes = vec![BLOCK_QUEUE; (*queues).max(1).into()];
        let mut link = Link::new(socket);
        let terms = agree(&mut link, Wants { queues: queue_sizes.len(), config: true })?;
        let space = disk_space(terms.config.unwrap_or([0; CONFIG_LEN]), queue_sizes.len());
        let kept = if *flush { BLOCK_FEATURES } else { BLOCK_FEATURES & !(1 << VIRTIO_BLK_F_FLUSH) };
        let name = format!("block {id}");
        let mut device = Self::new(VIRTIO_ID_BLOCK, (name, link, losses), terms, queue_sizes, space)?;
        device.features = terms.features & kept;
        Ok(device)
    }

    /// A file system; `socket` is one of [`prepare`].
    ///
    /// # Errors
    /// The back end is none for it.
    pub fn fs(settings: &FsSettings, socket: UnixStream, losses: LossSink) -> Result<Self, BackEndError> {
        let FsSettings { tag, queues } = settings;
        let requests = (*queues).max(1);
        let queue_sizes = vec![FS_QUEUE; usize::from(requests) + 1];
        let mut link = Link::new(socket);
        let terms = agree(&mut link, Wants { queues: queue_sizes.len(), config: false })?;
        // struct virtio_fs_config: the tag, filled up with zeroes, and the number of request queues.
        let mut space = vec![0; MAX_TAG + 4];
        let len = tag.len().min(MAX_TAG);
        space[..len].copy_from_slice(&tag.as_bytes()[..len]);
        space[MAX_TAG..].copy_from_slice(&u32::from(requests).to_le_bytes());
        Self::new(VIRTIO_ID_FS, (format!("fs {tag}"), link, losses), terms, queue_sizes, space)
    }

    fn new(
        device_type: u32,
        (name, link, losses): (String, Link, LossSink),
        terms: Terms,
        queue_sizes: Vec<u16>,
        space: Vec<u8>,
    ) -> Result<Self, BackEndError> {
        let calls = queue_sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK));
        let calls = calls.collect::<Result<Vec<_>, _>>().map_err(BackEndError::Events)?;
        let (link, space) = (Mutex::new(link), Mutex::new(space));
        Ok(Self {
            device_type,
            features: 0,
            ring_features: terms.features,
            queue_sizes,
            back_end: Arc::new(BackEnd { name, link, space, losses }),
            calls: calls.into(),
            slot: WorkerSlot::new(),
        })
    }

    /// What changes a disk from outside.
    pub fn control(&self) -> BackEndControl {
        BackEndControl { back_end: Arc::clone(&self.back_end), queues: self.queue_sizes.len() }
    }
}

/// The configuration space that a driver sees of a disk: the back end's, but for the queues, which are this front end's.
fn disk_space(mut space: [u8; CONFIG_LEN], queues: usize) -> Vec<u8> {
    space[QUEUES_AT..QUEUES_AT + 2].copy_from_slice(&(queues as u16).to_le_bytes());
    space.to_vec()
}

/// What changes a disk from outside.
#[derive(Clone)]
pub struct BackEndControl {
    back_end: Arc<BackEnd>,
    queues: usize,
}

impl BackEndControl {
    /// Reads the configuration space again and tells the driver: the disk may have grown. To be called in the VMM thread.
    ///
    /// # Errors
    /// The back end is gone, or goes by this, or somebody else has waited for its answer as long as one may.
    pub fn reread(&self, signals: &Signals) -> Result<(), LinkError> {
        let by = deadline();
        let mut link = lock_within(&self.back_end.link, Patience::Until(by)).ok_or(LinkError::Busy)?;
        if link.is_lost() {
            return Err(LinkError::Gone);
        }
        match config_space(&mut link, by) {
            Ok(space) => {
                drop(link);
                signals.change_config(|| *self.back_end.space() = disk_space(space, self.queues));
                Ok(())
            }
            Err(error) => {
                if self.back_end.lose(&mut link, &error) {
                    Link::hang_up(link.socket());
                }
                signals.needs_reset();
                Err(error)
            }
        }
    }
}

impl VirtioDevice for VhostUser {
    fn device_type(&self) -> u32 {
        self.device_type
    }

    fn name(&self) -> &str {
        &self.back_end.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn ring_features(&self) -> u64 {
        self.ring_features
    }

    fn shares_events(&self) -> bool {
        true
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_space(&self.back_end.space(), offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        let (back_end, calls) = (Arc::clone(&self.back_end), Arc::clone(&self.calls));
        let make = |context| Ok(BackEndWorker::new(context, back_end, calls));
        self.slot.start(&self.back_end.name, context, make)
    }

    fn reset(&mut self) {
        self.slot.stop();
    }

    fn pause(&mut self) -> bool {
        self.slot.pause()
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        let refuse =
            |why: &str| Err(DeviceError::NoState { device: self.back_end.name.clone(), why: why.to_owned() });
        if self.device_type == VIRTIO_ID_FS {
            return refuse("its back end keeps which files the guest has open and can't hand that over");
        }
        if self.back_end.link().is_lost() {
            return refuse("its back end is gone, and with it how far it was");
        }
        self.slot.save(&self.back_end.name)
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        match self.device_type {
            VIRTIO_ID_FS => Err(DeviceError::NoState {
                device: self.back_end.name.clone(),
                why: "a new back end knows nothing of the files that the guest has open".into(),
            }),
            _ => Ok(()),
        }
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.slot.resume()
    }
}
