//! The guest's physical address space behind RAM: files and memory that may be plugged in have places there, and KVM memory slots, that nothing
//! else gets as long as they have them.

use super::{GuestMemory, MemoryError, PmemError, PmemMapping, behind};
use crate::lock::lock;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use vm_memory::GuestMemoryBackend;

/// Linux adds memory in pieces of 128 MiB.
const PMEM_ALIGNMENT: u64 = 128 << 20;
/// The largest piece in which Linux adds memory that it may take for its own.
const HOTPLUG_ALIGNMENT: u64 = 2 << 30;
/// Linux' bound with page tables of four levels (MAX_PHYSMEM_BITS).
const MOST_BITS: u8 = 46;

/// The space of one VM. Places are given and taken back in the VMM thread, whose filter has the call for it.
#[derive(Clone)]
pub struct Space(Arc<Inner>);

struct Inner {
    vm: Arc<VmFd>,
    bounds: Range<u64>,
    first_slot: u32,
    taken: Mutex<Vec<Place>>,
}

/// A part of the space, with slots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    range: Range<u64>,
    slots: Range<u32>,
}

/// The lowest place of `len` bytes in `bounds`, at a multiple of `alignment`, that overlaps none that is taken; with so many slots from
/// `first` on in a row.
fn find(
    taken: &[Place],
    bounds: &Range<u64>,
    (len, alignment): (u64, u64),
    (first, count): (u32, u32),
) -> Option<Place> {
    let starts = [bounds.start].into_iter().chain(taken.iter().map(|place| place.range.end));
    let range = starts
        .filter_map(|start| start.checked_next_multiple_of(alignment))
        .filter_map(|start| Some(start..start.checked_add(len)?))
        .filter(|range| range.end <= bounds.end)
        .filter(|range| !taken.iter().any(|place| overlap(&place.range, range)))
        .min_by_key(|range| range.start)?;
    let slots = [first]
        .into_iter()
        .chain(taken.iter().map(|place| place.slots.end))
        .filter_map(|slot| Some(slot..slot.checked_add(count)?))
        .filter(|slots| !taken.iter().any(|place| overlap(&place.slots, slots)))
        .min_by_key(|slots| slots.start)?;
    Some(Place { range, slots })
}

fn overlap<T: PartialOrd>(a: &Range<T>, b: &Range<T>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Inner {
    fn taken(&self) -> MutexGuard<'_, Vec<Place>> {
        lock(&self.taken)
    }

    fn take(&self, what: (u64, u64), slots: u32) -> Option<Place> {
        let mut taken = self.taken();
        let place = find(&taken, &self.bounds, what, (self.first_slot, slots))?;
        taken.push(place.clone());
        Some(place)
    }

    fn give_back(&self, place: &Place) {
        self.taken().retain(|other| other != place);
    }
}

impl Space {
    /// Behind `memory`, which has the first slots, up to what processors of so many bits reach.
    pub fn new(vm: Arc<VmFd>, memory: &GuestMemory, bits: u8) -> Self {
        let first_slot = u32::try_from(memory.iter().count()).expect("RAM has one or two regions");
        let bounds = behind(memory, PMEM_ALIGNMENT)..1 << bits.min(MOST_BITS);
        Self(Arc::new(Inner { vm, bounds, first_slot, taken: Mutex::default() }))
    }

    /// A place for hot-pluggable memory, for good: its start and its first slot.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&self, len: u64, slots: u32) -> Result<(u64, u32), MemoryError> {
        let place = self.0.take((len, HOTPLUG_ALIGNMENT), slots);
        let place = place.ok_or(MemoryError::NoRoom { mib: len >> 20 })?;
        Ok((place.range.start, place.slots.start))
    }

    /// Puts a file into the guest's address space. It is there until the mapping goes, or is [taken out](PmemMapping::take_out).
    ///
    /// # Errors
    /// See [`PmemError`].
    pub fn put(&self, file: File, read_only: bool) -> Result<PmemMapping, PmemError> {
        let len = PmemMapping::len_of(&file, read_only)?;
        let place = self.0.take((len, PMEM_ALIGNMENT), 1).ok_or(PmemError::NoRoom { mib: len >> 20 })?;
        let slot = Slot { space: Arc::clone(&self.0), place, inside: false };
        let start = slot.place.range.start;
        PmemMapping::new(start, file, read_only)?.in_slot(slot)
    }
}

