//! A guest that does anything to a PCI bus: configuration spaces, BARs on top of each other, tables of messages, hot plug; and a host that
//! plugs in and asks for devices meanwhile.

use crate::devices::{memory, take};
use event_manager::EventManager;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use vmm::bus::SharedDevice;
use vmm::pci::hotplug::{Hotplug, Registers};
use vmm::pci::{Line, Message, Root, Wiring};
use vmm::virtio::block::{Block, BlockConfig};
use vmm::virtio::console::Console;
use vmm::virtio::pci::{BAR_SIZE, PciTransport};
use vmm::virtio::rng::Rng;
use vmm::virtio::{FaultSink, GuestMemory, Interrupt, Subscriber, Surroundings, Transport, VirtioDevice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Room for a few BARs, so that they meet.
const WINDOW: Range<u64> = 0xe800_0000..0xe804_0000;

/// What KVM would hold: where kicks are taken, and how many lines there are.
#[derive(Default)]
struct Wires {
    kicks: Mutex<BTreeMap<u64, usize>>,
    lines: Mutex<usize>,
}

struct Wired(Arc<Wires>);

struct Wire(Arc<EventFd>, Arc<Wires>);

impl Wiring for Wired {
    fn line(&self) -> io::Result<Box<dyn Line>> {
        *self.0.lines.lock().unwrap() += 1;
        Ok(Box::new(Wire(Arc::new(EventFd::new(EFD_NONBLOCK)?), Arc::clone(&self.0))))
    }

    fn kicks(&self, address: u64, _event: &EventFd) {
        assert!(WINDOW.contains(&address), "kicks are taken outside of the window: {address:#x}");
        let taken = self.0.kicks.lock().unwrap().insert(address, 1);
        assert!(taken.is_none(), "two functions take kicks at {address:#x}");
    }

    fn no_kicks(&self, address: u64, _event: &EventFd) {
        assert!(self.0.kicks.lock().unwrap().remove(&address).is_some(), "{address:#x} was not taken");
    }
}

impl Line for Wire {
    fn event(&self) -> &Arc<EventFd> {
        &self.0
    }

    fn connect(&mut self, message: Message) -> io::Result<()> {
        // Some messages KVM does not take.
        if message.data % 7 == 6 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    fn disconnect(&mut self) {}
}

impl Drop for Wire {
    fn drop(&mut self) {
        *self.1.lines.lock().unwrap() -= 1;
    }
}

struct Machine {
    root: Arc<Root>,
    hotplug: Arc<Hotplug>,
    registers: Registers,
    wires: Arc<Wires>,
    manager: EventManager<Subscriber>,
    memory: GuestMemory,
    functions: Vec<(u8, Arc<Mutex<PciTransport>>)>,
}

impl Machine {
    fn new() -> Self {
        let root = Root::new(WINDOW);
        let hotplug = Hotplug::new(Arc::clone(&root), Box::new(|act| act())).unwrap();
        let mut machine = Self {
            registers: Registers(Arc::clone(&hotplug)),
            root,
            hotplug,
            wires: Arc::default(),
            manager: EventManager::new().unwrap(),
            memory: memory(),
            functions: Vec::new(),
        };
        (0..3).for_each(|kind| machine.plug(kind));
        machine
    }

    fn plug(&mut self, kind: u8) {
        let Some(slot) = self.root.free_slots().next().filter(|slot| *slot < 6) else { return };
        let device: Box<dyn VirtioDevice> = match kind % 3 {
            0 => Box::new(Rng::new(None).unwrap()),
            1 => Box::new(Console::new(None, None).unwrap()),
            _ => Box::new(Block::new(BlockConfig::removable("fuzzed", false)).unwrap()),
        };
        let surroundings = Surroundings {
            memory: self.memory.clone(),
            workers: self.manager.remote_endpoint(),
            faults: FaultSink::new(|_, _| {}),
            interrupts: Arc::default(),
        };
        let wiring = Arc::new(Wired(Arc::clone(&self.wires)));
        let bar = WINDOW.start + u64::from(slot) * BAR_SIZE;
        let transport = PciTransport::new(surroundings, device, wiring, bar).unwrap();
        let transport = Arc::new(Mutex::new(transport));
        self.root.add(slot, Arc::clone(&transport) as _);
        self.functions.push((slot, transport));
        self.hotplug.arrived(slot);
    }

    fn clear(&mut self) {
        for slot in self.hotplug.take_gone() {
            let place = self.functions.iter().position(|(other, _)| *other == slot);
            self.functions.remove(place.expect("what is gone was there"));
        }
    }

    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.manager.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the devices do not come to rest");
    }

    fn step(&mut self, bytes: &mut &[u8]) -> Option<()> {
        let [what, which] = take(bytes)?;
        let (len, slot) = ([1, 2, 4, 8][usize::from(which >> 6)], u64::from(which & 7));
        match what % 8 {
            0 | 1 => {
                let [register] = take(bytes)?;
                let offset = slot << 15 | u64::from(register) | u64::from(which >> 3 & 1) << 12;
                if what % 8 == 0 {
                    self.root.write_config(offset, &take::<8>(bytes)?[..len]);
                } else {
                    self.root.read_config(offset, &mut [0; 8][..len]);
                }
            }
            2 | 3 => {
                let offset = u64::from(u32::from_le_bytes(take(bytes)?)) % (WINDOW.end - WINDOW.start);
                if what % 8 == 2 {
                    self.root.write(offset, &take::<8>(bytes)?[..len]);
                } else {
                    self.root.read(offset, &mut [0; 8][..len]);
                }
            }
            4 => self.registers.write(slot * 4, &take::<8>(bytes)?[..len]),
            5 => self.registers.read(slot * 4, &mut [0; 8][..len]),
            6 => self.run(),
            _ => self.host(which),
        }
        self.clear();
        Some(())
    }

    fn host(&mut self, which: u8) {
        let function = self.functions.get(usize::from(which & 7)).cloned();
        match (which >> 3 & 3, function) {
            (0, _) => self.plug(which),
            (1, Some((slot, _))) => self.hotplug.ask(slot),
            (2, Some((_, transport))) => transport.lock().unwrap().core().signals().queue(0),
            (3, Some((_, transport))) => transport.lock().unwrap().core().signals().config(),
            _ => {}
        }
    }
}

/// Whatever the guest does, no function takes another's kicks, nor any outside of the window; and what is unplugged leaves nothing.
pub fn plug(mut bytes: &[u8]) {
    let mut machine = Machine::new();
    while machine.step(&mut bytes).is_some() {}
    machine.run();
    for (slot, _) in &machine.functions {
        assert!(machine.root.remove(*slot).is_some());
    }
    machine.functions.clear();
    assert!(machine.wires.kicks.lock().unwrap().is_empty());
    assert_eq!(*machine.wires.lines.lock().unwrap(), 0);
    machine.run();
}
