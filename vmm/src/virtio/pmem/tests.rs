use super::super::{DONE, FAILED, FLUSH, Pmem};
use super::Guest;
use crate::api::config::{RateLimiter, TokenBucket};
use crate::memory::PmemMapping;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{GuestOver, NEXT, QUEUE_SIZE, Registers, VERSION_1, WRITE, arbitrary};
use crate::virtio::{GuestMemory, VirtioDevice};
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

const START: u64 = 4 << 30;

fn mapping(len: u64, read_only: bool) -> (PmemMapping, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"persistent").unwrap();
    file.set_len(len).unwrap();
    (PmemMapping::new(START, file.try_clone().unwrap(), read_only).unwrap(), file)
}

fn guest() -> Guest {
    Guest::ready(Box::new(Pmem::new("p", mapping(5 << 20, false).0, None).unwrap()), VERSION_1)
}

#[test]
fn the_guest_learns_where_it_is_in_whole_huge_pages() {
    let mut guest = guest();
    assert_eq!((guest.config(0), guest.config(8)), (START.to_le_bytes(), (6u64 << 20).to_le_bytes()));
}

#[test]
fn flushes_are_answered_and_nothing_else_is_known() {
    let mut guest = guest();
    for (kind, answer) in [(FLUSH, DONE), (7, FAILED)] {
        let (request, response) = (guest.data(&kind.to_le_bytes()), guest.room(4, true));
        guest.send(0, &[request, response]);
        assert_eq!(guest.used(0).unwrap().1, 4);
        assert_eq!(guest.bytes(response, 4), answer.to_le_bytes());
    }
    let (request, response) = (guest.data(&[0; 4]), guest.room(3, true));
    guest.send(0, &[request, response]);
    assert!(guest.is_broken());
}

#[test]
fn a_limit_counts_batches_and_the_length_of_the_file() {
    let bucket = TokenBucket { size: 6 << 20, one_time_burst: None, refill_time: 4_000_000_000 };
    let limit = RateLimiter { bandwidth: Some(bucket), ops: None };
    let device = Pmem::new("p", mapping(5 << 20, false).0, Some(&limit)).unwrap();
    let control = device.control();
    let mut guest = Guest::ready(Box::new(device), VERSION_1);
    let offer = |guest: &mut Guest| {
        let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
        guest.offer(0, &[request, response]);
    };
    (0..3).for_each(|_| offer(&mut guest));
    guest.kick(0);
    guest.run();
    assert_eq!(std::iter::from_fn(|| guest.used(0)).count(), 3);
    offer(&mut guest);
    guest.kick(0);
    guest.run();
    assert_eq!(guest.used(0), None);
    control.limit().update(&limit).unwrap();
    guest.run();
    assert_eq!(guest.used(0).unwrap().1, 4);
    let figures = control.figures().into_iter().map(|(_, count)| count).collect::<Vec<_>>();
    assert_eq!(figures, [2, 2, 0, 1]);
}

#[test]
fn what_is_left_of_a_limit_goes_to_another_process() {
    let bucket = TokenBucket { size: 6 << 20, one_time_burst: None, refill_time: 4_000_000_000 };
    let limit = RateLimiter { bandwidth: Some(bucket), ops: None };
    let device = || Box::new(Pmem::new("p", mapping(6 << 20, false).0, Some(&limit)).unwrap());
    let mut guest = Guest::ready(device(), VERSION_1);
    let flush = |guest: &mut Guest| {
        let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
        guest.send(0, &[request, response]);
        guest.used(0).is_some()
    };
    assert!(flush(&mut guest));
    assert!(!flush(&mut guest.migrate(device())));
}

#[test]
fn a_flush_is_good_for_what_waited_and_for_nothing_later() {
    let device = Pmem::new("p", mapping(1 << 20, false).0, None).unwrap();
    let control = device.control();
    let mut guest = Guest::ready(Box::new(device), VERSION_1);
    for _ in 0..2 {
        for _ in 0..3 {
            let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
            guest.offer(0, &[request, response]);
        }
        guest.kick(0);
        guest.run();
    }
    assert_eq!(control.figures()[1], ("flush_count", 2));
}

