use super::super::Rng;
use super::Guest;
use crate::api::config::{RateLimiter, TokenBucket};
use crate::virtio::VirtioDevice;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{GuestOver, INDIRECT, QUEUE_SIZE, Registers, VERSION_1, arbitrary};
use proptest::prelude::*;

fn guest() -> Guest {
    Guest::ready(Box::new(Rng::new(None).unwrap()), VERSION_1 | INDIRECT)
}

#[test]
fn bytes_are_random_and_no_more_than_asked_for() {
    let mut guest = guest();
    let (first, second, large) = (guest.room(32, true), guest.room(32, true), guest.room(4096, true));
    guest.send(0, &[first]);
    guest.send(0, &[second]);
    guest.send(0, &[large]);
    assert_eq!([guest.used(0), guest.used(0), guest.used(0)].map(|used| used.unwrap().1), [32, 32, 256]);
    assert_ne!(guest.bytes(first, 32), guest.bytes(second, 32));
    assert_eq!(guest.bytes(large, 4096)[256..], [0; 3840]);
}

#[test]
fn what_is_left_of_a_limit_goes_to_another_process() {
    let bucket = TokenBucket { size: 64, one_time_burst: None, refill_time: 4_000_000_000 };
    let limit = RateLimiter { bandwidth: Some(bucket), ops: None };
    let rng = || Box::new(Rng::new(Some(&limit)).unwrap());
    let mut guest = Guest::ready(rng(), VERSION_1);
    let first = guest.room(64, true);
    guest.send(0, &[first]);
    assert!(guest.used(0).is_some());
    let mut guest = guest.migrate(rng());
    let second = guest.room(1, true);
    guest.send(0, &[second]);
    assert_eq!(guest.used(0), None);
}

#[test]
fn a_limit_holds_requests_back_until_there_is_enough_again() {
    let bucket = TokenBucket { size: 64, one_time_burst: None, refill_time: 4_000_000_000 };
    let limit = RateLimiter { bandwidth: Some(bucket), ops: None };
    let rng = Rng::new(Some(&limit)).unwrap();
    let (throttle, counts) = (rng.throttle.clone(), rng.counts());
    let mut guest = Guest::ready(Box::new(rng), VERSION_1);
    for _ in 0..3 {
        let buffer = guest.room(32, true);
        guest.send(0, &[buffer]);
    }
    assert_eq!(std::iter::from_fn(|| guest.used(0)).count(), 2);
    assert_eq!(throttle.throttled(), 1);
    // Another kick changes nothing, more tokens do.
    guest.kick(0);
    guest.run();
    assert_eq!(guest.used(0), None);
    throttle.update(&limit).unwrap();
    guest.run();
    assert_eq!(guest.used(0).unwrap().1, 32);
    let figure = |name| counts.figures().into_iter().find(|(other, _)| *other == name).unwrap().1;
    assert_eq!(
        ["entropy_event_count", "entropy_bytes", "entropy_rate_limiter_throttled"].map(figure),
        [3, 96, 1]
    );
    assert!(figure("rate_limiter_event_count") >= 1);
}

#[test]
fn a_ring_that_claims_more_than_it_has_ends_the_vm() {
    let mut guest = guest();
    for _ in 0..=QUEUE_SIZE {
        guest.offer_head(0, 0);
    }
    guest.kick(0);
    guest.run();
    assert!(guest.is_broken());
    assert_eq!(guest.faults().len(), 1);
    // It is not served any more, and a reset brings it back.
    guest.kick(0);
    guest.run();
    assert_eq!(guest.faults().len(), 1);
    guest.set_status(0);
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    let buffer = guest.room(8, true);
    guest.send(0, &[buffer]);
    assert!(guest.used(0).is_some());
}

#[test]
fn a_busy_ring_gives_others_their_turn() {
    let mut guest = guest();
    let buffers: Vec<_> = (0..QUEUE_SIZE).map(|_| guest.room(8, true)).collect();
    for buffer in buffers {
        guest.offer(0, &[buffer]);
    }
    guest.kick(0);
    guest.run();
    assert_eq!(std::iter::from_fn(|| guest.used(0)).count(), usize::from(QUEUE_SIZE));
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

struct Randomness;

impl Subject for Randomness {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(Rng::new(None).unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, _number: u32) -> (usize, u16) {
        let buffer = guest.room(8, true);
        (0, guest.offer(0, &[buffer]))
    }

    fn answered<R: Registers>(&mut self, _guest: &mut GuestOver<R>, _number: u32, written: u32) {
        assert_eq!(written, 8);
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(|| Randomness);
}
