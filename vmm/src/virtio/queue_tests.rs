//! A queue beside a plain model of one, and beside drivers that break it.

use super::queue::{DeviceQueue, QueueSnapshot, drain};
use super::testing::{MEMORY_SIZE, QUEUE_SIZE, WRITE, arbitrary, memory};
use super::{Chain, GuestMemory, Interrupt};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const SIZE: usize = QUEUE_SIZE as usize;

#[derive(Default)]
struct Heard(AtomicUsize);

impl Interrupt for Heard {
    fn queue(&self, index: u16) {
        assert_eq!(index, 7);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn config(&self) {}
    fn needs_reset(&self) {}
}

/// A queue whose indices begin at `start`, so that they wrap soon.
fn queue(start: u16, event_idx: bool) -> DeviceQueue {
    let snapshot = QueueSnapshot {
        max_size: QUEUE_SIZE,
        next_avail: start,
        next_used: start,
        event_idx_enabled: event_idx,
        size: QUEUE_SIZE,
        ready: true,
        desc_table: TABLE,
        avail_ring: AVAILABLE,
        used_ring: USED,
    };
    made_of(snapshot).expect("it is sound")
}

fn made_of(snapshot: QueueSnapshot) -> Option<DeviceQueue> {
    let queue = Queue::try_from(snapshot).ok()?;
    Some(DeviceQueue::new(7, queue, Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())))
}

/// What a driver keeps of its side: each descriptor is a request of its own.
struct Driver {
    memory: GuestMemory,
    free: Vec<u16>,
    offered: u16,
    seen: u16,
}

impl Driver {
    fn new(start: u16) -> Self {
        let driver = Self { memory: memory(), free: (0..QUEUE_SIZE).collect(), offered: start, seen: start };
        for index in 0..QUEUE_SIZE {
            // Address, length, flags, next.
            let place = TABLE + u64::from(index) * 16;
            driver.put(place, 0x10_0000 + u64::from(index) * 0x1000);
            driver.put(place + 8, u32::from(index) + 1);
            driver.put(place + 12, WRITE);
            driver.put(place + 14, 0u16);
        }
        driver.put(AVAILABLE + 2, start);
        driver.put(USED + 2, start);
        driver
    }

    fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn read<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn offer(&mut self) -> Option<u16> {
        let head = self.free.pop()?;
        self.put(AVAILABLE + 4 + u64::from(self.offered % QUEUE_SIZE) * 2, head);
        self.offered = self.offered.wrapping_add(1);
        self.put(AVAILABLE + 2, self.offered);
        Some(head)
    }

    /// What came back since the last time, in order.
    fn collect(&mut self) -> Vec<(u16, u32)> {
        let mut back = Vec::new();
        while self.seen != self.read::<u16>(USED + 2) {
            let place = USED + 4 + u64::from(self.seen % QUEUE_SIZE) * 8;
            let head = u16::try_from(self.read::<u32>(place)).unwrap();
            back.push((head, self.read(place + 4)));
            self.seen = self.seen.wrapping_add(1);
            self.free.push(head);
        }
        back
    }

    /// From when on it wants an interrupt (section 2.7.7).
    fn wants_after(&self, index: u16) {
        self.put(AVAILABLE + 4 + u64::from(QUEUE_SIZE) * 2, index);
    }
}

