use super::super::tap::{HEADER, Tap};
use super::super::*;
use super::Guest;
use crate::api::config::TokenBucket;
use crate::virtio::Transport;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{
    Buffer, EVENT_IDX, GuestOver, MEMORY_SIZE, QUEUE_SIZE, Registers, VERSION_1, arbitrary,
};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Two ends that keep frames apart, as a TAP does.
pub(super) fn wire() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the kernel fills an array of two.
    let made = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK, 0, ends.as_mut_ptr())
    };
    assert_eq!(made, 0);
    // SAFETY: both were just made and belong to nobody else.
    let [a, b] = ends.map(|end| File::from(unsafe { OwnedFd::from_raw_fd(end) }));
    assert!(a.as_raw_fd() != b.as_raw_fd());
    (a, b)
}

pub(super) fn unlimited() -> Limits {
    Limits {
        receive: Arc::new(Throttle::unlimited(1)),
        transmit: Arc::new(Throttle::unlimited(1)),
        metrics: Arc::default(),
        limitable: true,
    }
}

fn guest(features: u64) -> (Guest, File) {
    let (ours, theirs) = wire();
    let net = Net::with_taps(vec![Tap::pretend(ours)], MAC, None, unlimited());
    (Guest::ready(Box::new(net), VERSION_1 | EVENT_IDX | features), theirs)
}

pub(super) fn frame(len: usize) -> Vec<u8> {
    let payload = (0..len).map(|index| (index % 249) as u8);
    std::iter::repeat_n(0, HEADER).chain(payload).collect()
}

fn give(guest: &mut Guest, len: u32) -> Buffer {
    let buffer = guest.room(len, true);
    guest.send(0, &[buffer]);
    buffer
}

/// A received frame, put together from its buffers, without its header.
fn received(guest: &mut Guest, buffers: &[Buffer]) -> Option<Vec<u8>> {
    let (_, len) = guest.used(0)?;
    let first = guest.bytes(buffers[0], len as usize);
    let count = u16::from_le_bytes([first[10], first[11]]);
    let mut whole = first[HEADER..].to_vec();
    for buffer in &buffers[1..usize::from(count)] {
        let (_, len) = guest.used(0).expect("as many buffers as the header says");
        whole.extend(guest.bytes(*buffer, len as usize));
    }
    Some(whole)
}

#[test]
fn the_address_can_be_read() {
    assert_eq!(guest(0).0.config::<6>(0), MAC);
}

#[test]
fn a_file_that_is_no_tap_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(
        Net::new(NetConfig {
            id: "n".into(),
            taps: vec![file],
            mac: MAC,
            mtu: None,
            vhost: None,
            receive_limit: None,
            transmit_limit: None
        }),
        Err(TapError::NoTap(_))
    ));
}

#[test]
fn frames_go_out_whole() {
    let (mut guest, mut wire) = guest(0);
    let whole = frame(1400);
    // Scattered over buffers, the header apart.
    let parts = [&whole[..12], &whole[12..100], &whole[100..]].map(|part| guest.data(part));
    guest.send(1, &parts);
    let mut bytes = [0; 4096];
    let len = wire.read(&mut bytes).unwrap();
    assert_eq!(bytes[..len], whole);
    assert!(guest.used(1).is_some());
}

#[test]
fn a_frame_that_nobody_takes_is_lost_and_not_waited_for() {
    let (mut guest, wire) = guest(0);
    let data = guest.data(&frame(60_000));
    for _ in 0..64 {
        guest.send(1, &[data]);
        assert!(guest.used(1).is_some());
    }
    drop(wire);
    guest.send(1, &[data]);
    assert!(guest.used(1).is_some());
    assert!(guest.faults().is_empty());
}

#[test]
fn frames_come_in_one_buffer_each() {
    let (mut guest, mut wire) = guest(0);
    let buffers = [give(&mut guest, 1526), give(&mut guest, 1526)];
    for (index, len) in [100, 1500].into_iter().enumerate() {
        wire.write_all(&frame(len)).unwrap();
        guest.run();
        assert_eq!(received(&mut guest, &buffers[index..]), Some(frame(len)[HEADER..].to_vec()));
    }
    // Out of buffers: the frame waits for the next one, and nothing spins meanwhile.
    wire.write_all(&frame(300)).unwrap();
    guest.run();
    assert_eq!(guest.used(0), None);
    let buffer = give(&mut guest, 1526);
    assert_eq!(received(&mut guest, &[buffer]), Some(frame(300)[HEADER..].to_vec()));
}

#[test]
fn a_large_frame_is_spread_over_buffers() {
    let (mut guest, mut wire) = guest(MERGE);
    let buffers: Vec<Buffer> = (0..QUEUE_SIZE).map(|_| give(&mut guest, 2000)).collect();
    wire.write_all(&frame(5000)).unwrap();
    guest.run();
    assert_eq!(received(&mut guest, &buffers), Some(frame(5000)[HEADER..].to_vec()));
    // Three were used; the ring is not full again, so the next frame waits for more room.
    wire.write_all(&frame(10)).unwrap();
    guest.run();
    assert_eq!(guest.used(0), None);
    let mut buffers = buffers[3..].to_vec();
    for _ in 0..3 {
        buffers.push(give(&mut guest, 2000));
    }
    assert_eq!(received(&mut guest, &buffers), Some(frame(10)[HEADER..].to_vec()));
}