/// A slot that is one's own until it is dropped.
pub(super) struct Slot {
    space: Arc<Inner>,
    place: Place,
    inside: bool,
}

impl Slot {
    /// Puts `len` bytes of this process at `host` into the machine.
    ///
    /// # Errors
    /// KVM refuses.
    ///
    /// # Safety
    /// The bytes stay mapped until this is dropped, and nothing of this process keeps a reference to them.
    pub(super) unsafe fn fill(&mut self, host: u64, len: u64, read_only: bool) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot: self.place.slots.start,
            guest_phys_addr: self.place.range.start,
            memory_size: len,
            userspace_addr: host,
            flags: if read_only { KVM_MEM_READONLY } else { 0 },
        };
        // SAFETY: by the contract of this function; the place overlaps no other slot's.
        unsafe { self.space.vm.set_user_memory_region(region) }.map_err(io::Error::from)?;
        self.inside = true;
        Ok(())
    }

    /// Takes it out of the machine; `false` if KVM does not let go, and then the memory must stay mapped.
    pub(super) fn empty(&mut self) -> bool {
        let region = kvm_userspace_memory_region {
            slot: self.place.slots.start,
            guest_phys_addr: self.place.range.start,
            ..Default::default()
        };
        // SAFETY: a size of 0 deletes the slot and names no memory.
        if self.inside && unsafe { self.space.vm.set_user_memory_region(region) }.is_err() {
            return false;
        }
        self.inside = false;
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.empty() {
            self.space.give_back(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_lowest_place_that_is_free_is_taken_again() {
        let bounds = 4096 * MIB..8192 * MIB;
        let find =
            |taken: &[Place], len, alignment| find(taken, &bounds, (len * MIB, alignment * MIB), (2, 1));
        let mut taken = Vec::new();
        for start in [4096, 4224, 4352] {
            let place = find(&taken, 34, 128).unwrap();
            assert_eq!(place.range, start * MIB..(start + 34) * MIB);
            taken.push(place);
        }
        assert_eq!(taken.iter().map(|place| place.slots.start).collect::<Vec<_>>(), [2, 3, 4]);
        let gone = taken.remove(1);
        assert_eq!(find(&taken, 34, 128), Some(gone));
        // What is too long for the gap goes behind all, or nowhere.
        assert_eq!(find(&taken, 256, 128).unwrap().range.start, 4480 * MIB);
        assert_eq!(find(&taken, 4096, 128), None);
        assert_eq!(find(&taken, u64::MAX / MIB, 128), None);
    }

    proptest! {
        #[test]
        fn places_never_overlap_and_are_aligned(
            wishes in proptest::collection::vec((1u64..600, 0u32..3, 1u32..4, any::<proptest::sample::Index>(), any::<bool>()), 1..40),
        ) {
            let bounds = 4096 * MIB..16384 * MIB;
            let mut taken: Vec<Place> = Vec::new();
            for (len, shift, slots, index, leave) in wishes {
                if leave && !taken.is_empty() {
                    taken.swap_remove(index.index(taken.len()));
                    continue;
                }
                let alignment = MIB << shift;
                let Some(place) = find(&taken, &bounds, (len * MIB, alignment), (2, slots)) else { continue };
                prop_assert!(place.range.start >= bounds.start && place.range.end <= bounds.end);
                prop_assert!(place.range.start % alignment == 0 && place.slots.start >= 2);
                prop_assert_eq!((place.range.end - place.range.start, place.slots.len()), (len * MIB, slots as usize));
                for other in &taken {
                    prop_assert!(!overlap(&other.range, &place.range) && !overlap(&other.slots, &place.slots));
                }
                taken.push(place);
            }
        }
    }
}
