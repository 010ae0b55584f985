//! Devices as functions of a PCI bus: configuration space, BARs that move, messages.

use crate::devices::take;
use event_manager::EventManager;
use std::io;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};
use vmm::pci::{Line, Message, Root, Wiring};
use vmm::virtio::console::Console;
use vmm::virtio::pci::{BAR_SIZE, NOTIFY, PciTransport};
use vmm::virtio::rng::Rng;
use vmm::virtio::{FaultSink, GuestMemory, Subscriber, Surroundings, VirtioDevice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY_SIZE: usize = 256 << 10;
const WINDOW: u64 = 0xe800_0000;
/// Room for a few BARs, so that they get in each other's way.
const WINDOW_SIZE: u64 = 4 * BAR_SIZE;
/// Entries of a ring.
const RING: u16 = 8;

/// Wires that lead nowhere.
#[derive(Default)]
struct Nowhere {
    kicks: Mutex<Vec<u64>>,
}

struct Event(Arc<EventFd>);

impl Line for Event {
    fn event(&self) -> &Arc<EventFd> {
        &self.0
    }

    fn connect(&mut self, _message: Message) -> io::Result<()> {
        Ok(())
    }

    fn disconnect(&mut self) {}
}

impl Wiring for Nowhere {
    fn line(&self) -> io::Result<Box<dyn Line>> {
        Ok(Box::new(Event(Arc::new(EventFd::new(EFD_NONBLOCK)?))))
    }

    fn kicks(&self, address: u64, _event: &EventFd) {
        let mut kicks = self.kicks.lock().unwrap();
        // A BAR that lies over another's kicks would be told of what is not its.
        assert!((WINDOW..WINDOW + WINDOW_SIZE).contains(&address) && !kicks.contains(&address));
        kicks.push(address);
    }

    fn no_kicks(&self, address: u64, _event: &EventFd) {
        let mut kicks = self.kicks.lock().unwrap();
        let place = kicks.iter().position(|kick| *kick == address).expect("it was wired");
        kicks.swap_remove(place);
    }
}

/// Two devices on a bus, and a guest that reads and writes all of it.
pub fn bus(mut bytes: &[u8]) {
    let memory = vmm::memory::scratch(MEMORY_SIZE, None).unwrap();
    let mut manager = EventManager::<Subscriber>::new().unwrap();
    let (root, wiring) = (Root::new(WINDOW..WINDOW + WINDOW_SIZE), Arc::new(Nowhere::default()));
    let devices: [Box<dyn VirtioDevice>; 2] = [
        Box::new(Rng::new(None).unwrap()),
        Box::new(Console::new(None, Some(tempfile::tempfile().unwrap())).unwrap()),
    ];
    for (slot, device) in (1u8..).zip(devices) {
        let surroundings = Surroundings {
            memory: memory.clone(),
            workers: manager.remote_endpoint(),
            faults: FaultSink::new(|_, _| {}),
            interrupts: Arc::default(),
        };
        let bar = WINDOW + u64::from(slot - 1) * BAR_SIZE;
        let transport = PciTransport::new(surroundings, device, Arc::clone(&wiring) as _, bar).unwrap();
        root.add(slot, Arc::new(Mutex::new(transport)));
        // Memory and bus master on, then what a driver does that keeps to the rules.
        root.write_config(u64::from(slot) << 15 | 4, &6u16.to_le_bytes());
        set_up(&root, bar - WINDOW);
    }
    while step(&root, &memory, &mut manager, &mut bytes).is_some() {}
    rest(&mut manager);
    for slot in 1..3 {
        assert!(root.remove(slot).is_some());
    }
    rest(&mut manager);
    assert!(wiring.kicks.lock().unwrap().is_empty(), "kicks of devices that are gone");
}

/// The driver's steps through the registers at `bar` of the window (virtio 1.2, section 4.1.4.3).
fn set_up(root: &Root, bar: u64) {
    let write = |at: u64, data: &[u8]| root.write(bar + at, data);
    write(20, &[3]);
    write(8, &1u32.to_le_bytes());
    write(12, &1u32.to_le_bytes());
    write(20, &[11]);
    for queue in 0..2u16 {
        write(22, &queue.to_le_bytes());
        write(24, &RING.to_le_bytes());
        let base = u32::from(queue + 1) * 0x1000;
        for (at, part) in [(32, base), (40, base + 0x400), (48, base + 0x800)] {
            write(at, &part.to_le_bytes());
        }
        write(28, &1u16.to_le_bytes());
    }
    write(20, &[15]);
}

/// Lets the devices work until they rest.
fn rest(manager: &mut EventManager<Subscriber>) {
    for _ in 0..10_000 {
        if manager.run_with_timeout(0).unwrap() == 0 {
            return;
        }
    }
    panic!("the devices do not come to rest");
}

fn step(
    root: &Root,
    memory: &GuestMemory,
    manager: &mut EventManager<Subscriber>,
    bytes: &mut &[u8],
) -> Option<()> {
    let [what] = take(bytes)?;
    // An access of 1, 2, 4 or 8 bytes at any place of the bus.
    let mut data = [0; 8];
    let len = 1 << (what >> 4 & 3);
    match what % 8 {
        0 | 1 => {
            let [slot, register] = take(bytes)?;
            let at = u64::from(slot % 4) << 15 | u64::from(register);
            if what & 1 == 0 {
                root.read_config(at, &mut data[..len]);
            } else {
                root.write_config(at, &take::<8>(bytes)?[..len]);
            }
        }
        2 | 3 => {
            let at = u64::from(u32::from_le_bytes(take(bytes)?)) % WINDOW_SIZE;
            if what & 1 == 0 {
                root.read(at, &mut data[..len]);
            } else {
                root.write(at, &take::<8>(bytes)?[..len]);
            }
        }
        // A register of a device that is where it was first.
        4 => {
            let [device, register] = take(bytes)?;
            let at = u64::from(device % 2) * BAR_SIZE + u64::from(register % 64);
            root.write(at, &take::<8>(bytes)?[..len.min(4)]);
        }
        5 => {
            let [device, queue] = take(bytes)?;
            root.write(u64::from(device % 2) * BAR_SIZE + NOTIFY + u64::from(queue % 3) * 4, &[queue, 0]);
        }
        6 => {
            let (at, count) = (u16::from_le_bytes(take(bytes)?), usize::from(take::<1>(bytes)?[0]));
            let (given, left) = bytes.split_at(count.min(bytes.len()));
            *bytes = left;
            memory.write_slice(given, GuestAddress(at.into())).ok()?;
        }
        _ => rest(manager),
    }
    Some(())
}
