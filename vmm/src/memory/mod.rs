//! Guest memory: what it is made of, how it is given back, and files read or mapped into it.
//!
//! One of the crate's few modules with `unsafe`: it maps memory and hands addresses to system calls.

mod backing;
mod files;
mod hotplug;
mod pmem;
mod region;
mod space;

pub use backing::{Backing, Holes, Recipe, allocate, check_length, discard};
pub use files::{map_into, read_into};
pub use hotplug::{KvmSlots, Slots, behind, extend};
pub use pmem::{PmemError, PmemMapping};
pub use region::{Blocks, GuestMemory, Region, scratch};
pub use space::Space;

use std::io;

/// Page size of the host and of the guest.
pub const PAGE: u64 = 4096;

/// Why guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// mmap refused.
    #[error("could not reserve {mib} MiB for guest memory; {advice}")]
    Reserve {
        /// Size of the part that was refused.
        mib: usize,
        /// What to do.
        advice: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The file of [`Backing::PrivateFile`] is no memory of this size.
    #[error(
        "the file for guest memory has {have} bytes, and mem_size_mib asks for {need}; give a whole one or lower mem_size_mib"
    )]
    FileTooShort {
        /// Its length.
        have: u64,
        /// Bytes of RAM.
        need: u64,
    },
    /// A memory file could not be made.
    #[error("could not make a memory file of {mib} MiB; {advice}")]
    File {
        /// Its size.
        mib: u64,
        /// What to do.
        advice: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// The address space is full.
    #[error("the guest's processors reach no {mib} MiB more; lower total_size_mib or mem_size_mib")]
    NoRoom {
        /// Size of the part that has no place.
        mib: u64,
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

#[cfg(test)]
mod tests {
    use super::backing::HUGE_PAGE;
    use super::*;
    use crate::api::config::HugePages;
    use std::fs::File;
    use std::io::Write;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

    fn anonymous(size: u64) -> GuestMemory {
        allocate(size, &Recipe::DEFAULT).unwrap()
    }

    #[test]
    fn host_addresses_are_congruent_to_guest_addresses_modulo_a_huge_page() {
        let memory = anonymous((3 << 30) + (5 << 20));
        assert_eq!(memory.iter().count(), 2);
        for region in memory.iter() {
            let host = memory.get_host_address(region.start_addr()).unwrap() as usize;
            assert_eq!(host % HUGE_PAGE, region.start_addr().0 as usize % HUGE_PAGE);
        }
    }

    #[test]
    fn files_arrive_where_they_were_sent_read_or_mapped() {
        let memory = anonymous(4 << 20);
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
        let memory = anonymous(4 << 20);
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        assert!(matches!(read_into(&memory, &file, 0, 0, 101), Err(MemoryError::Truncated(100))));
        assert!(matches!(read_into(&memory, &file, 0, (4 << 20) - 10, 11), Err(MemoryError::NotRam { .. })));
        assert!(matches!(read_into(&memory, &file, 0, u64::MAX, 2), Err(MemoryError::NotRam { .. })));
    }

    fn read(memory: &GuestMemory, address: u64) -> u64 {
        memory.read_obj(GuestAddress(address)).unwrap()
    }

    /// A file of `size` bytes that begins with 7.
    fn file(size: u64) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&7u64.to_le_bytes()).unwrap();
        file.set_len(size).unwrap();
        Arc::new(file)
    }

    #[test]
    fn what_is_given_back_reads_as_zero_whatever_the_backing() {
        for recipe in [
            Recipe::DEFAULT,
            Recipe::shared(4 << 20, HugePages::None).unwrap(),
            Recipe { backing: Backing::PrivateFile(file(4 << 20), Holes::default()), pages: HugePages::None },
        ] {
            let memory = allocate(4 << 20, &recipe).unwrap();
            for address in [0, PAGE, 2 * PAGE, 3 * PAGE] {
                memory.write_obj(5u64, GuestAddress(address)).unwrap();
            }
            // From the middle of one page to the middle of another: only what lies between them goes.
            let range = memory.get_slice(GuestAddress(8), 3 * PAGE as usize).unwrap();
            discard(&range, &recipe).unwrap();
            let left = [0, 1, 2, 3].map(|page| read(&memory, page * PAGE));
            assert_eq!(left, [5, 0, 0, 5], "{recipe:?}");
            memory.write_obj(6u64, GuestAddress(PAGE)).unwrap();
            assert_eq!(read(&memory, PAGE), 6);
        }
    }

    #[test]
    fn a_guest_does_not_cut_its_private_file_up_without_end() {
        let (size, backing) = (256 << 20, Backing::PrivateFile(file(256 << 20), Holes::default()));
        let recipe = Recipe { backing, pages: HugePages::None };
        let memory = allocate(size, &recipe).unwrap();
        let every_second = (0..size / PAGE).step_by(2).map(|page| GuestAddress(page * PAGE));
        let taken = every_second.filter(|page| {
            let page = memory.get_slice(*page, PAGE as usize).unwrap();
            discard(&page, &recipe).is_ok()
        });
        assert_eq!(taken.count(), 1 << 14);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.lines().count() < 40_000, "others have room");
    }

    #[test]
    fn whoever_shares_a_memory_file_can_not_cut_it_off() {
        let recipe = Recipe::shared(4 << 20, HugePages::None).unwrap();
        let Backing::Shared(file) = &recipe.backing else { panic!("it is shared") };
        for len in [0, PAGE, 8 << 20] {
            assert_eq!(file.set_len(len).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
        let more = rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::FUTURE_WRITE);
        assert_eq!(more, Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn shared_memory_is_the_files_and_a_private_file_stays_as_it_is() {
        let recipe = Recipe::shared(4 << 20, HugePages::None).unwrap();
        let Backing::Shared(shared) = &recipe.backing else { panic!("it is shared") };
        let (one, other) = (allocate(4 << 20, &recipe).unwrap(), allocate(4 << 20, &recipe).unwrap());
        one.write_obj(9u64, GuestAddress(PAGE)).unwrap();
        assert_eq!(read(&other, PAGE), 9);
        assert_eq!(one.iter().next().unwrap().file_offset().unwrap().start(), 0);
        assert_eq!(shared.metadata().unwrap().len(), 4 << 20);

        let contents = file(4 << 20);
        let recipe =
            Recipe { backing: Backing::PrivateFile(contents, Holes::default()), pages: HugePages::None };
        let (one, other) = (allocate(4 << 20, &recipe).unwrap(), allocate(4 << 20, &recipe).unwrap());
        one.write_obj(8u64, GuestAddress(0)).unwrap();
        assert_eq!((read(&one, 0), read(&other, 0)), (8, 7));
        assert!(matches!(allocate(8 << 20, &recipe), Err(MemoryError::FileTooShort { .. })));
    }

    #[test]
    fn huge_pages_that_the_host_lacks_are_missed_at_once() {
        let recipe = Recipe { pages: HugePages::TwoMiB, ..Recipe::DEFAULT };
        // More than any host has set aside.
        let error = allocate(1 << 40, &recipe).unwrap_err();
        assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
    }
}
