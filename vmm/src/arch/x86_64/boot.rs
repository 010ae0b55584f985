//! What the kernel finds in memory when it is entered.

use super::places::Place;
use super::{ArchError, acpi, layout, linux64, pvh};
use crate::api::config::BootProtocol;
use crate::memory::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

/// Where and how the boot vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Guest-physical address of the first instruction.
    pub address: u64,
    /// State that it expects.
    pub protocol: BootProtocol,
}

/// A range of guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The machine as the kernel is told of it.
#[derive(Debug)]
pub struct Description<'a> {
    /// RAM in bytes.
    pub memory_size: u64,
    /// Without the NUL.
    pub command_line: &'a str,
    /// Where the initrd was read to.
    pub initrd: Option<Range>,
    /// The kernel's own header, if it is a bzImage: it goes into the zero page.
    pub header: Option<setup_header>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// The virtio devices, in the order in which they are probed.
    pub devices: &'a [Place],
    /// What else there is.
    pub extras: acpi::Extras,
}

/// Writes command line and ACPI tables; needs no kernel, so it runs while one is being read.
pub fn write_tables(memory: &GuestMemory, description: &Description<'_>) -> Result<(), ArchError> {
    let line = description.command_line;
    if line.len() >= layout::CMDLINE_MAX {
        return Err(ArchError::CommandLineTooLong(line.len()));
    }
    if !line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(ArchError::CommandLineNotAscii);
    }
    put(memory, "the command line", layout::CMDLINE, line.as_bytes())?;
    put(memory, "the command line", layout::CMDLINE + line.len() as u64, &[0])?;
    let tables = acpi::tables(description.vcpus, description.devices, description.extras);
    if tables.len() as u64 > layout::ACPI_END - layout::ACPI_START {
        return Err(ArchError::TablesTooBig(tables.len()));
    }
    put(memory, "the ACPI tables", layout::ACPI_START, &tables)
}

/// Writes the structures of the entry protocol.
pub fn write_protocol(
    memory: &GuestMemory,
    description: &Description<'_>,
    protocol: BootProtocol,
) -> Result<(), ArchError> {
    match protocol {
        BootProtocol::Pvh => pvh::write(memory, description),
        BootProtocol::Linux64 => linux64::write(memory, description),
    }
}

/// Writes `bytes` at guest-physical `address`.
pub(super) fn put(
    memory: &GuestMemory,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), ArchError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|source| ArchError::Write { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_loader::loader::{bootparam::boot_params, elf::start_info::hvm_start_info};

    fn memory() -> GuestMemory {
        crate::memory::scratch(16 << 20, None).unwrap()
    }

    fn description(line: &str) -> Description<'_> {
        let initrd = Some(Range { start: 0xf0_0000, len: 0x1234 });
        Description {
            memory_size: 16 << 20,
            command_line: line,
            initrd,
            header: None,
            vcpus: 2,
            devices: &[],
            extras: acpi::Extras::default(),
        }
    }

    #[test]
    fn pvh_start_info_leads_to_map_tables_command_line_and_initrd() {
        let memory = memory();
        write_tables(&memory, &description("console=hvc0")).unwrap();
        write_protocol(&memory, &description("console=hvc0"), BootProtocol::Pvh).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(layout::PVH_START_INFO)).unwrap();
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
        let mut line = [0; 13];
        memory.read_slice(&mut line, GuestAddress(info.cmdline_paddr)).unwrap();
        assert_eq!(&line, b"console=hvc0\0");
        let mut rsdp = [0; 8];
        memory.read_slice(&mut rsdp, GuestAddress(info.rsdp_paddr)).unwrap();
        assert_eq!(&rsdp, b"RSD PTR ");
        let module: [u64; 2] = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!(module, [0xf0_0000, 0x1234]);
        let first: [u64; 2] = memory.read_obj(GuestAddress(info.memmap_paddr)).unwrap();
        assert_eq!((first, info.memmap_entries), ([0, layout::LOW_RAM_END], 3));
    }

    #[test]
    fn linux64_zero_page_leads_to_the_same() {
        let memory = memory();
        write_protocol(&memory, &description("quiet"), BootProtocol::Linux64).unwrap();
        let page: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
        let (rsdp, line, initrd, size) =
            (page.acpi_rsdp_addr, page.hdr.cmd_line_ptr, page.hdr.ramdisk_image, page.hdr.ramdisk_size);
        assert_eq!(
            (rsdp, line.into(), initrd, size),
            (layout::ACPI_START, layout::CMDLINE, 0xf0_0000, 0x1234)
        );
        let pml4: u64 = memory.read_obj(GuestAddress(layout::PML4)).unwrap();
        let last: u64 = memory.read_obj(GuestAddress(layout::PD + 511 * 8)).unwrap();
        assert_eq!((pml4, last), (layout::PDPT | 3, (511 << 21) | 0x83));
    }

    #[test]
    fn an_overlong_or_binary_command_line_is_refused() {
        let long = "x".repeat(layout::CMDLINE_MAX);
        assert!(matches!(
            write_tables(&memory(), &description(&long)),
            Err(ArchError::CommandLineTooLong(2048))
        ));
        assert!(write_tables(&memory(), &description(&long[1..])).is_ok());
        assert!(matches!(write_tables(&memory(), &description("a\nb")), Err(ArchError::CommandLineNotAscii)));
    }
}
