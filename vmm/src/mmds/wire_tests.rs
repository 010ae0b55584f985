use super::wire::{Frames, MAX_WAITING};
use super::{MmdsMetrics, SharedStore, Store, Wire};
use crate::api::config::{MmdsConfig, MmdsVersion};
use proptest::prelude::*;
use serde_json::json;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn wire(store: &SharedStore, now: Instant) -> Wire {
    let config = MmdsConfig {
        version: MmdsVersion::V1,
        network_interfaces: vec!["n".into()],
        ipv4_address: None,
        imds_compat: false,
    };
    Wire::new(&config, Arc::clone(store), 1, now).unwrap()
}

fn store(document: serde_json::Value) -> SharedStore {
    let mut store = Store::new(100_000);
    store.put(document).unwrap();
    Arc::new(Mutex::new(store))
}

/// A guest with a network stack of its own.
struct Guest {
    device: Frames,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    start: Instant,
    passed: Duration,
    frames: usize,
    metrics: Arc<MmdsMetrics>,
}

impl Guest {
    fn new(document: serde_json::Value) -> Self {
        let start = Instant::now();
        let mut device = Frames::default();
        let mac = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 1]));
        let mut interface = Interface::new(Config::new(mac), &mut device, Time::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::v4(172, 16, 0, 2), 30)).unwrap());
        // As `ip route add 169.254.169.254 dev eth0` does it.
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::v4(169, 254, 1, 1), 16)).unwrap());
        let store = store(document);
        let metrics = Arc::clone(store.lock().unwrap().metrics());
        let wire = wire(&store, start);
        Self {
            device,
            interface,
            sockets: SocketSet::new(vec![]),
            wire,
            metrics,
            start,
            passed: Duration::ZERO,
            frames: 0,
        }
    }

    fn connect(&mut self) -> SocketHandle {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; 4096]), SocketBuffer::new(vec![0; 4096]));
        let port = 40_000 + self.sockets.iter().count() as u16;
        socket.connect(self.interface.context(), (Ipv4Address::new(169, 254, 169, 254), 80), port).unwrap();
        self.sockets.add(socket)
    }

    /// Frames go to and fro; every frame for the guest of which `lost` says so goes astray.
    fn round(&mut self, lost: &dyn Fn(usize) -> bool) {
        self.passed += Duration::from_millis(200);
        let time = Time::from_millis(self.passed.as_millis() as i64);
        let now = self.start + self.passed;
        self.interface.poll(time, &mut self.device, &mut self.sockets);
        for frame in std::mem::take(&mut self.device.to_send) {
            assert!(self.wire.takes(&frame), "{frame:x?}");
            self.wire.receive(frame, now);
        }
        self.wire.poll(now);
        while let Some(frame) = self.wire.next(now) {
            self.frames += 1;
            if !lost(self.frames) {
                self.device.received.push_back(frame);
            }
        }
        self.interface.poll(time, &mut self.device, &mut self.sockets);
    }

    fn ask(&mut self, request: &str, lost: &dyn Fn(usize) -> bool) -> String {
        let handle = self.connect();
        let (mut asked, mut answer) = (false, Vec::new());
        for _ in 0..400 {
            self.round(lost);
            let socket: &mut Socket<'_> = self.sockets.get_mut(handle);
            if socket.can_send() && !asked {
                socket.send_slice(request.as_bytes()).unwrap();
                asked = true;
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), answer.extend_from_slice(bytes))).unwrap();
            }
            if asked && !socket.may_recv() {
                socket.abort();
                return String::from_utf8(answer).unwrap();
            }
        }
        panic!("no answer; {} bytes have come", answer.len());
    }
}

#[test]
fn a_guest_reads_a_document_of_many_segments_again_and_again() {
    let long = "x".repeat(50_000);
    let mut guest = Guest::new(json!({"long": long}));
    // More often than there are places for connections.
    for _ in 0..20 {
        let answer = guest.ask("GET /long HTTP/1.1\r\n\r\n", &|_| false);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&long), "{}", answer.len());
    }
    let metrics = guest.metrics;
    assert_eq!(metrics.connections_created.get(), 20);
    assert!(metrics.connections_destroyed.get() > 10, "{metrics:?}");
    assert!(
        metrics.tx_bytes.get() > 1_000_000 && metrics.tx_frames.get() <= metrics.tx_count.get(),
        "{metrics:?}"
    );
}

