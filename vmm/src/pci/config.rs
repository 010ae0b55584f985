//! The configuration space of one function: a type 0 header with one 64-bit memory BAR, and capabilities (PCI 3.0, chapter 6).

/// Bytes of a conventional configuration space.
pub const SIZE: usize = 256;

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const BAR: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// First byte behind the header.
const FIRST_CAPABILITY: usize = 0x40;

/// Command register: memory space, bus master, no INTx (6.2.2).
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
const COMMAND_NO_INTX_HIGH: u8 = 1 << 2;
/// Status register: there is a list of capabilities (6.2.3).
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// A memory BAR of 64 bits, not prefetchable (6.2.5.1).
const BAR_64: u8 = 0b100;

/// Who a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class, subclass, programming interface: `0xccssii`.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// The registers, and which of their bits the guest may write.
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    next: usize,
    last: Option<usize>,
}

impl ConfigSpace {
    /// A header without BAR and capabilities.
    pub fn new(ids: Ids) -> Self {
        let mut space = Self { bytes: [0; SIZE], writable: [0; SIZE], next: FIRST_CAPABILITY, last: None };
        space.put(VENDOR, &ids.vendor.to_le_bytes());
        space.put(DEVICE, &ids.device.to_le_bytes());
        space.put(REVISION, &[ids.revision]);
        space.put(CLASS, &ids.class.to_le_bytes()[..3]);
        space.put(SUBSYSTEM_VENDOR, &ids.subsystem_vendor.to_le_bytes());
        space.put(SUBSYSTEM, &ids.subsystem.to_le_bytes());
        // Software's own note of an interrupt that nobody raises: the pin is 0, there is no INTx.
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Gives BAR 0 and 1 to `size` bytes of memory, a power of two and 16 or more, which lie at `base` until the guest moves them.
    pub fn add_bar(&mut self, size: u64, base: u64) {
        debug_assert!(size.is_power_of_two() && size >= 16 && base.is_multiple_of(size));
        self.put(BAR, &(base | u64::from(BAR_64)).to_le_bytes());
        // Sizing writes ones and reads back which stick (6.2.5.1).
        self.allow(BAR, &(!(size - 1)).to_le_bytes());
        self.allow(COMMAND, &[COMMAND_MEMORY | COMMAND_MASTER, COMMAND_NO_INTX_HIGH]);
    }

    /// Adds a capability: `body` follows ID and pointer, `writable` says which of its bits the guest may write. Where it begins.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.next;
        debug_assert!(at + 2 + body.len() <= SIZE, "capabilities outgrow the space");
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        // Pointers are aligned to 32 bits (6.7).
        self.next = (at + 2 + body.len()).next_multiple_of(4);
        self.put(self.last.map_or(CAPABILITIES, |last| last + 1), &[at as u8]);
        self.put(STATUS, &[STATUS_CAPABILITIES]);
        self.last = Some(at);
        at as u16
    }

    /// Reads; what is not there keeps its ones.
    pub fn read(&self, register: u16, data: &mut [u8]) {
        if let Some(bytes) = self.bytes.get(register.into()..usize::from(register) + data.len()) {
            data.copy_from_slice(bytes);
        }
    }

    /// Writes what may be written.
    pub fn write(&mut self, register: u16, data: &[u8]) {
        let range = register.into()..usize::from(register) + data.len();
        let (Some(bytes), Some(writable)) = (self.bytes.get_mut(range.clone()), self.writable.get(range))
        else {
            return;
        };
        for ((byte, mask), new) in bytes.iter_mut().zip(writable).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Where the BAR is, if the guest has switched it on.
    pub fn bar(&self) -> Option<u64> {
        let mut base = [0; 8];
        base.copy_from_slice(&self.bytes[BAR..BAR + 8]);
        let base = u64::from_le_bytes(base) & !0xf;
        (self.bytes[COMMAND] & COMMAND_MEMORY != 0).then_some(base)
    }

    /// The registers as they are, for a saved state.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> ConfigSpace {
        let ids = Ids {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_80_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x40,
        };
        let mut space = ConfigSpace::new(ids);
        space.add_bar(0x8000, 0xe800_0000);
        space
    }

    fn get(space: &ConfigSpace, register: u16) -> u32 {
        let mut data = [0xff; 4];
        space.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_header_says_who_it_is_6_2_1() {
        let space = space();
        assert_eq!(get(&space, 0), 0x1042_1af4);
        assert_eq!(get(&space, 8), 0x0180_0001);
        assert_eq!(get(&space, 0x2c), 0x0040_1af4);
        // Type 0, one function; no INTx.
        assert_eq!(get(&space, 0x0c), 0);
        assert_eq!(get(&space, 0x3c) >> 8, 0);
    }

    #[test]
    fn a_bar_is_sized_by_writing_ones_6_2_5_1() {
        let mut space = space();
        assert_eq!((get(&space, 0x10), get(&space, 0x14)), (0xe800_0004, 0));
        space.write(0x10, &[0xff; 4]);
        space.write(0x14, &[0xff; 4]);
        assert_eq!((get(&space, 0x10), get(&space, 0x14)), (0xffff_8004, 0xffff_ffff));
        space.write(0x10, &0x8000_1234u32.to_le_bytes());
        space.write(0x14, &1u32.to_le_bytes());
        assert_eq!(space.bar(), None, "memory space is off");
        space.write(4, &[2]);
        assert_eq!(space.bar(), Some(0x1_8000_0000));
        // The others are not there.
        space.write(0x18, &[0xff; 4]);
        assert_eq!(get(&space, 0x18), 0);
    }

    #[test]
    fn capabilities_form_a_list_6_7() {
        let mut space = space();
        let one = space.add_capability(9, &[5, 6, 7], &[]);
        let two = space.add_capability(0x11, &[1; 10], &[0, 0xc0]);
        assert_eq!(get(&space, 4) >> 16, 0x10);
        assert_eq!(get(&space, 0x34), u32::from(one));
        assert_eq!(get(&space, one), u32::from_le_bytes([9, two as u8, 5, 6]));
        assert_eq!(get(&space, two), u32::from_le_bytes([0x11, 0, 1, 1]));
        space.write(two, &[0xff; 12]);
        assert_eq!(get(&space, two), u32::from_le_bytes([0x11, 0, 1, 0xc1]));
    }

    proptest! {
        #[test]
        fn only_writable_bits_change_whatever_is_written(
            writes in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..50),
        ) {
            let mut space = space();
            let before = *space.bytes();
            for (register, data) in writes {
                space.write(register, &data);
                space.read(register, &mut data.clone());
            }
            for (index, (old, new)) in before.iter().zip(space.bytes()).enumerate() {
                prop_assert_eq!((old ^ new) & !space.writable[index], 0);
            }
        }
    }
}
