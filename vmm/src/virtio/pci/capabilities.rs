//! Who a device is on the bus, and where its structures are (sections 4.1.2 and 4.1.4).

use super::{BAR_SIZE, COMMON, DEVICE, ISR, NOTIFY, NOTIFY_STRIDE};
use crate::pci::{ConfigSpace, Ids};
use virtio_bindings::virtio_ids::{VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_NET};

/// Red Hat's, which the specification uses (4.1.2).
const VENDOR: u16 = 0x1af4;
/// Of modern devices: 0x1040 and the device ID (4.1.2.1).
const FIRST_DEVICE: u16 = 0x1040;
/// 1 or higher for modern devices (4.1.2.1).
const REVISION: u8 = 1;
/// 0x40 or higher for modern devices (4.1.2.1).
const SUBSYSTEM: u16 = 0x40;

/// Vendor-specific capability (PCI 3.0, appendix H).
const VENDOR_SPECIFIC: u8 = 0x09;
/// VIRTIO_PCI_CAP_* (4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// In `struct virtio_pci_cap` and behind it, from its start.
const CAP_BAR: u16 = 4;
const CAP_OFFSET: u16 = 8;
const CAP_DATA: u16 = 16;

pub(super) fn ids(device_type: u32) -> Ids {
    // Class codes are for people and for drivers that are none of virtio's: PCI code and ID assignment 1.11.
    let class = match device_type {
        VIRTIO_ID_NET => 0x02_00_00,
        VIRTIO_ID_BLOCK => 0x01_80_00,
        VIRTIO_ID_CONSOLE => 0x07_80_00,
        _ => 0x00_ff_00,
    };
    Ids {
        vendor: VENDOR,
        device: FIRST_DEVICE + device_type as u16,
        revision: REVISION,
        class,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    }
}

/// `struct virtio_pci_cap` without ID and pointer.
fn body(kind: u8, offset: u64, len: u64, more: &[u8]) -> Vec<u8> {
    let size = CAP_DATA as usize + more.len();
    let mut body = vec![size as u8, kind, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((len as u32).to_le_bytes());
    body.extend(more);
    body
}

/// VIRTIO_PCI_CAP_PCI_CFG (4.1.4.9): the BAR through configuration space, for drivers that can't reach it yet.
pub(super) struct Window {
    capability: u16,
}

impl Window {
    /// Adds the capabilities of a device with so many queues.
    pub(super) fn add(space: &mut ConfigSpace, queues: usize) -> Self {
        let mut add = |body: &[u8]| space.add_capability(VENDOR_SPECIFIC, body, &[]);
        add(&body(COMMON_CFG, COMMON, super::common::SIZE, &[]));
        add(&body(ISR_CFG, ISR, 1, &[]));
        add(&body(DEVICE_CFG, DEVICE, NOTIFY - DEVICE, &[]));
        let stride = (NOTIFY_STRIDE as u32).to_le_bytes();
        add(&body(NOTIFY_CFG, NOTIFY, queues as u64 * NOTIFY_STRIDE, &stride));
        let mut writable = [0; 18];
        // BAR; offset and length; data.
        writable[2] = 0xff;
        writable[6..].fill(0xff);
        Self { capability: space.add_capability(VENDOR_SPECIFIC, &body(PCI_CFG, 0, 0, &[0; 4]), &writable) }
    }

    /// Where in the BAR an access to configuration space ends up, and how many bytes of it, if it is one to the window's data that the
    /// driver has aimed rightly.
    pub(super) fn reaches(&self, space: &ConfigSpace, register: u16, len: usize) -> Option<(u64, usize)> {
        if register != self.capability + CAP_DATA {
            return None;
        }
        let (mut bar, mut aim) = ([0], [0; 8]);
        space.read(self.capability + CAP_BAR, &mut bar);
        space.read(self.capability + CAP_OFFSET, &mut aim);
        let aim = u64::from_le_bytes(aim);
        let (offset, wanted) = (aim & u64::from(u32::MAX), aim >> 32);
        // 1, 2 or 4 bytes, aligned (4.1.4.9.1), as many as are read or written.
        let fits = matches!(wanted, 1 | 2 | 4) && offset % wanted == 0 && offset + wanted <= BAR_SIZE;
        (bar == [0] && fits && wanted <= len as u64).then_some((offset, wanted as usize))
    }

    /// Which registers a saved state has of it: BAR, then offset and length.
    pub(super) fn registers(&self) -> [std::ops::Range<u16>; 2] {
        let at = self.capability;
        [at + CAP_BAR..at + CAP_BAR + 1, at + CAP_OFFSET..at + CAP_DATA]
    }
}
