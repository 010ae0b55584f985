//! The definition block of the DSDT: devices, soft-off, power button, pvpanic.

use super::{acpi::Extras, dsdt_pci, layout, places::Place};
use acpi_tables::{
    Aml,
    aml::{
        Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, MethodCall, Name, Notify,
        ONE, Package, Path, ResourceTemplate, Scope, ZERO,
    },
};

/// "Button pressed" (ACPI 6.5, 4.8.3.1).
const BUTTON_PRESSED: u8 = 0x80;
/// "The generation ID has changed".
const CHANGED: u8 = 0x80;

/// The byte code that follows the table's header.
pub(super) fn definitions(devices: &[Place], extras: Extras) -> Vec<u8> {
    let mut code = Vec::new();
    soft_off().into_iter().for_each(|byte| code.push(byte));
    for (index, place) in devices.iter().enumerate() {
        let shared = devices.iter().filter(|other| other.gsi == place.gsi).count() > 1;
        virtio_mmio(index, place, shared, &mut code);
    }
    if extras.pci {
        dsdt_pci::bus(&mut code);
        dsdt_pci::hotplug(&mut code);
    }
    events(extras.pci, &mut code);
    generation(&mut code);
    pvpanic(&mut code);
    if extras.serial {
        serial(&mut code);
    }
    code
}

/// `\_S5`: what Linux writes to the sleep control register to switch off (7.4.2.6).
fn soft_off() -> Vec<u8> {
    let mut code = Vec::new();
    let state = Package::new(vec![&layout::SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    Name::new(Path::new("_S5_"), &state).to_aml_bytes(&mut code);
    code
}

/// A virtio-mmio transport: `LNRO0005`, as Linux' driver knows it.
fn virtio_mmio(index: usize, place: &Place, shared: bool, code: &mut Vec<u8>) {
    // All windows lie below 4 GiB by layout.
    let window = Memory32Fixed::new(true, place.base as u32, place.size as u32);
    let interrupt = Interrupt::new(true, true, false, shared, place.gsi);
    Scope::new(
        Path::new("_SB_"),
        vec![&Device::new(
            Path::new(&format!("V{index:03}")),
            vec![
                &Name::new(Path::new("_HID"), &"LNRO0005"),
                &Name::new(Path::new("_UID"), &index),
                &Name::new(Path::new("_CCA"), &ONE),
                &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&window, &interrupt])),
            ],
        )],
    )
    .to_aml_bytes(code);
}

