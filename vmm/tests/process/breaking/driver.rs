//! What a driver does, in pieces that can be left out or done wrong.

use super::code::Code;

/// The devices of the table's VM, in order: a disk, sockets, entropy, a console.
pub const DISK: u32 = 0xd000_0000;
pub const SOCKETS: u32 = 0xd000_1000;
pub const ENTROPY: u32 = 0xd000_2000;
pub const CONSOLE: u32 = 0xd000_3000;

/// Offsets of registers (virtio 1.2, table 4.1).
pub const DRIVER_FEATURES: u32 = 0x20;
pub const DRIVER_FEATURES_SELECT: u32 = 0x24;
pub const QUEUE_SELECT: u32 = 0x30;
pub const QUEUE_SIZE: u32 = 0x38;
pub const QUEUE_READY: u32 = 0x44;
pub const NOTIFY: u32 = 0x50;
pub const INTERRUPT_ACK: u32 = 0x64;
pub const STATUS: u32 = 0x70;
pub const DESCRIPTORS: u32 = 0x80;
pub const AVAILABLE: u32 = 0x90;
pub const USED: u32 = 0xa0;
pub const CONFIG: u32 = 0x100;

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
        self.w32(device + STATUS, 0).w32(device + STATUS, 1).w32(device + STATUS, 3);
        self.w32(device + DRIVER_FEATURES_SELECT, 0).w32(device + DRIVER_FEATURES, features);
        self.w32(device + DRIVER_FEATURES_SELECT, 1).w32(device + DRIVER_FEATURES, 1);
        self.w32(device + STATUS, 11)
    }

    /// Tells the device of a queue's ring, without making it ready.
    pub fn place(&mut self, device: u32, queue: u32, ring: Ring) -> &mut Self {
        self.w32(device + QUEUE_SELECT, queue).w32(device + QUEUE_SIZE, SIZE.into());
        self.w64(device + DESCRIPTORS, ring.0.into());
        self.w64(device + AVAILABLE, ring.available().into()).w64(device + USED, ring.used().into());
        // What an earlier driver left in it.
        self.w32(ring.available(), 0).w32(ring.used(), 0)
    }

    /// All of a driver's set-up of one queue, up to DRIVER_OK.
    pub fn set_up(&mut self, device: u32, queue: u32, ring: Ring) -> &mut Self {
        self.negotiate(device, 1 << 28)
            .place(device, queue, ring)
            .w32(device + QUEUE_READY, 1)
            .w32(device + STATUS, 15)
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
        self.w32(device + NOTIFY, queue)
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
