//! A guest's side for tests: a driver that goes through the registers and the rings as a real one does, and can misbehave.

mod registers;
pub mod suite;

use super::{FaultSink, GuestMemory, Subscriber, Surroundings, Transport, TransportState, VirtioDevice};
use event_manager::EventManager;
use std::sync::{Arc, Mutex};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{Bytes, GuestAddress};

pub use registers::{BAR, Mmio, Pci, Registers, capability, read};

pub const MEMORY_SIZE: u64 = 16 << 20;
pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
pub const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT_FLAG: u16 = 4;

/// Entries of every queue: small, so that rings wrap.
pub const QUEUE_SIZE: u16 = 16;
const QUEUE_SPACE: u64 = 0x1000;
const BUFFERS: u64 = 0x10_0000;

pub fn memory() -> GuestMemory {
    crate::memory::scratch(MEMORY_SIZE as usize, None).unwrap()
}

pub struct Ring {
    base: u64,
    free: Vec<u16>,
    chains: Vec<(u16, Vec<u16>)>,
    next_avail: u16,
    next_used: u16,
}

impl Ring {
    pub fn table(&self) -> u64 {
        self.base
    }
    pub fn avail(&self) -> u64 {
        self.base + 0x400
    }
    pub fn used(&self) -> u64 {
        self.base + 0x800
    }
}

/// A guest whose devices are behind virtio-mmio.
pub type Guest = GuestOver<Mmio>;

/// A guest whose devices are behind virtio-pci.
pub type PciGuest = GuestOver<Pci>;

pub struct GuestOver<R: Registers> {
    pub memory: GuestMemory,
    pub transport: R::Transport,
    pub registers: R,
    pub rings: Vec<Ring>,
    pub faults: Arc<Mutex<Vec<String>>>,
    manager: EventManager<Subscriber>,
    next_buffer: u64,
}

/// A buffer's place, for [`GuestOver::send`].
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub address: u64,
    pub len: u32,
    pub writable: bool,
}

impl Guest {
    pub fn get(&mut self, register: u32) -> u32 {
        registers::get(&mut self.transport, register)
    }

    pub fn set(&mut self, register: u32, value: u32) {
        registers::set(&mut self.transport, register, value);
    }
}

impl<R: Registers> GuestOver<R> {
    /// Puts devices through [`suite`] behind this guest's registers.
    pub fn suite<S: suite::Subject>(make: impl FnMut() -> S) {
        suite::run::<S, R>(make);
    }

    /// A guest whose driver has not looked at the device yet.
    pub fn cold(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_memory(memory(), device)
    }