proptest! {
    #[test]
    fn what_is_offered_comes_out_once_in_order_and_goes_back_as_it_is_completed(
        start in prop_oneof![Just(0u16), Just(u16::MAX - 3), any::<u16>()],
        event_idx: bool,
        steps in proptest::collection::vec((0..6u8, any::<u16>()), 1..200),
    ) {
        let (mut queue, mut driver) = (queue(start, event_idx), Driver::new(start));
        let (mut chain, heard) = (Chain::default(), Heard::default());
        let (mut waiting, mut taken) = (VecDeque::new(), Vec::new());
        let (mut used, mut signalled, mut interrupts) = (start, start, 0);
        for (step, choice) in steps {
            match step {
                0 => waiting.extend(driver.offer()),
                1 => {
                    prop_assert_eq!(usize::from(queue.waiting(&driver.memory).unwrap()), waiting.len());
                    let popped = queue.pop(&driver.memory, &mut chain).unwrap().then(|| chain.head());
                    prop_assert_eq!(popped, waiting.pop_front());
                    if let Some(head) = popped {
                        prop_assert_eq!(chain.writable_len(), u32::from(head) + 1);
                        taken.push(head);
                    }
                }
                2 => {
                    // As long as it was the last thing that happened.
                    let popped = queue.pop(&driver.memory, &mut chain).unwrap();
                    if popped {
                        queue.undo_pop();
                    }
                }
                3 if !taken.is_empty() => {
                    let head = taken.remove(usize::from(choice) % taken.len());
                    queue.complete(&driver.memory, head, u32::from(choice)).unwrap();
                    used = used.wrapping_add(1);
                    prop_assert_eq!(driver.collect(), [(head, u32::from(choice))]);
                }
                4 => {
                    let after = used.wrapping_sub(2).wrapping_add(choice % 5);
                    driver.wants_after(after);
                    queue.signal(&driver.memory, &heard).unwrap();
                    // It is told when the device has come past what it waits for since the last time.
                    let passed = used.wrapping_sub(after.wrapping_add(1)) < used.wrapping_sub(signalled);
                    interrupts += usize::from(used != signalled && (!event_idx || passed));
                    signalled = used;
                    prop_assert_eq!(heard.0.load(Ordering::Relaxed), interrupts);
                }
                5 => {
                    queue.quiet(&driver.memory).unwrap();
                    prop_assert_eq!(queue.listen(&driver.memory).unwrap(), !waiting.is_empty());
                    if event_idx {
                        // A kick for what is offered next.
                        let event: u16 = driver.read(USED + 4 + u64::from(QUEUE_SIZE) * 8);
                        prop_assert_eq!(event, queue.snapshot().next_avail);
                    } else {
                        prop_assert_eq!(driver.read::<u16>(USED), 0);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(driver.free.len() + waiting.len() + taken.len(), SIZE);
        }
    }

    #[test]
    fn a_driver_that_breaks_the_ring_gets_an_error_or_requests_inside_memory_and_never_without_end(
        table in proptest::collection::vec(arbitrary::descriptor(), SIZE),
        heads in proptest::collection::vec(prop_oneof![4 => 0..QUEUE_SIZE, 1 => any::<u16>()], SIZE),
        indices in proptest::collection::vec(any::<u16>(), 1..20),
        event_idx: bool,
        places in proptest::collection::vec(
            prop_oneof![8 => 0..MEMORY_SIZE, 4 => MEMORY_SIZE - 0x200..MEMORY_SIZE + 0x200, 1 => any::<u64>()], 3),
        sound: bool,
        next: (u16, u16),
    ) {
        let driver = Driver::new(0);
        let mut places = [places[0] & !15, places[1] & !1, places[2] & !3];
        if sound {
            places = [TABLE, AVAILABLE, USED];
        }
        let snapshot = QueueSnapshot {
            next_avail: next.0,
            next_used: next.1,
            desc_table: places[0],
            avail_ring: places[1],
            used_ring: places[2],
            ..queue(0, event_idx).snapshot()
        };
        for (index, (address, len, flags, next)) in table.iter().enumerate() {
            let place = TABLE + index as u64 * 16;
            driver.put(place, *address);
            driver.put(place + 8, *len);
            driver.put(place + 12, *flags);
            driver.put(place + 14, *next);
        }
        for (slot, head) in heads.iter().enumerate() {
            driver.put(AVAILABLE + 4 + slot as u64 * 2, *head);
        }
        let Some(mut queue) = made_of(snapshot) else { return Ok(()) };
        let (mut chain, heard) = (Chain::default(), Heard::default());
        for index in indices {
            driver.put(AVAILABLE + 2, index);
            let mut count = 0;
            let served = drain(&mut queue, &driver.memory, &heard, &mut chain, |chain| {
                count += 1;
                for segment in chain.readable().iter().chain(chain.writable()) {
                    let end = segment.address.0.checked_add(segment.len.into());
                    assert!(segment.len > 0 && end.is_some_and(|end| end <= MEMORY_SIZE));
                }
                Ok(chain.writable_len())
            });
            prop_assert!(count <= SIZE, "more than a queueful at a time");
            if served.is_err() {
                break;
            }
        }
    }
}
