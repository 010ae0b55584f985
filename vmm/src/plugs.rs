//! Devices that come and go while the guest runs: on a PCI bus, and gone only when the guest lets go.

use crate::api::control::Unplugged;
use crate::arch::layout;
use crate::backplane::Attached;
use crate::control::ReplyTo;
use crate::devices::Made;
use crate::handles::Handles;
use crate::pci::wiring::Wires;
use crate::pci::{Hotplug, Root};
use crate::virtio::pci::{BAR_SIZE, PciTransport};
use crate::virtio::{Signals, Surroundings, Transport, VirtioDevice};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

/// A device by the kind of name that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A drive.
    Drive(String),
    /// An interface.
    Interface(String),
}

impl From<Unplugged> for Name {
    fn from(device: Unplugged) -> Self {
        match device {
            Unplugged::Drive(id) => Self::Drive(id),
            Unplugged::Interface(id) => Self::Interface(id),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drive(id) => write!(f, "drive {id:?}"),
            Self::Interface(id) => write!(f, "interface {id:?}"),
        }
    }
}

/// Why a device was not plugged in or asked for.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// virtio-mmio.
    #[error("devices come and go on a PCI bus only: start the VM with vial.transport \"pci\"")]
    NoBus,
    /// All slots are taken.
    #[error("all 31 slots of the PCI bus are taken: unplug a device first")]
    NoSlot,
    /// There is one of that name.
    #[error("this VM has a {0} already; one that is being unplugged is there until the guest lets go of it")]
    Taken(Name),
    /// There is none of that name.
    #[error("this VM has no {0}")]
    Unknown(Name),
    /// The device's events.
    #[error("could not make the events of {0}")]
    Events(Name, #[source] io::Error),
}

struct Seat {
    slot: u8,
    name: Option<Name>,
    transport: Attached,
    // Asked for; these wait to hear that the guest has let go.
    leaving: Option<Vec<ReplyTo>>,
}

/// A PCI bus with its devices.
pub struct Plugs {
    root: Arc<Root>,
    wiring: Arc<Wires>,
    surroundings: Surroundings,
    hotplug: Arc<Hotplug>,
    seats: Vec<Seat>,
}

impl Plugs {
    /// A bus without devices.
    pub fn new(
        root: Arc<Root>,
        wiring: Arc<Wires>,
        surroundings: Surroundings,
        hotplug: Arc<Hotplug>,
    ) -> Self {
        Self { root, wiring, surroundings, hotplug, seats: Vec::new() }
    }

    /// The bus itself.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Its register block.
    pub fn hotplug(&self) -> &Arc<Hotplug> {
        &self.hotplug
    }

    /// Puts a device into the lowest free slot; `None` if there is none.
    ///
    /// # Errors
    /// Its events can't be made.
    pub fn seat(
        &mut self,
        device: Box<dyn VirtioDevice>,
        name: Option<Name>,
    ) -> io::Result<Option<(u8, Attached, Arc<Signals>)>> {
        let Some(slot) = self.root.free_slot() else { return Ok(None) };
        let bar = layout::PCI_WINDOW + u64::from(slot) * BAR_SIZE;
        let wiring = Arc::clone(&self.wiring);
        let transport = PciTransport::new(self.surroundings.clone(), device, wiring as _, bar)?;
        let signals = transport.core().signals();
        let transport = Arc::new(Mutex::new(transport));
        self.root.add(slot, Arc::clone(&transport) as _);
        let transport: Attached = transport;
        self.seats.push(Seat { slot, name, transport: Arc::clone(&transport), leaving: None });
        Ok(Some((slot, transport, signals)))
    }

    fn find(&mut self, name: &Name) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.name.as_ref() == Some(name))
    }

    /// Plugs a device in and tells the guest.
    ///
    /// # Errors
    /// See [`PlugError`]; nothing has changed then.
    pub fn plug(
        &mut self,
        made: Made,
        name: Name,
        transports: &mut Vec<Attached>,
        handles: &mut Handles,
    ) -> Result<(), PlugError> {
        if self.find(&name).is_some() {
            return Err(PlugError::Taken(name));
        }
        let seated = self.seat(made.device, Some(name.clone()));
        let (slot, transport, signals) =
            seated.map_err(|error| PlugError::Events(name, error))?.ok_or(PlugError::NoSlot)?;
        transports.push(transport);
        handles.add(made.handle, signals);
        self.hotplug.arrived(slot);
        Ok(())
    }

    /// Asks the guest to let go of a device; `reply` hears of it when it has.
    ///
    /// # Errors
    /// There is none of that name, with `reply`, who is to be told.
    pub fn ask(&mut self, name: Name, reply: ReplyTo) -> Result<(), (PlugError, ReplyTo)> {
        let Some(seat) = self.find(&name) else { return Err((PlugError::Unknown(name), reply)) };
        seat.leaving.get_or_insert_default().push(reply);
        let slot = seat.slot;
        self.hotplug.ask(slot);
        Ok(())
    }

    /// Forgets the devices that the guest has let go of; who waits to hear of it. Their files are closed when this returns.
    pub fn clear(&mut self, transports: &mut Vec<Attached>, handles: &mut Handles) -> Vec<ReplyTo> {
        let mut waiting = Vec::new();
        for slot in self.hotplug.take_gone() {
            let is_it = |seat: &Seat| seat.slot == slot && seat.leaving.is_some();
            let Some(place) = self.seats.iter().position(is_it) else { continue };
            let Seat { name, transport, leaving, .. } = self.seats.remove(place);
            transports.retain(|other| !Arc::ptr_eq(other, &transport));
            if let Some(name) = &name {
                handles.remove(name);
            }
            waiting.extend(leaving.into_iter().flatten());
        }
        waiting
    }
}
