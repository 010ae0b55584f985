//! Queue, block and net paths with plain memory for a guest: `cargo bench -p vmm`.
//!
//! What is measured is this process's own work for a request, system calls included; no VM runs.

// What fails ends a measurement, and there is nothing better to do.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use event_manager::EventManager;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};
use vmm::bus::BusDevice;
use vmm::virtio::block::{Block, BlockConfig, QUEUE_SIZE, Ring};
use vmm::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use vmm::virtio::net::{Net, NetConfig};
use vmm::virtio::{Chain, FaultSink, GuestMemory, Subscriber, Surroundings, VirtioDevice};

/// Requests for each kick.
const BATCH: u16 = 32;
const RING_SIZE: u16 = 128;
const MEMORY: usize = 64 << 20;
const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x10_0000;

fn memory() -> GuestMemory {
    vmm::memory::scratch(MEMORY, None).unwrap()
}

fn descriptor(memory: &GuestMemory, table: u64, index: u16, (address, len): (u64, u32), flags: u16) {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&address.to_le_bytes());
    raw[8..12].copy_from_slice(&len.to_le_bytes());
    raw[12..14].copy_from_slice(&flags.to_le_bytes());
    raw[14..].copy_from_slice(&(index + 1).to_le_bytes());
    memory.write_slice(&raw, GuestAddress(table + u64::from(index) * 16)).unwrap();
}

/// A driver whose requests all look alike.
struct Driver {
    memory: GuestMemory,
    transport: MmioTransport,
    manager: EventManager<Subscriber>,
    queue: u32,
    heads: Vec<u16>,
    next: u16,
}

impl Driver {
    /// `chains`: of each request its buffers, as (length, writable), and what the first of them holds.
    fn new(
        device: Box<dyn VirtioDevice>,
        queue: u32,
        request: &[(u32, bool)],
        first: &dyn Fn(u16) -> Vec<u8>,
    ) -> Self {
        let (memory, manager) = (memory(), EventManager::new().unwrap());
        let faults = FaultSink::new(|device, what| panic!("{device}: {what}"));
        let workers = manager.remote_endpoint();
        let transport = MmioTransport::new(
            Surroundings { memory: memory.clone(), workers, faults, interrupts: Arc::default() },
            device,
        );
        let mut driver =
            Self { memory, transport: transport.unwrap(), manager, queue, heads: Vec::new(), next: 0 };
        driver.start();
        let (mut place, mut index) = (BUFFERS, 0);
        for number in 0..BATCH {
            driver.heads.push(index);
            driver.memory.write_slice(&first(number), GuestAddress(place)).unwrap();
            for (at, (len, writable)) in request.iter().enumerate() {
                let flags = u16::from(at + 1 < request.len()) | u16::from(*writable) << 1;
                descriptor(&driver.memory, driver.ring(), index, (place, *len), flags);
                place += u64::from(*len).next_multiple_of(4096);
                index += 1;
            }
        }
        driver
    }

    fn ring(&self) -> u64 {
        RINGS + u64::from(self.queue) * 0x4000
    }

    fn set(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    fn start(&mut self) {
        for status in [1, 3] {
            self.set(reg::VIRTIO_MMIO_STATUS, status);
        }
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        let flush = if self.queue == 0 { 1 << VIRTIO_BLK_F_FLUSH } else { 0 };
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, flush);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1 << (VIRTIO_F_VERSION_1 - 32));
        self.set(reg::VIRTIO_MMIO_STATUS, 11);
        let ring = self.ring();
        self.set(reg::VIRTIO_MMIO_QUEUE_SEL, self.queue);
        self.set(reg::VIRTIO_MMIO_QUEUE_NUM, RING_SIZE.into());
        self.set(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, ring as u32);
        self.set(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring as u32 + 0x1000);
        self.set(reg::VIRTIO_MMIO_QUEUE_USED_LOW, ring as u32 + 0x2000);
        self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        self.set(reg::VIRTIO_MMIO_STATUS, 15);
        while self.manager.run_with_timeout(0).unwrap() > 0 {}
    }

    /// One batch: offered, kicked, answered.
    fn batch(&mut self) {
        let available = self.ring() + 0x1000;
        for head in &self.heads {
            let slot = available + 4 + u64::from(self.next % RING_SIZE) * 2;
            self.memory.write_obj(*head, GuestAddress(slot)).unwrap();
            self.next = self.next.wrapping_add(1);
        }
        self.memory.write_obj(self.next, GuestAddress(available + 2)).unwrap();
        self.transport.write(QUEUE_NOTIFY, &self.queue.to_le_bytes());
        let used = GuestAddress(self.ring() + 0x2002);
        while self.memory.read_obj::<u16>(used).unwrap() != self.next {
            self.manager.run().unwrap();
        }
    }
}

