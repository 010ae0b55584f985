//! A file in the guest's address space.

use super::PAGE;
use super::backing::{HUGE_PAGE, reserve_aligned};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;

/// Why a file can't be mapped for a guest.
#[derive(Debug, thiserror::Error)]
pub enum PmemError {
    /// Nothing to map.
    #[error("it is empty; give it the size that the guest is to see")]
    Empty,
    /// A call failed.
    #[error("it could not be {0}")]
    Io(&'static str, #[source] io::Error),
}

/// A file, mapped shared, and where the guest finds it. It is never unmapped: one process is one VM.
#[derive(Debug)]
pub struct PmemMapping {
    /// Guest-physical.
    pub start: u64,
    /// In bytes, whole huge pages: the file, then zeroes that belong to no file.
    pub len: u64,
    /// Whether the guest may not write.
    pub read_only: bool,
    host: usize,
    file: File,
}

impl PmemMapping {
    /// Maps `file` as a whole for guest-physical `start`, a multiple of 2 MiB.
    ///
    /// # Errors
    /// See [`PmemError`].
    pub fn new(start: u64, mut file: File, read_only: bool) -> Result<Self, PmemError> {
        // Of block devices too, whose metadata have no length.
        let size = file.seek(SeekFrom::End(0)).map_err(|error| PmemError::Io("measured", error))?;
        if size == 0 {
            return Err(PmemError::Empty);
        }
        let mapped = |error| PmemError::Io("mapped", error);
        let too_big = || mapped(io::ErrorKind::OutOfMemory.into());
        let len = size.checked_next_multiple_of(HUGE_PAGE as u64).ok_or_else(too_big)?;
        let whole = usize::try_from(len).map_err(|_| too_big())?;
        let pages = usize::try_from(size.next_multiple_of(PAGE)).map_err(|_| too_big())?;
        let host = reserve_aligned(whole).map_err(mapped)?;
        let protection = if read_only { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let shared = libc::MAP_SHARED | libc::MAP_FIXED;
        for (len, flags, fd) in [(whole, anonymous, -1), (pages, shared, file.as_raw_fd())] {
            // SAFETY: both lie inside a reservation that nothing else knows of, and nothing of this process ever reads or writes there.
            if unsafe { libc::mmap(host, len, protection, flags, fd, 0) } == libc::MAP_FAILED {
                return Err(mapped(io::Error::last_os_error()));
            }
        }
        Ok(Self { start, len, read_only, host: host as usize, file })
    }

    /// Where it is in this process, for a memory slot.
    pub fn host(&self) -> u64 {
        self.host as u64
    }

    /// Brings what the guest wrote to the disk.
    ///
    /// # Errors
    /// What fdatasync(2) says.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }
}
