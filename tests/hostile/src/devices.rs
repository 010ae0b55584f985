//! A guest's driver that does anything: descriptor tables, rings, registers, and the order in which it touches them.

use event_manager::EventManager;
use std::fs::File;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{Bytes, GuestAddress};
use vmm::bus::BusDevice;
use vmm::door::Ceiling;
use vmm::memory::scratch;
use vmm::virtio::block::{Block, BlockConfig};
use vmm::virtio::console::Console;
use vmm::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use vmm::virtio::vsock::{GuestConnect, Vsock, VsockConfig};
use vmm::virtio::{Chain, FaultSink, GuestMemory, Subscriber, Surroundings, Transport, VirtioDevice};

const MEMORY_SIZE: u64 = 256 << 10;
/// Entries of every ring: few, so that they wrap.
const RING: u16 = 8;
/// Each queue has a page for its rings, from the second on: descriptors, then what is available, then what is used.
const PAGE: u64 = 0x1000;

pub(crate) fn memory() -> GuestMemory {
    scratch(MEMORY_SIZE as usize, None).unwrap()
}

/// Takes a number off the front.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*number)
}

/// The walk over a descriptor chain: table and buffers anywhere in memory that holds these bytes.
pub fn chain(mut bytes: &[u8]) {
    let (Some(table), Some(head), Some([size])) = (
        take(&mut bytes).map(u16::from_le_bytes),
        take(&mut bytes).map(u16::from_le_bytes),
        take(&mut bytes),
    ) else {
        return;
    };
    let (memory, size) = (memory(), 1 << (size % 9));
    memory.write_slice(&bytes[..bytes.len().min(MEMORY_SIZE as usize)], GuestAddress(0)).unwrap();
    let mut chain = Chain::default();
    let place = GuestAddress(table.into());
    if chain.load_any(&memory, place, size, head).is_ok() && chain.elsewhere().is_some() {
        // Before anything is written: the table may be in what the device may write.
        assert!(Chain::default().load(&memory, place, size, head).is_err());
        // Lengths are the driver's, what is there is less.
        let (mut data, most) = ([0; 64], chain.readable_len().min(64) as usize);
        assert!(chain.read_at(&memory, 0, &mut data) <= most);
        assert!(chain.write_at(&memory, 0, &data) <= chain.writable_len().min(64) as usize);
        let there: usize = chain.writable_slices(&memory, 0, u32::MAX).iter().map(|slice| slice.len()).sum();
        assert!(there <= chain.writable_len() as usize);
        return;
    }
    if chain.load(&memory, place, size, head).is_err() {
        return;
    }
    let mut total = 0;
    for segment in chain.readable().iter().chain(chain.writable()) {
        assert!(segment.len > 0);
        assert!(segment.address.0.checked_add(segment.len.into()).unwrap() <= MEMORY_SIZE);
        total += u64::from(segment.len);
    }
    assert!(chain.readable().len() + chain.writable().len() <= size.into());
    assert_eq!(total, u64::from(chain.readable_len()) + u64::from(chain.writable_len()));
    let mut data = [0; 64];
    let read = chain.read_at(&memory, 3, &mut data);
    assert_eq!(read, (chain.readable_len() as usize).saturating_sub(3).min(64));
    let written = chain.write_at(&memory, 5, &data);
    assert_eq!(written, (chain.writable_len() as usize).saturating_sub(5).min(64));
}

/// A guest and its device behind registers.
pub(crate) struct Guest {
    memory: GuestMemory,
    transport: MmioTransport,
    manager: EventManager<Subscriber>,
    queues: u16,
    available: Vec<u16>,
}