#[test]
fn what_the_guest_loses_it_gets_again() {
    let long = "y".repeat(20_000);
    let mut guest = Guest::new(json!({"long": long}));
    let answer = guest.ask("GET /long HTTP/1.1\r\n\r\n", &|frame| frame % 7 == 3);
    assert!(answer.ends_with(&long));
}

#[test]
fn connections_that_say_nothing_make_room_in_time() {
    let mut guest = Guest::new(json!({"a": "b"}));
    for _ in 0..20 {
        guest.connect();
    }
    guest.round(&|_| false);
    guest.sockets.iter_mut().for_each(|(_, socket)| {
        let smoltcp::socket::Socket::Tcp(socket) = socket;
        socket.abort();
    });
    assert!(guest.ask("GET /a HTTP/1.1\r\n\r\n", &|_| false).ends_with("\r\nb"));
}

#[test]
fn a_connection_from_no_address_is_not_answered() {
    // As the fuzzer found it: ARP that tells where an address is, then a SYN whose sender has none.
    let mut wire = wire(&store(json!({})), Instant::now());
    let mut syn = vec![6, 1, 0x23, 0x45, 0x67, 1, 2, 0, 0, 0, 0, 1, 8, 0];
    syn.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 0x40, 6, 0x3a, 0xc1, 0, 0, 0, 0, 169, 254, 169, 254]);
    syn.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
    assert!(wire.takes(&syn));
    wire.receive(syn, Instant::now());
    assert_eq!(wire.next(Instant::now()), None);
    assert_eq!(wire.waiting(), (0, 0));
}

#[test]
fn frames_for_others_are_not_taken() {
    let wire = wire(&store(json!({})), Instant::now());
    let mut frame = [0; 60];
    for (kind, at, taken) in
        [([8, 0], 30, true), ([8, 6], 38, true), ([8, 0], 26, false), ([0x86, 0xdd], 30, false)]
    {
        frame.fill(0);
        frame[12..14].copy_from_slice(&kind);
        frame[at..at + 4].copy_from_slice(&[169, 254, 169, 254]);
        assert_eq!(wire.takes(&frame), taken);
    }
    assert!(!wire.takes(&frame[..20]));
}

#[test]
fn a_guest_that_takes_no_answers_fills_a_queue_and_no_more() {
    let now = Instant::now();
    let mut wire = wire(&store(json!({})), now);
    // Who has 169.254.169.254? Tell 169.254.1.1.
    let mut question = [vec![0xff; 6], vec![2, 0, 0, 0, 0, 1], vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    question.extend([2, 0, 0, 0, 0, 1, 169, 254, 1, 1, 0, 0, 0, 0, 0, 0, 169, 254, 169, 254]);
    for _ in 0..10 * MAX_WAITING {
        assert!(wire.takes(&question));
        wire.receive(question.clone(), now);
    }
    assert_eq!(wire.waiting(), (MAX_WAITING, MAX_WAITING));
    // A timer could do nothing.
    assert!(!wire.is_timed());
    // Both go on when the guest makes room.
    assert_eq!(std::iter::from_fn(|| wire.next(now)).count(), 2 * MAX_WAITING);
    assert_eq!(wire.waiting(), (0, 0));
}

proptest! {
    #[test]
    fn any_frames_are_borne(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..40),
        kind in 0usize..3,
    ) {
        let now = Instant::now();
        let mut wire = wire(&store(json!({"a": 1})), now);
        for mut frame in frames {
            // Made to look like the real thing as far as random bytes can.
            if frame.len() >= 40 {
                frame[12..14].copy_from_slice(&[[8, 0], [8, 6], [1, 2]][kind]);
                frame[14] = 0x45;
                frame[23] = 6;
                frame[30..34].copy_from_slice(&[169, 254, 169, 254]);
            }
            wire.receive(frame, now);
        }
        let mut count = 0;
        while wire.next(now).is_some() {
            count += 1;
            prop_assert!(count < 1000);
        }
    }
}
