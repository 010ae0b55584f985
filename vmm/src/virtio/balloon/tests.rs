use super::super::worker::NUMBERS;
use super::super::*;
use super::Guest;
use crate::api::config::BalloonStart;
use crate::memory::{PAGE, Recipe, allocate};
use crate::virtio::Transport;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{EVENT_IDX, GuestOver, QUEUE_SIZE as RING, Registers, VERSION_1, arbitrary};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

const ALL: u64 = 1 << F_STATS_VQ | 1 << F_DEFLATE_ON_OOM | 1 << F_FREE_PAGE_HINT | 1 << F_PAGE_REPORTING;

fn config(amount_mib: u32) -> config::Balloon {
    config::Balloon {
        amount_mib,
        deflate_on_oom: true,
        stats_polling_interval_s: 3600,
        free_page_hinting: true,
        free_page_reporting: true,
    }
}

/// A guest with real memory whose driver took these features.
fn guest(features: u64) -> (Guest, BalloonControl) {
    let balloon = Balloon::new(&config(2), Recipe::DEFAULT).unwrap();
    let control = balloon.control();
    let memory = allocate(16 << 20, &Recipe::DEFAULT).unwrap();
    let mut guest = Guest::with_memory(memory, Box::new(balloon));
    guest.negotiate(features | VERSION_1);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    (guest, control)
}

fn fill(guest: &Guest, pages: &[u64]) {
    for page in pages {
        guest.memory.write_obj(7u8, GuestAddress(page * PAGE)).unwrap();
    }
}

fn at(guest: &Guest, page: u64) -> u8 {
    guest.memory.read_obj(GuestAddress(page * PAGE)).unwrap()
}

#[test]
fn pages_of_an_inflated_balloon_go_back_to_the_host() {
    let (mut guest, control) = guest(ALL);
    assert_eq!(guest.config(0), 512u32.to_le_bytes());
    fill(&guest, &[2000, 2001, 2002]);
    let numbers = guest.data(&[2001u32, 2000, u32::MAX].map(u32::to_le_bytes).concat());
    guest.send(0, &[numbers]);
    assert_eq!([2000, 2001, 2002].map(|page| at(&guest, page)), [0, 0, 7]);
    // The driver says how much it gave, and a deflated page is simply used again.
    guest.write_config(4, &512u32.to_le_bytes());
    assert_eq!(control.statistics().unwrap().actual_mib, 2);
    guest.send(1, &[numbers]);
    let BalloonMetrics { inflate_count, deflate_count, .. } = control.metrics();
    assert_eq!((inflate_count.get(), deflate_count.get()), (1, 1));
    assert_eq!((guest.used(0).unwrap().1, guest.used(1).unwrap().1), (0, 0));
    assert!(guest.faults().is_empty());
}

#[test]
fn a_new_size_reaches_the_driver_and_has_a_bound() {
    let (mut guest, control) = guest(ALL);
    let signals = guest.transport.core().signals();
    let _ = guest.interrupted();
    control.resize(8, 16, &signals).unwrap();
    assert!(guest.interrupted());
    assert_eq!((guest.config(0), control.amount_mib()), (2048u32.to_le_bytes(), 8));
    assert_eq!(control.resize(17, 16, &signals), Err(BalloonError::TooMuch { asked: 17, memory: 16 }));
}

#[test]
fn statistics_are_asked_for_by_giving_the_buffer_back() {
    let (mut guest, control) = guest(ALL);
    let mut bytes = vec![4, 0];
    bytes.extend(12345u64.to_le_bytes());
    bytes.extend([200, 0, 1, 1, 1, 1, 1, 1, 1, 1, 5]);
    let buffer = guest.data(&bytes);
    guest.send(2, &[buffer]);
    let stats = control.statistics().unwrap();
    assert_eq!((stats.guest.free_memory, stats.guest.swap_in, stats.target_mib), (Some(12345), None, 2));
    assert!(guest.used(2).is_none());
    // Tag 200 is none, and the last one is cut off.
    let BalloonMetrics { stats_updates_count, stats_update_fails, .. } = control.metrics();
    assert_eq!((stats_updates_count.get(), stats_update_fails.get()), (1, 1));
    // The interval starts anew, with a question at once.
    control.set_interval(7200).unwrap();
    guest.run_until(|guest| guest.used(2).is_some());
    assert_eq!(control.set_interval(0), Err(BalloonError::Interval));
}

#[test]
fn statistics_come_again_and_again_to_a_driver_that_kicks_when_it_is_told_to() {
    let (mut guest, control) = guest(ALL | EVENT_IDX);
    for number in 1..40u64 {
        let bytes = [vec![4, 0], number.to_le_bytes().to_vec()].concat();
        let buffer = guest.data(&bytes);
        guest.offer(2, &[buffer]);
        assert!(guest.wants_kick(2), "{number}");
        guest.kick(2);
        guest.run();
        assert_eq!(control.statistics().unwrap().guest.free_memory, Some(number));
        control.set_interval(7200).unwrap();
        guest.run_until(|guest| guest.used(2).is_some());
    }
}

