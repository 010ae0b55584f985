//! Lays out the guest's physical address space: RAM, files behind it, and room for memory that is plugged in later.

use crate::api::config::VmConfig;
use crate::arch;
use crate::build_error::{BuildError, kvm_step, resource};
use crate::memory::{self, Blocks, KvmSlots, PmemMapping, Recipe, Slots, Space};
use crate::virtio::GuestMemory;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use std::fs::File;
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// A VM with `memory` as its RAM, and with interrupt controllers.
///
/// # Errors
/// KVM lacks something, or refuses.
pub fn make_vm(config: &VmConfig, kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd, BuildError> {
    arch::check_kvm(kvm, config.cpu_config.as_ref())?;
    let flags = dirty_log(config);
    let vm = kvm.create_vm().map_err(kvm_step("create a VM"))?;
    arch::set_up_vm(&vm)?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = memory.get_host_address(region.start_addr());
        let slot = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host.expect("a region's own start lies in it") as u64,
            flags,
        };
        set_memory(&vm, slot).map_err(kvm_step("give the VM its memory"))?;
    }
    Ok(vm)
}

#[allow(unsafe_code)]
fn set_memory(vm: &VmFd, slot: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the region is guest memory, which is mapped for the rest of the process's life, and slots don't overlap.
    unsafe { vm.set_user_memory_region(slot) }
}

/// Puts the configuration's files into the guest's address space, in their order.
///
/// # Errors
/// One can't be mapped.
pub fn map_pmem(
    config: &VmConfig,
    space: &Space,
    files: impl Iterator<Item = File>,
) -> Result<Vec<PmemMapping>, BuildError> {
    let put = |(settings, file): (&crate::api::config::Pmem, File)| {
        let failed = |source| BuildError::Pmem { id: settings.id.clone(), source };
        space.put(file, settings.read_only).map_err(failed)
    };
    config.pmem.iter().zip(files).map(put).collect()
}

/// Where hot-pluggable memory begins, its blocks, and its slots.
pub type Pluggable = (u64, Arc<Blocks>, Box<dyn Slots>);

/// `memory` with what may be plugged in later, of which no slot is in the machine yet.
///
/// # Errors
/// There is no place for it, or no memory.
pub fn hotplug(
    config: &VmConfig,
    vm: &Arc<VmFd>,
    memory: GuestMemory,
    recipe: Option<&Recipe>,
    space: &Space,
) -> Result<(GuestMemory, Option<Pluggable>), BuildError> {
    let (Some(settings), Some(recipe)) = (config.memory_hotplug, recipe) else { return Ok((memory, None)) };
    let (len, slot) = (settings.total_size_mib << 20, settings.slot_size_mib << 20);
    let count =
        u32::try_from(len / slot).expect("the document was checked: a TiB in slots of 128 MiB at most");
    let (start, first) = space.reserve(len, count)?;
    let block = settings.block_size_mib << 20;
    let (memory, blocks) = memory::extend(&memory, recipe, start, (len, block))?;
    let guarded = config.network_interfaces.iter().any(|net| net.vhost_net.is_some());
    let numbers = (first, dirty_log(config));
    let slots = KvmSlots::new(Arc::clone(vm), &memory, (start, slot), numbers, guarded);
    let slots = slots.map_err(resource("the slots of hot-pluggable memory"))?;
    Ok((memory, Some((start, blocks, Box::new(slots)))))
}

fn dirty_log(config: &VmConfig) -> u32 {
    if config.machine_config.track_dirty_pages { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
}
