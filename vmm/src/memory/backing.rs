//! What guest memory is made of, and how it goes back to the host.

use super::{GuestMemory, MemoryError, PAGE, Region};
use crate::api::config::HugePages;
use crate::arch::layout;
use rustix::fs::SealFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestRegionMmap};

/// Size of a huge page on x86-64, and so the alignment of guest memory in the host's address space: only
/// where host virtual ≡ guest physical modulo this size can one nested page table entry map all of it.
pub(super) const HUGE_PAGE: usize = 2 << 20;

const MORE_MEMORY: &str = "lower mem_size_mib or raise the memory limit of the process";
const MORE_HUGE_PAGES: &str =
    "the host has too few free huge pages: raise vm.nr_hugepages, or leave huge_pages out";

/// Where the bytes are.
#[derive(Debug, Clone)]
pub enum Backing {
    /// In this process alone.
    Anonymous,
    /// In a memory file, which others can map too.
    Shared(Arc<File>),
    /// In a file until they are written, then in this process.
    PrivateFile(Arc<File>, Holes),
}

/// How often a VM has had pages of its private file taken away, each of which may cut a mapping into three: the kernel lets a process have so
/// many and no more (vm.max_map_count, 65530 unless it was changed), and others need some too. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Holes(Arc<AtomicU32>);

impl Holes {
    /// At most; what a guest offers beyond stays where it is.
    const MOST: u32 = 1 << 14;

    /// Whether there may be one more.
    fn another(&self) -> bool {
        let more = |count| (count < Self::MOST).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// How guest memory is to be made.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Where the bytes are.
    pub backing: Backing,
    /// In which pages.
    pub pages: HugePages,
}

impl Recipe {
    /// In private memory, with transparent huge pages.
    pub const DEFAULT: Self = Self { backing: Backing::Anonymous, pages: HugePages::None };

    /// In a new memory file of `size` bytes, for ever: whoever else maps it could otherwise cut it off, and the next access behind its
    /// new end would kill this process (SIGBUS). To be called before system calls are filtered.
    ///
    /// # Errors
    /// The host has no such memory.
    pub fn shared(size: u64, pages: HugePages) -> Result<Self, MemoryError> {
        let huge = pages == HugePages::TwoMiB;
        let huge_flags = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge_flags;
        let failed = |source| MemoryError::File {
            mib: size >> 20,
            advice: if huge { MORE_HUGE_PAGES } else { MORE_MEMORY },
            source,
        };
        // SAFETY: the name is a literal that ends in NUL.
        let fd = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), flags) };
        if fd < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: it was just opened and is nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size).map_err(failed)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(|error| failed(error.into()))?;
        Ok(Self { backing: Backing::Shared(Arc::new(file)), pages })
    }

    /// Maps `len` bytes from `offset` of the backing's file, if it has one.
    pub(super) fn map(&self, len: usize, offset: u64) -> io::Result<MmapRegion> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let huge = self.pages == HugePages::TwoMiB;
        let (kind, file) = match &self.backing {
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None),
            Backing::Shared(file) => (libc::MAP_SHARED, Some(file)),
            Backing::PrivateFile(file, _) => (libc::MAP_PRIVATE, Some(file)),
        };
        let flags = match (&self.backing, huge) {
            (Backing::Anonymous, true) => kind | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
            // Of huge pages that are not set aside now, the first that lacks would kill the process.
            (_, true) => kind,
            (_, false) => kind | libc::MAP_NORESERVE,
        };
        let start = reserve(len)?.start;
        let (fd, at) = file.map_or((-1, 0), |file| (file.as_raw_fd(), offset.cast_signed()));
        // SAFETY: `[start, start + len)` lies inside a reservation that nothing else knows of.
        let mapped = unsafe { libc::mmap(start, len, protection, flags | libc::MAP_FIXED, fd, at) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
            // A host without huge pages is slower, not wrong: the result does not matter.
            // SAFETY: the range was mapped above, and no advice of these changes its contents.
            unsafe { libc::madvise(start, len, advice) };
        }
        // SAFETY: the mapping is `len` bytes long and is never unmapped.
        let mut builder = unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(start.cast()) };
        if let Some(file) = file {
            builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), offset));
        }
        builder
            .with_mmap_prot(protection)
            .with_mmap_flags(flags)
            .with_hugetlbfs(huge)
            .build()
            .map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Address space that nothing else gets, inaccessible until it is mapped over.
pub(super) struct Reservation {
    /// Where it begins.
    pub base: *mut libc::c_void,
    /// Bytes of all of it.
    pub reserved: usize,
    /// The part that was asked for.
    pub start: *mut libc::c_void,
}

/// Reserves `len` bytes at a multiple of 2 MiB, with inaccessible pages before and behind as a guard.
pub(super) fn reserve(len: usize) -> io::Result<Reservation> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // Two huge pages more than needed: what alignment leaves over is the guard.
    let reserved = len.checked_add(2 * HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = (base as usize + 1).next_multiple_of(HUGE_PAGE) as *mut libc::c_void;
    Ok(Reservation { base, reserved, start })
}

