//! Guest-physical addresses, I/O ports and interrupts.
//!
//! ```text
//! 0x0000_0500 GDT          0x0000_7000 PVH memory map, or zero page     0x0000_9000 page tables (linux64)
//! 0x0000_6000 start_info   0x0002_0000 command line                     0x000e_0000 ACPI tables
//! 0x000d_e000 generation ID, VMClock
//! 0x0010_0000 kernel …     top of low RAM: initrd
//! 0xc000_0000 … 4 GiB      no RAM: boot timer at 0xc000_0000, virtio-mmio at 0xd000_0000, PCI from 0xe000_0000 on,
//!                          IOAPIC 0xfec0_0000, local APIC 0xfee0_0000
//! 0x1_0000_0000 …          the rest of RAM
//! ```

use vm_memory::GuestAddress;

/// Global descriptor table that the boot vCPU's segments come from.
pub const GDT: u64 = 0x500;
/// Empty interrupt descriptor table.
pub const IDT: u64 = 0x520;
/// `hvm_start_info` (PVH).
pub const PVH_START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` of the initrd (PVH).
pub const PVH_MODULES: u64 = 0x6040;
/// `hvm_memmap_table_entry` table (PVH).
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// `boot_params` (linux64).
pub const ZERO_PAGE: u64 = 0x7000;
/// Level 4 page table (linux64).
pub const PML4: u64 = 0x9000;
/// Level 3 page table (linux64).
pub const PDPT: u64 = 0xa000;
/// Level 2 page table: one GiB in 2 MiB pages (linux64).
pub const PD: u64 = 0xb000;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Its greatest length with the NUL: COMMAND_LINE_SIZE of Linux on x86.
pub const CMDLINE_MAX: usize = 2048;
/// End of conventional memory; from here to [`HIGH_RAM`] the memory map says "reserved".
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Where the guest finds its generation ID (VM_Gen_Counter); the memory map says "reserved" here as in all between [`LOW_RAM_END`] and
/// [`HIGH_RAM`].
pub const GENERATION_ID: u64 = 0xd_e000;
/// Its VMClock: a page, which programs in the guest map.
pub const VMCLOCK: u64 = 0xd_f000;
/// Bytes of it.
pub const VMCLOCK_SIZE: u64 = 0x1000;
/// RSDP, then the tables. Inside the range that Linux scans for an RSDP, for kernels told of it in no other way.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the room for ACPI tables.
pub const ACPI_END: u64 = 0x10_0000;
/// Where kernels may be loaded.
pub const HIGH_RAM: u64 = 0x10_0000;
/// RAM stops here and goes on at [`FOUR_GIB`].
pub const HOLE_START: u64 = 0xc000_0000;
/// End of the hole.
pub const FOUR_GIB: u64 = 1 << 32;

/// Firecracker's boot timer, where its tools write to; there only if it is asked for.
pub const BOOT_TIMER: u64 = HOLE_START;
/// A page, as there.
pub const BOOT_TIMER_SIZE: u64 = 0x1000;
/// First virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Room for virtio-mmio windows.
pub const VIRTIO_MMIO_SIZE: u64 = 0x10_0000;
/// One window: a page, so that each can be mapped alone.
pub const VIRTIO_MMIO_WINDOW: u64 = 0x1000;
/// Configuration space of the PCI bus (ECAM), if there is one.
pub const PCI_ECAM: u64 = 0xe000_0000;
/// Where the BARs of PCI devices lie. Below 4 GiB, though they have 64 bits: there every guest reaches them, however few address bits
/// its processor has and however much RAM lies above, and no device needs more than a few pages.
pub const PCI_WINDOW: u64 = 0xe800_0000;
/// Room for them.
pub const PCI_WINDOW_SIZE: u64 = 0x800_0000;
/// IOAPIC registers, where KVM has them.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers, where KVM has them.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page for KVM's identity map (Intel without unrestricted guest).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment (Intel without unrestricted guest).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Interrupt of the generic event device for a changed generation ID.
pub const GENERATION_GSI: u32 = 3;
/// Interrupt of the serial port, as of old.
pub const SERIAL_GSI: u32 = 4;
/// Interrupt of the generic event device (the power button).
pub const GED_GSI: u32 = 5;
/// Interrupt of the generic event device for PCI hot plug: one of virtio-mmio's, which a machine with PCI does not have.
pub const PCI_HOTPLUG_GSI: u32 = VIRTIO_GSI_LAST;
/// First interrupt for virtio devices.
pub const VIRTIO_GSI_FIRST: u32 = 6;
/// Last one: KVM's IOAPIC has 24 pins.
pub const VIRTIO_GSI_LAST: u32 = 23;
/// From here on interrupts are messages, not pins.
pub const FIRST_MESSAGE_GSI: u32 = 24;

/// ACPI sleep control register (8 bit; ACPI 6.5, 4.8.3.7).
pub const PORT_SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register (8 bit).
pub const PORT_SLEEP_STATUS: u16 = 0x601;
/// FADT reset register (8 bit; ACPI 6.5, 4.8.3.6).
pub const PORT_RESET: u16 = 0x602;
/// What is written to it.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of `\_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;
/// PCI hot plug ([`crate::pci::hotplug`]).
pub const PORT_PCI_HOTPLUG: u16 = 0x620;
/// pvpanic (QEMU docs/specs/pvpanic.rst).
pub const PORT_PVPANIC: u16 = 0x505;
/// COM1: where kernels look for it even without being told.
pub const PORT_SERIAL: u16 = 0x3f8;
/// i8042 command and status; only its reset command is understood, for kernels booted with `reboot=k`.
pub const PORT_I8042: u16 = 0x64;

