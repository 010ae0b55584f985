//! Several pairs of queues, and the queue that controls them.

use super::super::tap::{HEADER, Tap};
use super::super::*;
use super::Guest;
use super::tests::{MAC, Wire as One, frame, unlimited, wire};
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{Buffer, GuestOver, Registers, VERSION_1};
use std::collections::HashMap;
use std::io::{Read, Write};

pub(super) const MQ: u64 = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;

fn device(pairs: usize) -> (Net, Vec<File>) {
    let (taps, wires) = (0..pairs).map(|_| wire()).map(|(ours, wire)| (Tap::pretend(ours), wire)).unzip();
    (Net::with_taps(taps, MAC, Some(1400), unlimited()), wires)
}

/// Asks for something on the control queue; whether it was acknowledged.
pub(super) fn ask(guest: &mut Guest, queue: usize, bytes: &[u8]) -> bool {
    let (command, answer) = (guest.data(bytes), guest.room(1, true));
    guest.send(queue, &[command, answer]);
    assert_eq!(guest.used(queue).unwrap().1, 1);
    guest.bytes(answer, 1) == [0]
}

/// Whether a frame on this wire reaches the receive queue.
fn reaches(guest: &mut Guest, mut wire: &File, queue: usize) -> bool {
    let buffer = guest.room(1526, true);
    guest.send(queue, &[buffer]);
    wire.write_all(&frame(60)).unwrap();
    guest.run();
    guest.used(queue).is_some()
}

#[test]
fn the_configuration_says_how_many_pairs_there_are_and_how_long_packets_may_be() {
    let (net, _wires) = device(3);
    assert_eq!(net.queue_sizes().len(), 7);
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | MQ | 1 << VIRTIO_NET_F_MTU);
    assert_eq!(guest.config(8), [3, 0]);
    assert_eq!(u16::from_le_bytes(guest.config(10)), 1400);
    // One pair has nothing that must be set up besides.
    let (net, _wires) = device(1);
    assert_eq!((net.queue_sizes().len(), net.features() & MQ), (2, 0));
}

#[test]
fn a_pair_receives_when_the_driver_says_so_and_sends_whenever_it_likes() {
    let (net, mut wires) = device(2);
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | MQ);
    assert!(reaches(&mut guest, &wires[0], 0));
    assert!(!reaches(&mut guest, &wires[1], 2));
    assert!(ask(&mut guest, 4, &[4, 0, 2, 0]));
    assert!(guest.used(2).is_some(), "what waited in the TAP comes now");
    assert!(reaches(&mut guest, &wires[1], 2));
    let data = guest.data(&frame(100));
    guest.send(3, &[data]);
    assert!(guest.used(3).is_some());
    let mut bytes = [0; 4096];
    assert_eq!(wires[1].read(&mut bytes).unwrap(), HEADER + 100);
    assert!(ask(&mut guest, 4, &[4, 0, 1, 0]));
    assert!(!reaches(&mut guest, &wires[1], 2));
    assert!(reaches(&mut guest, &wires[0], 0));
    assert!(guest.faults().is_empty());
}

#[test]
fn what_the_driver_may_not_ask_for_is_not_acknowledged() {
    let (net, _wires) = device(2);
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | MQ);
    for nonsense in [
        &[4, 0, 0, 0][..],
        &[4, 0, 3, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[1, 1, 1, 0, 0, 0, 0, 1],
        &[1, 1, 0, 0, 0, 0, 0, 0],
        &[0, 0, 1],
        &[9; 4000],
    ] {
        assert!(!ask(&mut guest, 4, nonsense), "{nonsense:?}");
    }
    assert!(ask(&mut guest, 4, &[1, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(guest.config(0), [2, 3, 4, 5, 6, 7]);
    let command = guest.data(&[4, 0, 2, 0]);
    guest.send(4, &[command]);
    assert!(guest.is_broken(), "nothing can be acknowledged");
}

#[test]
fn without_pairs_the_control_queue_is_the_third() {
    let (net, wires) = device(2);
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | MQ & !(1 << VIRTIO_NET_F_MQ));
    assert!(ask(&mut guest, 2, &[1, 1, 2, 3, 4, 5, 6, 7]));
    assert!(!ask(&mut guest, 2, &[4, 0, 2, 0]));
    assert!(reaches(&mut guest, &wires[0], 0));
}

#[test]
fn pairs_and_address_survive_a_save_and_not_a_reset() {
    for mq in [true, false] {
        let (net, _wires) = device(2);
        let features = VERSION_1 | if mq { MQ } else { MQ & !(1 << VIRTIO_NET_F_MQ) };
        let control = if mq { 4 } else { 2 };
        let mut guest = Guest::ready(Box::new(net), features);
        assert_eq!(ask(&mut guest, control, &[4, 0, 2, 0]), mq);
        assert!(ask(&mut guest, control, &[1, 1, 2, 3, 4, 5, 6, 7]));
        let (net, wires) = device(2);
        let mut guest = guest.migrate(Box::new(net));
        assert_eq!(guest.config(0), [2, 3, 4, 5, 6, 7]);
        assert!(reaches(&mut guest, &wires[0], 0));
        if mq {
            assert!(reaches(&mut guest, &wires[1], 2));
        }
        assert!(ask(&mut guest, control, &[1, 1, 2, 0, 0, 0, 0, 7]));
        guest.set_status(0);
        assert_eq!(guest.config(0), MAC);
    }
    let (mut net, _wires) = device(2);
    for state in [
        serde_json::json!({"pairs": 3, "mac": MAC}),
        serde_json::json!({"pairs": 0, "mac": MAC}),
        serde_json::json!(7),
    ] {
        assert!(net.restore(&state).is_err());
    }
}

/// A wire for each of three pairs. Every seventh request, the first too, says how many pairs there are; the others go to each in turn.
struct Several {
    wires: Vec<One>,
    acknowledged: HashMap<u32, Buffer>,
}

const PAIRS: usize = 3;

impl Several {
    fn new() -> Self {
        Self { wires: (0..PAIRS).map(|_| One::new()).collect(), acknowledged: HashMap::new() }
    }

    /// The pair that a request goes to, if not to the control queue. Each has even and odd ones.
    fn pair(number: u32) -> Option<usize> {
        (!number.is_multiple_of(7)).then_some(number as usize / 2 % PAIRS)
    }
}

impl Subject for Several {
    const FEATURES: u64 = MQ;

    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        let taps = self.wires.iter().map(One::tap).collect();
        Box::new(Net::with_taps(taps, MAC, None, unlimited()))
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        if let Some(pair) = Self::pair(number) {
            return self.wires[pair].offer_to(guest, pair, number);
        }
        let (command, answer) = (guest.data(&[4, 0, PAIRS as u8, 0]), guest.room(1, true));
        self.acknowledged.insert(number, answer);
        (2 * PAIRS, guest.offer(2 * PAIRS, &[command, answer]))
    }

    fn come(&mut self) {
        self.wires.iter_mut().for_each(Subject::come);
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        match (Self::pair(number), self.acknowledged.remove(&number)) {
            (Some(pair), None) => self.wires[pair].answered(guest, number, written),
            (None, Some(answer)) => assert_eq!((written, guest.bytes(answer, 1)), (1, vec![0])),
            other => panic!("request {number}: {other:?}"),
        }
    }

    fn finish(&mut self, count: u32) {
        for (pair, wire) in self.wires.iter_mut().enumerate() {
            wire.check((0..count).filter(|number| Self::pair(*number) == Some(pair)));
        }
    }
}

#[test]
fn pauses_and_saved_states_of_several_pairs() {
    Guest::suite(Several::new);
}
