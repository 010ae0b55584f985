//! A drive from outside: its files, its limit, its counters, while the guest runs.

use super::disk::Disk;
use super::{BlockConfigError, BlockMetrics, Lane, SECTOR};
use crate::api::control::MAX_FILES;
use crate::lock::lock;
use crate::virtio::Signals;
use crate::virtio::limiter::Throttle;
use crate::virtio::patience::Patience;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The disk that a device has now. A worker takes it for one batch and no longer, so a disk that was exchanged is closed as
/// soon as that is over.
pub(super) struct Slot(Mutex<Arc<Disk>>);

impl Slot {
    pub(super) fn new(disk: Disk) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(disk))))
    }

    pub(super) fn disk(&self) -> Arc<Disk> {
        Arc::clone(&lock(&self.0))
    }

    pub(super) fn exchange(&self, disk: Disk) -> Arc<Disk> {
        let mut slot = lock(&self.0);
        std::mem::replace(&mut slot, Arc::new(disk))
    }
}

/// How long an exchange of files waits for what is under way. The VMM's thread serves nothing else meanwhile; a queueful takes a rotating
/// disk little more than a second.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(2) };

/// What may be done to a drive. Its calls belong to one thread; they wait for the disk, for two seconds at most, never for the guest.
pub struct Tray {
    pub(super) id: String,
    pub(super) read_only: bool,
    pub(super) removable: bool,
    pub(super) direct: bool,
    pub(super) block: u32,
    pub(super) slot: Arc<Slot>,
    pub(super) lanes: Vec<Lane>,
    pub(super) throttle: Arc<Throttle>,
    pub(super) metrics: Arc<BlockMetrics>,
}

impl Tray {
    /// Name of the drive.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its rate limiter.
    pub fn limit(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BlockMetrics> {
        &self.metrics
    }

    /// All figures by name.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let throttled = ("rate_limiter_throttled_events", self.throttle.throttled());
        self.metrics.figures().into_iter().chain([throttled]).collect()
    }

    /// Puts a medium into a removable drive and tells the driver through `interrupt`.
    ///
    /// # Errors
    /// There is one already, the files make none, or [`BlockConfigError::Busy`]; the drive is as it was then.
    pub fn insert(&self, files: Vec<File>, interrupt: &Signals) -> Result<(), BlockConfigError> {
        if !self.removable {
            return Err(BlockConfigError::NotRemovable(self.id.clone()));
        }
        if self.slot.disk().has_medium() {
            return Err(BlockConfigError::Present(self.id.clone()));
        }
        self.exchange(self.medium(files)?, interrupt)
    }

    /// Puts a medium into a removable drive, in the place of what is there. The driver is told of both.
    ///
    /// # Errors
    /// The files make none, or [`BlockConfigError::Busy`]; the drive is as it was then.
    pub fn swap(&self, files: Vec<File>, interrupt: &Signals) -> Result<(), BlockConfigError> {
        let medium = self.medium(files)?;
        if !self.removable {
            return Err(BlockConfigError::NotRemovable(self.id.clone()));
        }
        match self.slot.disk().has_medium() {
            true => self.exchange_all([Disk::without_medium(self.read_only), medium], interrupt),
            false => self.exchange(medium, interrupt),
        }
    }

    /// A disk of these files that is no empty tray.
    fn medium(&self, files: Vec<File>) -> Result<Disk, BlockConfigError> {
        let disk = self.disk(files)?;
        if disk.len() < SECTOR {
            return Err(BlockConfigError::Empty(self.id.clone()));
        }
        Ok(disk)
    }

    /// Takes the medium out, if there is one, and tells the driver through `interrupt`. When this returns no request reaches it.
    ///
    /// # Errors
    /// It is not a removable drive, or the disk does not answer what is under way; the drive is as it was then.
    pub fn eject(&self, interrupt: &Signals) -> Result<(), BlockConfigError> {
        if !self.removable {
            return Err(BlockConfigError::NotRemovable(self.id.clone()));
        }
        if self.slot.disk().has_medium() {
            self.exchange(Disk::without_medium(self.read_only), interrupt)?;
        }
        Ok(())
    }

    /// Puts other files in the place of those of a drive that is not removable, and tells the driver through `interrupt`. When this
    /// returns no request reaches the old ones.
    ///
    /// # Errors
    /// The files make no disk, or [`BlockConfigError::Busy`]; the drive is as it was then.
    pub fn replace(&self, files: Vec<File>, interrupt: &Signals) -> Result<(), BlockConfigError> {
        let result = self.try_replace(files, interrupt);
        self.metrics.updated(result.is_ok());
        result
    }

    fn try_replace(&self, files: Vec<File>, interrupt: &Signals) -> Result<(), BlockConfigError> {
        if self.removable {
            return Err(BlockConfigError::Removable(self.id.clone()));
        }
        self.exchange(self.disk(files)?, interrupt)
    }

    /// Looks how long the drive's files are by now, and tells the driver.
    ///
    /// # Errors
    /// They make no disk any more, or [`BlockConfigError::Busy`]; the drive is as it was then.
    pub fn measure(&self, interrupt: &Signals) -> Result<(), BlockConfigError> {
        let files = self.slot.disk().copies();
        let failed = |source| BlockConfigError::Io { id: self.id.clone(), index: 0, source };
        self.replace(files.map_err(failed)?, interrupt)
    }

    /// A disk of these files, if they make one for this drive.
    fn disk(&self, files: Vec<File>) -> Result<Disk, BlockConfigError> {
        let id = || self.id.clone();
        let most = if self.read_only { MAX_FILES } else { 1 };
        if files.is_empty() || files.len() > most {
            return Err(BlockConfigError::Count { id: id(), count: files.len(), most });
        }
        let disk = Disk::new(&self.id, files, self.read_only, self.direct)?;
        // The guest reads it once, when its driver starts.
        if disk.block() > self.block {
            return Err(BlockConfigError::Block { id: id(), old: self.block, new: disk.block() });
        }
        Ok(disk)
    }

    /// Once nothing is under way: what began before goes to the files that were there then.
    fn exchange(&self, disk: Disk, interrupt: &Signals) -> Result<(), BlockConfigError> {
        self.exchange_all([disk], interrupt)
    }

    /// The same for several in turn, of each of which the driver is told: all or none.
    fn exchange_all<const N: usize>(
        &self,
        disks: [Disk; N],
        interrupt: &Signals,
    ) -> Result<(), BlockConfigError> {
        // All of them first: none begins anything new while another finishes.
        self.lanes.iter().for_each(|lane| lane.worker.hold());
        let patience = Patience::Until(Instant::now() + PATIENCE);
        let still: Option<Vec<_>> = self.lanes.iter().map(|lane| lane.worker.still(patience)).collect();
        let settled = still.map(|mut still| {
            for disk in disks {
                interrupt.change_config(|| self.slot.exchange(disk));
            }
            self.lanes.iter().zip(&mut still).for_each(|(lane, still)| lane.change(still, &self.slot));
        });
        self.lanes.iter().for_each(|lane| lane.worker.let_go());
        settled.ok_or_else(|| BlockConfigError::Busy { id: self.id.clone(), limit: PATIENCE })
    }
}