#[test]
fn buffers_that_were_only_taken_survive_a_save() {
    let (mut guest, _wire) = guest(MERGE);
    let buffers: Vec<Buffer> = (0..QUEUE_SIZE).map(|_| give(&mut guest, 2000)).collect();
    let (ours, mut wire) = wire();
    let mut guest = guest.migrate(Box::new(Net::with_taps(vec![Tap::pretend(ours)], MAC, None, unlimited())));
    wire.write_all(&frame(5000)).unwrap();
    guest.run();
    assert_eq!(received(&mut guest, &buffers), Some(frame(5000)[HEADER..].to_vec()));
}

#[test]
fn buffers_without_room_for_a_header_end_the_vm() {
    for queue in [0, 1] {
        let (mut guest, mut wire) = guest(0);
        wire.write_all(&frame(10)).unwrap();
        let small = guest.room(11, queue == 0);
        guest.send(queue, &[small]);
        assert!(guest.is_broken());
    }
}

#[test]
fn a_tap_that_is_deleted_takes_the_link_down_and_keeps_nobody_awake() {
    let (mut guest, wire) = guest(0);
    give(&mut guest, 1526);
    assert_eq!(guest.config(6), [1, 0]);
    while guest.interrupted() {}
    drop(wire);
    // Ends when nothing is ready any more.
    guest.run();
    assert_eq!(guest.config(6), [0, 0]);
    assert!(guest.interrupted());
    let data = guest.data(&frame(100));
    guest.send(1, &[data]);
    assert!(guest.used(1).is_some(), "frames go nowhere, as on any wire");
    let buffer = give(&mut guest, 1526);
    assert_eq!(received(&mut guest, &[buffer]), None);
    assert!(guest.faults().is_empty());
}

const HOUR_MS: u64 = 3_600_000;

fn ops(size: u64, refill_time: u64) -> RateLimiter {
    RateLimiter { bandwidth: None, ops: Some(TokenBucket { size, one_time_burst: None, refill_time }) }
}

fn bytes(size: u64, refill_time: u64) -> RateLimiter {
    RateLimiter { bandwidth: Some(TokenBucket { size, one_time_burst: None, refill_time }), ops: None }
}