fn queue(criterion: &mut Criterion) {
    let memory = memory();
    let mut chain = Chain::default();
    let mut group = criterion.benchmark_group("chain");
    for len in [1u16, 3, 16, 128] {
        for index in 0..len {
            descriptor(&memory, RINGS, index, (BUFFERS, 4096), u16::from(index + 1 < len));
        }
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::new("descriptors", len), &len, |bencher, _| {
            bencher.iter(|| chain.load(&memory, GuestAddress(RINGS), 128, black_box(0)).unwrap());
        });
    }
}

fn disk(async_engine: bool) -> (Block, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![7; 16 << 20]).unwrap();
    let mut config = BlockConfig::new("bench", vec![file.try_clone().unwrap()], false);
    if async_engine {
        config.rings = vec![Ring::new(QUEUE_SIZE, &file).unwrap()];
    }
    (Block::new(config).unwrap(), file)
}

/// Requests for what is in the page cache: the host's disk is not measured.
fn block(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block, 32 requests a kick");
    group.throughput(Throughput::Elements(BATCH.into()));
    for (name, kind, len) in [
        ("read 4 KiB", VIRTIO_BLK_T_IN, 4096),
        ("write 4 KiB", VIRTIO_BLK_T_OUT, 4096),
        ("read 128 KiB", VIRTIO_BLK_T_IN, 131_072),
    ] {
        for (engine, asynchronous) in [("Sync", false), ("Async", true)] {
            let header = |number: u16| {
                let sector = u64::from(number) * 64;
                [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
            };
            let request = [(16, false), (len, kind == VIRTIO_BLK_T_IN), (1, true)];
            let (device, _file) = disk(asynchronous);
            let mut driver = Driver::new(Box::new(device), 0, &request, &header);
            group.bench_function(BenchmarkId::new(name, engine), |bencher| bencher.iter(|| driver.batch()));
        }
    }
}

/// Frames that go out through a TAP of this machine, which is taken down again; needs root, and is left out without.
fn net(criterion: &mut Criterion) {
    let Ok(tap) = File::options().read(true).write(true).open("/dev/net/tun") else {
        return eprintln!("net is left out: /dev/net/tun can't be opened");
    };
    if let Err(error) = vmm::sys::attach_tap(&tap, "vialbench%d", false) {
        return eprintln!("net is left out: {error}");
    }
    let config = NetConfig {
        id: "n".into(),
        taps: vec![tap],
        mac: [2, 0, 0, 0, 0, 1],
        mtu: None,
        vhost: None,
        receive_limit: None,
        transmit_limit: None,
    };
    let mut group = criterion.benchmark_group("net, 32 frames a kick");
    group.throughput(Throughput::Elements(BATCH.into()));
    let frame = |_| [vec![0; 12], vec![0xff; 6], vec![2, 0, 0, 0, 0, 1], vec![0x88, 0xb5]].concat();
    let request = [(12 + 64, false)];
    let mut driver = Driver::new(Box::new(Net::new(config).unwrap()), 1, &request, &frame);
    group.bench_function("send 64 bytes", |bencher| bencher.iter(|| driver.batch()));
}

criterion_group!(benches, queue, block, net);
criterion_main!(benches);
