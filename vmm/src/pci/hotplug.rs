//! What tells a guest that something was plugged in, and asks it to let go of something: a register block that the ACPI tables' methods read
//! (`_E..` of the generic event device → `Notify`, `_EJ0`), as Cloud Hypervisor and QEMU have one.
//!
//! ```text
//! 0 arrived   bit N: slot N has a new device; reading clears
//! 4 leaving   bit N: slot N is asked for; reading clears
//! 8 eject     write bit N: slot N is let go of
//! ```
//!
//! Only what was asked for is let go of: a guest that ejects anything else keeps it.

use super::Root;
use crate::bus::SharedDevice;
use crate::lock::lock;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of the block.
pub const SIZE: u64 = 12;

const ARRIVED: u64 = 0;
const LEAVING: u64 = 4;
const EJECT: u64 = 8;

/// Bit N is slot N.
#[derive(Default)]
struct Slots {
    arrived: u32,
    leaving: u32,
    /// Asked for, and not let go of.
    asked: u32,
    /// Let go of, and on its way off the bus.
    going: u32,
    /// Off the bus, which the main thread has not heard of yet.
    gone: u32,
}

/// What another process goes on with; bit N is slot N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSlots {
    arrived: u32,
    leaving: u32,
    asked: u32,
}

/// Something to do, once.
pub type Act = Box<dyn FnOnce() + Send>;
/// Calls what it is given in the main thread's loop, after all that the loop was told before.
pub type Later = Box<dyn Fn(Act) + Send + Sync>;

/// Both sides of the block.
pub struct Hotplug {
    root: Arc<Root>,
    slots: Mutex<Slots>,
    interrupt: EventFd,
    later: Later,
}

impl Hotplug {
    /// For the slots of `root`. What the guest lets go of is gone when `later` says so.
    ///
    /// # Errors
    /// No event can be made.
    pub fn new(root: Arc<Root>, later: Later) -> io::Result<Arc<Self>> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        Ok(Arc::new(Self { root, slots: Mutex::default(), interrupt, later }))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    /// The generic event device's interrupt, edge triggered.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Tells the guest that there is a device in `slot`, which was put there before.
    pub fn arrived(&self, slot: u8) {
        self.slots().arrived |= 1 << slot;
        self.raise();
    }

    /// Asks the guest to let go of the device in `slot`, once more if it has not yet.
    pub fn ask(&self, slot: u8) {
        let mut slots = self.slots();
        // Whatever comes into that slot next is not what is asked for.
        if (slots.going | slots.gone) & 1 << slot == 0 {
            slots.asked |= 1 << slot;
            slots.leaving |= 1 << slot;
            drop(slots);
            self.raise();
        }
    }

    /// Whether the guest lets go of what is in `slot`, or has: a vCPU may be waiting for what that has under way.
    pub fn is_going(&self, slot: u8) -> bool {
        let slots = self.slots();
        (slots.going | slots.gone) & 1 << slot != 0
    }

    /// The slots that the guest has let go of since the last time. Their functions are off the bus.
    pub fn take_gone(&self) -> Vec<u8> {
        let gone = std::mem::take(&mut self.slots().gone);
        (0..32).filter(|slot| gone & 1 << slot != 0).collect()
    }

    /// What the guest has not heard of or not done yet; nothing while something that it has let go of is on its way off the bus, which
    /// ends by itself.
    pub fn save(&self) -> Option<SavedSlots> {
        let Slots { arrived, leaving, asked, going, gone } = *self.slots();
        (going | gone == 0).then_some(SavedSlots { arrived, leaving, asked })
    }

    /// Goes on where another block was, before any vCPU runs; returns which slots the guest has been asked for, whose end nobody waits for
    /// in this process so far.
    ///
    /// # Errors
    /// The state has slots other than `pluggable`: all stays as it is.
    pub fn restore(&self, saved: SavedSlots, pluggable: u32) -> Result<u32, SavedSlots> {
        let SavedSlots { arrived, leaving, asked } = saved;
        // The guest lets go of what it was asked for, so nothing else must look as if it were.
        if (arrived | leaving | asked) & !pluggable != 0 || leaving & !asked != 0 {
            return Err(saved);
        }
        *self.slots() = Slots { arrived, leaving, asked, ..Slots::default() };
        if arrived | leaving != 0 {
            // Once more is harmless: a guest that has read the block finds nothing new there.
            self.raise();
        }
        Ok(asked)
    }

    fn raise(&self) {
        // It fails only if the counter is full, and then the interrupt is pending anyway.
        let _ = self.interrupt.write(1);
    }

