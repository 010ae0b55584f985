//! A file in the guest's address space.

use super::PAGE;
use super::backing::{HUGE_PAGE, Reservation, reserve};
use super::space::Slot;
use crate::data_file::{self, Unfit};
use crate::lock::lock;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::Mutex;

/// Why a file can't be mapped for a guest.
#[derive(Debug, thiserror::Error)]
pub enum PmemError {
    /// No file to map, or not open for what the guest may do.
    #[error("it {0}")]
    Unfit(#[from] Unfit),
    /// Nothing to map.
    #[error("it is empty; give it the size that the guest is to see")]
    Empty,
    /// The address space is full.
    #[error("the guest's processors reach no {mib} MiB more; give a smaller file, or take another one out")]
    NoRoom {
        /// Its size.
        mib: u64,
    },
    /// A call failed.
    #[error("it could not be {0}")]
    Io(&'static str, #[source] io::Error),
}

/// A file, mapped shared, and where the guest finds it.
pub struct PmemMapping {
    /// Guest-physical.
    pub start: u64,
    /// In bytes, whole huge pages: the file, then zeroes that belong to no file.
    pub len: u64,
    /// Bytes of the file itself.
    pub file_len: u64,
    /// Whether the guest may not write.
    pub read_only: bool,
    file: File,
    mapped: Mutex<Option<Mapped>>,
}

/// A mapping, and the machine's slot of it if it has one.
struct Mapped {
    host: u64,
    base: usize,
    reserved: usize,
    slot: Option<Slot>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // What KVM holds on to stays mapped.
        if self.slot.as_mut().is_none_or(Slot::empty) {
            // SAFETY: the whole of a reservation of our own, which is in no machine any more, and which nothing of this process refers to.
            unsafe { libc::munmap(self.base as *mut libc::c_void, self.reserved) };
        }
    }
}

/// Bytes of a file. Also of block devices, whose metadata have no length.
fn size_of(mut file: &File) -> Result<u64, PmemError> {
    match file.seek(SeekFrom::End(0)).map_err(|error| PmemError::Io("measured", error))? {
        0 => Err(PmemError::Empty),
        size => Ok(size),
    }
}

fn whole_pages(size: u64) -> Result<u64, PmemError> {
    let too_big = || PmemError::Io("mapped", io::ErrorKind::OutOfMemory.into());
    size.checked_next_multiple_of(HUGE_PAGE as u64).ok_or_else(too_big)
}

impl PmemMapping {
    /// Bytes of address space that `file` takes.
    ///
    /// # Errors
    /// It can't be mapped, is empty, or can't be measured.
    pub fn len_of(file: &File, read_only: bool) -> Result<u64, PmemError> {
        data_file::check(file, read_only)?;
        whole_pages(size_of(file)?)
    }

    /// Maps `file` as a whole for guest-physical `start`, a multiple of 2 MiB. No machine has it yet.
    ///
    /// # Errors
    /// See [`PmemError`].
    pub fn new(start: u64, file: File, read_only: bool) -> Result<Self, PmemError> {
        let file_len = size_of(&file)?;
        let len = whole_pages(file_len)?;
        let failed = |error| PmemError::Io("mapped", error);
        let bytes = |len: u64| usize::try_from(len).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()));
        let (whole, pages) = (bytes(len)?, bytes(file_len.next_multiple_of(PAGE))?);
        let Reservation { base, reserved, start: host } = reserve(whole).map_err(failed)?;
        let mapped = Mapped { host: host as u64, base: base as usize, reserved, slot: None };
        let protection = if read_only { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let shared = libc::MAP_SHARED | libc::MAP_FIXED;
        for (len, flags, fd) in [(whole, anonymous, -1), (pages, shared, file.as_raw_fd())] {
            // SAFETY: both lie inside a reservation that nothing else knows of, and nothing of this process ever reads or writes there.
            if unsafe { libc::mmap(host, len, protection, flags, fd, 0) } == libc::MAP_FAILED {
                return Err(failed(io::Error::last_os_error()));
            }
        }
        Ok(Self { start, len, file_len, read_only, file, mapped: Mutex::new(Some(mapped)) })
    }

    /// Puts it into the machine at its place.
    pub(super) fn in_slot(self, mut slot: Slot) -> Result<Self, PmemError> {
        if let Some(mapped) = lock(&self.mapped).as_mut() {
            // SAFETY: `Mapped` unmaps only after its slot was emptied, and has no references into it.
            unsafe { slot.fill(mapped.host, self.len, self.read_only) }
                .map_err(|error| PmemError::Io("made a part of the machine", error))?;
            mapped.slot = Some(slot);
        }
        Ok(self)
    }

    /// Takes it out of the machine and unmaps it, for a guest that has let go of it: to be called in the VMM thread, because the last who
    /// has the device may be a thread whose filter does not allow it.
    pub fn take_out(&self) {
        drop(lock(&self.mapped).take());
    }

    /// Brings what the guest wrote to the disk.
    ///
    /// # Errors
    /// What fdatasync(2) says.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }
}
