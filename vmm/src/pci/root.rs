//! The bus: finds functions behind ECAM, and their BARs in the window that the machine keeps for them.

use super::{ConfigSpace, Function, Ids};
use crate::bus::{BusDevice, SharedDevice};
use crate::lock::lock;
use std::sync::{Arc, Mutex};

/// Devices on a bus; the first is the host bridge.
pub const SLOTS: u8 = 32;
/// Bytes of configuration space that ECAM has for a bus: 32 devices of 8 functions of 4 KiB (PCI Express 4.0, 7.2.2).
pub const ECAM_SIZE: u64 = 1 << 20;

/// A host bridge that has nothing to configure: "QEMU PCIe Host bridge", as good as any that guests know.
const HOST_BRIDGE: Ids =
    Ids { vendor: 0x1b36, device: 0x0008, revision: 0, class: 0x06_00_00, subsystem_vendor: 0, subsystem: 0 };

struct Slot {
    function: Shared,
    // Where its BAR is, and how long it is.
    base: Option<u64>,
    size: u64,
}

/// A function that vCPUs and the machine share.
pub type Shared = Arc<Mutex<dyn Function>>;

/// One bus of one segment, each device with one function.
///
/// Locks: a function's first, then that of moves, then the slots', the latter two for a moment only.
pub struct Root {
    slots: Mutex<[Option<Slot>; SLOTS as usize]>,
    /// One BAR moves at a time: nobody takes a place whose kicks are still wired to who had it.
    moves: Mutex<()>,
    window: std::ops::Range<u64>,
}

impl Root {
    /// A bus with a host bridge and nothing else, whose BARs lie in `window`.
    pub fn new(window: std::ops::Range<u64>) -> Arc<Self> {
        let root = Self { slots: Mutex::default(), moves: Mutex::default(), window };
        root.add(0, Arc::new(Mutex::new(HostBridge(ConfigSpace::new(HOST_BRIDGE)))));
        Arc::new(root)
    }

    /// The slots that are free, lowest first.
    pub fn free_slots(&self) -> impl Iterator<Item = u8> + use<> {
        let free: Vec<u8> =
            (0..).zip(&*lock(&self.slots)).filter(|(_, at)| at.is_none()).map(|(slot, _)| slot).collect();
        free.into_iter()
    }

    /// Puts a function into a slot, which is free.
    pub fn add(&self, slot: u8, function: Shared) {
        let mut guard = lock(&function);
        let size = guard.bar_size();
        lock(&self.slots)[usize::from(slot)] =
            Some(Slot { function: Arc::clone(&function), base: None, size });
        self.refresh(slot, &mut *guard);
    }

    /// Takes a function out of its slot. It may wait for the function: for a driver that is busy with it, and for what it has under way.
    pub fn remove(&self, slot: u8) -> Option<Shared> {
        let function = Arc::clone(&lock(&self.slots).get(usize::from(slot))?.as_ref()?.function);
        let mut guard = lock(&function);
        let moving = lock(&self.moves);
        guard.place(None);
        lock(&self.slots)[usize::from(slot)] = None;
        drop(moving);
        guard.taken_off();
        drop(guard);
        Some(function)
    }

    /// Puts a BAR where the guest wants it: in the window, in nobody's way. Otherwise it is nowhere.
    fn refresh(&self, slot: u8, function: &mut (dyn Function + 'static)) {
        let _moving = lock(&self.moves);
        let mut slots = lock(&self.slots);
        let Some(Slot { base: old, size, .. }) = slots[usize::from(slot)] else { return };
        let wanted = function.wanted().filter(|base| {
            let inside = |end| *base >= self.window.start && end <= self.window.end;
            base.checked_add(size).is_some_and(|end| {
                let in_the_way =
                    |other: &Slot| other.base.is_some_and(|start| start < end && *base < start + other.size);
                let others = slots.iter().enumerate().filter(|(index, _)| *index != usize::from(slot));
                inside(end) && !others.filter_map(|(_, other)| other.as_ref()).any(in_the_way)
            })
        });
        if wanted == old {
            return;
        }
        if let Some(slot) = &mut slots[usize::from(slot)] {
            slot.base = wanted;
        }
        drop(slots);
        function.place(wanted);
    }

    fn function(&self, slot: u8) -> Option<Shared> {
        lock(&self.slots)[usize::from(slot)].as_ref().map(|slot| Arc::clone(&slot.function))
    }

    /// The function behind an ECAM offset, its slot, and which register is meant.
    fn register(&self, offset: u64, len: usize) -> Option<(u8, Shared, u16)> {
        let register = (offset & 0xfff) as u16;
        // Conventional functions have 256 bytes, one each; an access does not cross registers of 32 bits (but for a 64-bit one).
        let exists = offset < ECAM_SIZE && offset >> 12 & 7 == 0 && usize::from(register) + len <= 256;
        let slot = (offset >> 15 & 31) as u8;
        exists.then(|| self.function(slot)).flatten().map(|function| (slot, function, register))
    }

    /// Reads configuration space; nothing is all ones.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((_, function, register)) = self.register(offset, data.len()) {
            lock(&function).read_config(register, data);
        }
    }

    /// Writes configuration space, and moves the BAR if that is what it was for.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let Some((slot, function, register)) = self.register(offset, data.len()) else { return };
        let mut guard = lock(&function);
        guard.write_config(register, data);
        // Whoever took it out of its slot meanwhile has the last word.
        if self.function(slot).is_some_and(|now| Arc::ptr_eq(&now, &function)) {
            self.refresh(slot, &mut *guard);
        }
    }

    /// The function whose BAR an access lies in as a whole, and the offset.
    fn bar(&self, address: u64, len: usize) -> Option<(Shared, u64)> {
        let end = address.checked_add(len as u64)?;
        let slots = lock(&self.slots);
        slots.iter().flatten().find_map(|slot| {
            let base = slot.base?;
            (base <= address && end <= base + slot.size).then(|| (Arc::clone(&slot.function), address - base))
        })
    }

    /// Reads a BAR; nothing is all ones. `offset` is from the start of the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((function, offset)) = self.bar(self.window.start + offset, data.len()) {
            lock(&function).read(offset, data);
        }
    }

    /// Writes a BAR.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, offset)) = self.bar(self.window.start + offset, data.len()) {
            lock(&function).write(offset, data);
        }
    }
}

