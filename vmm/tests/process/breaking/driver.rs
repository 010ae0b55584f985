//! What a driver does, in pieces that can be left out or done wrong.

use super::code::Code;

/// The devices of the table's VM, in order: a disk, sockets, entropy, a console. Where they are over MMIO.
pub const DISK: u32 = 0xd000_0000;
pub const SOCKETS: u32 = 0xd000_1000;
pub const ENTROPY: u32 = 0xd000_2000;
pub const CONSOLE: u32 = 0xd000_3000;

/// Offsets of registers over MMIO (virtio 1.2, table 4.1), which are their names wherever they are.
pub const DRIVER_FEATURES: u32 = 0x20;
pub const DRIVER_FEATURES_SELECT: u32 = 0x24;
pub const QUEUE_SELECT: u32 = 0x30;
pub const QUEUE_SIZE: u32 = 0x38;
pub const QUEUE_READY: u32 = 0x44;
pub const NOTIFY: u32 = 0x50;
pub const INTERRUPT_STATUS: u32 = 0x60;
pub const INTERRUPT_ACK: u32 = 0x64;
pub const STATUS: u32 = 0x70;
pub const DESCRIPTORS: u32 = 0x80;
pub const AVAILABLE: u32 = 0x90;
pub const USED: u32 = 0xa0;
pub const CONFIG: u32 = 0x100;

/// What the devices are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bus {
    #[default]
    Mmio,
    Pci,
}

/// Configuration space of the first device, its BAR, and the bytes that each device has of both.
const PCI_CONFIG: u32 = 0xe000_8000;
const PCI_BAR: u32 = 0xe800_8000;
const PCI_STEP: u32 = 0x8000;
/// Parts of a BAR (virtio 1.2, section 4.1.4).
const PCI_ISR: u32 = 0x1000;
const PCI_DEVICE: u32 = 0x2000;
const PCI_NOTIFY: u32 = 0x3000;
const PCI_TABLE: u32 = 0x4000;
const PCI_PENDING: u32 = 0x6000;
/// Fields of the common configuration that have no name over MMIO, or that tests leave alone.
const PCI_STATUS: u32 = 20;
const PCI_VECTOR: u32 = 26;
const PCI_ENABLE: u32 = 28;

impl Bus {
    /// Lets devices be reached, and be heard.
    pub fn open(self, code: &mut Code) {
        if self == Self::Mmio {
            return;
        }
        for device in 0..4 {
            let (config, table) = (PCI_CONFIG + device * PCI_STEP, PCI_BAR + device * PCI_STEP + PCI_TABLE);
            // Memory and bus master; MSI-X, the last capability, on; its first two messages go to the first processor.
            code.w32(config + 4, 6).w32(config + 0x98, 0x8000_0000);
            for entry in [table, table + 16] {
                code.w32(entry, 0xfee0_0000).w32(entry + 8, 0x31).w32(entry + 12, 0);
            }
        }
    }

    /// Where `device`'s registers begin.
    pub fn window(self, device: u32) -> u32 {
        match self {
            Self::Mmio => device,
            Self::Pci => PCI_BAR + (device - DISK) / 0x1000 * PCI_STEP,
        }
    }

    /// How many bytes of registers a device has.
    pub fn window_size(self) -> u32 {
        match self {
            Self::Mmio => 0x1000,
            Self::Pci => PCI_STEP,
        }
    }

    /// All registers of a device, in bytes from where they begin, but for those that start and stop it.
    pub fn registers(self) -> Vec<u32> {
        match self {
            Self::Mmio => (0..0x140).filter(|offset| !matches!(offset & !3, STATUS | QUEUE_READY)).collect(),
            Self::Pci => [0, PCI_ISR, PCI_DEVICE, PCI_NOTIFY, PCI_TABLE, PCI_PENDING]
                .into_iter()
                .flat_map(|part| part..part + 0x40)
                .filter(|offset| !matches!(offset & !3, PCI_STATUS | PCI_ENABLE))
                .collect(),
        }
    }

    /// Where a register is that is written `value`, and its bytes; `register` is its address over MMIO.
    pub fn place(self, register: u32, value: u32) -> (u32, u32) {
        if self == Self::Mmio {
            return (register, 4);
        }
        let (offset, width) = match register % 0x1000 {
            DRIVER_FEATURES_SELECT => (8, 4),
            DRIVER_FEATURES => (12, 4),
            STATUS => (PCI_STATUS, 1),
            QUEUE_SELECT => (22, 2),
            QUEUE_SIZE => (24, 2),
            QUEUE_READY => (PCI_ENABLE, 2),
            // Four bytes for each queue; what has no place there goes to its end.
            NOTIFY => (PCI_NOTIFY + value.min(0x3ff) * 4, 2),
            INTERRUPT_STATUS | INTERRUPT_ACK => (PCI_ISR, 1),
            half @ DESCRIPTORS..CONFIG => (32 + (half - DESCRIPTORS) / 0x10 * 8 + half % 0x10, 4),
            space => (PCI_DEVICE + space - CONFIG, 4),
        };
        (self.window(register) + offset, width)
    }
}

/// Flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Entries of every ring here.
pub const SIZE: u16 = 8;

/// A ring's memory: three pages' worth in one, each part where its alignment wants it.
#[derive(Clone, Copy)]
pub struct Ring(pub u32);

/// What most acts use; the proof of life uses others.
pub const RING: Ring = Ring(0x40_0000);
/// Where requests' bytes are.
pub const DATA: u32 = 0x60_0000;

impl Ring {
    pub fn descriptor(self, index: u16) -> u32 {
        self.0 + u32::from(index) * 16
    }

    pub fn available(self) -> u32 {
        self.0 + 0x400
    }

    pub fn used(self) -> u32 {
        self.0 + 0x800
    }

    /// The next entry of the used ring.
    pub fn used_index(self) -> u32 {
        self.used() + 2
    }
}

impl Code {
    /// Reset, ACKNOWLEDGE, DRIVER, these features and VERSION_1, FEATURES_OK.
    pub fn negotiate(&mut self, device: u32, features: u32) -> &mut Self {
        self.set(device + STATUS, 0).set(device + STATUS, 1).set(device + STATUS, 3);
        self.set(device + DRIVER_FEATURES_SELECT, 0).set(device + DRIVER_FEATURES, features);
        self.set(device + DRIVER_FEATURES_SELECT, 1).set(device + DRIVER_FEATURES, 1);
        self.set(device + STATUS, 11)
    }

    /// Tells the device of a queue's ring, without making it ready.
    pub fn place(&mut self, device: u32, queue: u32, ring: Ring) -> &mut Self {
        self.set(device + QUEUE_SELECT, queue).set(device + QUEUE_SIZE, SIZE.into());
        self.set64(device + DESCRIPTORS, ring.0.into());
        if self.bus() == Bus::Pci {
            self.w16(Bus::Pci.window(device) + PCI_VECTOR, 1);
        }
        self.set64(device + AVAILABLE, ring.available().into()).set64(device + USED, ring.used().into());
        // What an earlier driver left in it.
        self.w32(ring.available(), 0).w32(ring.used(), 0)
    }

    /// All of a driver's set-up of one queue, up to DRIVER_OK.
    pub fn set_up(&mut self, device: u32, queue: u32, ring: Ring) -> &mut Self {
        self.negotiate(device, 1 << 28)
            .place(device, queue, ring)
            .set(device + QUEUE_READY, 1)
            .set(device + STATUS, 15)
    }

    pub fn descriptor(
        &mut self,
        ring: Ring,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) -> &mut Self {
        self.table_entry(ring.descriptor(index), address, len, flags, next)
    }

    /// A descriptor anywhere, such as in an indirect table.
    pub fn table_entry(&mut self, at: u32, address: u64, len: u32, flags: u16, next: u16) -> &mut Self {
        self.w64(at, address).w32(at + 8, len).w16(at + 12, flags).w16(at + 14, next)
    }

    /// Makes `head` available as entry `slot`, and `count` entries in all; no kick.
    pub fn offer(&mut self, ring: Ring, slot: u16, head: u16, count: u16) -> &mut Self {
        self.w16(ring.available() + 4 + u32::from(slot) * 2, head).w16(ring.available() + 2, count)
    }

    pub fn kick(&mut self, device: u32, queue: u32) -> &mut Self {
        self.set(device + NOTIFY, queue)
    }

    /// Descriptors 0 to 2: a read of `sector` into `DATA`, its status behind it.
    pub fn read_request(&mut self, ring: Ring, sector: u64) -> &mut Self {
        self.header(0, sector);
        self.descriptor(ring, 0, DATA.into(), 16, NEXT, 1);
        self.descriptor(ring, 1, (DATA + 0x1000).into(), 512, NEXT | WRITE, 2);
        self.descriptor(ring, 2, (DATA + 0x2000).into(), 1, WRITE, 0).w8(DATA + 0x2000, 0xaa)
    }

    /// A block request's header at `DATA`.
    pub fn header(&mut self, kind: u32, sector: u64) -> &mut Self {
        self.w32(DATA, kind).w32(DATA + 4, 0).w64(DATA + 8, sector)
    }

    /// The device works for a driver that begins anew; then the end.
    pub fn prove_life(&mut self) -> &mut Self {
        let ring = Ring(0x50_0000);
        self.set_up(DISK, 0, ring).read_request(ring, 0).offer(ring, 0, 0, 1).kick(DISK, 0);
        self.wait(ring.used_index(), 1).expect(DATA + 0x2000, 0);
        let ring = Ring(0x51_0000);
        self.set_up(ENTROPY, 0, ring).descriptor(ring, 0, DATA.into(), 16, WRITE, 0).offer(ring, 0, 0, 1);
        self.kick(ENTROPY, 0).wait(ring.used_index(), 1).power_off()
    }
}
