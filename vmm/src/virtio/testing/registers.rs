//! The driver's way to either transport.

use crate::bus::BusDevice;
use crate::pci::{Function, Line, Message, Wiring};
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::pci::{NOTIFY, PciTransport};
use crate::virtio::{Surroundings, Transport, VirtioDevice};
use std::io;
use std::sync::{Arc, Mutex};
use virtio_bindings::virtio_mmio as reg;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What a driver does through registers, whichever they are.
pub trait Registers: Sized {
    type Transport: Transport;

    fn new(surroundings: Surroundings, device: Box<dyn VirtioDevice>) -> (Self, Self::Transport);

    fn status(transport: &mut Self::Transport) -> u32;
    fn set_status(transport: &mut Self::Transport, status: u32);
    fn accept(transport: &mut Self::Transport, features: u64);
    /// Largest size, 0 if there is no such queue.
    fn queue_size(transport: &mut Self::Transport, index: u32) -> u32;
    fn is_ready(transport: &mut Self::Transport, index: u32) -> bool;
    /// Sets a queue up whose parts are at these addresses.
    fn set_up(transport: &mut Self::Transport, index: u32, size: u32, parts: [u64; 3]);
    fn kick(transport: &mut Self::Transport, queue: u32);
    fn config(transport: &mut Self::Transport, offset: u64, data: &mut [u8]);
    fn write_config(transport: &mut Self::Transport, offset: u64, data: &[u8]);
    fn generation(transport: &mut Self::Transport) -> u32;
    /// What was signalled since the last time: 1 for queues, 2 for the configuration.
    fn acknowledge(transport: &mut Self::Transport) -> u32;
    /// Whether an interrupt came since the last time.
    fn interrupted(&mut self, transport: &mut Self::Transport) -> bool;
}

pub struct Mmio;

pub fn get(transport: &mut MmioTransport, register: u32) -> u32 {
    let mut data = [0; 4];
    transport.read(register.into(), &mut data);
    u32::from_le_bytes(data)
}

pub fn set(transport: &mut MmioTransport, register: u32, value: u32) {
    transport.write(register.into(), &value.to_le_bytes());
}

impl Registers for Mmio {
    type Transport = MmioTransport;

    fn new(surroundings: Surroundings, device: Box<dyn VirtioDevice>) -> (Self, MmioTransport) {
        (Self, MmioTransport::new(surroundings, device).unwrap())
    }

    fn status(transport: &mut MmioTransport) -> u32 {
        get(transport, reg::VIRTIO_MMIO_STATUS)
    }

    fn set_status(transport: &mut MmioTransport, status: u32) {
        set(transport, reg::VIRTIO_MMIO_STATUS, status);
    }

