//! The few registers of the machine itself, all of them I/O ports: sleep, reset, pvpanic.

use crate::api::status::ExitReason;
use crate::arch::layout;
use crate::bus::{BadRange, Bus, BusDevice};
use crate::end::EndSignal;
use crate::metrics::counters;
use std::sync::Arc;

/// SLP_EN and SLP_TYP of the sleep control register (ACPI 6.5, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// PVPANIC_PANICKED (QEMU docs/specs/pvpanic.rst), the only event that is understood.
const PANICKED: u8 = 1;
/// The i8042's command to pulse the reset line.
const I8042_RESET: u8 = 0xfe;

counters! {
    /// What guests did with the only register of an i8042 that there is, under the names of Firecracker's metrics.
    pub struct I8042Metrics {
        /// Bytes read.
        read_count,
        /// Commands that were understood.
        write_count,
        /// Those of them that reset the machine.
        reset_count,
        /// Commands that were not understood.
        missed_write_count,
    }
}

/// Puts them on the port bus.
pub fn insert(ports: &mut Bus, end: &EndSignal, i8042: &Arc<I8042Metrics>) -> Result<(), BadRange> {
    let mut put = |port: u16, len, register| {
        ports.insert(port.into(), len, Box::new(PlatformPort { register, end: end.clone() }))
    };
    put(layout::PORT_SLEEP_CONTROL, 1, Register::SleepControl)?;
    put(layout::PORT_SLEEP_STATUS, 1, Register::SleepStatus)?;
    put(layout::PORT_RESET, 1, Register::Reset)?;
    put(layout::PORT_PVPANIC, 1, Register::Pvpanic)?;
    put(layout::PORT_I8042, 1, Register::I8042(Arc::clone(i8042)))
}

enum Register {
    SleepControl,
    SleepStatus,
    Reset,
    Pvpanic,
    I8042(Arc<I8042Metrics>),
}

struct PlatformPort {
    register: Register,
    end: EndSignal,
}

impl BusDevice for PlatformPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        if let Register::I8042(metrics) = &self.register {
            metrics.read_count.add(data.len() as u64);
        }
        data.fill(match self.register {
            Register::Pvpanic => PANICKED,
            // Never asleep, never waking; the i8042's buffers are empty.
            Register::SleepControl | Register::SleepStatus | Register::Reset | Register::I8042(_) => 0,
        });
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let Some(value) = data.first() else { return };
        match &self.register {
            Register::SleepControl if value & SLEEP_ENABLE != 0 => {
                match value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK {
                    layout::SLEEP_TYPE_S5 => self.end.end(ExitReason::GuestShutdown, ""),
                    other => {
                        let detail = format!("it entered sleep type {other}, which it was never offered");
                        self.end.end(ExitReason::GuestFault, detail);
                    }
                }
            }
            Register::Reset if *value == layout::RESET_VALUE => self.end.end(ExitReason::GuestReboot, ""),
            Register::I8042(metrics) if *value == I8042_RESET => {
                metrics.write_count.add(1);
                metrics.reset_count.add(1);
                self.end.end(ExitReason::GuestReboot, "through the i8042");
            }
            Register::I8042(metrics) => metrics.missed_write_count.add(1),
            Register::Pvpanic if value & PANICKED != 0 => self.end.end(ExitReason::GuestPanic, ""),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_writing(port: u16, value: u8) -> Option<ExitReason> {
        let end = EndSignal::new().unwrap();
        let mut ports = Bus::default();
        insert(&mut ports, &end, &Arc::default()).unwrap();
        ports.write(port.into(), &[value]);
        end.ending().map(|ending| ending.reason)
    }

    #[test]
    fn each_register_ends_the_vm_with_its_own_reason() {
        assert_eq!(after_writing(layout::PORT_SLEEP_CONTROL, 0x34), Some(ExitReason::GuestShutdown));
        assert_eq!(after_writing(layout::PORT_RESET, 1), Some(ExitReason::GuestReboot));
        assert_eq!(after_writing(layout::PORT_I8042, 0xfe), Some(ExitReason::GuestReboot));
        assert_eq!(after_writing(layout::PORT_PVPANIC, 1), Some(ExitReason::GuestPanic));
        assert_eq!(after_writing(layout::PORT_SLEEP_CONTROL, 0x20), Some(ExitReason::GuestFault));
    }

    #[test]
    fn other_values_do_nothing() {
        for (port, value) in [
            (layout::PORT_SLEEP_CONTROL, 0x14),
            (layout::PORT_SLEEP_STATUS, 0x80),
            (layout::PORT_RESET, 0),
            (layout::PORT_PVPANIC, 2),
            (layout::PORT_I8042, 0xaa),
        ] {
            assert_eq!(after_writing(port, value), None, "{value:#x} to port {port:#x}");
        }
    }
}
