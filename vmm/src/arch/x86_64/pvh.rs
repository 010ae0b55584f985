//! The x86/HVM direct boot structures (xen/include/public/arch-x86/hvm/start_info.h).

use super::{ArchError, boot::Description, boot::put, layout};
use crate::memory::GuestMemory;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::ByteValued;

/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;
/// Version 1 has the memory map.
const VERSION: u32 = 1;

pub(super) fn write(memory: &GuestMemory, description: &Description<'_>) -> Result<(), ArchError> {
    let map = layout::memory_map(description.memory_size, description.extras.pci);
    for (index, (addr, size, kind)) in (0..).zip(&map) {
        let entry =
            hvm_memmap_table_entry { addr: *addr, size: *size, type_: *kind as u32, ..Default::default() };
        let address = layout::PVH_MEMORY_MAP + index * size_of_val(&entry) as u64;
        put(memory, "the PVH memory map", address, entry.as_slice())?;
    }
    if let Some(initrd) = description.initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() };
        put(memory, "the PVH module list", layout::PVH_MODULES, module.as_slice())?;
    }
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: description.initrd.is_some().into(),
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::ACPI_START,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    put(memory, "the PVH start info", layout::PVH_START_INFO, info.as_slice())
}
