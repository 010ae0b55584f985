use super::super::*;
use super::Guest;
use crate::memory::{Recipe, allocate, extend};
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{Buffer, GuestOver, QUEUE_SIZE as RING, Registers, VERSION_1, arbitrary};
use crate::virtio::{Signals, Transport};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Mutex;
use vm_memory::Bytes;

const START: u64 = 4 << 30;
const BLOCK: u64 = 64 << 20;
const CONFIG: MemoryHotplug = MemoryHotplug { total_size_mib: 512, block_size_mib: 64, slot_size_mib: 128 };

/// Slots that are only written down; number 3 never works.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<BTreeSet<u32>>>);

impl Slots for Written {
    fn set(&self, index: u32, present: bool) -> std::io::Result<()> {
        let mut slots = self.0.lock().unwrap();
        match (index, present) {
            (3, true) => return Err(std::io::ErrorKind::OutOfMemory.into()),
            (_, true) => assert!(slots.insert(index), "slot {index} is there already"),
            (_, false) => assert!(slots.remove(&index), "slot {index} is not there"),
        }
        Ok(())
    }

    fn shut(&self, index: u32) {
        assert!(!self.0.lock().unwrap().contains(&index), "slot {index} is in the machine");
    }
}

struct World {
    guest: Guest,
    control: MemControl,
    slots: Written,
}

fn device(slots: &Written) -> Mem {
    device_for(slots, Blocks::new(512 << 20, BLOCK))
}

fn device_for(slots: &Written, blocks: Arc<Blocks>) -> Mem {
    Mem::new(CONFIG, START, (blocks, Box::new(slots.clone())), Recipe::DEFAULT).unwrap()
}

impl World {
    fn new(requested: u64) -> Self {
        let slots = Written::default();
        let ram = allocate(16 << 20, &Recipe::DEFAULT).unwrap();
        let (memory, blocks) = extend(&ram, &Recipe::DEFAULT, START, (512 << 20, BLOCK)).unwrap();
        let mem = device_for(&slots, blocks);
        let control = mem.control();
        let mut guest = Guest::with_memory(memory, Box::new(mem));
        guest.negotiate(VERSION_1 | 1 << F_UNPLUGGED_INACCESSIBLE);
        guest.set_up_rings();
        guest.set_status(15);
        guest.run();
        let world = Self { guest, control, slots };
        world.control.resize(requested, &world.signals()).unwrap();
        world
    }

    fn signals(&self) -> Arc<Signals> {
        self.guest.transport.core().signals()
    }

    fn ask(&mut self, kind: u16, block: u64, count: u16) -> (u16, u16) {
        let mut request = [0; REQUEST];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&(START + block * BLOCK).to_le_bytes());
        request[16..18].copy_from_slice(&count.to_le_bytes());
        let (request, response) = (self.guest.data(&request), self.guest.room(10, true));
        self.guest.send(0, &[request, response]);
        assert_eq!(self.guest.used(0).unwrap().1, 10);
        let bytes = self.guest.bytes(response, 10);
        (u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[8], bytes[9]]))
    }

    fn slots(&self) -> Vec<u32> {
        self.slots.0.lock().unwrap().iter().copied().collect()
    }
}

#[test]
fn slots_are_in_the_machine_while_a_block_of_theirs_is() {
    let mut world = World::new(256);
    assert_eq!((world.slots(), world.ask(PLUG, 1, 2)), (vec![], (0, 0)));
    assert_eq!((world.slots(), world.control.status().plugged_size_mib), (vec![0, 1], 128));
    world.guest.memory.write_obj(7u8, GuestAddress(START + BLOCK)).unwrap();
    assert_eq!(
        [world.ask(STATE, 1, 2), world.ask(STATE, 0, 1), world.ask(STATE, 0, 4)],
        [(0, 0), (0, 1), (0, 2)]
    );
    assert_eq!((world.ask(UNPLUG, 1, 1), world.slots()), ((0, 0), vec![1]));
    assert!(world.guest.memory.read_obj::<u8>(GuestAddress(START + BLOCK)).is_err());
    assert_eq!(world.ask(PLUG, 1, 1), (0, 0));
    assert_eq!(world.guest.memory.read_obj::<u8>(GuestAddress(START + BLOCK)).unwrap(), 0);
    assert_eq!((world.ask(UNPLUG_ALL, 0, 0), world.slots()), ((0, 0), vec![]));
}

#[test]
fn a_flood_of_requests_is_served_in_turns() {
    let mut world = World::new(0);
    // Eight blocks each time.
    let request = [UNPLUG_ALL.to_le_bytes().to_vec(), vec![0; REQUEST - 2]].concat();
    let (request, response) = (world.guest.data(&request), world.guest.room(10, true));
    let head = world.guest.offer(0, &[request, response]);
    (1..RING).for_each(|_| world.guest.offer_head(0, head));
    world.guest.kick(0);
    world.guest.run_once();
    let first = std::iter::from_fn(|| world.guest.used(0)).count();
    assert_eq!(first as u64, TURN / 8);
    world.guest.run();
    assert_eq!(first + std::iter::from_fn(|| world.guest.used(0)).count(), usize::from(RING));
}