impl Guest {
    /// As a driver leaves it that keeps to the rules until then.
    pub(crate) fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with(device, 0)
    }

    /// The same, with features of the device's own.
    pub(crate) fn with(device: Box<dyn VirtioDevice>, own: u64) -> Self {
        Self::on(memory(), device, own)
    }

    /// The same on memory of another kind, as much of it.
    pub(crate) fn on(memory: GuestMemory, device: Box<dyn VirtioDevice>, own: u64) -> Self {
        let manager = EventManager::new().unwrap();
        let (faults, workers) = (FaultSink::new(|_, _| {}), manager.remote_endpoint());
        let surroundings =
            Surroundings { memory: memory.clone(), workers, faults, interrupts: Arc::default() };
        let transport = MmioTransport::new(surroundings, device).unwrap();
        let queues = u16::try_from(transport.core().queue_events().len()).unwrap();
        let mut guest = Self { memory, transport, manager, queues, available: vec![0; queues.into()] };
        let features = own
            | 1u64 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX;
        guest.set(reg::VIRTIO_MMIO_STATUS, 3);
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            guest.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            guest.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        guest.set(reg::VIRTIO_MMIO_STATUS, 11);
        for queue in 0..queues {
            let base = (u32::from(queue) + 1) * PAGE as u32;
            guest.set(reg::VIRTIO_MMIO_QUEUE_SEL, queue.into());
            guest.set(reg::VIRTIO_MMIO_QUEUE_NUM, RING.into());
            guest.set(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, base);
            guest.set(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x400);
            guest.set(reg::VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x800);
            guest.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        }
        guest.set(reg::VIRTIO_MMIO_STATUS, 15);
        guest.run();
        guest
    }

    fn set(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    /// Lets the device work. What a driver left in the rings is finite, so the device must come to rest.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.manager.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    /// The way to the driver.
    pub(crate) fn signals(&self) -> std::sync::Arc<vmm::virtio::Signals> {
        self.transport.core().signals()
    }

    /// Makes the chain at `head` available and kicks.
    fn offer(&mut self, queue: u16, head: u16) {
        let base = (u64::from(queue) + 1) * PAGE + 0x400;
        let next = &mut self.available[usize::from(queue)];
        let slot = base + 4 + u64::from(*next % RING) * 2;
        *next = next.wrapping_add(1);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.memory.write_obj(*next, GuestAddress(base + 2)).unwrap();
        self.transport.write(QUEUE_NOTIFY, &u32::from(queue).to_le_bytes());
    }

    /// Does the next thing that the bytes say; false at their end. Things that are not the guest's are left to `host`.
    fn step(&mut self, bytes: &mut &[u8], host: &mut dyn FnMut(u8, &mut &[u8])) -> Option<()> {
        let [what] = take(bytes)?;
        match what % 8 {
            0 | 1 => {
                let (page, offset) = (u64::from(take::<1>(bytes)?[0] % 64), u16::from_le_bytes(take(bytes)?));
                let count = usize::from(take::<1>(bytes)?[0]).min(bytes.len());
                let (data, rest) = bytes.split_at(count);
                *bytes = rest;
                let address = page * PAGE + u64::from(offset) % PAGE;
                // Beyond the end of memory there is nothing to write to.
                let _ = self.memory.write_slice(data, GuestAddress(address));
            }
            2 | 3 => {
                let queue = u16::from(take::<1>(bytes)?[0]) % self.queues;
                self.offer(queue, take::<1>(bytes)?[0].into());
            }
            4 => {
                let register = u64::from(take::<1>(bytes)?[0]) * 4;
                self.transport.write(register, &take::<4>(bytes)?);
            }
            5 => {
                let register = u64::from(take::<1>(bytes)?[0]) * 4;
                self.transport.read(register, &mut [0; 4]);
            }
            6 => self.run(),
            _ => {
                let [what] = take(bytes)?;
                host(what, bytes);
            }
        }
        Some(())
    }

    pub(crate) fn play(mut self, mut bytes: &[u8], mut host: impl FnMut(u8, &mut &[u8])) {
        while self.step(&mut bytes, &mut host).is_some() {}
        self.run();
        self.set(reg::VIRTIO_MMIO_STATUS, 0);
        self.run();
    }
}

/// VIRTIO_BLK_F_DISCARD and VIRTIO_BLK_F_WRITE_ZEROES.
const RANGES: u64 = 1 << 13 | 1 << 14;

/// A disk, or a drive whose media a host puts in and takes out.
pub fn block(bytes: &[u8]) {
    if bytes.first().is_some_and(|first| first & 2 == 2) {
        return removable(bytes);
    }
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    let read_only = bytes.first().is_some_and(|first| first & 1 == 1);
    let files = if read_only { vec![file.try_clone().unwrap(), file] } else { vec![file] };
    let device = Block::new(BlockConfig::new("fuzzed", files, read_only)).unwrap();
    Guest::with(Box::new(device), if read_only { 0 } else { RANGES })
        .play(bytes.get(1..).unwrap_or_default(), |_, _| {});
}

/// What the guest does at whatever time changes nothing of a medium that is out, nor its size while it is in.
fn removable(bytes: &[u8]) {
    let device = Block::new(BlockConfig::removable("fuzzed", bytes[0] & 1 == 1)).unwrap();
    let tray = device.tray();
    let guest = Guest::new(Box::new(device));
    let interrupt = guest.transport.core().signals();
    let (mut inside, mut outside) = (None::<File>, Vec::new());
    let content = |file: &File| {
        let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    };
    guest.play(&bytes[1..], |what, _| {
        if what % 2 == 0 {
            let medium = tempfile::tempfile().unwrap();
            medium.set_len(u64::from(what >> 1) * 512).unwrap();
            let taken = tray.insert(vec![medium.try_clone().unwrap()], &interrupt).is_ok();
            assert_eq!(taken, inside.is_none() && what > 1);
            if taken {
                inside = Some(medium);
            }
        } else {
            tray.eject(&interrupt).unwrap();
            outside.extend(inside.take().map(|file| (content(&file), file)));
        }
    });
    assert!(outside.iter().all(|(before, file)| content(file) == *before));
}

/// A console with a line of input.
pub fn console(bytes: &[u8]) {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(b"a line\n").unwrap();
    let device = Console::new(Some(input), Some(tempfile::tempfile().unwrap())).unwrap();
    Guest::new(Box::new(device)).play(bytes, |_, _| {});
}

/// Sockets, with host programs that connect, write and leave.
pub fn vsock(bytes: &[u8]) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("vial-hostile-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let guest_connect = GuestConnect::Ports([(5, theirs)].into());
    let device =
        Vsock::new(VsockConfig { cid: 3, listener, ceiling: Ceiling::of_process(), guest_connect }).unwrap();
    let mut peers = vec![ours];
    peers[0].set_nonblocking(true).unwrap();
    Guest::new(Box::new(device)).play(bytes, |what, bytes| {
        let which = usize::from(what >> 2) % peers.len().max(1);
        match what % 4 {
            0 if peers.len() < 8 => {
                let mut peer = UnixStream::connect_addr(&address).unwrap();
                peer.set_nonblocking(true).unwrap();
                let _ = peer.write(b"CONNECT 7\n");
                peers.push(peer);
            }
            1 if !peers.is_empty() => {
                let count = usize::from(bytes.first().copied().unwrap_or(0)).min(bytes.len());
                let (data, rest) = bytes.split_at(count);
                *bytes = rest;
                let _ = peers[which].write(data);
            }
            2 if !peers.is_empty() => {
                let _ = peers[which].read(&mut [0; 512]);
            }
            3 if !peers.is_empty() => drop(peers.swap_remove(which)),
            _ => {}
        }
    });
}
