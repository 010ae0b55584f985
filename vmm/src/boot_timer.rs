//! Firecracker's boot timer: when the guest writes 123 to it, the log says how long that took since InstanceStart.

use crate::bus::BusDevice;
use crate::sys;

/// What the guest writes.
const BOOTED: u8 = 123;

/// The device. It has one register of one byte, and reads as what nothing does.
#[derive(Debug)]
pub struct BootTimer {
    wall_us: u64,
    cpu_us: u64,
}

impl BootTimer {
    /// Counts from now.
    pub fn start() -> Self {
        Self { wall_us: sys::monotonic_us(), cpu_us: sys::cpu_us() }
    }
}

impl BusDevice for BootTimer {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        if (offset, data) == (0, &[BOOTED][..]) {
            let wall = sys::monotonic_us().saturating_sub(self.wall_us);
            let cpu = sys::cpu_us().saturating_sub(self.cpu_us);
            // In Firecracker's words: its tools look for them.
            crate::log!(
                limited Info,
                "Guest-boot-time = {wall:>6} us {} ms, {cpu:>6} CPU us {} CPU ms",
                wall / 1000,
                cpu / 1000
            );
        }
    }
}