/// Whether `file` holds a memory of `size` bytes.
///
/// # Errors
/// It is shorter, or can't be measured.
pub fn check_length(file: &File, size: u64) -> Result<(), MemoryError> {
    let have = file.metadata().map_err(|source| MemoryError::Read { offset: 0, source })?.len();
    if have < size { Err(MemoryError::FileTooShort { have, need: size }) } else { Ok(()) }
}

/// Makes `size` bytes of RAM as [`layout::ram`] lays it out; in a backing's file they follow each other without a gap.
///
/// The memory is never unmapped: one process is one VM, and devices may use it until the process ends.
///
/// # Errors
/// The host has no such memory, or the file is too short.
pub fn allocate(size: u64, recipe: &Recipe) -> Result<GuestMemory, MemoryError> {
    if let Backing::PrivateFile(file, _) = &recipe.backing {
        check_length(file, size)?;
    }
    let mut offset = 0;
    let mut regions = Vec::new();
    for (start, bytes) in layout::ram(size) {
        let len = usize::try_from(bytes).expect("this crate is for 64-bit hosts only");
        let mapping = recipe.map(len, offset).map_err(|source| MemoryError::Reserve {
            mib: len >> 20,
            advice: if recipe.pages == HugePages::TwoMiB { MORE_HUGE_PAGES } else { MORE_MEMORY },
            source,
        })?;
        regions.push(Region::ram(GuestRegionMmap::new(mapping, start).expect("layout::ram does not wrap")));
        offset += bytes;
    }
    GuestMemory::from_regions(regions).map_err(MemoryError::Assemble)
}

/// The whole pages of `page` bytes among `len` bytes from `first`: where they begin, and how many bytes they are.
fn whole_pages(first: usize, len: usize, page: usize) -> Option<(usize, usize)> {
    let start = first.checked_next_multiple_of(page)?;
    let end = (first + len) / page * page;
    (start < end).then(|| (start, end - start))
}

/// Gives whole pages of guest memory back to the host, if it can take them; what the guest reads there afterwards is zero, or what was
/// there before. A part of a page at either end stays, and pages of hugetlbfs are 2 MiB. How many bytes that were.
///
/// `host` is a range of guest memory in this process that nobody holds a Rust reference into: guest memory is only ever reached through
/// volatile accesses.
///
/// # Errors
/// The host keeps them, such as pages of a private file that was cut up too often.
pub fn discard(host: &vm_memory::VolatileSlice<'_>, recipe: &Recipe) -> io::Result<u64> {
    let first = host.ptr_guard_mut().as_ptr() as usize;
    // Not left to the kernel: from 5.18 until 6.1 MADV_DONTNEED took the rest of a huge page along, and since then says that all went well.
    let page = if recipe.pages == HugePages::TwoMiB { HUGE_PAGE } else { PAGE as usize };
    let Some((start, len)) = whole_pages(first, host.len(), page) else { return Ok(0) };
    let address = start as *mut libc::c_void;
    let taken = match &recipe.backing {
        // SAFETY: the range is guest memory, which may be read as zeroes at any time: the guest said that it does not need it.
        Backing::Anonymous => unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) == 0 },
        // SAFETY: as above; the hole is in a file of this VM's own.
        Backing::Shared(_) => unsafe { libc::madvise(address, len, libc::MADV_REMOVE) == 0 },
        // The file's old contents must not come back: a guest that wipes pages before it gives them away would find them there.
        Backing::PrivateFile(_, holes) if !holes.another() => {
            return Err(io::Error::other("the memory's file has been cut up too often"));
        }
        // SAFETY: as above; private anonymous memory takes the place of private memory.
        Backing::PrivateFile(..) => unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            let mapped = libc::mmap(address, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            // As the rest of guest memory; the result does not matter.
            libc::madvise(address, len, libc::MADV_DONTDUMP);
            mapped != libc::MAP_FAILED
        },
    };
    if taken { Ok(len as u64) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_go_back() {
        let huge = |first, len| whole_pages(first, len, HUGE_PAGE);
        assert_eq!(huge(HUGE_PAGE, 4096), None, "the first of a huge page's");
        assert_eq!(huge(HUGE_PAGE - 4096, HUGE_PAGE), None, "parts of two");
        assert_eq!(huge(HUGE_PAGE - 4096, HUGE_PAGE + 8192), Some((HUGE_PAGE, HUGE_PAGE)));
        assert_eq!(huge(HUGE_PAGE, 3 * HUGE_PAGE + 5), Some((HUGE_PAGE, 3 * HUGE_PAGE)));
        assert_eq!(whole_pages(4096, 4096, 4096), Some((4096, 4096)));
        assert_eq!(whole_pages(1, 4096, 4096), None);
        assert_eq!(whole_pages(usize::MAX - 4096, 4000, HUGE_PAGE), None);
    }
}