/// A control-method power button (`PNP0C0C`) and the generic event device that presses it (`ACPI0013`, 5.6.9) says that the
/// generation ID has changed and, with PCI, tells of hot plug.
fn events(pci: bool, code: &mut Vec<u8>) {
    let interrupt = |gsi| Interrupt::new(true, true, false, false, gsi);
    let (press, plug) = (interrupt(layout::GED_GSI), interrupt(layout::PCI_HOTPLUG_GSI));
    let button = Path::new("\\_SB_.PWRB");
    let pressed = Notify::new(&button, &BUTTON_PRESSED);
    let press_event = Equal::new(&Arg(0), &layout::GED_GSI);
    let pressing = If::new(&press_event, vec![&pressed]);
    let scan = MethodCall::new(dsdt_pci::scan_method(), vec![]);
    let plug_event = Equal::new(&Arg(0), &layout::PCI_HOTPLUG_GSI);
    let plugging = If::new(&plug_event, vec![&scan]);
    let copied = interrupt(layout::GENERATION_GSI);
    let (id, clock) = (Path::new("\\_SB_.VGEN"), Path::new("\\_SB_.VCLK"));
    let (id_changed, clock_changed) = (Notify::new(&id, &CHANGED), Notify::new(&clock, &CHANGED));
    let copied_event = Equal::new(&Arg(0), &layout::GENERATION_GSI);
    let copying = If::new(&copied_event, vec![&id_changed, &clock_changed]);
    let mut interrupts: Vec<&dyn Aml> = vec![&press, &copied];
    let mut handlers: Vec<&dyn Aml> = vec![&pressing, &copying];
    if pci {
        interrupts.push(&plug);
        handlers.push(&plugging);
    }
    Scope::new(
        Path::new("_SB_"),
        vec![
            &Device::new(
                Path::new("PWRB"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
                    &Name::new(Path::new("_UID"), &ZERO),
                ],
            ),
            &Device::new(
                Path::new("GED_"),
                vec![
                    &Name::new(Path::new("_HID"), &"ACPI0013"),
                    &Name::new(Path::new("_UID"), &ZERO),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(interrupts)),
                    &Method::new(Path::new("_EVT"), 1, true, handlers),
                ],
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// The generation ID (Microsoft, "Virtual Machine Generation ID": any device with this compatible ID whose ADDR has the two halves of an
/// address) and the VMClock.
fn generation(code: &mut Vec<u8>) {
    let (low, high) = (layout::GENERATION_ID as u32, 0u32);
    let page = Memory32Fixed::new(true, layout::VMCLOCK as u32, layout::VMCLOCK_SIZE as u32);
    Scope::new(
        Path::new("_SB_"),
        vec![
            &Device::new(
                Path::new("VGEN"),
                vec![
                    &Name::new(Path::new("_HID"), &"VIAL0001"),
                    &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
                    &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
                    &Name::new(Path::new("ADDR"), &Package::new(vec![&low, &high])),
                ],
            ),
            &Device::new(
                Path::new("VCLK"),
                vec![
                    &Name::new(Path::new("_HID"), &"VIAL0002"),
                    &Name::new(Path::new("_CID"), &"VMCLOCK"),
                    &Name::new(Path::new("_DDN"), &"VMCLOCK"),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&page])),
                ],
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// pvpanic (`QEMU0001`): tells a panic from a reboot.
fn pvpanic(code: &mut Vec<u8>) {
    let port = IO::new(layout::PORT_PVPANIC, layout::PORT_PVPANIC, 1, 1);
    Scope::new(
        Path::new("_SB_"),
        vec![&Device::new(
            Path::new("PEVT"),
            vec![
                &Name::new(Path::new("_HID"), &"QEMU0001"),
                &Name::new(Path::new("_STA"), &0x0fu8),
                &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&port])),
            ],
        )],
    )
    .to_aml_bytes(code);
}

/// COM1 (`PNP0501`: a 16550A).
fn serial(code: &mut Vec<u8>) {
    let ports = IO::new(layout::PORT_SERIAL, layout::PORT_SERIAL, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, layout::SERIAL_GSI);
    Scope::new(
        Path::new("_SB_"),
        vec![&Device::new(
            Path::new("COM1"),
            vec![
                &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
                &Name::new(Path::new("_UID"), &ZERO),
                &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
            ],
        )],
    )
    .to_aml_bytes(code);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::places::Places;

    /// Flags of each extended interrupt descriptor (6.4.3.6) for a pin of the virtio devices.
    fn interrupts(code: &[u8]) -> Vec<(u8, u8)> {
        code.windows(9)
            .filter(|bytes| bytes[..3] == [0x89, 6, 0] && bytes[4] == 1)
            .map(|bytes| (bytes[5], bytes[3]))
            .filter(|(gsi, _)| u32::from(*gsi) >= layout::VIRTIO_GSI_FIRST)
            .collect()
    }

    #[test]
    fn an_interrupt_is_shared_only_where_it_is() {
        let mut places = Places::default();
        let places: Vec<_> = (0..20).map(|_| places.allocate().unwrap()).collect();
        let found = interrupts(&definitions(&places, Extras::default()));
        assert_eq!(found.len(), 20);
        for (gsi, flags) in found {
            // Consumer, edge, active high; and bit 3 for two of the eighteen.
            assert_eq!(flags, if gsi < 8 { 0b1011 } else { 0b11 }, "{gsi}");
        }
        assert!(
            interrupts(&definitions(&places[..18], Extras::default()))
                .iter()
                .all(|(_, flags)| *flags == 0b11)
        );
    }
}
