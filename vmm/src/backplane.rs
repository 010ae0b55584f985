//! Where devices are plugged in: both address spaces, and a transport in front of each device.

use crate::api::config::{self, TokenBucket};
use crate::arch::layout;
use crate::arch::places::{Place, Places};
use crate::build_error::{BuildError, kvm_step, resource};
use crate::bus::Bus;
use crate::pci::root::{ECAM_SIZE, Ecam, Root, Window};
use crate::pci::wiring::{KvmWiring, Wires};
use crate::pci::{Hotplug, hotplug};
use crate::plugs::{Name, Plugs};
use crate::serial::{self, SerialControl, SerialFiles};
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::{Signals, Surroundings, Transport, VirtioDevice};
use kvm_ioctls::{IoEventAddress, VmFd};
use std::collections::HashMap;
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
    transports: Vec<Attached>,
    vm: Arc<VmFd>,
    surroundings: Surroundings,
    // One event for all who share a pin.
    lines: HashMap<u32, Arc<EventFd>>,
    slots: Slots,
}

/// What is in front of all devices of a machine.
enum Slots {
    Mmio { places: Places, taken: Vec<Place> },
    Pci(Box<Plugs>),
}

impl Backplane {
    /// Without devices. Only a machine that has PCI devices has a PCI bus.
    pub fn new(
        vm: Arc<VmFd>,
        surroundings: Surroundings,
        transport: config::Transport,
    ) -> Result<Self, BuildError> {
        let (mut ports, mut mmio) = (Bus::default(), Bus::default());
        let slots = match transport {
            config::Transport::Mmio => Slots::Mmio { places: Places::default(), taken: Vec::new() },
            config::Transport::Pci => {
                let window = layout::PCI_WINDOW..layout::PCI_WINDOW + layout::PCI_WINDOW_SIZE;
                let root = Root::new(window);
                mmio.share(layout::PCI_ECAM, ECAM_SIZE, Arc::new(Ecam(Arc::clone(&root))))?;
                let window = Arc::new(Window(Arc::clone(&root)));
                mmio.share(layout::PCI_WINDOW, layout::PCI_WINDOW_SIZE, window)?;
                let hotplug = make_hotplug(&vm, &root, &surroundings)?;
                let registers = Arc::new(hotplug::Registers(Arc::clone(&hotplug)));
                ports.share(layout::PORT_PCI_HOTPLUG.into(), hotplug::SIZE, registers)?;
                let wiring =
                    Arc::new(Wires(KvmWiring::new(Arc::clone(&vm), Arc::clone(&surroundings.interrupts))));
                Slots::Pci(Box::new(Plugs::new(root, wiring, surroundings.clone(), hotplug)))
            }
        };
        Ok(Self { ports, mmio, transports: Vec::new(), vm, surroundings, lines: HashMap::new(), slots })
    }

    /// The windows of virtio-mmio devices, in the guest's order.
    pub fn places(&self) -> &[Place] {
        match &self.slots {
            Slots::Mmio { taken, .. } => taken,
            Slots::Pci(_) => &[],
        }
    }

    /// Whether there is a PCI bus.
    pub fn has_pci(&self) -> bool {
        matches!(self.slots, Slots::Pci(_))
    }

    /// Plugs a device in; the way to its driver.
    pub fn attach(
        &mut self,
        device: Box<dyn VirtioDevice>,
        name: Option<Name>,
    ) -> Result<Arc<Signals>, BuildError> {
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
            Slots::Pci(plugs) => {
                let seated = plugs.seat(device, name).map_err(resource("a device's events"))?;
                let (_, transport, signals) = seated.ok_or(BuildError::NoSlot)?;
                (transport, signals)
            }
        };
        self.transports.push(transport);
        Ok(signals)
    }

    /// Both buses, the devices in the guest's order, and what plugs in more.
    pub fn take_apart(self) -> (Bus, Bus, Vec<Attached>, Option<Box<Plugs>>) {
        let plugs = match self.slots {
            Slots::Mmio { .. } => None,
            Slots::Pci(plugs) => Some(plugs),
        };
        (self.ports, self.mmio, self.transports, plugs)
    }

    /// Wires the serial port; its outer half.
    pub fn attach_serial(
        &mut self,
        files: SerialFiles,
        limit: Option<TokenBucket>,
    ) -> Result<SerialControl, BuildError> {
        let line = line(&self.vm, &mut self.lines, layout::SERIAL_GSI)?;
        let made = serial::new(files, limit, line);
        let (port, worker, control) = made.map_err(resource("the serial port"))?;
        self.ports.insert(layout::PORT_SERIAL.into(), serial::PORTS, Box::new(port))?;
        let place = resource("the serial port's place in the event loop");
        self.surroundings
            .workers
            .fire(move |ops| {
                let _ = ops.add_subscriber(Box::new(worker));
            })
            .map_err(|error| place(io::Error::other(error)))?;
        Ok(control)
    }
}

/// The register block that tells of arrivals, its interrupt, and the loop's way to hear what the guest has let go of.
fn make_hotplug(
    vm: &VmFd,
    root: &Arc<Root>,
    surroundings: &Surroundings,
) -> Result<Arc<Hotplug>, BuildError> {
    let workers = surroundings.workers.clone();
    // It fails only without the loop, and then nobody hears of it.
    let later = move |act: hotplug::Act| drop(workers.fire(move |_| act()));
    let hotplug = Hotplug::new(Arc::clone(root), Box::new(later)).map_err(resource("events"))?;
    vm.register_irqfd(hotplug.interrupt(), layout::PCI_HOTPLUG_GSI).map_err(kvm_step("wire hot plug"))?;
    Ok(hotplug)
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
