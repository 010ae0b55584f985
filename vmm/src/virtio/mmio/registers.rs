//! The register page: table 4.1 of section 4.2.2.

use super::{MmioTransport, QUEUE_NOTIFY};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_mmio as reg;

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// The modern layout.
const VERSION: u32 = 2;
/// "VIAL", little endian; drivers don't look at it.
const VENDOR: u32 = 0x4c41_4956;
const CONFIG_SPACE: u64 = reg::VIRTIO_MMIO_CONFIG as u64;

impl MmioTransport {
    /// A read of `data.len()` bytes at `offset` of the page. What does not exist reads as zeroes.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            return self.device.read_config(offset, data);
        }
        if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <&mut [u8; 4]>::try_from(data)) {
            *bytes = self.read_register(register).to_le_bytes();
        }
    }

    /// A write of `data` at `offset` of the page. What does not exist, or not yet, ignores it.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            if self.has(VIRTIO_CONFIG_S_DRIVER) {
                self.device.write_config(offset, data);
            }
            return;
        }
        if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(bytes));
        }
    }

    fn read_register(&mut self, register: u32) -> u32 {
        match register {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(self.device_features(), self.device_features_select),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected().map_or(0, |queue| queue.max_size.into()),
            reg::VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |queue| queue.ready.into()),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            reg::VIRTIO_MMIO_STATUS if self.interrupt.is_broken() => {
                self.status | VIRTIO_CONFIG_S_NEEDS_RESET
            }
            reg::VIRTIO_MMIO_STATUS => self.status,
            // No device has shared memory regions yet: length and base of -1 (section 4.2.2.1).
            reg::VIRTIO_MMIO_SHM_LEN_LOW
            | reg::VIRTIO_MMIO_SHM_LEN_HIGH
            | reg::VIRTIO_MMIO_SHM_BASE_LOW
            | reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        match register {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES if self.negotiating() => {
                set_half(&mut self.driver_features, self.driver_features_select, value);
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::VIRTIO_MMIO_STATUS => self.write_status(value),
            _ if u64::from(register) == QUEUE_NOTIFY => self.notify(value),
            _ if self.setting_up() => self.write_queue_register(register, value),
            _ => {}
        }
    }

    /// Normally the host kernel does this through an ioeventfd, and no exit gets here.
    fn notify(&mut self, index: u32) {
        let event = usize::try_from(index).ok().and_then(|index| self.events.get(index));
        if let Some(event) = event.filter(|_| self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0) {
            let _ = event.write(1);
        }
    }

    fn write_queue_register(&mut self, register: u32, value: u32) {
        if register == reg::VIRTIO_MMIO_QUEUE_READY {
            return self.write_queue_ready(value & 1 != 0);
        }
        // A queue in use keeps its place (section 4.2.2.2).
        let Some(setup) = self.selected().filter(|setup| !setup.ready) else { return };
        match register {
            // A size that is too large or no power of two is found out at QueueReady.
            reg::VIRTIO_MMIO_QUEUE_NUM => setup.size = u16::try_from(value).unwrap_or(0),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut setup.desc_table, 0, value),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut setup.desc_table, 1, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut setup.avail_ring, 0, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut setup.avail_ring, 1, value),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut setup.used_ring, 0, value),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut setup.used_ring, 1, value),
            _ => {}
        }
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(target: &mut u64, select: u32, value: u32) {
    match select {
        0 => *target = *target & !u64::from(u32::MAX) | u64::from(value),
        1 => *target = *target & u64::from(u32::MAX) | u64::from(value) << 32,
        _ => {}
    }
}
