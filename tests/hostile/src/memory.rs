//! Devices that are memory: blocks that a guest plugs in and out, and files in its address space; and disks that are served through a ring.

use crate::devices::Guest;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use vmm::api::config::{MemoryHotplug, RateLimiter, TokenBucket};
use vmm::memory::{Blocks, PmemMapping, Recipe, Slots};
use vmm::virtio::block::{Block, BlockConfig, QUEUE_SIZE, Ring};
use vmm::virtio::mem::Mem;
use vmm::virtio::pmem::Pmem;

/// Where the memory is: far outside of the guest's RAM.
const START: u64 = 4 << 30;
const CONFIG: MemoryHotplug = MemoryHotplug { total_size_mib: 512, block_size_mib: 64, slot_size_mib: 128 };

/// What KVM would hold; it never takes slot 3.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<BTreeSet<u32>>>);

impl Slots for Written {
    fn set(&self, index: u32, present: bool) -> io::Result<()> {
        assert!(u64::from(index) < CONFIG.total_size_mib / CONFIG.slot_size_mib, "there is no slot {index}");
        let mut slots = self.0.lock().unwrap();
        match (index, present) {
            (3, true) => return Err(io::ErrorKind::OutOfMemory.into()),
            (_, true) => assert!(slots.insert(index), "slot {index} is there already"),
            (_, false) => assert!(slots.remove(&index), "slot {index} is not there"),
        }
        Ok(())
    }

    fn shut(&self, index: u32) {
        assert!(!self.0.lock().unwrap().contains(&index), "slot {index} is in the machine");
    }
}

/// Hot-pluggable memory: whatever the guest asks for, a slot is in the machine exactly as long as a block of it is plugged in.
pub fn hotplug(bytes: &[u8]) {
    let slots = Written::default();
    let blocks = Blocks::new(CONFIG.total_size_mib << 20, CONFIG.block_size_mib << 20);
    let device = Mem::new(CONFIG, START, (blocks, Box::new(slots.clone())), Recipe::DEFAULT).unwrap();
    let control = device.control();
    let guest = Guest::with(Box::new(device), 1);
    let signals = guest.signals();
    guest.play(bytes, |what, _| {
        let wanted = u64::from(what % 10) * 64;
        assert_eq!(control.resize(wanted, &signals).is_ok(), wanted <= CONFIG.total_size_mib);
    });
    let (plugged, slots) = (control.status().plugged_size_mib, slots.0.lock().unwrap().len() as u64);
    assert!(plugged >= slots * CONFIG.block_size_mib && plugged <= slots * CONFIG.slot_size_mib);
}

/// A file in the guest's address space, with a limit or without.
pub fn persistent(bytes: &[u8]) {
    let first = bytes.first().copied().unwrap_or(0);
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    let mapping = PmemMapping::new(START, file.try_clone().unwrap(), first & 1 == 1).unwrap();
    let ops = TokenBucket { size: 2, one_time_burst: None, refill_time: 1 };
    let limit = RateLimiter { bandwidth: None, ops: Some(ops) };
    let device = Pmem::new("fuzzed", mapping, (first & 2 == 2).then_some(&limit)).unwrap();
    let control = device.control();
    Guest::with(Box::new(device), 0).play(bytes.get(1..).unwrap_or_default(), |what, _| match what % 4 {
        0 => control.take_out(),
        1 => control.limit().update(&limit).unwrap(),
        _ => {}
    });
    assert_eq!(file.metadata().unwrap().len(), 64 << 10);
}

/// A disk of one queue or two behind rings: what the kernel finishes in its own time is answered once, and a reset waits for it.
pub fn ring(bytes: &[u8]) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    let queues = 1 + u16::from(bytes.first().is_some_and(|first| first & 1 == 1));
    let rings: io::Result<Vec<Ring>> = (0..queues).map(|_| Ring::new(QUEUE_SIZE, &file)).collect();
    // A host may have it switched off; then nobody is served through rings.
    let Ok(rings) = rings else { return };
    let config =
        BlockConfig { queues, rings, ..BlockConfig::new("fuzzed", vec![file.try_clone().unwrap()], false) };
    let device = Block::new(config).unwrap();
    Guest::with(Box::new(device), 0).play(bytes.get(1..).unwrap_or_default(), |_, _| {});
    assert_eq!(file.metadata().unwrap().len(), 64 << 10);
}