#[test]
fn a_request_with_more_numbers_than_any_driver_sends_is_cut_short() {
    let (mut guest, _) = guest(ALL);
    fill(&guest, &[2000, 2001]);
    let many = [vec![2000u32; NUMBERS / 4], vec![2001]].concat();
    let numbers = guest.data(&many.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    guest.send(0, &[numbers]);
    assert!(guest.used(0).is_some());
    assert_eq!([2000, 2001].map(|page| at(&guest, page)), [0, 7]);
}

#[test]
fn a_flood_of_requests_is_served_in_turns() {
    let (mut guest, _) = guest(ALL);
    // Numbers without neighbours: a call for each.
    let scattered: Vec<u8> =
        (0..NUMBERS as u32 / 4).flat_map(|number| (2000 + number % 500 * 2).to_le_bytes()).collect();
    let numbers = guest.data(&scattered);
    for _ in 0..RING {
        guest.offer(0, &[numbers]);
    }
    guest.kick(0);
    guest.run_once();
    let first = std::iter::from_fn(|| guest.used(0)).count();
    assert!((1..usize::from(RING)).contains(&first), "{first} at one go");
    guest.run();
    assert_eq!(first + std::iter::from_fn(|| guest.used(0)).count(), usize::from(RING));
}

#[test]
fn reported_pages_go_back_whichever_queues_the_driver_has() {
    for features in [ALL, 1 << F_PAGE_REPORTING] {
        let (mut guest, control) = guest(features);
        fill(&guest, &[1024, 1025, 1026]);
        let mut pages = guest.room(0, true);
        (pages.address, pages.len) = (1024 * PAGE, 2 * PAGE as u32);
        guest.send(if features == ALL { 4 } else { 2 }, &[pages]);
        assert_eq!([1024, 1025, 1026].map(|page| at(&guest, page)), [0, 0, 7]);
        assert!(control.hinting().is_ok());
        let BalloonMetrics { free_page_report_count, free_page_report_freed, .. } = control.metrics();
        assert_eq!((free_page_report_count.get(), free_page_report_freed.get()), (1, 2 * PAGE));
    }
}

#[test]
fn hints_count_only_in_the_run_that_was_asked_for() {
    let (mut guest, control) = guest(ALL);
    let signals = guest.transport.core().signals();
    let mut pages = guest.room(0, true);
    (pages.address, pages.len) = (1024 * PAGE, PAGE as u32);
    let hint = |guest: &mut Guest| {
        fill(guest, &[1024]);
        guest.send(3, &[pages]);
        at(guest, 1024)
    };
    assert_eq!(hint(&mut guest), 7);
    control.start_hinting(BalloonStart::default(), &signals).unwrap();
    assert_eq!(guest.config(8), 2u32.to_le_bytes());
    assert_eq!(hint(&mut guest), 7);
    let (run, stop) = (guest.data(&2u32.to_le_bytes()), guest.data(&0u32.to_le_bytes()));
    guest.send(3, &[run]);
    assert_eq!(hint(&mut guest), 0);
    let status = control.hinting().unwrap();
    assert_eq!((status.host_cmd, status.guest_cmd), (2, Some(2)));
    guest.send(3, &[stop]);
    // Acknowledged by itself: the driver may have its pages back.
    assert_eq!(guest.config(8), 1u32.to_le_bytes());
    assert_eq!(hint(&mut guest), 7);
    control.start_hinting(BalloonStart { acknowledge_on_stop: false }, &signals).unwrap();
    guest.send(3, &[stop]);
    assert_eq!(guest.config(8), 2u32.to_le_bytes());
    control.stop_hinting(&signals).unwrap();
    assert_eq!(guest.config(8), 1u32.to_le_bytes());
}

#[test]
fn a_balloon_without_extras_refuses_them() {
    let plain = config::Balloon { amount_mib: 1, ..Default::default() };
    let balloon = Balloon::new(&plain, Recipe::DEFAULT).unwrap();
    assert_eq!((balloon.features(), balloon.queue_sizes().len()), (0, 2));
    let control = balloon.control();
    assert_eq!(control.statistics().unwrap_err(), BalloonError::NoStatistics);
    assert_eq!(control.hinting().unwrap_err(), BalloonError::NoHinting);
    assert_eq!(control.set_interval(1), Err(BalloonError::Interval));
}

#[test]
fn a_balloon_goes_on_in_another_process() {
    let (mut guest, _) = guest(ALL);
    guest.write_config(4, &7u32.to_le_bytes());
    let buffer = guest.data(&[0; 10]);
    guest.send(2, &[buffer]);
    let balloon = Balloon::new(&config(2), Recipe::DEFAULT).unwrap();
    let control = balloon.control();
    let mut guest = guest.migrate(Box::new(balloon));
    let stats = control.statistics().unwrap();
    assert_eq!((stats.actual_pages, stats.guest.swap_in), (7, Some(0)));
    // The buffer that the old process held is given back by the new one.
    control.set_interval(1000).unwrap();
    guest.run_until(|guest| guest.used(2).is_some());
    assert!(
        Balloon::new(&config(2), Recipe::DEFAULT).unwrap().restore(&serde_json::json!({"x": 1})).is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_ring_is_too_strange(
        table in proptest::collection::vec(arbitrary::descriptor(), usize::from(RING)),
        heads in proptest::collection::vec((0usize..5, any::<u16>()), 1..20),
    ) {
        let (mut guest, _) = guest(ALL);
        for (index, (address, len, flags, next)) in table.iter().enumerate() {
            for ring in 0..5 {
                guest.descriptor(guest.rings[ring].table(), index as u16, *address, *len, *flags, *next);
            }
        }
        for (ring, head) in heads {
            guest.offer_head(ring, head % (RING + 1));
            guest.kick(ring);
            guest.run();
        }
        prop_assert_eq!(guest.is_broken(), !guest.faults().is_empty());
    }
}

/// Pages that go back to the host; which is for the device's own tests.
struct Pages;

impl Subject for Pages {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(Balloon::new(&config(2), Recipe::DEFAULT).unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        // None of those that hold rings and buffers, nor one that exists.
        let page = guest.data(&(u32::MAX - number).to_le_bytes());
        (number as usize % 2, guest.offer(number as usize % 2, &[page]))
    }

    fn answered<R: Registers>(&mut self, _guest: &mut GuestOver<R>, _number: u32, written: u32) {
        assert_eq!(written, 0);
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(|| Pages);
}
