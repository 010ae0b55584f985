//! The common configuration (section 4.1.4.3) and the ISR status (4.1.4.5).

use super::PciTransport;
use super::messages::NO_VECTOR;
use crate::virtio::transport::set_half;

/// Bytes of `struct virtio_pci_common_cfg`, up to `queue_reset`.
pub(super) const SIZE: u64 = 60;

const DEVICE_FEATURE_SELECT: u64 = 0;
const DEVICE_FEATURE: u64 = 4;
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const CONFIG_VECTOR: u64 = 16;
const NUM_QUEUES: u64 = 18;
const STATUS: u64 = 20;
const GENERATION: u64 = 21;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_NOTIFY_OFFSET: u64 = 30;
const QUEUE_DESC: u64 = 32;
const QUEUE_DRIVER: u64 = 40;
const QUEUE_DEVICE: u64 = 48;
const QUEUE_END: u64 = 56;

impl PciTransport {
    /// A read of one field by its own width (4.1.3.1), `data` being zeroes; 64-bit fields by halves or as a whole.
    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        let core = &self.core;
        let (_, _, queue) = core.selects();
        let value: u64 = match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => core.selects().0.into(),
            (DEVICE_FEATURE, 4) => core.device_features_half().into(),
            (DRIVER_FEATURE_SELECT, 4) => core.selects().1.into(),
            (DRIVER_FEATURE, 4) => core.driver_features_half().into(),
            (CONFIG_VECTOR, 2) => self.vectors.config().into(),
            (NUM_QUEUES, 2) => core.queue_events().len() as u64,
            (STATUS, 1) => core.status().into(),
            // Eight bits are the structure's; that they wrap the specification knows (2.5.1).
            (GENERATION, 1) => core.signals().generation().into(),
            (QUEUE_SELECT, 2) => queue.into(),
            (QUEUE_VECTOR, 2) => self.vectors.queue(queue).into(),
            (QUEUE_NOTIFY_OFFSET, 2) => queue.into(),
            _ => self.read_queue(offset, data.len()),
        };
        let len = data.len().min(8);
        data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn read_queue(&self, offset: u64, len: usize) -> u64 {
        // A queue that does not exist has size 0 (4.1.4.3.1).
        let Some(setup) = self.core.queue() else { return 0 };
        match (offset, len) {
            (QUEUE_SIZE, 2) => setup.size.into(),
            (QUEUE_ENABLE, 2) => setup.ready.into(),
            (QUEUE_DESC..QUEUE_END, 4 | 8) if offset.is_multiple_of(len as u64) => {
                let field = match offset & !7 {
                    QUEUE_DESC => setup.desc_table,
                    QUEUE_DRIVER => setup.avail_ring,
                    QUEUE_DEVICE.. => setup.used_ring,
                    _ => 0,
                };
                field >> (offset % 8 * 8)
            }
            _ => 0,
        }
    }

    /// A write of one field by its own width; others, and what comes at the wrong time, are ignored.
    pub(super) fn write_common(&mut self, offset: u64, data: &[u8]) {
        let mut value = [0; 8];
        let Some(bytes) = value.get_mut(..data.len()) else { return };
        bytes.copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        let (word, half) = (value as u32, value as u16);
        match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => self.core.select_device_features(word),
            (DRIVER_FEATURE_SELECT, 4) => self.core.select_driver_features(word),
            (DRIVER_FEATURE, 4) => self.core.accept_features(word),
            (CONFIG_VECTOR, 2) => self.vectors.set_config(half),
            (STATUS, 1) => {
                if self.core.write_status(word) {
                    self.vectors.forget();
                }
            }
            (QUEUE_SELECT, 2) => self.core.select_queue(word),
            (QUEUE_VECTOR, 2) => {
                let (_, _, queue) = self.core.selects();
                self.vectors.set_queue(queue, half);
            }
            // A driver must not write 0 (4.1.4.3.2).
            (QUEUE_ENABLE, 2) if half == 1 => self.core.set_queue_ready(true),
            _ => self.write_queue(offset, data.len(), value),
        }
    }

    fn write_queue(&mut self, offset: u64, len: usize, value: u64) {
        let Some(setup) = self.core.queue_to_set_up() else { return };
        match (offset, len) {
            // A size that is too large or no power of two is found out when the queue is enabled.
            (QUEUE_SIZE, 2) => setup.size = value as u16,
            (QUEUE_DESC..QUEUE_END, 4 | 8) if offset.is_multiple_of(len as u64) => {
                let field = match offset & !7 {
                    QUEUE_DESC => &mut setup.desc_table,
                    QUEUE_DRIVER => &mut setup.avail_ring,
                    QUEUE_DEVICE.. => &mut setup.used_ring,
                    _ => return,
                };
                match len {
                    8 => *field = value,
                    _ => set_half(field, (offset % 8 / 4) as u32, value as u32),
                }
            }
            _ => {}
        }
    }

    /// What was signalled since the last read, which clears it (4.1.4.5.1).
    pub(super) fn read_isr(&self, data: &mut [u8]) {
        if let Some(first) = data.first_mut() {
            *first = self.core.signals().acknowledge(u32::MAX) as u8;
        }
    }
}

/// [`NO_VECTOR`] where a table does not reach (4.1.5.1.2.2): that is how a driver learns that its choice failed.
pub(super) fn mapped(vector: u16, count: usize) -> u16 {
    if usize::from(vector) < count { vector } else { NO_VECTOR }
}