#[test]
fn memory_goes_back_in_steps_after_the_answer() {
    let mut world = World::new(384);
    assert_eq!((world.ask(PLUG, 0, 6), world.slots()), ((0, 0), vec![0, 1, 2]));
    world.guest.memory.write_obj(7u8, GuestAddress(START + 5 * BLOCK)).unwrap();
    let mut offer = |kind: u16, count: u16| {
        let mut request = [0; REQUEST];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&START.to_le_bytes());
        request[16..18].copy_from_slice(&count.to_le_bytes());
        let (request, response) = (world.guest.data(&request), world.guest.room(10, true));
        world.guest.offer(0, &[request, response]);
    };
    offer(UNPLUG_ALL, 0);
    offer(PLUG, 6);
    world.guest.kick(0);
    let mut seen = Vec::new();
    for _ in 0..4 {
        world.guest.run_once();
        let answers = std::iter::from_fn(|| world.guest.used(0)).count();
        seen.push((answers, world.slots(), world.control.status().plugged_size_mib));
    }
    // Of the three slots, a step gives two back. The other request waits for the last.
    let expected = [(1, vec![0, 1, 2], 0), (0, vec![2], 0), (0, vec![], 0), (1, vec![0, 1, 2], 384)];
    assert_eq!(seen, expected);
    assert_eq!(world.guest.memory.read_obj::<u8>(GuestAddress(START + 5 * BLOCK)).unwrap(), 0);
    let figures = world.control.metrics().figures();
    assert!(figures.contains(&("unplug_discard_fails", 0)), "{figures:?}");
}

#[test]
fn what_is_unplugged_goes_back_without_its_driver_and_before_a_state_is_saved() {
    for save in [false, true] {
        let mut world = World::new(384);
        assert_eq!((world.ask(PLUG, 0, 6), world.slots()), ((0, 0), vec![0, 1, 2]));
        let request = [UNPLUG_ALL.to_le_bytes().to_vec(), vec![0; REQUEST - 2]].concat();
        let (request, response) = (world.guest.data(&request), world.guest.room(10, true));
        world.guest.offer(0, &[request, response]);
        world.guest.kick(0);
        world.guest.run_once();
        assert_eq!(world.slots(), [0, 1, 2]);
        if save {
            world.guest.pause();
            assert_eq!(world.slots(), [0, 1, 2], "a pause is in the main loop, which has others to serve");
            world.guest.transport.core_mut().save().unwrap();
        } else {
            world.guest.set_status(0);
            assert_eq!(world.slots(), [0, 1, 2], "a reset is in a thread that can't");
            world.guest.run();
        }
        assert!(world.slots().is_empty(), "{save}");
    }
}

#[test]
fn one_request_does_not_put_in_slots_without_end() {
    const TOTAL: u64 = 80 * 128;
    let config = MemoryHotplug { total_size_mib: TOTAL, block_size_mib: 64, slot_size_mib: 128 };
    let slots = Written::default();
    let blocks = Blocks::new(TOTAL << 20, BLOCK);
    let shared = Shared::new(config, START, Arc::clone(&blocks), Box::new(slots.clone())).unwrap();
    let shared = Arc::new(shared);
    let guest = Guest::cold(Box::new(device_for(&slots, blocks)));
    MemControl::new(Arc::clone(&shared)).resize(TOTAL, &guest.transport.core().signals()).unwrap();
    let behind = START + 8 * BLOCK;
    let most = 2 * shared::MOST_SLOTS as u16;
    assert_eq!(shared.plug(behind, most + 1), Answer::Busy);
    assert!(slots.0.lock().unwrap().is_empty());
    assert_eq!(shared.plug(behind, most), Answer::Ack);
    assert_eq!(slots.0.lock().unwrap().len(), shared::MOST_SLOTS);
}

#[test]
fn devices_do_not_reach_what_is_not_plugged_in() {
    let mut world = World::new(128);
    assert_eq!(world.ask(PLUG, 1, 1), (0, 0));
    let mut request = [0; REQUEST];
    request[..2].copy_from_slice(&STATE.to_le_bytes());
    let request = world.guest.data(&request);
    // Up to the end of a block, and a byte farther.
    for (end, reached) in [(2 * BLOCK, true), (2 * BLOCK + 1, false)] {
        let response = Buffer { address: START + end - 10, len: 10, writable: true };
        world.guest.send(0, &[request, response]);
        assert_eq!(world.guest.used(0).is_some(), reached);
        assert_eq!(world.guest.is_broken(), !reached);
    }
    assert!(world.guest.faults()[0].contains("is not guest memory"), "{:?}", world.guest.faults());
}