    pub fn with_memory(memory: GuestMemory, device: Box<dyn VirtioDevice>) -> Self {
        let manager = crate::event_loop::manager().unwrap();
        let faults = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&faults);
        let faults_to =
            FaultSink::new(move |device, what| sink.lock().unwrap().push(format!("{device}: {what}")));
        let workers = manager.remote_endpoint();
        let surroundings =
            Surroundings { memory: memory.clone(), workers, faults: faults_to, interrupts: Arc::default() };
        let (registers, transport) = R::new(surroundings, device);
        Self { memory, transport, registers, rings: Vec::new(), faults, manager, next_buffer: BUFFERS }
    }

    /// A guest whose driver accepted `features` and is ready.
    pub fn ready(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        Self::ready_with(memory(), device, features)
    }

    /// The same with memory of its own.
    pub fn ready_with(memory: GuestMemory, device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut guest = Self::with_memory(memory, device);
        guest.negotiate(features);
        guest.set_up_rings();
        guest.set_status(15);
        assert_eq!(guest.status(), 15);
        guest.run();
        guest
    }

    pub fn status(&mut self) -> u32 {
        R::status(&mut self.transport)
    }

    pub fn set_status(&mut self, status: u32) {
        R::set_status(&mut self.transport, status);
    }

    pub fn generation(&mut self) -> u32 {
        R::generation(&mut self.transport)
    }

    /// What was signalled since the last time: 1 for queues, 2 for the configuration.
    pub fn acknowledge(&mut self) -> u32 {
        R::acknowledge(&mut self.transport)
    }

    pub fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        R::config(&mut self.transport, offset, &mut data);
        data
    }

    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        R::write_config(&mut self.transport, offset, data);
    }

    pub fn negotiate(&mut self, features: u64) {
        self.set_status(1);
        self.set_status(3);
        R::accept(&mut self.transport, features);
        self.set_status(11);
    }

    pub fn set_up_rings(&mut self) {
        let count = self.transport.core().queue_events().len();
        self.rings = (0..count).map(|index| self.set_up_ring(index as u32)).collect();
    }

    fn set_up_ring(&mut self, index: u32) -> Ring {
        let base = 0x1000 + u64::from(index) * QUEUE_SPACE;
        self.memory.write_slice(&[0; QUEUE_SPACE as usize], GuestAddress(base)).unwrap();
        let ring = Ring {
            base,
            free: (0..QUEUE_SIZE).rev().collect(),
            chains: Vec::new(),
            next_avail: 0,
            next_used: 0,
        };
        let parts = [ring.table(), ring.avail(), ring.used()];
        R::set_up(&mut self.transport, index, QUEUE_SIZE.into(), parts);
        ring
    }

    /// Room in guest memory that nothing else uses.
    pub fn room(&mut self, len: u32, writable: bool) -> Buffer {
        let address = self.next_buffer;
        self.next_buffer += u64::from(len).next_multiple_of(16);
        assert!(self.next_buffer <= MEMORY_SIZE, "the test wants too much memory");
        Buffer { address, len, writable }
    }

    pub fn data(&mut self, bytes: &[u8]) -> Buffer {
        let buffer = self.room(bytes.len() as u32, false);
        self.memory.write_slice(bytes, GuestAddress(buffer.address)).unwrap();
        buffer
    }

    pub fn bytes(&self, buffer: Buffer, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(buffer.address)).unwrap();
        bytes
    }

    pub fn descriptor(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&raw, GuestAddress(table + u64::from(index) * 16)).unwrap();
    }

    /// Makes a chain available, without a kick; its head.
    pub fn offer(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let ring = &mut self.rings[queue];
        let indices: Vec<u16> = buffers.iter().map(|_| ring.free.pop().expect("a free descriptor")).collect();
        let table = ring.table();
        for (place, (index, buffer)) in indices.iter().zip(buffers).enumerate() {
            let next = indices.get(place + 1).copied();
            let flags = if buffer.writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.descriptor(table, *index, buffer.address, buffer.len, flags, next.unwrap_or(0));
        }
        let head = indices[0];
        self.rings[queue].chains.push((head, indices));
        self.offer_head(queue, head);
        head
    }

    /// Makes any head available.
    pub fn offer_head(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.avail() + 4 + u64::from(ring.next_avail % QUEUE_SIZE) * 2;
        ring.next_avail = ring.next_avail.wrapping_add(1);
        let (index, next) = (ring.avail() + 2, ring.next_avail);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.memory.write_obj(next, GuestAddress(index)).unwrap();
    }

    pub fn kick(&mut self, queue: usize) {
        let core = self.transport.core();
        if core.device().shares_events() {
            // As KVM does.
            core.queue_events()[queue].write(1).unwrap();
        }
        R::kick(&mut self.transport, queue as u32);
    }

    /// Offers, kicks, and lets the device work.
    pub fn send(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let head = self.offer(queue, buffers);
        self.kick(queue);
        self.run();
        head
    }

    /// Lets the device work until nothing is ready any more, which must not take forever.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if self.manager.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the event loop does not come to rest");
    }

    /// Lets the device work once on what is ready now.
    pub fn run_once(&mut self) {
        self.manager.run_with_timeout(0).unwrap();
    }

    /// Lets the device work until `done`, however long what it waits for takes.
    pub fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            self.manager.run().unwrap();
        }
    }

    /// A buffer that the device gave back: its head and how much was written.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(ring.used() + 2)).unwrap();
        if index == ring.next_used {
            return None;
        }
        let slot = ring.used() + 4 + u64::from(ring.next_used % QUEUE_SIZE) * 8;
        ring.next_used = ring.next_used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        if let Some(place) = ring.chains.iter().position(|(chain, _)| u32::from(*chain) == head) {
            ring.free.extend(ring.chains.swap_remove(place).1);
        }
        Some((head as u16, len))
    }

    /// With EVENT_IDX: after which used index the driver wants an interrupt.
    pub fn set_used_event(&mut self, queue: usize, index: u16) {
        let place = self.rings[queue].avail() + 4 + u64::from(QUEUE_SIZE) * 2;
        self.memory.write_obj(index, GuestAddress(place)).unwrap();
    }

    /// With EVENT_IDX: whether the device wants a kick for the request that was offered last (section 2.7.10).
    pub fn wants_kick(&self, queue: usize) -> bool {
        let ring = &self.rings[queue];
        let place = ring.used() + 4 + u64::from(QUEUE_SIZE) * 8;
        let event: u16 = self.memory.read_obj(GuestAddress(place)).unwrap();
        event == ring.next_avail.wrapping_sub(1)
    }

    /// The used ring's flags.
    pub fn used_flags(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(self.rings[queue].used())).unwrap()
    }

    /// Whether an interrupt came since the last time.
    pub fn interrupted(&mut self) -> bool {
        self.registers.interrupted(&mut self.transport)
    }

    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }

    pub fn is_broken(&mut self) -> bool {
        self.status() & 0x40 != 0
    }

    /// Has the device stand still, however long that takes the host.
    pub fn pause(&mut self) {
        while !self.transport.core_mut().pause() {
            std::thread::yield_now();
        }
    }

    /// The same guest in another process, with another device of the same kind.
    pub fn migrate(mut self, device: Box<dyn VirtioDevice>) -> Self {
        self.pause();
        let state = serde_json::to_string(&self.transport.save().unwrap()).unwrap();
        let state: TransportState = serde_json::from_str(&state).unwrap();
        let mut other = Self::with_memory(self.memory.clone(), device);
        other.transport.restore(&state).unwrap();
        other.transport.core_mut().resume().unwrap();
        (other.rings, other.next_buffer) = (self.rings, self.next_buffer);
        other.run();
        other
    }
}

/// Any descriptors, for properties: mostly near what is sensible.
pub mod arbitrary {
    use super::{INDIRECT_FLAG, MEMORY_SIZE, NEXT, QUEUE_SIZE, WRITE};
    use proptest::prelude::*;

    pub type Descriptor = (u64, u32, u16, u16);

    pub fn descriptor() -> impl Strategy<Value = Descriptor> {
        let address = prop_oneof![
            8 => 0x10_0000..MEMORY_SIZE,
            1 => 0..0x10_0000u64,
            1 => MEMORY_SIZE - 64..MEMORY_SIZE + 64,
            1 => any::<u64>(),
        ];
        let len = prop_oneof![8 => 0..8192u32, 1 => any::<u32>(), 2 => (0..20u32).prop_map(|n| n * 16)];
        let flags = prop_oneof![
            6 => Just(NEXT), 4 => Just(NEXT | WRITE), 3 => Just(0), 3 => Just(WRITE),
            1 => Just(INDIRECT_FLAG), 1 => any::<u16>(),
        ];
        (address, len, flags, 0..QUEUE_SIZE + 1)
    }
}
