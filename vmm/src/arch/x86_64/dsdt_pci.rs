//! The PCI bus in the DSDT: its host bridge, its slots, and what happens when something is plugged in or asked for.

use super::layout;
use crate::pci::root::{ECAM_SIZE, SLOTS};
use acpi_tables::{
    Aml, AmlSink,
    aml::{
        AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Field, FieldAccessType, FieldEntry,
        FieldLockRule, FieldUpdateRule, If, Local, Memory32Fixed, Method, Name, Notify, ONE, OpRegion,
        OpRegionSpace, Path, ResourceTemplate, Scope, Store, ZERO,
    },
};

/// "Device check" and "eject request" (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// The host bridge (`PNP0A03`) with its bus and its window, and who else may not have its configuration space (`PNP0C02`). There is no
/// interrupt routing: no function has a pin.
pub(super) fn bus(code: &mut Vec<u8>) {
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let (start, size) = (layout::PCI_WINDOW as u32, layout::PCI_WINDOW_SIZE as u32);
    let window =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, start, start + (size - 1), None);
    let ecam = Memory32Fixed::new(true, layout::PCI_ECAM as u32, ECAM_SIZE as u32);
    Scope::new(
        Path::new("_SB_"),
        vec![
            &Device::new(
                Path::new("PCI0"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0A03")),
                    &Name::new(Path::new("_UID"), &ZERO),
                    &Name::new(Path::new("_SEG"), &ZERO),
                    &Name::new(Path::new("_BBN"), &ZERO),
                    &Name::new(Path::new("_CCA"), &ONE),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&bus, &window])),
                ],
            ),
            &Device::new(
                Path::new("ECAM"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
                    &Name::new(Path::new("_UID"), &ZERO),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ecam])),
                ],
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// What the generic event device calls: `\\_SB.PSCN`.
pub(super) fn scan_method() -> Path {
    Path::new("\\_SB_.PSCN")
}

/// The path of a slot.
fn slot(index: u8) -> String {
    format!("S{index:03}")
}

/// The register block of [`crate::pci::hotplug`], the method that reads it and tells the slots, and the slots, which are let go of by
/// `_EJ0`. A slot has no `_STA`: an operating system reads its configuration space anyway.
pub(super) fn hotplug(code: &mut Vec<u8>) {
    let mut block = Vec::new();
    let (port, size) = (u32::from(layout::PORT_PCI_HOTPLUG), crate::pci::hotplug::SIZE as u8);
    OpRegion::new(Path::new("PHPR"), OpRegionSpace::SystemIO, &port, &size).to_aml_bytes(&mut block);
    let fields = [*b"PARR", *b"PLEA", *b"PEJE"].map(|name| FieldEntry::Named(name, 32));
    let (access, lock) = (FieldAccessType::DWord, FieldLockRule::NoLock);
    Field::new(Path::new("PHPR"), access, lock, FieldUpdateRule::WriteAsZeroes, fields.into())
        .to_aml_bytes(&mut block);
    let mut scan = Vec::new();
    for (register, value) in [("PARR", DEVICE_CHECK), ("PLEA", EJECT_REQUEST)] {
        Store::new(&Local(0), &Path::new(register)).to_aml_bytes(&mut scan);
        for index in 1..SLOTS {
            let path = Path::new(&format!("\\_SB_.PCI0.{}", slot(index)));
            let (mask, notify) = (1u32 << index, Notify::new(&path, &value));
            If::new(&And::new(&ZERO, &Local(0), &mask), vec![&notify]).to_aml_bytes(&mut scan);
        }
    }
    Method::new(Path::new("PSCN"), 0, true, vec![&Raw(scan)]).to_aml_bytes(&mut block);
    code.extend(Scope::raw(Path::new("_SB_"), block));

    let mut slots = Vec::new();
    for index in 1..SLOTS {
        let mask = 1u32 << index;
        let mut eject = Vec::new();
        Store::new(&Path::new("\\_SB_.PEJE"), &mask).to_aml_bytes(&mut eject);
        Device::new(
            Path::new(&slot(index)),
            vec![
                &Name::new(Path::new("_ADR"), &(u32::from(index) << 16)),
                &Name::new(Path::new("_SUN"), &index),
                &Method::new(Path::new("_EJ0"), 1, true, vec![&Raw(eject)]),
            ],
        )
        .to_aml_bytes(&mut slots);
    }
    code.extend(Scope::raw(Path::new("\\_SB_.PCI0"), slots));
}

/// Byte code that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