/// ECAM on the bus. Whoever waits for one function keeps nobody from the others: no lock is held but that one's.
pub struct Ecam(pub Arc<Root>);

impl SharedDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write_config(offset, data);
    }
}

/// The BARs on the bus.
pub struct Window(pub Arc<Root>);

impl SharedDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

struct HostBridge(ConfigSpace);

impl BusDevice for HostBridge {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

impl Function for HostBridge {
    fn read_config(&mut self, register: u16, data: &mut [u8]) {
        self.0.read(register, data);
    }

    fn write_config(&mut self, register: u16, data: &[u8]) {
        self.0.write(register, data);
    }

    fn bar_size(&self) -> u64 {
        0
    }

    fn wanted(&self) -> Option<u64> {
        None
    }

    fn place(&mut self, _base: Option<u64>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::pci::hotplug::{self, Hotplug, Registers};
    use std::sync::mpsc::{Receiver, Sender, channel};

    const WINDOW: u64 = 0x1000;
    const PORT: u64 = 0x620;

    /// A function of 16 bytes at `base`. A write to it, or its removal, lasts until it may go on.
    struct Slow {
        base: u64,
        begun: Sender<()>,
        go_on: Receiver<()>,
    }

    impl Slow {
        fn wait(&self) {
            self.begun.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
    }

    impl BusDevice for Slow {
        fn read(&mut self, _offset: u64, data: &mut [u8]) {
            data.fill(7);
        }

        fn write(&mut self, _offset: u64, _data: &[u8]) {
            self.wait();
        }
    }

    impl Function for Slow {
        fn read_config(&mut self, _register: u16, data: &mut [u8]) {
            data.fill(8);
        }

        fn write_config(&mut self, _register: u16, _data: &[u8]) {}

        fn bar_size(&self) -> u64 {
            16
        }

        fn wanted(&self) -> Option<u64> {
            Some(self.base)
        }

        fn place(&mut self, _base: Option<u64>) {}

        fn taken_off(&mut self) {
            self.wait();
        }
    }

    #[test]
    fn who_waits_for_one_function_keeps_nobody_from_the_rest_of_the_bus() {
        let root = Root::new(WINDOW..WINDOW + 0x100);
        let (begun, has_begun) = channel();
        let (let_go, go_on) = channel();
        root.add(1, Arc::new(Mutex::new(Slow { base: WINDOW, begun: begun.clone(), go_on })));
        root.add(2, Arc::new(Mutex::new(Slow { base: WINDOW + 16, begun, go_on: channel().1 })));
        let hotplug = Hotplug::new(Arc::clone(&root), Box::new(|act| act())).unwrap();
        hotplug.ask(1);
        let mut bus = Bus::default();
        bus.share(PORT, hotplug::SIZE, Arc::new(Registers(hotplug))).unwrap();
        bus.share(WINDOW, 0x100, Arc::new(Window(Arc::clone(&root)))).unwrap();
        bus.share(0x10_0000, ECAM_SIZE, Arc::new(Ecam(root))).unwrap();
        for (address, data) in [(WINDOW, [0; 4]), (PORT + 8, [2, 0, 0, 0])] {
            std::thread::scope(|scope| {
                scope.spawn(|| bus.write(address, &data));
                has_begun.recv().unwrap();
                // Another vCPU.
                let (mut bar, mut config, mut told) = ([0], [0], [0; 4]);
                bus.read(WINDOW + 16, &mut bar);
                bus.read(0x10_0000 + (2 << 15), &mut config);
                bus.read(PORT, &mut told);
                let_go.send(()).unwrap();
                assert_eq!((bar, config, told), ([7], [8], [0; 4]));
            });
        }
    }
}
