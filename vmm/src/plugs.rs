//! Devices that come and go while the guest runs: on a PCI bus, and gone only when the guest lets go.

use crate::api::control::{Plugged, Unplugged};
use crate::arch::layout;
use crate::backplane::Attached;
use crate::cards::Card;
use crate::control::ReplyTo;
use crate::devices::Made;
use crate::handles::Handles;
use crate::pci::wiring::Wires;
use crate::pci::{Hotplug, Root};
use crate::virtio::pci::{BAR_SIZE, PciTransport};
use crate::virtio::{Signals, Surroundings, Transport, VirtioDevice};
use std::collections::VecDeque;
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
    /// Persistent memory.
    Pmem(String),
}

impl From<Unplugged> for Name {
    fn from(device: Unplugged) -> Self {
        match device {
            Unplugged::Drive(id) => Self::Drive(id),
            Unplugged::Interface(id) => Self::Interface(id),
            Unplugged::Pmem(id) => Self::Pmem(id),
        }
    }
}

impl From<&Plugged> for Name {
    fn from(device: &Plugged) -> Self {
        match device {
            Plugged::Drive(drive) => Self::Drive(drive.drive_id.clone()),
            Plugged::Interface(interface) => Self::Interface(interface.iface_id.clone()),
            Plugged::Pmem(pmem) => Self::Pmem(pmem.id.clone()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drive(id) => write!(f, "drive {id:?}"),
            Self::Interface(id) => write!(f, "interface {id:?}"),
            Self::Pmem(id) => write!(f, "pmem {id:?}"),
        }
    }
}

/// Why a device was not plugged in or asked for.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// virtio-mmio.
    #[error(
        "devices come and go on a PCI bus only: start the VM with --enable-pci, or vial.transport \"pci\""
    )]
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
    /// It is on its way off the bus.
    #[error("{0} is being unplugged: the guest lets go of it just now")]
    Going(Name),
    /// The device's events.
    #[error("could not make the events of {0}")]
    Events(Name, #[source] io::Error),
}

/// Requests that wait for the guest to let go of one device; each keeps a descriptor until it is answered. The newest are kept: who
/// asked long ago has most likely hung up, and asking again is what a client does that has heard nothing.
const MAX_WAITING: usize = 4;

struct Seat {
    slot: u8,
    name: Option<Name>,
    transport: Attached,
    // Asked for; these wait to hear that the guest has let go.
    leaving: Option<VecDeque<ReplyTo>>,
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
        let Some(slot) = self.free_slot() else { return Ok(None) };
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

    /// The lowest slot that is free and of which nobody waits to hear that it is.
    fn free_slot(&self) -> Option<u8> {
        self.root.free_slots().find(|slot| self.seats.iter().all(|seat| seat.slot != *slot))
    }

    fn find(&mut self, name: &Name) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.name.as_ref() == Some(name))
    }

    /// Whether a device of that name could be plugged in.
    ///
    /// # Errors
    /// There is one already, or no slot.
    pub fn check_free(&mut self, name: &Name) -> Result<(), PlugError> {
        if self.find(name).is_some() {
            return Err(PlugError::Taken(name.clone()));
        }
        if self.free_slot().is_none() { Err(PlugError::NoSlot) } else { Ok(()) }
    }

    /// Plugs a device in and tells the guest; what can be told of the device while its driver has it.
    ///
    /// # Errors
    /// See [`PlugError`]; nothing has changed then.
    pub fn plug(
        &mut self,
        made: Made,
        name: Name,
        transports: &mut Vec<Attached>,
        handles: &mut Handles,
    ) -> Result<Card, PlugError> {
        self.check_free(&name)?;
        let seated = self.seat(made.device, Some(name.clone()));
        let (slot, transport, signals) =
            seated.map_err(|error| PlugError::Events(name, error))?.ok_or(PlugError::NoSlot)?;
        // As long as the guest has not heard of it.
        let card = Card::of(&transport);
        transports.push(transport);
        handles.add(made.handle, signals);
        self.hotplug.arrived(slot);
        Ok(card)
    }

    /// Asks the guest to let go of a device, also when it was asked before; `reply` hears of it when it has. One who waited for
    /// the same device when [`MAX_WAITING`] newer ones have come is told so.
    ///
    /// # Errors
    /// There is none of that name; with `reply`, who is to be told.
    pub fn ask(&mut self, name: Name, reply: ReplyTo) -> Result<(), (PlugError, ReplyTo)> {
        let Some(seat) = self.find(&name) else { return Err((PlugError::Unknown(name), reply)) };
        let waiting = seat.leaving.get_or_insert_default();
        if waiting.len() >= MAX_WAITING
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.refuse(format!(
                "the guest has been asked to let go of {name}, and {MAX_WAITING} newer requests wait for it: this one does no longer"
            ));
        }
        waiting.push_back(reply);
        let slot = seat.slot;
        self.hotplug.ask(slot);
        Ok(())
    }

    /// Forgets the devices that the guest has let go of; their names, and who waits to hear of it. Their files are closed when this returns.
    pub fn clear(
        &mut self,
        transports: &mut Vec<Attached>,
        handles: &mut Handles,
    ) -> (Vec<Name>, Vec<ReplyTo>) {
        let (mut gone, mut waiting) = (Vec::new(), Vec::new());
        for slot in self.hotplug.take_gone() {
            let is_it = |seat: &Seat| seat.slot == slot && seat.leaving.is_some();
            let Some(place) = self.seats.iter().position(is_it) else { continue };
            let Seat { name, transport, leaving, .. } = self.seats.remove(place);
            transports.retain(|other| !Arc::ptr_eq(other, &transport));
            if let Some(name) = &name {
                handles.remove(name);
            }
            gone.extend(name);
            waiting.extend(leaving.into_iter().flatten());
        }
        (gone, waiting)
    }

    /// Whether a device may be changed from outside: not while the guest lets go of it, since a vCPU may be waiting then, for as long as it
    /// takes, for what the device has under way.
    ///
    /// # Errors
    /// The guest does.
    pub fn check_staying(&self, name: &Name) -> Result<(), PlugError> {
        let seat = self.seats.iter().find(|seat| seat.name.as_ref() == Some(name));
        match seat {
            Some(seat) if self.hotplug.is_going(seat.slot) => Err(PlugError::Going(name.clone())),
            _ => Ok(()),
        }
    }

    /// Whether the guest was asked to let go of the device behind `transport`.
    pub fn is_leaving(&self, transport: &Attached) -> bool {
        self.seats.iter().any(|seat| seat.leaving.is_some() && Arc::ptr_eq(&seat.transport, transport))
    }

    /// Forgets who waits.
    pub fn give_up(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.leaving = None);
    }
}