/// Where `size` bytes of RAM lie, in ascending order.
pub fn ram(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(FOUR_GIB), size - low));
    }
    ranges
}

/// End of the RAM below the hole: kernel and initrd lie below it.
pub fn low_ram_end(size: u64) -> u64 {
    size.min(HOLE_START)
}

/// Kind of a range of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// E820_TYPE_RAM.
    Ram = 1,
    /// E820_TYPE_RESERVED.
    Reserved = 2,
}

/// The memory map as the guest is told it: (start, length in bytes, kind).
pub fn memory_map(size: u64, pci: bool) -> Vec<(u64, u64, RangeKind)> {
    let mut map = vec![
        (0, LOW_RAM_END, RangeKind::Ram),
        (LOW_RAM_END, HIGH_RAM - LOW_RAM_END, RangeKind::Reserved),
        (HIGH_RAM, low_ram_end(size) - HIGH_RAM, RangeKind::Ram),
    ];
    if pci {
        // "Must be reserved" (PCI firmware 3.3, 4.1.2), or Linux does not use it.
        map.push((PCI_ECAM, crate::pci::root::ECAM_SIZE, RangeKind::Reserved));
    }
    map.extend(ram(size).into_iter().skip(1).map(|(start, len)| (start.0, len, RangeKind::Ram)));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_hole_below_four_gib_free() {
        assert_eq!(ram(128 << 20), vec![(GuestAddress(0), 128 << 20)]);
        assert_eq!(ram(3 << 30), vec![(GuestAddress(0), 3 << 30)]);
        assert_eq!(
            ram((3 << 30) + (1 << 20)),
            vec![(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 20)]
        );
    }

    #[test]
    fn memory_map_has_no_gap_and_no_overlap_below_the_hole() {
        let map = memory_map(8 << 30, true);
        assert_eq!(map[0].0, 0);
        assert!(map[..3].windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0));
        let ram: u64 = map.iter().filter(|range| range.2 == RangeKind::Ram).map(|range| range.1).sum();
        assert_eq!(ram, (8 << 30) - (HIGH_RAM - LOW_RAM_END));
    }
}