#[test]
fn a_frame_that_is_no_memory_is_lost() {
    let (mut guest, mut wire) = guest(0);
    let (head, data) = (guest.data(&frame(20)), guest.data(&[1; 60]));
    guest.send(1, &[head, Buffer { address: MEMORY_SIZE - 8, ..data }]);
    guest.send(1, &[head, data]);
    assert!(guest.used(1).is_some() && guest.used(1).is_some());
    let mut bytes = [0; 2000];
    assert_eq!(wire.read(&mut bytes).unwrap(), HEADER + 80);
    assert_eq!(wire.read(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(guest.faults().is_empty());
}

#[test]
fn what_is_left_of_limits_goes_to_another_process() {
    let (ours, mut wire) = wire();
    let net = || {
        let limits = unlimited();
        limits.receive.update(&bytes(100, HOUR_MS)).unwrap();
        limits.transmit.update(&ops(1, HOUR_MS)).unwrap();
        Box::new(Net::with_taps(vec![Tap::pretend(ours.try_clone().unwrap())], MAC, None, limits))
    };
    let mut guest = Guest::ready(net(), VERSION_1 | EVENT_IDX);
    let data = guest.data(&frame(60));
    guest.send(1, &[data]);
    let buffers = [(); 2].map(|()| give(&mut guest, 1526));
    wire.write_all(&frame(100)).unwrap();
    guest.run();
    assert!(guest.used(1).is_some() && received(&mut guest, &buffers[..1]).is_some());
    let mut guest = guest.migrate(net());
    guest.send(1, &[data]);
    wire.write_all(&frame(100)).unwrap();
    guest.run();
    assert_eq!((guest.used(0), guest.used(1)), (None, None));
}

#[test]
fn limited_frames_wait_and_a_change_lets_them_pass() {
    let limits = unlimited();
    limits.receive.update(&bytes(150, HOUR_MS)).unwrap();
    limits.transmit.update(&ops(2, HOUR_MS)).unwrap();
    let (ours, mut wire) = wire();
    let net = Net::with_taps(vec![Tap::pretend(ours)], MAC, None, limits.clone());
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | EVENT_IDX);
    let data = guest.data(&frame(60));
    for _ in 0..4 {
        guest.send(1, &[data]);
    }
    assert_eq!([(); 3].map(|()| guest.used(1).is_some()), [true, true, false]);
    let buffers = [(); 4].map(|()| give(&mut guest, 1526));
    for _ in 0..4 {
        wire.write_all(&frame(100)).unwrap();
    }
    guest.run();
    // The second one finds a token, and leaves a debt.
    for buffer in &buffers[..2] {
        assert!(received(&mut guest, &[*buffer]).is_some());
    }
    assert_eq!(guest.used(0), None);
    assert_eq!((limits.receive.throttled(), limits.transmit.throttled()), (1, 1));
    // A worker that waits survives a pause.
    guest.pause();
    guest.transport.core_mut().resume().unwrap();
    guest.run();
    assert_eq!((guest.used(0), guest.used(1)), (None, None));
    limits.receive.update(&bytes(0, 0)).unwrap();
    limits.transmit.update(&ops(0, 0)).unwrap();
    guest.run_until(|guest| guest.used(1).is_some());
    guest.run_until(|guest| guest.used(1).is_some());
    for buffer in &buffers[2..] {
        guest.run_until(|guest| received(guest, &[*buffer]).is_some());
    }
    assert!(guest.faults().is_empty());
}

#[test]
fn who_waits_is_called_when_there_is_enough_again() {
    let limits = unlimited();
    limits.transmit.update(&ops(1, 1)).unwrap();
    let (ours, _wire) = wire();
    let net = Net::with_taps(vec![Tap::pretend(ours)], MAC, None, limits);
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | EVENT_IDX);
    let data = guest.data(&frame(60));
    for _ in 0..8 {
        guest.offer(1, &[data]);
    }
    guest.kick(1);
    for _ in 0..8 {
        guest.run_until(|guest| guest.used(1).is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_ring_is_too_strange(
        table in proptest::collection::vec(arbitrary::descriptor(), usize::from(QUEUE_SIZE)),
        steps in proptest::collection::vec((0..2usize, 0..QUEUE_SIZE + 1, 0..3000usize), 1..40),
        merge: bool,
    ) {
        let (mut guest, mut wire) = guest(if merge { MERGE } else { 0 });
        for queue in 0..2 {
            for (index, (address, len, flags, next)) in table.iter().enumerate() {
                let flags = if queue == 0 { flags | 2 } else { *flags };
                guest.descriptor(guest.rings[queue].table(), index as u16, *address, *len, flags, *next);
            }
        }
        for (queue, head, len) in steps {
            guest.offer_head(queue, head);
            guest.kick(queue);
            let _ = wire.write(&frame(len));
            guest.run();
            let _ = wire.read(&mut [0; 65536]);
        }
        prop_assert_eq!(guest.is_broken(), !guest.faults().is_empty());
    }
}

/// A wire; even requests send a frame, odd ones receive one.
pub(super) struct Wire {
    ours: File,
    theirs: File,
    sent: Vec<u32>,
    buffers: std::collections::HashMap<u32, Buffer>,
    // Frames that come later than the buffers for them.
    late: std::collections::VecDeque<Vec<u8>>,
}

impl Wire {
    pub(super) fn new() -> Self {
        let (ours, theirs) = wire();
        Self { ours, theirs, sent: Vec::new(), buffers: Default::default(), late: Default::default() }
    }

    /// This process's end.
    pub(super) fn tap(&self) -> Tap {
        Tap::pretend(self.ours.try_clone().unwrap())
    }

    /// Offers request number `number` to pair `pair`.
    pub(super) fn offer_to<R: Registers>(
        &mut self,
        guest: &mut GuestOver<R>,
        pair: usize,
        number: u32,
    ) -> (usize, u16) {
        let (receive, transmit) = (2 * pair, 2 * pair + 1);
        let mut frame = frame(0);
        frame.extend(number.to_le_bytes());
        if number.is_multiple_of(2) {
            let frame = guest.data(&frame);
            return (transmit, guest.offer(transmit, &[frame]));
        }
        self.late.push_back(frame);
        let buffer = guest.room(1526, true);
        self.buffers.insert(number, buffer);
        (receive, guest.offer(receive, &[buffer]))
    }

    /// The even requests among these, and no others, came out in this order.
    pub(super) fn check(&mut self, numbers: impl Iterator<Item = u32>) {
        self.hear();
        assert_eq!(self.sent, numbers.filter(|number| number.is_multiple_of(2)).collect::<Vec<_>>());
    }

    /// What came out by now.
    fn hear(&mut self) {
        let mut bytes = [0; 2000];
        while let Ok(len @ 1..) = self.theirs.read(&mut bytes) {
            assert_eq!(len, HEADER + 4);
            let number = [bytes[HEADER], bytes[HEADER + 1], bytes[HEADER + 2], bytes[HEADER + 3]];
            self.sent.push(u32::from_le_bytes(number));
        }
    }
}

impl Subject for Wire {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(Net::with_taps(vec![self.tap()], MAC, None, unlimited()))
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        self.offer_to(guest, 0, number)
    }

    fn come(&mut self) {
        if let Some(frame) = self.late.pop_front() {
            self.theirs.write_all(&frame).unwrap();
        }
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        self.hear();
        if let Some(buffer) = self.buffers.remove(&number) {
            // Frames come in the order of the buffers.
            assert_eq!(guest.bytes(buffer, written as usize)[HEADER..], number.to_le_bytes());
        }
    }

    fn finish(&mut self, count: u32) {
        self.check(0..count);
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(Wire::new);
}