    fn accept(transport: &mut MmioTransport, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            set(transport, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            set(transport, reg::VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
    }

    fn queue_size(transport: &mut MmioTransport, index: u32) -> u32 {
        set(transport, reg::VIRTIO_MMIO_QUEUE_SEL, index);
        get(transport, reg::VIRTIO_MMIO_QUEUE_NUM_MAX)
    }

    fn is_ready(transport: &mut MmioTransport, index: u32) -> bool {
        set(transport, reg::VIRTIO_MMIO_QUEUE_SEL, index);
        get(transport, reg::VIRTIO_MMIO_QUEUE_READY) == 1
    }

    fn set_up(transport: &mut MmioTransport, index: u32, size: u32, [table, avail, used]: [u64; 3]) {
        set(transport, reg::VIRTIO_MMIO_QUEUE_SEL, index);
        set(transport, reg::VIRTIO_MMIO_QUEUE_NUM, size);
        for (low, address) in [
            (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, table),
            (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail),
            (reg::VIRTIO_MMIO_QUEUE_USED_LOW, used),
        ] {
            set(transport, low, address as u32);
            set(transport, low + 4, (address >> 32) as u32);
        }
        set(transport, reg::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn kick(transport: &mut MmioTransport, queue: u32) {
        transport.write(QUEUE_NOTIFY, &queue.to_le_bytes());
    }

    fn config(transport: &mut MmioTransport, offset: u64, data: &mut [u8]) {
        transport.read(u64::from(reg::VIRTIO_MMIO_CONFIG) + offset, data);
    }

    fn write_config(transport: &mut MmioTransport, offset: u64, data: &[u8]) {
        transport.write(u64::from(reg::VIRTIO_MMIO_CONFIG) + offset, data);
    }

    fn generation(transport: &mut MmioTransport) -> u32 {
        get(transport, reg::VIRTIO_MMIO_CONFIG_GENERATION)
    }

    fn acknowledge(transport: &mut MmioTransport) -> u32 {
        let status = get(transport, reg::VIRTIO_MMIO_INTERRUPT_STATUS);
        set(transport, reg::VIRTIO_MMIO_INTERRUPT_ACK, status);
        status
    }

    fn interrupted(&mut self, transport: &mut MmioTransport) -> bool {
        transport.interrupt().read().is_ok()
    }
}

/// Lines that lead to a list, and kicks that lead to another.
#[derive(Default)]
pub struct Bench {
    pub lines: Mutex<Vec<BenchLine>>,
    pub kicks: Mutex<Vec<u64>>,
}

#[derive(Clone)]
pub struct BenchLine {
    pub event: Arc<EventFd>,
    pub message: Option<Message>,
}

pub struct Wired(pub Arc<Bench>);

struct Handle(usize, Arc<EventFd>, Arc<Bench>);

impl Wiring for Wired {
    fn line(&self) -> io::Result<Box<dyn Line>> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let mut lines = self.0.lines.lock().unwrap();
        lines.push(BenchLine { event: Arc::clone(&event), message: None });
        Ok(Box::new(Handle(lines.len() - 1, event, Arc::clone(&self.0))))
    }

    fn kicks(&self, address: u64, _event: &EventFd) {
        self.0.kicks.lock().unwrap().push(address);
    }

    fn no_kicks(&self, address: u64, _event: &EventFd) {
        let mut kicks = self.0.kicks.lock().unwrap();
        let place = kicks.iter().position(|kick| *kick == address).expect("it was wired");
        kicks.swap_remove(place);
    }
}

impl Line for Handle {
    fn event(&self) -> &Arc<EventFd> {
        &self.1
    }

    fn connect(&mut self, message: Message) -> io::Result<()> {
        self.2.lines.lock().unwrap()[self.0].message = Some(message);
        Ok(())
    }

    fn disconnect(&mut self) {
        self.2.lines.lock().unwrap()[self.0].message = None;
    }
}

impl Bench {
    /// The messages that were sent since the last time.
    pub fn sent(&self) -> Vec<Message> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter_map(|line| line.message.filter(|_| line.event.read().is_ok())).collect()
    }
}

pub struct Pci(pub Arc<Bench>);

/// Where the tests' BAR is.
pub const BAR: u64 = 0xe800_8000;
const TABLE: u64 = 0x4000;

pub fn read<const N: usize>(transport: &mut PciTransport, offset: u64) -> [u8; N] {
    let mut data = [0xff; N];
    transport.read(offset, &mut data);
    data
}

impl Registers for Pci {
    type Transport = PciTransport;

    /// Memory is switched on, and all messages, each with its number for data.
    fn new(surroundings: Surroundings, device: Box<dyn VirtioDevice>) -> (Self, PciTransport) {
        let bench = Arc::<Bench>::default();
        let wiring = Arc::new(Wired(Arc::clone(&bench)));
        let mut transport = PciTransport::new(surroundings, device, wiring, BAR).unwrap();
        transport.write_config(4, &6u16.to_le_bytes());
        let lines = bench.lines.lock().unwrap().len() as u64;
        for index in 0..lines {
            let at = TABLE + index * 16;
            transport.write(at, &0xfee0_0000u64.to_le_bytes());
            transport.write(at + 8, &index.to_le_bytes());
        }
        let capability = capability(&mut transport, 0x11, 0);
        transport.write_config(capability + 2, &0x8000u16.to_le_bytes());
        (Self(bench), transport)
    }

    fn status(transport: &mut PciTransport) -> u32 {
        let [status] = read(transport, 20);
        status.into()
    }

    fn set_status(transport: &mut PciTransport, status: u32) {
        transport.write(20, &[status as u8]);
    }

    fn accept(transport: &mut PciTransport, features: u64) {
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            transport.write(8, &select.to_le_bytes());
            transport.write(12, &half.to_le_bytes());
        }
    }

    fn queue_size(transport: &mut PciTransport, index: u32) -> u32 {
        transport.write(22, &(index as u16).to_le_bytes());
        u16::from_le_bytes(read(transport, 24)).into()
    }

    fn is_ready(transport: &mut PciTransport, index: u32) -> bool {
        transport.write(22, &(index as u16).to_le_bytes());
        read::<2>(transport, 28) == [1, 0]
    }

    /// Message 0 is the configuration's, the others are the queues'.
    fn set_up(transport: &mut PciTransport, index: u32, size: u32, parts: [u64; 3]) {
        transport.write(16, &0u16.to_le_bytes());
        transport.write(22, &(index as u16).to_le_bytes());
        transport.write(26, &(index as u16 + 1).to_le_bytes());
        // What does not fit into the register can't be a size either.
        transport.write(24, &u16::try_from(size).unwrap_or(0).to_le_bytes());
        for (at, address) in [32, 40, 48].into_iter().zip(parts) {
            transport.write(at, &(address as u32).to_le_bytes());
            transport.write(at + 4, &((address >> 32) as u32).to_le_bytes());
        }
        transport.write(28, &1u16.to_le_bytes());
    }

    fn kick(transport: &mut PciTransport, queue: u32) {
        transport.write(NOTIFY + u64::from(queue) * 4, &(queue as u16).to_le_bytes());
    }

    fn config(transport: &mut PciTransport, offset: u64, data: &mut [u8]) {
        transport.read(0x2000 + offset, data);
    }

    fn write_config(transport: &mut PciTransport, offset: u64, data: &[u8]) {
        transport.write(0x2000 + offset, data);
    }

    fn generation(transport: &mut PciTransport) -> u32 {
        let [generation] = read(transport, 21);
        generation.into()
    }

    fn acknowledge(transport: &mut PciTransport) -> u32 {
        let [status] = read(transport, 0x1000);
        status.into()
    }

    fn interrupted(&mut self, _transport: &mut PciTransport) -> bool {
        !self.0.sent().is_empty()
    }
}

/// Where the capability of this ID and, for vendor-specific ones, this type is.
pub fn capability(transport: &mut PciTransport, id: u8, kind: u8) -> u16 {
    let mut at = [0];
    transport.read_config(0x34, &mut at);
    loop {
        assert_ne!(at, [0], "no capability {id:#x} of type {kind}");
        let here = u16::from(at[0]);
        let mut head = [0; 4];
        transport.read_config(here, &mut head);
        if head[0] == id && (id != 9 || head[3] == kind) {
            return here;
        }
        at = [head[1]];
    }
}