    fn eject(self: &Arc<Self>, wanted: u32) {
        let mut slots = self.slots();
        let asked = slots.asked & wanted;
        slots.asked &= !asked;
        slots.leaving &= !asked;
        slots.going |= asked;
        drop(slots);
        for slot in (0..32).filter(|slot| asked & 1 << slot != 0) {
            // Here and not in the main thread: when this write is done, the guest finds nothing there any more. Without the lock, because
            // this waits for whoever is busy with the device, and the main thread takes the lock in every round.
            self.root.remove(slot);
            // Whoever hears of it closes the device's files. The loop lets go of them first: it knows them by their numbers, which others get.
            let this = Arc::clone(self);
            (self.later)(Box::new(move || {
                let mut slots = this.slots();
                slots.going &= !(1 << slot);
                slots.gone |= 1 << slot;
            }));
        }
    }
}

/// The block on the bus.
pub struct Registers(pub Arc<Hotplug>);

impl SharedDevice for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if data.len() == 4 {
            let value = match offset {
                ARRIVED => std::mem::take(&mut self.0.slots().arrived),
                LEAVING => std::mem::take(&mut self.0.slots().leaving),
                _ => 0,
            };
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (EJECT, Ok(slots)) = (offset, <[u8; 4]>::try_from(data)) {
            self.0.eject(u32::from_le_bytes(slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusDevice;
    use crate::pci::{ConfigSpace, Function, Ids};
    use std::sync::{Mutex, OnceLock, Weak};

    struct Card(ConfigSpace, Arc<OnceLock<Weak<Hotplug>>>);

    impl BusDevice for Card {
        fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
        fn write(&mut self, _offset: u64, _data: &[u8]) {}
    }

    impl Function for Card {
        fn read_config(&mut self, register: u16, data: &mut [u8]) {
            self.0.read(register, data);
        }
        fn write_config(&mut self, _register: u16, _data: &[u8]) {}
        fn bar_size(&self) -> u64 {
            0
        }
        fn wanted(&self) -> Option<u64> {
            None
        }
        fn place(&mut self, _base: Option<u64>) {}
        fn taken_off(&mut self) {
            let Some(hotplug) = self.1.get().and_then(Weak::upgrade) else { return };
            // What takes as long as it takes: meanwhile the main thread has its look, and others may ask.
            drop(hotplug.slots.try_lock().expect("nobody holds it"));
            assert!(hotplug.take_gone().is_empty());
            assert!(hotplug.is_going(2) && !hotplug.is_going(1));
            hotplug.ask(2);
        }
    }

    const IDS: Ids = Ids { vendor: 1, device: 2, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 };

    fn bus() -> (Arc<Root>, Arc<Hotplug>, Registers) {
        let root = Root::new(0..0x1000);
        for slot in 1..4 {
            root.add(slot, Arc::new(Mutex::new(Card(ConfigSpace::new(IDS), Arc::default()))));
        }
        let hotplug = Hotplug::new(Arc::clone(&root), Box::new(|act| act())).unwrap();
        (root, Arc::clone(&hotplug), Registers(hotplug))
    }

    fn get(registers: &Registers, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        registers.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn arrivals_are_told_once() {
        let (_, hotplug, registers) = bus();
        hotplug.arrived(1);
        hotplug.arrived(3);
        assert!(hotplug.interrupt().read().is_ok());
        assert_eq!((get(&registers, 0), get(&registers, 0)), (0b1010, 0));
        assert_eq!(get(&registers, 4), 0);
    }

    #[test]
    fn a_device_goes_when_the_guest_lets_go_of_what_was_asked_for() {
        let (root, hotplug, registers) = bus();
        let is_there = |slot: u64| {
            let mut vendor = [0; 2];
            root.read_config(slot << 15, &mut vendor);
            vendor == [1, 0]
        };
        // Not asked for.
        registers.write(8, &u32::MAX.to_le_bytes());
        assert!(is_there(2) && hotplug.take_gone().is_empty());
        hotplug.ask(2);
        assert!(hotplug.interrupt().read().is_ok());
        assert_eq!(get(&registers, 4), 0b100);
        assert!(is_there(2) && hotplug.take_gone().is_empty());
        registers.write(8, &u32::MAX.to_le_bytes());
        assert!(!is_there(2) && is_there(1) && is_there(3));
        assert_eq!((hotplug.take_gone(), hotplug.take_gone()), (vec![2], vec![]));
        // Once is enough.
        registers.write(8, &0b100u32.to_le_bytes());
        assert!(hotplug.take_gone().is_empty());
    }

    #[test]
    fn a_device_is_gone_when_the_loop_has_heard_all_that_came_before() {
        let (root, ..) = bus();
        let acts: Arc<Mutex<Vec<Act>>> = Arc::default();
        let loop_of = Arc::clone(&acts);
        let hotplug = Hotplug::new(root, Box::new(move |act| loop_of.lock().unwrap().push(act))).unwrap();
        hotplug.ask(2);
        Registers(Arc::clone(&hotplug)).write(8, &0b100u32.to_le_bytes());
        assert!(hotplug.take_gone().is_empty() && hotplug.is_going(2));
        acts.lock().unwrap().drain(..).for_each(|act| act());
        assert_eq!((hotplug.take_gone(), hotplug.is_going(2)), (vec![2], false));
    }

    #[test]
    fn who_asks_for_a_device_that_is_gone_does_not_ask_for_the_next_one_in_its_slot() {
        let (root, hotplug, registers) = bus();
        hotplug.ask(2);
        registers.write(8, &0b100u32.to_le_bytes());
        // The main thread has not heard of it yet.
        hotplug.ask(2);
        assert_eq!(hotplug.take_gone(), [2]);
        root.add(2, Arc::new(Mutex::new(Card(ConfigSpace::new(IDS), Arc::default()))));
        hotplug.arrived(2);
        assert_eq!(get(&registers, 4), 0);
        registers.write(8, &u32::MAX.to_le_bytes());
        assert!(hotplug.take_gone().is_empty());
    }

    #[test]
    fn nobody_waits_for_a_device_that_takes_its_time_to_go_but_who_lets_go_of_it() {
        let (root, hotplug, registers) = bus();
        root.remove(2);
        let told = Arc::new(OnceLock::new());
        root.add(2, Arc::new(Mutex::new(Card(ConfigSpace::new(IDS), Arc::clone(&told)))));
        told.set(Arc::downgrade(&hotplug)).unwrap();
        hotplug.ask(2);
        registers.write(8, &0b100u32.to_le_bytes());
        // Who asked meanwhile asked for the one that went.
        assert_eq!((hotplug.take_gone(), get(&registers, 4)), (vec![2], 0));
    }

    #[test]
    fn what_the_guest_has_not_heard_of_or_done_goes_to_another_process() {
        let (_, hotplug, registers) = bus();
        hotplug.arrived(1);
        hotplug.ask(2);
        hotplug.ask(3);
        // It knows of both, and has let go of neither.
        assert_eq!(get(&registers, 4), 0b1100);
        hotplug.ask(3);
        let saved = serde_json::to_string(&hotplug.save().unwrap()).unwrap();
        let (_, other, registers) = bus();
        assert_eq!(other.restore(serde_json::from_str(&saved).unwrap(), 0b1110), Ok(0b1100));
        assert!(other.interrupt().read().is_ok());
        assert_eq!((get(&registers, 0), get(&registers, 4)), (0b10, 0b1000));
        registers.write(8, &0b1110u32.to_le_bytes());
        assert_eq!(other.save(), None);
        assert_eq!(other.take_gone(), [2, 3]);
        assert_eq!(other.save(), Some(SavedSlots { arrived: 0, leaving: 0, asked: 0 }));
    }

    #[test]
    fn a_saved_state_with_slots_of_others_is_refused() {
        let (_, hotplug, registers) = bus();
        hotplug.arrived(1);
        for (arrived, leaving, asked) in [(0b100, 0, 0), (0, 0, 0b1), (0, 0b10, 0), (0, 0b100, 0b100)] {
            let spoilt = SavedSlots { arrived, leaving, asked };
            assert_eq!(hotplug.restore(spoilt, 0b1010), Err(spoilt));
        }
        assert_eq!(get(&registers, 0), 0b10);
    }

    #[test]
    fn accesses_of_other_widths_and_places_do_nothing() {
        let (_, hotplug, registers) = bus();
        hotplug.arrived(1);
        hotplug.ask(1);
        for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (8, 4), (2, 4)] {
            registers.read(offset, &mut [0; 8][..len]);
        }
        for (offset, len) in [(8, 1), (8, 2), (0, 4), (4, 4), (6, 4)] {
            registers.write(offset, &[0xff; 8][..len]);
        }
        assert!(hotplug.take_gone().is_empty());
        assert_eq!((get(&registers, 0), get(&registers, 4)), (2, 2));
    }
}
