//! Regions of guest memory, of which one may have parts that nobody is to reach.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestRegionMmap, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

/// The guest's memory; clones are cheap and share it. Devices reach nothing of it but through [`Region::get_slice`].
pub type GuestMemory = GuestRegionCollection<Region>;

/// Which blocks of hot-pluggable memory are plugged in.
#[derive(Debug)]
pub struct Blocks {
    size: u64,
    plugged: Vec<AtomicBool>,
}

impl Blocks {
    /// `len` bytes in blocks of `size`, none of which is plugged in.
    pub fn new(len: u64, size: u64) -> Arc<Self> {
        let plugged = (0..len / size).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self { size, plugged })
    }

    /// Lets devices reach these, or no longer. What they have under way they go on with.
    pub fn set(&self, blocks: Range<usize>, plugged: bool) {
        let known = self.plugged.get(blocks).unwrap_or_default();
        known.iter().for_each(|block| block.store(plugged, Ordering::Relaxed));
    }

    /// Whether all that lies in `count` bytes from `offset` on is plugged in.
    fn has(&self, offset: u64, count: usize) -> bool {
        let Some(end) = offset.checked_add(count as u64) else { return false };
        let (first, end) = (offset / self.size, end.div_ceil(self.size));
        let blocks = usize::try_from(first).and_then(|first| Ok(first..usize::try_from(end)?));
        let blocks = blocks.ok().and_then(|blocks| self.plugged.get(blocks));
        blocks.is_some_and(|blocks| blocks.iter().all(|block| block.load(Ordering::Relaxed)))
    }
}

/// A region: RAM, or memory that is plugged in by blocks.
#[derive(Debug)]
pub struct Region {
    mapping: GuestRegionMmap,
    blocks: Option<Arc<Blocks>>,
}

impl Region {
    /// Memory that is there.
    pub fn ram(mapping: GuestRegionMmap) -> Self {
        Self { mapping, blocks: None }
    }

    /// Memory that is there where it is plugged in.
    pub fn pluggable(mapping: GuestRegionMmap, blocks: Arc<Blocks>) -> Self {
        Self { mapping, blocks: Some(blocks) }
    }

    /// All of it, for those who don't do what a guest says.
    pub fn mapping(&self) -> &GuestRegionMmap {
        &self.mapping
    }
}

/// `len` bytes at guest-physical 0, of a file or not, which are unmapped with the last clone: for tools and tests. A VM's memory is
/// [allocated](super::allocate).
///
/// # Errors
/// The host has no such memory.
pub fn scratch(
    len: usize,
    file: Option<FileOffset>,
) -> Result<GuestMemory, vm_memory::mmap::FromRangesError> {
    let mapping = GuestRegionMmap::from_range(GuestAddress(0), len, file)?;
    Ok(GuestMemory::from_regions(vec![Region::ram(mapping)])?)
}

impl GuestMemoryRegion for Region {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.mapping.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.mapping.start_addr()
    }

    fn bitmap(&self) {}

    /// Where it is in this process, whether it is plugged in or not.
    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        self.mapping.get_host_address(address)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.mapping.file_offset()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        match &self.blocks {
            Some(blocks) if !blocks.has(offset.raw_value(), count) => {
                Err(GuestMemoryError::InvalidBackendAddress)
            }
            _ => self.mapping.get_slice(offset, count),
        }
    }

    fn is_hugetlbfs(&self) -> Option<bool> {
        self.mapping.is_hugetlbfs()
    }
}

impl GuestMemoryRegionBytes for Region {}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn what_is_not_plugged_in_is_out_of_reach() {
        const BLOCK: u64 = 1 << 20;
        let mapping = GuestRegionMmap::from_range(GuestAddress(BLOCK), 4 << 20, None).unwrap();
        let blocks = Blocks::new(4 * BLOCK, BLOCK);
        let region = Region::pluggable(mapping, Arc::clone(&blocks));
        let memory = GuestMemory::from_regions(vec![region]).unwrap();
        let reached = |address, len| memory.check_range(GuestAddress(address), len);
        assert!((1..5).all(|block| !reached(block * BLOCK, 1)));
        assert!(memory.write_obj(7u64, GuestAddress(BLOCK)).is_err());
        blocks.set(1..3, true);
        assert!(
            reached(2 * BLOCK, 2 << 20) && !reached(2 * BLOCK, (2 << 20) + 1) && !reached(2 * BLOCK - 1, 2)
        );
        memory.write_obj(7u64, GuestAddress(2 * BLOCK)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(2 * BLOCK)).unwrap(), 7);
        blocks.set(1..2, false);
        assert!(!reached(2 * BLOCK, 1) && reached(3 * BLOCK, 1 << 20));
        // None of these are there at all.
        blocks.set(3..9, true);
        assert!(!reached(4 * BLOCK, 1) && !reached(u64::MAX - 4, 4) && !reached(5 * BLOCK, 1));
        assert!(memory.get_host_address(GuestAddress(4 * BLOCK)).is_ok());
    }
}