/// A driver that writes and asks again as soon as it has an answer, faster than the worker goes through its queue: each request was offered
/// after the flush before it, so each needs its own.
#[test]
fn a_request_that_comes_after_a_flush_is_not_answered_by_it() {
    const REQUESTS: u64 = 2000;
    // In memory, where a flush costs nothing.
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(1 << 20).unwrap();
    let device = Pmem::new("p", PmemMapping::new(START, file, false).unwrap(), None).unwrap();
    let control = device.control();
    let mut guest = Guest::ready(Box::new(device), VERSION_1);
    let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
    let table = guest.rings[0].table();
    guest.descriptor(table, 0, request.address, 4, NEXT, 1);
    guest.descriptor(table, 1, response.address, 4, WRITE, 0);
    let (memory, avail, used) = (guest.memory.clone(), guest.rings[0].avail(), guest.rings[0].used());
    let order = Ordering::SeqCst;
    let offer = move |number: u64| {
        let index = number as u16;
        let entry = avail + 4 + 2 * (u64::from(index) % u64::from(QUEUE_SIZE));
        memory.write_obj(0u16, GuestAddress(entry)).unwrap();
        memory.store(index.wrapping_add(1), GuestAddress(avail + 2), order).unwrap();
        move |memory: &GuestMemory| {
            memory.load::<u16>(GuestAddress(used + 2), order).unwrap() == index.wrapping_add(1)
        }
    };
    let driver = std::thread::spawn({
        let memory = guest.memory.clone();
        move || {
            for number in 0..REQUESTS {
                let answered = offer(number);
                while !answered(&memory) {
                    std::hint::spin_loop();
                }
            }
        }
    });
    while !driver.is_finished() {
        guest.kick(0);
        guest.run();
    }
    driver.join().unwrap();
    assert_eq!(control.figures()[1], ("flush_count", REQUESTS));
}

#[test]
fn what_is_taken_out_still_flushes_and_is_mapped_no_more() {
    let (mapping, mut file) = mapping(1 << 20, false);
    // Of this file: other tests map theirs meanwhile.
    let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap()).to_string();
    let maps = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.split_whitespace().nth(4) == Some(&inode)).count()
    };
    let device = Pmem::new("p", mapping, None).unwrap();
    assert_eq!(maps(), 1);
    device.control().take_out();
    device.control().take_out();
    assert_eq!(maps(), 0);
    let mut guest = Guest::ready(Box::new(device), VERSION_1);
    let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
    guest.send(0, &[request, response]);
    assert_eq!(guest.bytes(response, 4), DONE.to_le_bytes());
    file.write_all(b"the file itself is as it was").unwrap();
}

#[test]
fn it_goes_on_in_another_process() {
    let mut guest = guest().migrate(Box::new(Pmem::new("p", mapping(5 << 20, false).0, None).unwrap()));
    let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
    guest.send(0, &[request, response]);
    assert_eq!(guest.bytes(response, 4), DONE.to_le_bytes());
}

#[test]
fn files_that_can_be_no_memory_are_refused() {
    let empty = tempfile::tempfile().unwrap();
    assert!(PmemMapping::new(START, empty, false).err().unwrap().to_string().contains("empty"));
    let (mapping, _) = mapping(1, true);
    assert_eq!((mapping.len, mapping.read_only), (2 << 20, true));
    mapping.flush().unwrap();
}

/// Flushes.
struct Flushes(Vec<crate::virtio::testing::Buffer>);

impl Subject for Flushes {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(Pmem::new("p", mapping(1 << 20, true).0, None).unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, _number: u32) -> (usize, u16) {
        let (request, response) = (guest.data(&FLUSH.to_le_bytes()), guest.room(4, true));
        self.0.push(response);
        (0, guest.offer(0, &[request, response]))
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        assert_eq!((written, guest.bytes(self.0[number as usize], 4)), (4, DONE.to_le_bytes().to_vec()));
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(|| Flushes(Vec::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_ring_is_too_strange(
        table in proptest::collection::vec(arbitrary::descriptor(), usize::from(QUEUE_SIZE)),
        heads in proptest::collection::vec(any::<u16>(), 1..20),
    ) {
        let mut guest = guest();
        for (index, (address, len, flags, next)) in table.iter().enumerate() {
            guest.descriptor(guest.rings[0].table(), index as u16, *address, *len, *flags, *next);
        }
        for head in heads {
            guest.offer_head(0, head % (QUEUE_SIZE + 1));
            guest.kick(0);
            guest.run();
        }
        prop_assert_eq!(guest.is_broken(), !guest.faults().is_empty());
    }
}
