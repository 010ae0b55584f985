//! A removable drive from outside: media go in and out while the guest runs.

use super::disk::Disk;
use super::{BlockConfigError, SECTOR};
use crate::virtio::Signals;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::sync::{Arc, Mutex, PoisonError};

/// The disk that a device has now. A worker takes it for one batch and no longer, so a disk that was exchanged is closed as
/// soon as that is over.
pub(super) struct Slot(Mutex<Arc<Disk>>);

impl Slot {
    pub(super) fn new(disk: Disk) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(disk))))
    }

    pub(super) fn disk(&self) -> Arc<Disk> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn exchange(&self, disk: Disk) -> Arc<Disk> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut slot, Arc::new(disk))
    }
}

/// What may be done to a removable drive. Its calls belong to one thread.
pub struct Tray {
    id: String,
    read_only: bool,
    slot: Arc<Slot>,
    files: usize,
}

impl Tray {
    /// `files` is how many make a medium at most, if the guest may not write; else there is one.
    pub(super) fn new(id: String, read_only: bool, slot: Arc<Slot>, files: usize) -> Self {
        Self { id, read_only, slot, files: if read_only { files } else { 1 } }
    }

    /// Puts a medium in and tells the driver through `interrupt`.
    ///
    /// # Errors
    /// There is one already, or the files make none; the drive is as it was then.
    pub fn insert(&self, files: Vec<File>, interrupt: &Signals) -> Result<(), BlockConfigError> {
        let id = || self.id.clone();
        if self.slot.disk().has_medium() {
            return Err(BlockConfigError::Present(id()));
        }
        if files.is_empty() || files.len() > self.files {
            return Err(BlockConfigError::Count { id: id(), count: files.len(), most: self.files });
        }
        for (index, file) in files.iter().enumerate() {
            let metadata =
                file.metadata().map_err(|source| BlockConfigError::Io { id: id(), index, source })?;
            if !metadata.is_file() && !metadata.file_type().is_block_device() {
                return Err(BlockConfigError::NotData { id: id(), index });
            }
        }
        let disk = Disk::new(&self.id, files, self.read_only)?;
        if disk.len() < SECTOR {
            return Err(BlockConfigError::Empty(id()));
        }
        interrupt.change_config(|| self.slot.exchange(disk));
        Ok(())
    }

    /// Takes the medium out, if there is one, and tells the driver through `interrupt`.
    pub fn eject(&self, interrupt: &Signals) {
        if self.slot.disk().has_medium() {
            interrupt.change_config(|| self.slot.exchange(Disk::without_medium(self.read_only)));
        }
    }
}