#[test]
fn no_more_is_plugged_in_than_was_asked_for() {
    let mut world = World::new(128);
    assert_eq!(world.ask(PLUG, 0, 3), (1, 0));
    assert_eq!(
        [world.ask(PLUG, 0, 2), world.ask(PLUG, 2, 1), world.ask(PLUG, 0, 1)],
        [(0, 0), (1, 0), (3, 0)]
    );
    let signals = world.signals();
    assert!(matches!(world.control.resize(1024, &signals), Err(MemError::TooMuch { .. })));
    assert!(matches!(world.control.resize(65, &signals), Err(MemError::Blocks { .. })));
    // Asked for less: the guest may keep what it has, and gets no more.
    world.control.resize(64, &signals).unwrap();
    assert_eq!(world.guest.config(48), (64u64 << 20).to_le_bytes());
    assert_eq!((world.ask(UNPLUG, 0, 1), world.ask(PLUG, 0, 1)), ((0, 0), (1, 0)));
    let figures = world.control.metrics().figures();
    let figure = |name| figures.iter().find(|(other, _)| *other == name).unwrap().1;
    assert_eq!(["plug_count", "plug_fails", "plug_bytes"].map(figure), [5, 4, 128 << 20]);
    assert_eq!(["unplug_count", "unplug_fails", "unplug_bytes"].map(figure), [1, 0, 64 << 20]);
}

#[test]
fn requests_that_make_no_sense_are_errors() {
    let mut world = World::new(512);
    for (kind, block, count) in [
        (PLUG, 8, 1),
        (PLUG, 7, 2),
        (PLUG, 0, 0),
        (UNPLUG, 0, 1),
        (STATE, 9, 1),
        (9, 0, 1),
        (PLUG, u64::MAX / BLOCK, 1),
    ] {
        assert_eq!(world.ask(kind, block.min(1 << 30), count).0, 3, "{kind} {block} {count}");
    }
    assert!(world.slots().is_empty());
}

#[test]
fn a_slot_that_the_host_can_not_give_leaves_none_behind() {
    let mut world = World::new(512);
    assert_eq!((world.ask(PLUG, 2, 6), world.slots()), ((2, 0), vec![]));
    assert_eq!(world.control.status().plugged_size_mib, 0);
}

#[test]
fn plugged_memory_is_there_in_another_process() {
    let mut world = World::new(256);
    world.ask(PLUG, 1, 2);
    let slots = Written::default();
    let mem = device(&slots);
    let control = mem.control();
    let guest = world.guest.migrate(Box::new(mem));
    let mut world = World { guest, control, slots };
    let status = world.control.status();
    assert_eq!((world.slots(), status.plugged_size_mib, status.requested_size_mib), (vec![0, 1], 128, 256));
    assert_eq!(world.ask(PLUG, 0, 1), (0, 0));
    for state in [
        serde_json::json!({"requested": 0, "block": 1, "plugged": []}),
        serde_json::json!({"requested": 0, "block": BLOCK, "plugged": [[7, 2]]}),
        serde_json::json!({"requested": 0, "block": BLOCK, "plugged": [[u64::MAX, 2]]}),
        serde_json::json!(5),
    ] {
        assert!(device(&Written::default()).restore(&state).is_err(), "{state}");
    }
}

/// Questions for the state of blocks, of which the first was plugged in.
#[derive(Default)]
struct Questions {
    slots: Written,
    answers: Vec<Buffer>,
}

impl Subject for Questions {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        // Another process puts its own slots in.
        self.slots = Written::default();
        Box::new(device(&self.slots))
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, _number: u32) -> (usize, u16) {
        let mut request = [0; REQUEST];
        request[..2].copy_from_slice(&STATE.to_le_bytes());
        request[8..16].copy_from_slice(&START.to_le_bytes());
        request[16] = 1;
        let (request, response) = (guest.data(&request), guest.room(10, true));
        self.answers.push(response);
        (0, guest.offer(0, &[request, response]))
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        let answer = guest.bytes(self.answers[number as usize], 10);
        assert_eq!((written, answer), (10, vec![0, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(Questions::default);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_ring_is_too_strange(
        table in proptest::collection::vec(arbitrary::descriptor(), usize::from(RING)),
        heads in proptest::collection::vec(any::<u16>(), 1..20),
    ) {
        let mut world = World::new(512);
        for (index, (address, len, flags, next)) in table.iter().enumerate() {
            world.guest.descriptor(world.guest.rings[0].table(), index as u16, *address, *len, *flags, *next);
        }
        for head in heads {
            world.guest.offer_head(0, head % (RING + 1));
            world.guest.kick(0);
            world.guest.run();
        }
        prop_assert_eq!(world.guest.is_broken(), !world.guest.faults().is_empty());
    }

    #[test]
    fn slots_always_follow_blocks(
        requests in proptest::collection::vec((0u16..3, 0u64..9, 0u16..5), 0..40),
    ) {
        let mut world = World::new(320);
        for (kind, block, count) in requests {
            world.ask(kind, block, count);
            let plugged: BTreeSet<u32> = (0..8).filter(|block| world.ask(STATE, *block, 1).1 == 0).map(|block| block as u32 / 2).collect();
            prop_assert_eq!(world.slots(), plugged.into_iter().collect::<Vec<_>>());
            prop_assert!(world.control.status().plugged_size_mib <= 320);
        }
    }
}
