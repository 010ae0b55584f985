//! ACPI tables (ACPI 6.5): RSDP → XSDT → {FADT → DSDT, MADT}, hardware-reduced.

use super::{dsdt, layout, places::Place};
use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};

const OEM_ID: [u8; 6] = *b"VIAL  ";
const OEM_TABLE_ID: [u8; 8] = *b"VIALVMM ";
const OEM_REVISION: u32 = 1;
/// Length of the common table header (5.2.6).
const HEADER: u32 = 36;
/// DSDT revision 2: integers have 64 bits (5.2.11.1).
const DSDT_REVISION: u8 = 2;

/// What the DSDT describes besides virtio devices and what every machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// A serial port at [`layout::PORT_SERIAL`].
    pub serial: bool,
    /// A PCI bus.
    pub pci: bool,
}

/// All tables as they lie from [`layout::ACPI_START`] on, the RSDP first.
pub fn tables(vcpus: u8, devices: &[Place], extras: Extras) -> Vec<u8> {
    // The RSDP has to be at a known place but names the XSDT, which names the others: so they are laid out backwards
    // in meaning, forwards in memory, with room for the RSDP kept free at the start.
    let mut image = vec![0; Rsdp::len().next_multiple_of(64)];
    let mut place = |table: &[u8]| {
        let address = layout::ACPI_START + image.len() as u64;
        image.extend_from_slice(table);
        image.resize(image.len().next_multiple_of(16), 0);
        address
    };
    let dsdt = place(&dsdt_table(devices, extras));
    let fadt = place(&bytes(&fadt(dsdt)));
    let madt = place(&bytes(&madt(vcpus)));
    let mcfg = extras.pci.then(|| place(&bytes(&mcfg())));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    mcfg.into_iter().for_each(|mcfg| xsdt.add_entry(mcfg));
    let xsdt = place(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM_ID, xsdt));
    image[..rsdp.len()].copy_from_slice(&rsdp);
    image
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn dsdt_table(devices: &[Place], extras: Extras) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&dsdt::definitions(devices, extras));
    table.as_slice().to_vec()
}

/// An 8-bit I/O port as a generic address.
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless)
        .preferred_pm_profile(PmProfile::PerformanceServer);
    table.reset_reg = port(layout::PORT_RESET);
    table.reset_value = layout::RESET_VALUE;
    table.sleep_control_reg = port(layout::PORT_SLEEP_CONTROL);
    table.sleep_status_reg = port(layout::PORT_SLEEP_STATUS);
    table.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    table.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let apic = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut table = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, apic);
    for id in 0..vcpus {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    table
}

/// Where the configuration space of segment 0, bus 0 is.
fn mcfg() -> MCFG {
    let mut table = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.add_ecam(layout::PCI_ECAM, 0, 0, 0);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8]) -> usize {
        bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
    }

    /// Follows the pointers as an operating system does: (signature, table).
    fn walk(image: &[u8]) -> Vec<(String, Vec<u8>)> {
        let base = layout::ACPI_START as usize;
        let table = |address: usize| {
            let start = address - base;
            let table = image[start..start + number(&image[start + 4..start + 8])].to_vec();
            (String::from_utf8(table[..4].to_vec()).unwrap(), table)
        };
        let xsdt = table(number(&image[24..32]));
        let mut found: Vec<_> = xsdt.1[36..].chunks(8).map(|entry| table(number(entry))).collect();
        let fadt = found.iter().find(|(signature, _)| signature == "FACP").unwrap();
        found.push(table(number(&fadt.1[140..148])));
        found.push(xsdt);
        found
    }

    #[test]
    fn all_tables_are_reachable_and_their_checksums_hold() {
        let place = Place { base: 0xd000_0000, size: 0x1000, gsi: 6 };
        let image = tables(32, &[place; 64], Extras { serial: true, pci: true });
        assert!(image.len() as u64 <= layout::ACPI_END - layout::ACPI_START);
        let tables = walk(&image);
        let names: Vec<_> = tables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["FACP", "APIC", "MCFG", "DSDT", "XSDT"]);
        for (name, table) in &tables {
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{name}");
        }
        assert_eq!(image[..36].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "RSDP");
    }

    #[test]
    fn the_madt_has_an_entry_for_each_vcpu_and_the_ioapic() {
        assert_eq!(bytes(&madt(2)).len(), 44 + 2 * 8 + 12);
    }

    #[test]
    fn the_fadt_is_hardware_reduced_with_reset_and_sleep_registers() {
        let table = bytes(&fadt(0xe_1000));
        let flags = number(&table[112..116]);
        assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
        assert_eq!(&table[116..129], [1, 8, 0, 1, 0x02, 0x06, 0, 0, 0, 0, 0, 0, layout::RESET_VALUE]);
        assert_eq!(&table[244..250], [1, 8, 0, 1, 0x00, 0x06]);
    }
}
