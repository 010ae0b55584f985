//! The register page: table 4.1 of section 4.2.2.

use super::{MmioTransport, QUEUE_NOTIFY};
use crate::bus::BusDevice;
use crate::virtio::transport::set_half;
use virtio_bindings::virtio_mmio as reg;

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// The modern layout.
const VERSION: u32 = 2;
/// "VIAL", little endian; drivers don't look at it.
const VENDOR: u32 = 0x4c41_4956;
const CONFIG_SPACE: u64 = reg::VIRTIO_MMIO_CONFIG as u64;

impl BusDevice for MmioTransport {
    /// A read of `data.len()` bytes at `offset` of the page. What does not exist reads as zeroes.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            return self.core.read_config(offset, data);
        }
        if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <&mut [u8; 4]>::try_from(data)) {
            *bytes = self.read_register(register).to_le_bytes();
        }
    }

    /// A write of `data` at `offset` of the page. What does not exist, or not yet, ignores it.
    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            return self.core.write_config(offset, data);
        }
        if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(bytes));
        }
    }
}

impl MmioTransport {
    fn read_register(&self, register: u32) -> u32 {
        let core = &self.core;
        match register {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => core.device().device_type(),
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => core.device_features_half(),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => core.queue().map_or(0, |queue| queue.max_size.into()),
            reg::VIRTIO_MMIO_QUEUE_READY => core.queue().map_or(0, |queue| queue.ready.into()),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => core.signals().status(),
            reg::VIRTIO_MMIO_STATUS => core.status(),
            // No device has shared memory regions yet: length and base of -1 (section 4.2.2.1).
            reg::VIRTIO_MMIO_SHM_LEN_LOW
            | reg::VIRTIO_MMIO_SHM_LEN_HIGH
            | reg::VIRTIO_MMIO_SHM_BASE_LOW
            | reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => core.signals().generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        let core = &mut self.core;
        match register {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => core.select_device_features(value),
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => core.select_driver_features(value),
            reg::VIRTIO_MMIO_DRIVER_FEATURES => core.accept_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => core.select_queue(value),
            reg::VIRTIO_MMIO_QUEUE_READY => core.set_queue_ready(value & 1 != 0),
            reg::VIRTIO_MMIO_INTERRUPT_ACK => _ = core.signals().acknowledge(value),
            reg::VIRTIO_MMIO_STATUS => _ = core.write_status(value),
            // Normally the host kernel does this through an ioeventfd, and no exit gets here.
            _ if u64::from(register) == QUEUE_NOTIFY => core.notify(value),
            _ => self.write_queue_register(register, value),
        }
    }

    fn write_queue_register(&mut self, register: u32, value: u32) {
        let Some(setup) = self.core.queue_to_set_up() else { return };
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
