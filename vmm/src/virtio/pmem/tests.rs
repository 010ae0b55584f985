use super::*;
use crate::memory::PmemMapping;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{Guest, GuestOver, QUEUE_SIZE, Registers, VERSION_1, arbitrary};
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;

const START: u64 = 4 << 30;

fn mapping(len: u64, read_only: bool) -> (PmemMapping, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"persistent").unwrap();
    file.set_len(len).unwrap();
    (PmemMapping::new(START, file.try_clone().unwrap(), read_only).unwrap(), file)
}

fn guest() -> Guest {
    Guest::ready(Box::new(Pmem::new("p", mapping(5 << 20, false).0)), VERSION_1)
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
fn it_goes_on_in_another_process() {
    let mut guest = guest().migrate(Box::new(Pmem::new("p", mapping(5 << 20, false).0)));
    let (request, response) = (guest.data(&[0; 4]), guest.room(4, true));
    guest.send(0, &[request, response]);
    assert_eq!(guest.bytes(response, 4), DONE.to_le_bytes());
}

#[test]
fn files_that_can_be_no_memory_are_refused() {
    let empty = tempfile::tempfile().unwrap();
    assert!(PmemMapping::new(START, empty, false).unwrap_err().to_string().contains("empty"));
    let (mapping, _) = mapping(1, true);
    assert_eq!((mapping.len, mapping.read_only), (2 << 20, true));
    mapping.flush().unwrap();
}

/// Flushes.
struct Flushes(Vec<crate::virtio::testing::Buffer>);

impl Subject for Flushes {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(Pmem::new("p", mapping(1 << 20, true).0))
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
