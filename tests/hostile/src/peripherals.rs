//! Devices without storage: a network whose frames are anything too, entropy, a balloon, a serial port.

use crate::devices::{Guest, take};
use event_manager::{EventManager, SubscriberOps};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use vmm::api::config::Balloon as BalloonConfig;
use vmm::api::config::{BalloonStart, TokenBucket};
use vmm::bus::BusDevice;
use vmm::memory::Recipe;
use vmm::serial::{self, SerialFiles};
use vmm::virtio::Subscriber;
use vmm::virtio::balloon::Balloon;
use vmm::virtio::net::Net;
use vmm::virtio::rng::Rng;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// VIRTIO_NET_F_MRG_RXBUF.
const MERGE: u64 = 1 << 15;
/// The longest frame that a host sends here.
const FRAME: usize = 9000;

/// A network device between a guest and a host that send what they like.
pub fn net(bytes: &[u8]) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let merge = if bytes.first().is_some_and(|first| first & 1 == 1) { MERGE } else { 0 };
    let net = Net::standing_in(OwnedFd::from(theirs).into(), [2, 0, 0, 0, 0, 1]);
    Guest::with(Box::new(net), merge).play(bytes.get(1..).unwrap_or_default(), |what, bytes| {
        if what % 2 == 0 {
            // As long as it says, and filled up where there are no more bytes.
            let len = take(bytes).map_or(0, u16::from_le_bytes) as usize % FRAME;
            let mut frame = vec![0x5a; len];
            let given = len.min(bytes.len());
            frame[..given].copy_from_slice(&bytes[..given]);
            *bytes = &bytes[given..];
            // A full queue drops, as a TAP's does.
            let _ = ours.send(&frame);
        } else {
            let _ = ours.recv(&mut [0; FRAME]);
        }
    });
}

/// Random numbers for any buffers.
pub fn entropy(bytes: &[u8]) {
    Guest::with(Box::new(Rng::new(None).unwrap()), 0).play(bytes, |_, _| {});
}

/// A balloon with all extras, or without, and a host that changes its mind.
pub fn balloon(bytes: &[u8]) {
    let first = bytes.first().copied().unwrap_or(0);
    let has = |bit: u8| first & 1 << bit != 0;
    let config = BalloonConfig {
        amount_mib: 1,
        deflate_on_oom: has(0),
        stats_polling_interval_s: u16::from(has(1)),
        free_page_hinting: has(2),
        free_page_reporting: has(3),
    };
    let balloon = Balloon::new(&config, Recipe::DEFAULT).unwrap();
    let control = balloon.control();
    // In the order of the configuration above: VIRTIO_BALLOON_F_*.
    let features = [(0, 2), (1, 1), (2, 3), (3, 5)].into_iter().filter(|(bit, _)| has(*bit));
    let guest = Guest::with(Box::new(balloon), features.fold(0, |all, (_, feature)| all | 1 << feature));
    let signals = guest.signals();
    guest.play(bytes.get(1..).unwrap_or_default(), |what, bytes| match what % 6 {
        0 => {
            let amount = u32::from(take::<1>(bytes).map_or(0, |[amount]| amount));
            assert_eq!(control.resize(amount, 16, &signals).is_ok(), amount <= 16);
        }
        1 => drop(control.statistics()),
        2 => drop(control.set_interval(u16::from(what))),
        3 => {
            let start = BalloonStart { acknowledge_on_stop: what & 8 != 0 };
            drop(control.start_hinting(start, &signals));
        }
        4 => drop(control.stop_hinting(&signals)),
        _ => drop(control.hinting()),
    });
}

/// A serial port whose guest and whose host write anything at any time: what comes out is what the guest wrote to the data register, in
/// order, and a saved port is the same again.
pub fn serial(mut bytes: &[u8]) {
    let limited = bytes.first().is_some_and(|first| first & 1 == 1);
    let limit = limited.then_some(TokenBucket { size: 16, one_time_burst: None, refill_time: 3_600_000 });
    let (mut host, input) = UnixStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let files = SerialFiles {
        input: Some(OwnedFd::from(input).into()),
        output: output.try_clone().unwrap(),
        shared: false,
    };
    let line = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let (mut port, worker, control) = serial::new(files, limit, line).unwrap();
    let mut manager = EventManager::<Subscriber>::new().unwrap();
    manager.add_subscriber(Box::new(worker));
    let (mut paused, mut data) = (false, Vec::new());
    while let Some([what, offset]) = take(&mut bytes) {
        // Registers, and what is behind them.
        let offset = u64::from(offset % 10);
        match what % 8 {
            0..3 => {
                let [value] = take(&mut bytes).unwrap_or_default();
                port.write(offset, &[value]);
                data.extend((offset == 0).then_some(value));
            }
            3 => port.read(offset, &mut [0; 8][..1 + usize::from(what >> 6)]),
            4 => port.write(offset, &[what; 8][..2 + usize::from(what >> 6)]),
            // A full socket takes no more.
            5 => drop(host.write(&vec![what; usize::from(what)])),
            6 if paused => {
                let saved = control.save();
                control.restore(saved.clone()).unwrap();
                assert_eq!(control.save(), saved);
                control.resume();
                paused = false;
            }
            6 => {
                control.pause();
                paused = true;
            }
            _ => drop(manager.run_with_timeout(0)),
        }
    }
    for _ in 0..64 {
        manager.run_with_timeout(0).unwrap();
    }
    let mut written = Vec::new();
    output.rewind().unwrap();
    output.read_to_end(&mut written).unwrap();
    assert!(!limited || written.len() <= 16);
    let mut rest = data.iter();
    assert!(written.iter().all(|byte| rest.any(|wrote| wrote == byte)), "{written:?} of {data:?}");
}
