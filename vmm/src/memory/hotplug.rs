//! Memory that a guest may get later: mapped from the start, since devices are made for it, but no part of the machine until it is
//! plugged in. Untouched, it costs the host nothing.

use super::MemoryError;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::io;
use std::sync::Arc;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Puts memory slots into the machine and takes them out.
pub trait Slots: Send + Sync {
    /// Slot `index`, counted from the start of the hot-pluggable memory.
    ///
    /// # Errors
    /// KVM does not do it.
    fn set(&self, index: u32, present: bool) -> io::Result<()>;
}

/// Slots of a KVM VM.
pub struct KvmSlots {
    vm: Arc<VmFd>,
    first: u32,
    start: u64,
    host: u64,
    size: u64,
    flags: u32,
}

impl KvmSlots {
    /// For memory at guest-physical `start` of `memory`, in slots of `size` bytes, whose numbers begin with `first`.
    pub fn new(
        vm: Arc<VmFd>,
        memory: &GuestMemoryMmap,
        start: u64,
        size: u64,
        (first, flags): (u32, u32),
    ) -> Option<Self> {
        let host = memory.get_host_address(GuestAddress(start)).ok()? as u64;
        Some(Self { vm, first, start, host, size, flags })
    }
}

impl Slots for KvmSlots {
    fn set(&self, index: u32, present: bool) -> io::Result<()> {
        let offset = u64::from(index) * self.size;
        let slot = kvm_userspace_memory_region {
            slot: self.first + index,
            guest_phys_addr: self.start + offset,
            // 0 takes it out.
            memory_size: if present { self.size } else { 0 },
            userspace_addr: self.host + offset,
            flags: if present { self.flags } else { 0 },
        };
        // SAFETY: the range is a part of a region of guest memory, which stays mapped for the rest of the process's life.
        unsafe { self.vm.set_user_memory_region(slot) }.map_err(io::Error::from)
    }
}

/// `memory` with `len` bytes more at guest-physical `start`.
///
/// # Errors
/// The host has no such memory.
pub fn extend(
    memory: &GuestMemoryMmap,
    recipe: &super::Recipe,
    start: u64,
    len: u64,
) -> Result<GuestMemoryMmap, MemoryError> {
    let bytes = usize::try_from(len).expect("this crate is for 64-bit hosts only");
    let failed = |source| MemoryError::Reserve { mib: bytes >> 20, advice: "lower total_size_mib", source };
    let mapping = recipe.map(bytes, 0).map_err(failed)?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(start)).expect("the address plan does not wrap");
    memory.insert_region(Arc::new(region)).map_err(MemoryError::Assemble)
}

/// Where memory besides RAM may begin: behind the last region, at a multiple of `alignment`.
pub fn behind(memory: &GuestMemoryMmap, alignment: u64) -> u64 {
    let end = memory.iter().map(|region| region.start_addr().raw_value() + region.len()).max().unwrap_or(0);
    end.max(crate::arch::layout::FOUR_GIB).next_multiple_of(alignment)
}
