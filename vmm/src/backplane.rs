//! Where devices are plugged in: both address spaces, and a transport in front of each device.

use crate::api::config;
use crate::arch::layout;
use crate::arch::places::{Place, Places};
use crate::bus::Bus;
use crate::machine::{BuildError, kvm_step, resource};
use crate::pci::root::{ECAM_SIZE, Ecam, Root, Window};
use crate::pci::wiring::{KvmWiring, Wires};
use crate::serial;
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::pci::{BAR_SIZE, PciTransport};
use crate::virtio::{Signals, Surroundings, Transport, VirtioDevice};
use kvm_ioctls::{IoEventAddress, VmFd};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A device behind its registers, shared by the bus and the machine.
pub type Attached = Arc<Mutex<dyn Transport>>;

/// The address spaces and what is in them.
pub struct Backplane {
    /// I/O ports.
    pub ports: Bus,
    /// Memory outside of RAM.
    pub mmio: Bus,
    /// In the order in which the guest finds them.
    pub transports: Vec<Attached>,
    vm: Arc<VmFd>,
    surroundings: Surroundings,
    // One event for all who share a pin.
    lines: HashMap<u32, Arc<EventFd>>,
    slots: Slots,
}

/// What is in front of all devices of a machine.
enum Slots {
    Mmio { places: Places, taken: Vec<Place> },
    Pci { root: Arc<Root>, wiring: Arc<Wires> },
}

impl Backplane {
    /// Without devices. Only a machine that has PCI devices has a PCI bus.
    pub fn new(
        vm: Arc<VmFd>,
        surroundings: Surroundings,
        transport: config::Transport,
    ) -> Result<Self, BuildError> {
        let mut mmio = Bus::default();
        let slots = match transport {
            config::Transport::Mmio => Slots::Mmio { places: Places::default(), taken: Vec::new() },
            config::Transport::Pci => {
                let window = layout::PCI_WINDOW..layout::PCI_WINDOW + layout::PCI_WINDOW_SIZE;
                let root = Root::new(window);
                mmio.insert(layout::PCI_ECAM, ECAM_SIZE, Box::new(Ecam(Arc::clone(&root))))?;
                let window = Box::new(Window(Arc::clone(&root)));
                mmio.insert(layout::PCI_WINDOW, layout::PCI_WINDOW_SIZE, window)?;
                Slots::Pci { root, wiring: Arc::new(Wires(KvmWiring::new(Arc::clone(&vm)))) }
            }
        };
        Ok(Self {
            ports: Bus::default(),
            mmio,
            transports: Vec::new(),
            vm,
            surroundings,
            lines: HashMap::new(),
            slots,
        })
    }

    /// The windows of virtio-mmio devices, in the guest's order.
    pub fn places(&self) -> &[Place] {
        match &self.slots {
            Slots::Mmio { taken, .. } => taken,
            Slots::Pci { .. } => &[],
        }
    }

    /// Whether there is a PCI bus.
    pub fn has_pci(&self) -> bool {
        matches!(self.slots, Slots::Pci { .. })
    }

    /// Plugs a device in; the way to its driver.
    pub fn attach(&mut self, device: Box<dyn VirtioDevice>) -> Result<Arc<Signals>, BuildError> {
        let surroundings = self.surroundings.clone();
        let (transport, signals): (Attached, _) = match &mut self.slots {
            Slots::Mmio { places, taken } => {
                let place = places.allocate()?;
                let line = line(&self.vm, &mut self.lines, place.gsi)?;
                let transport = MmioTransport::with_line(surroundings, device, line)
                    .map_err(resource("a device's events"))?;
                let notify = IoEventAddress::Mmio(place.base + QUEUE_NOTIFY);
                for (queue, event) in (0u32..).zip(transport.core().queue_events()) {
                    let wired = self.vm.register_ioevent(event, &notify, queue);
                    wired.map_err(kvm_step("wire a queue's kick"))?;
                }
                let signals = transport.core().signals();
                let transport = Arc::new(Mutex::new(transport));
                self.mmio.share(place.base, place.size, Arc::clone(&transport) as _)?;
                taken.push(place);
                (transport, signals)
            }
            Slots::Pci { root, wiring } => {
                let slot = root.free_slot().ok_or(BuildError::NoSlot)?;
                let bar = layout::PCI_WINDOW + u64::from(slot) * BAR_SIZE;
                let transport = PciTransport::new(surroundings, device, Arc::clone(wiring) as _, bar)
                    .map_err(resource("a device's events"))?;
                let signals = transport.core().signals();
                let transport = Arc::new(Mutex::new(transport));
                root.add(slot, Arc::clone(&transport) as _);
                (transport, signals)
            }
        };
        self.transports.push(transport);
        Ok(signals)
    }

    /// Wires the serial port.
    pub fn attach_serial(&mut self, (input, output): (Option<File>, File)) -> Result<(), BuildError> {
        let line = line(&self.vm, &mut self.lines, layout::SERIAL_GSI)?;
        let (port, worker) = serial::new(input, output, line).map_err(resource("the serial port"))?;
        self.ports.insert(layout::PORT_SERIAL.into(), serial::PORTS, Box::new(port))?;
        let place = resource("the serial port's place in the event loop");
        self.surroundings
            .workers
            .fire(move |ops| {
                let _ = ops.add_subscriber(Box::new(worker));
            })
            .map_err(|error| place(io::Error::other(error)))
    }
}

/// The event that raises an interrupt, one for all devices that share it.
fn line(vm: &VmFd, lines: &mut HashMap<u32, Arc<EventFd>>, gsi: u32) -> Result<Arc<EventFd>, BuildError> {
    if let Some(line) = lines.get(&gsi) {
        return Ok(Arc::clone(line));
    }
    let line = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(resource("an event"))?);
    vm.register_irqfd(&line, gsi).map_err(kvm_step("wire a device's interrupt"))?;
    lines.insert(gsi, Arc::clone(&line));
    Ok(line)
}
