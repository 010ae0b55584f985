//! Guest memory: anonymous, private, aligned for transparent huge pages; and files read or mapped into it.
//!
//! One of the crate's few modules with `unsafe`: it maps memory and hands addresses to system calls.

use crate::arch::layout;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};

/// Size of a transparent huge page on x86-64, and so the alignment of guest memory in the host's address space: only
/// where host virtual ≡ guest physical modulo this size can one nested page table entry map all of it.
const HUGE_PAGE: usize = 2 << 20;
/// Page size of the host and of the guest.
pub const PAGE: u64 = 4096;

/// Why guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// mmap refused.
    #[error(
        "could not reserve {mib} MiB for guest memory; lower mem_size_mib or raise the memory limit of the process"
    )]
    Reserve {
        /// Size of the part that was refused.
        mib: usize,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The regions don't form a guest memory.
    #[error("could not assemble guest memory")]
    Assemble(#[source] vm_memory::GuestRegionCollectionError),
    /// A destination is not RAM.
    #[error("guest-physical {start:#x} to {end:#x} is not RAM")]
    NotRam {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
    },
    /// A read or map failed.
    #[error("reading failed at byte {offset}")]
    Read {
        /// Offset in the file.
        offset: u64,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The file ended early.
    #[error("the file ends at byte {0}, in the middle of what its header promises: is it truncated?")]
    Truncated(u64),
}

/// Makes `size` bytes of RAM as [`layout::ram`] lays it out.
///
/// The memory is never unmapped: one process is one VM, and devices may use it until the process ends.
pub fn allocate(size: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let regions = layout::ram(size)
        .into_iter()
        .map(|(start, len)| {
            let len = usize::try_from(len).expect("this crate is for 64-bit hosts only");
            let mapping =
                map_aligned(len).map_err(|source| MemoryError::Reserve { mib: len >> 20, source })?;
            Ok(GuestRegionMmap::new(mapping, start).expect("layout::ram does not wrap"))
        })
        .collect::<Result<Vec<_>, MemoryError>>()?;
    GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Assemble)
}

fn map_aligned(len: usize) -> io::Result<MmapRegion> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // Two huge pages more than needed: what alignment leaves over stays inaccessible, as a guard before and behind.
    let reserved = len.checked_add(2 * HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let aligned = (base as usize + 1).next_multiple_of(HUGE_PAGE) as *mut libc::c_void;
    // SAFETY: `aligned + len` lies inside the reservation made above, which nothing else knows of.
    let start = unsafe { libc::mmap(aligned, len, protection, flags | libc::MAP_FIXED, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
        // A host without huge pages is slower, not wrong: the result does not matter.
        // SAFETY: the range was mapped above, and neither advice changes its contents.
        unsafe { libc::madvise(start, len, advice) };
    }
    // SAFETY: the mapping is `len` bytes long and is never unmapped.
    let builder = unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(start.cast()) };
    builder
        .with_mmap_prot(protection)
        .with_mmap_flags(flags)
        .build()
        .map_err(|error| io::Error::other(error.to_string()))
}

/// The host address of `[start, start + len)`, if all of it is RAM of one region.
fn host_range(memory: &GuestMemoryMmap, start: u64, len: usize) -> Result<*mut u8, MemoryError> {
    let not_ram = || MemoryError::NotRam { start, end: start.saturating_add(len as u64) };
    let slice = memory.get_slice(GuestAddress(start), len).map_err(|_| not_ram())?;
    Ok(slice.ptr_guard_mut().as_ptr())
}

/// Reads `len` bytes at `offset` of `file` to guest-physical `start`, whatever the file's position is: other processes
/// may share it.
pub fn read_into(
    memory: &GuestMemoryMmap,
    file: &File,
    offset: u64,
    start: u64,
    len: usize,
) -> Result<(), MemoryError> {
    let host = host_range(memory, start, len)?;
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        // SAFETY: `host` is valid for `len` bytes, of which `done` are filled. The guest does not run yet or races only
        // with itself: the kernel writes plain bytes and nobody holds a reference to them.
        let result =
            unsafe { libc::pread64(file.as_raw_fd(), host.add(done).cast(), len - done, at.cast_signed()) };
        match usize::try_from(result) {
            Ok(0) => return Err(MemoryError::Truncated(at)),
            Ok(read) => done += read,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                source => return Err(MemoryError::Read { offset: at, source }),
            },
        }
    }
    Ok(())
}

/// Maps `len` bytes at `offset` of `file` privately to guest-physical `start`; all three are multiples of [`PAGE`].
pub fn map_into(
    memory: &GuestMemoryMmap,
    file: &File,
    offset: u64,
    start: u64,
    len: usize,
) -> Result<(), MemoryError> {
    let host = host_range(memory, start, len)?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
    // SAFETY: the range is guest memory, which nobody holds a reference into; private pages replace anonymous ones.
    let result =
        unsafe { libc::mmap(host.cast(), len, protection, flags, file.as_raw_fd(), offset.cast_signed()) };
    if result == libc::MAP_FAILED {
        return Err(MemoryError::Read { offset, source: io::Error::last_os_error() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::{Bytes, GuestMemoryRegion};

    #[test]
    fn host_addresses_are_congruent_to_guest_addresses_modulo_a_huge_page() {
        let memory = allocate((3 << 30) + (5 << 20)).unwrap();
        assert_eq!(memory.iter().count(), 2);
        for region in memory.iter() {
            let host = memory.get_host_address(region.start_addr()).unwrap() as usize;
            assert_eq!(host % HUGE_PAGE, region.start_addr().0 as usize % HUGE_PAGE);
        }
    }

    #[test]
    fn files_arrive_where_they_were_sent_read_or_mapped() {
        let memory = allocate(4 << 20).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..3 * PAGE).map(|n| (n % 251) as u8).collect();
        file.write_all(&data).unwrap();
        read_into(&memory, &file, 5, 0x10_0003, 5000).unwrap();
        map_into(&memory, &file, PAGE, 0x20_0000, PAGE as usize).unwrap();
        let mut seen = vec![0; 5000];
        memory.read_slice(&mut seen, GuestAddress(0x10_0003)).unwrap();
        assert_eq!(seen, data[5..5005]);
        memory.read_slice(&mut seen[..4096], GuestAddress(0x20_0000)).unwrap();
        assert_eq!(seen[..4096], data[4096..8192]);
    }

    #[test]
    fn a_short_file_and_a_destination_outside_ram_are_errors() {
        let memory = allocate(4 << 20).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        assert!(matches!(read_into(&memory, &file, 0, 0, 101), Err(MemoryError::Truncated(100))));
        assert!(matches!(read_into(&memory, &file, 0, (4 << 20) - 10, 11), Err(MemoryError::NotRam { .. })));
        assert!(matches!(read_into(&memory, &file, 0, u64::MAX, 2), Err(MemoryError::NotRam { .. })));
    }
}
