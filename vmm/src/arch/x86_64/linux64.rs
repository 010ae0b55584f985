//! The Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst): zero page and identity-mapping page tables.

use super::{ArchError, boot::Description, boot::put, layout};
use crate::memory::GuestMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS".
const HEADER: u32 = 0x5372_6448;
/// "Undefined" loader.
const LOADER: u8 = 0xff;
/// Version 2.12 of the protocol: the fields that are set here exist in it.
const VERSION: u16 = 0x020c;
/// Present and writable.
const TABLE: u64 = 0b11;
/// The same, as a 2 MiB page.
const LARGE_PAGE: u64 = 0x83;

pub(super) fn write(memory: &GuestMemory, description: &Description<'_>) -> Result<(), ArchError> {
    let hdr = description.header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER,
        version: VERSION,
        cmdline_size: description.command_line.len() as u32 + 1,
        ..Default::default()
    });
    let mut page = boot_params { hdr, ..Default::default() };
    page.hdr.type_of_loader = LOADER;
    // Both lie below 4 GiB by layout.
    page.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    if let Some(initrd) = description.initrd {
        page.hdr.ramdisk_image = initrd.start as u32;
        page.hdr.ramdisk_size = initrd.len as u32;
    }
    page.acpi_rsdp_addr = layout::ACPI_START;
    let map = layout::memory_map(description.memory_size, description.extras.pci);
    page.e820_entries = map.len() as u8;
    for (index, (addr, size, kind)) in map.into_iter().enumerate() {
        page.e820_table[index] = boot_e820_entry { addr, size, r#type: kind as u32 };
    }
    put(memory, "the zero page", layout::ZERO_PAGE, page.as_slice())?;
    write_page_tables(memory)
}

/// The first GiB one to one: the protocol asks for the kernel, zero page and command line.
fn write_page_tables(memory: &GuestMemory) -> Result<(), ArchError> {
    let directory: Vec<u8> = (0..512u64).flat_map(|n| ((n << 21) | LARGE_PAGE).to_le_bytes()).collect();
    let what = "the page tables";
    put(memory, what, layout::PML4, &(layout::PDPT | TABLE).to_le_bytes())?;
    put(memory, what, layout::PDPT, &(layout::PD | TABLE).to_le_bytes())?;
    put(memory, what, layout::PD, &directory)
}
