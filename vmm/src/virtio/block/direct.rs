//! O_DIRECT: I/O around the host's page cache, whose addresses, lengths and positions must be multiples of the disk's block.

use crate::virtio::io::set_direct;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vm_memory::VolatileSlice;

/// Blocks that disks have.
const BLOCKS: [u32; 2] = [512, 4096];

/// Switches it on for this open file, and finds out what has to be aligned to what.
///
/// # Errors
/// The file system can't do it.
pub(super) fn switch_on(file: &File) -> io::Result<u32> {
    set_direct(file)?;
    let mut last = io::ErrorKind::Unsupported.into();
    for block in BLOCKS {
        match Bounce::new(block, block)?.probe(file) {
            Ok(()) => return Ok(block),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether ranges of memory can be read to or written from at `position`.
pub(super) fn is_aligned(slices: &[VolatileSlice<'_>], position: u64, block: u32) -> bool {
    let fits = |slice: &VolatileSlice<'_>| {
        let (address, block) = (slice.ptr_guard().as_ptr() as usize, block as usize);
        address.is_multiple_of(block) && slice.len().is_multiple_of(block)
    };
    position.is_multiple_of(block.into()) && slices.iter().all(fits)
}

/// An aligned buffer for a guest whose own are not: drivers of disks with 512-byte blocks seldom come here.
pub(super) struct Bounce {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    /// # Errors
    /// No memory. The length is bounded by what one request may have.
    pub(super) fn new(len: u32, block: u32) -> io::Result<Self> {
        let (len, block) = (len as usize, block as usize);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + block).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        bytes.resize(len + block, 0);
        let start = bytes.as_ptr().align_offset(block).min(block);
        Ok(Self { bytes, start, len })
    }

    fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    fn probe(&mut self, file: &File) -> io::Result<()> {
        file.read_at(self.buffer(), 0).map(drop)
    }

    pub(super) fn read(mut self, file: &File, into: &[VolatileSlice<'_>], at: u64) -> io::Result<()> {
        file.read_exact_at(self.buffer(), at)?;
        let mut rest = &*self.buffer();
        for slice in into {
            let (part, later) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(part);
            rest = later;
        }
        Ok(())
    }

    pub(super) fn write(mut self, file: &File, from: &[VolatileSlice<'_>], at: u64) -> io::Result<()> {
        let mut rest = self.buffer();
        for slice in from {
            let (part, later) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(part);
            rest = later;
        }
        file.write_all_at(self.buffer(), at)
    }
}
