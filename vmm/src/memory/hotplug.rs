//! Memory that a guest may get later: mapped from the start, since devices are made for it, but no part of the machine until it is
//! plugged in. Untouched, it costs the host nothing.

use super::{Blocks, GuestMemory, MemoryError, Region};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::io;
use std::sync::Arc;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

/// Puts memory slots into the machine and takes them out.
pub trait Slots: Send + Sync {
    /// Slot `index`, counted from the start of the hot-pluggable memory.
    ///
    /// # Errors
    /// The host does not do it.
    fn set(&self, index: u32, present: bool) -> io::Result<()>;

    /// Takes the memory of a slot that is out of the machine from those in the host who would reach it on the guest's behalf without a look
    /// at its blocks, if there are any. Its bytes went back before.
    fn shut(&self, index: u32);
}

/// Slots of a KVM VM.
pub struct KvmSlots {
    vm: Arc<VmFd>,
    first: u32,
    start: u64,
    host: u64,
    size: u64,
    flags: u32,
    guarded: bool,
}

impl KvmSlots {
    /// For memory at guest-physical `start` of `memory`, in slots of `size` bytes, whose numbers begin with `first`. All are shut if they are
    /// `guarded`, which is for vhost: a device of this process looks at blocks itself, and may have begun with one that is unplugged now.
    pub fn new(
        vm: Arc<VmFd>,
        memory: &GuestMemory,
        (start, size): (u64, u64),
        (first, flags): (u32, u32),
        guarded: bool,
    ) -> io::Result<Self> {
        let region = memory.find_region(GuestAddress(start)).ok_or(io::ErrorKind::InvalidInput)?;
        let host = region.mapping().as_ptr() as u64;
        let slots = Self { vm, first, start, host, size, flags, guarded };
        slots.protect(0, region.len(), libc::PROT_NONE)?;
        Ok(slots)
    }

    fn protect(&self, offset: u64, len: u64, protection: i32) -> io::Result<()> {
        if !self.guarded {
            return Ok(());
        }
        let (address, len) = ((self.host + offset) as *mut libc::c_void, len as usize);
        // SAFETY: the range is guest memory. Who reaches it in this process looks at its blocks first, and of a slot that is shut none is
        // plugged in. Threads of drives, which may have looked before that, there are none where slots are shut (`validate`).
        match unsafe { libc::mprotect(address, len, protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Slots for KvmSlots {
    fn set(&self, index: u32, present: bool) -> io::Result<()> {
        let offset = u64::from(index) * self.size;
        if present {
            self.protect(offset, self.size, libc::PROT_READ | libc::PROT_WRITE)?;
        }
        let slot = kvm_userspace_memory_region {
            slot: self.first + index,
            guest_phys_addr: self.start + offset,
            // 0 takes it out.
            memory_size: if present { self.size } else { 0 },
            userspace_addr: self.host + offset,
            flags: if present { self.flags } else { 0 },
        };
        // SAFETY: the range is a part of a region of guest memory, which stays mapped for the rest of the process's life.
        let set = unsafe { self.vm.set_user_memory_region(slot) };
        if set.is_err() && present {
            self.shut(index);
        }
        set.map_err(io::Error::from)
    }

    fn shut(&self, index: u32) {
        // If the host has no memory for it, the slot is as far out of reach as its blocks are.
        let _ = self.protect(u64::from(index) * self.size, self.size, libc::PROT_NONE);
    }
}

/// `memory` with `len` bytes more at guest-physical `start`, in blocks of `block` bytes, none of which is plugged in.
///
/// # Errors
/// The host has no such memory.
pub fn extend(
    memory: &GuestMemory,
    recipe: &super::Recipe,
    start: u64,
    (len, block): (u64, u64),
) -> Result<(GuestMemory, Arc<Blocks>), MemoryError> {
    let bytes = usize::try_from(len).expect("this crate is for 64-bit hosts only");
    let failed = |source| MemoryError::Reserve { mib: bytes >> 20, advice: "lower total_size_mib", source };
    let mapping = recipe.map(bytes, 0).map_err(failed)?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(start)).expect("the address plan does not wrap");
    let blocks = Blocks::new(len, block);
    let region = Arc::new(Region::pluggable(region, Arc::clone(&blocks)));
    Ok((memory.insert_region(region).map_err(MemoryError::Assemble)?, blocks))
}

/// Where memory besides RAM may begin: behind the last region, at a multiple of `alignment`.
pub fn behind(memory: &GuestMemory, alignment: u64) -> u64 {
    let end = memory.iter().map(|region| region.start_addr().raw_value() + region.len()).max().unwrap_or(0);
    end.max(crate::arch::layout::FOUR_GIB).next_multiple_of(alignment)
}
