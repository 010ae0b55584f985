//! Finds the device behind an address or a port.
//!
//! Built once, then shared by all vCPU threads: the map itself needs no lock. Each device has its own, or many where an access may wait
//! for somebody outside: what stands behind a bridge must not wait for a neighbour.

use crate::lock::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Something with registers. Offsets are relative to where it was put.
pub trait BusDevice: Send {
    /// Fills `data`, which is all ones when it comes.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

impl<T: BusDevice + ?Sized> BusDevice for Box<T> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        (**self).read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        (**self).write(offset, data);
    }
}

/// The same for something that vCPUs may be in at the same time.
pub trait SharedDevice: Send + Sync {
    /// As [`BusDevice::read`].
    fn read(&self, offset: u64, data: &mut [u8]);
    /// As [`BusDevice::write`].
    fn write(&self, offset: u64, data: &[u8]);
}

impl<T: BusDevice> SharedDevice for Mutex<T> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        lock(self).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        lock(self).write(offset, data);
    }
}

/// Two devices want the same addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range of {len} addresses from {base:#x} is empty, wraps, or is taken already")]
pub struct BadRange {
    /// First address.
    pub base: u64,
    /// How many.
    pub len: u64,
}

struct Slot {
    len: u64,
    device: Arc<dyn SharedDevice>,
}

/// One address space: memory-mapped or ports.
#[derive(Default)]
pub struct Bus {
    slots: BTreeMap<u64, Slot>,
}

impl Bus {
    /// Puts `device` at `[base, base + len)`.
    pub fn insert(&mut self, base: u64, len: u64, device: Box<dyn BusDevice>) -> Result<(), BadRange> {
        self.share(base, len, Arc::new(Mutex::new(device)))
    }

    /// The same with a device that others have to do with too, or that locks for itself.
    pub fn share(&mut self, base: u64, len: u64, device: Arc<dyn SharedDevice>) -> Result<(), BadRange> {
        let end = base.checked_add(len).filter(|end| *end > base).ok_or(BadRange { base, len })?;
        if self.slots.range(..end).next_back().is_some_and(|(start, slot)| start + slot.len > base) {
            return Err(BadRange { base, len });
        }
        self.slots.insert(base, Slot { len, device });
        Ok(())
    }

    /// The device that `[address, address + len)` lies in as a whole, and the offset in it.
    fn find(&self, address: u64, len: usize) -> Option<(&Slot, u64)> {
        let (base, slot) = self.slots.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(len as u64)?;
        (end <= slot.len).then_some((slot, offset))
    }

    /// Reads as the guest does: where nothing is, every bit is set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((slot, offset)) = self.find(address, data.len()) {
            slot.device.read(offset, data);
        }
    }

    /// Writes as the guest does: where nothing is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.find(address, data.len()) {
            slot.device.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A device that knows its length and how often it was called; it fails the test when called beyond it.
    struct Probe(u64, Arc<Mutex<usize>>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            assert!(offset + data.len() as u64 <= self.0);
            *self.1.lock().unwrap() += 1;
            data.fill(7);
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            assert!(offset + data.len() as u64 <= self.0);
            *self.1.lock().unwrap() += 1;
        }
    }

    fn probe(len: u64) -> Box<Probe> {
        Box::new(Probe(len, Arc::default()))
    }

    #[test]
    fn an_access_reaches_its_device_only_if_it_lies_inside() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, probe(0x10)).unwrap();
        let read = |address, len| {
            let mut data = vec![0; len];
            bus.read(address, &mut data);
            data
        };
        assert_eq!(read(0x1000, 4), [7; 4]);
        assert_eq!(read(0x100c, 4), [7; 4]);
        assert_eq!(read(0x100d, 4), [0xff; 4]);
        assert_eq!(read(0xfff, 4), [0xff; 4]);
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x1000, probe(0x1000)).unwrap();
        for (base, len) in [(0x1000, 1), (0x1fff, 1), (0xfff, 2), (0, 0x3000), (5, 0), (u64::MAX, 2)] {
            assert!(bus.insert(base, len, probe(len)).is_err(), "{base:#x} + {len:#x}");
        }
        bus.insert(0x2000, 1, probe(1)).unwrap();
        bus.insert(0xfff, 1, probe(1)).unwrap();
    }

    proptest! {
        #[test]
        fn no_access_runs_over_a_device(
            ranges in proptest::collection::vec((0u64..2000, 1u64..64), 0..20),
            accesses in proptest::collection::vec((0u64..2100, 1usize..16, any::<bool>()), 0..100),
        ) {
            let mut bus = Bus::default();
            for (base, len) in ranges {
                let _ = bus.insert(base, len, probe(len));
            }
            for (address, len, write) in accesses {
                let mut data = vec![0; len];
                if write { bus.write(address, &data) } else { bus.read(address, &mut data) }
            }
        }
    }
}
