use super::super::connection::{MOST_PACKETS, SMALL_BUFFER};
use super::super::muxer::{FIRST_HOST_PORT, MAX_HANDSHAKES, ROOMY};
use super::super::packet::{
    HEADER_LEN, HOST_CID, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};
use super::super::*;
use super::Guest;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{EVENT_IDX, GuestOver, MEMORY_SIZE, QUEUE_SIZE, Registers, VERSION_1};
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use vm_memory::{Bytes, GuestAddress};

#[path = "crowd_tests.rs"]
mod crowd_tests;

const CID: u64 = 3;
const PEER_BUFFER: u32 = 64 << 10;
const RECEIVE_BUFFER: u32 = 4096;

/// A guest with a vsock driver, and the host around it.
struct Pair {
    guest: Guest,
    folder: tempfile::TempDir,
    // Receive buffers of the driver by their head.
    buffers: Vec<(u16, crate::virtio::testing::Buffer)>,
    // One buffer for everything that the guest sends.
    out: crate::virtio::testing::Buffer,
    metrics: Arc<VsockMetrics>,
}

impl Pair {
    fn new() -> Self {
        Self::with(GuestConnect::PathPrefix)
    }

    fn with(connect: impl FnOnce(PathBuf) -> GuestConnect) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        let config = VsockConfig {
            cid: CID as u32,
            listener,
            ceiling: Ceiling::of_process(),
            guest_connect: connect(path),
        };
        let device = Vsock::new(config).unwrap();
        let metrics = device.metrics();
        let guest = Guest::ready(Box::new(device), VERSION_1 | EVENT_IDX);
        let mut pair = Self {
            guest,
            metrics,
            folder,
            buffers: Vec::new(),
            out: crate::virtio::testing::Buffer { address: 0, len: 0, writable: false },
        };
        pair.out = pair.guest.room(128 << 10, false);
        for _ in 0..QUEUE_SIZE {
            let buffer = pair.guest.room(RECEIVE_BUFFER, true);
            pair.give(buffer);
        }
        pair.guest.kick(0);
        pair.guest.run();
        pair
    }

    fn give(&mut self, buffer: crate::virtio::testing::Buffer) {
        let head = self.guest.offer(0, &[buffer]);
        self.buffers.push((head, buffer));
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("v")
    }

    /// A host program's connection that has not said anything.
    fn dial(&mut self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A host program listening where the guest will connect.
    fn listen(&self, port: u32) -> UnixListener {
        let listener = UnixListener::bind(self.folder.path().join(format!("v_{port}"))).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        let bytes = [&header.encode()[..], data].concat();
        self.guest.memory.write_slice(&bytes, GuestAddress(self.out.address)).unwrap();
        let buffer = crate::virtio::testing::Buffer { len: bytes.len() as u32, ..self.out };
        self.guest.send(1, &[buffer]);
        while self.guest.used(1).is_some() {}
    }

    fn send(&mut self, operation: Operation, guest: u32, host: u32, flags: u32, data: &[u8]) {
        self.send_raw(Header { flags, len: data.len() as u32, ..header(operation, guest, host) }, data);
    }

    /// What the device tells the guest next; its buffer goes back.
    fn hear(&mut self) -> Option<(Header, Vec<u8>)> {
        self.guest.run();
        let (head, len) = self.guest.used(0)?;
        let place = self.buffers.iter().position(|(known, _)| *known == head).unwrap();
        let (_, buffer) = self.buffers.swap_remove(place);
        let bytes = self.guest.bytes(buffer, len as usize);
        let header = Header::parse(bytes[..HEADER_LEN].try_into().unwrap());
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
        assert_eq!(header.len as usize, len as usize - HEADER_LEN);
        self.give(buffer);
        self.guest.kick(0);
        Some((header, bytes[HEADER_LEN..].to_vec()))
    }

    fn hear_operation(&mut self) -> Option<Operation> {
        self.hear().map(|(header, _)| header.operation.unwrap())
    }

    /// A connection that the guest asked for: (its end on the host, the guest's port).
    fn guest_connects(&mut self, listener: &UnixListener, guest: u32, host: u32) -> UnixStream {
        self.send(Operation::Request, guest, host, 0, &[]);
        let (header, _) = self.hear().unwrap();
        assert_eq!((header.operation, header.dst_port), (Some(Operation::Response), guest));
        let stream = listener.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A connection that the host asked for: (its end on the host, the host's port).
    fn host_connects(&mut self, guest: u32) -> (UnixStream, u32) {
        let mut stream = self.dial();
        stream.write_all(format!("CONNECT {guest}\n").as_bytes()).unwrap();
        let (header, _) = self.hear().unwrap();
        assert_eq!((header.operation, header.dst_port), (Some(Operation::Request), guest));
        let host = header.src_port;
        self.send(Operation::Response, guest, host, 0, &[]);
        assert_eq!(read(&mut stream), format!("OK {host}\n").into_bytes());
        (stream, host)
    }
}

fn header(operation: Operation, guest: u32, host: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: guest,
        dst_port: host,
        len: 0,
        kind: packet::TYPE_STREAM,
        operation: Some(operation),
        flags: 0,
        buf_alloc: PEER_BUFFER,
        fwd_cnt: 0,
    }
}

/// What is there to read without waiting.
fn read(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    match stream.read(&mut bytes) {
        Ok(len) => bytes.truncate(len),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes.clear(),
        Err(error) => panic!("{error}"),
    }
    bytes
}

fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(0) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
        Ok(_) => false,
    }
}

#[test]
fn the_guest_learns_its_context_id() {
    assert_eq!(Pair::new().guest.config(0), CID.to_le_bytes());
}

#[test]
fn the_host_connects_talks_and_leaves() {
    let mut pair = Pair::new();
    let (mut stream, host) = pair.host_connects(52);
    stream.write_all(b"ping").unwrap();
    let (header, data) = pair.hear().unwrap();
    assert_eq!((header.operation, &data[..]), (Some(Operation::Data), &b"ping"[..]));
    pair.send(Operation::Data, 52, host, 0, b"pong");
    assert_eq!(read(&mut stream), b"pong");
    drop(stream);
    let mut flags = 0;
    while let Some((header, _)) = pair.hear() {
        assert_eq!(header.operation, Some(Operation::Shutdown));
        flags |= header.flags;
    }
    assert_eq!(flags, SHUTDOWN_BOTH);
    pair.send(Operation::Reset, 52, host, 0, &[]);
    assert_eq!(pair.hear_operation(), None);
    // It is forgotten.
    pair.send(Operation::Data, 52, host, 0, b"?");
    assert_eq!(pair.hear_operation(), Some(Operation::Reset));
    let metrics = &pair.metrics;
    assert_eq!((metrics.conns_added.get(), metrics.conns_removed.get()), (1, 1));
    assert_eq!((metrics.rx_bytes_count.get(), metrics.tx_bytes_count.get()), (4, 4));
    // Its answer, its data, its reset, and data once more.
    assert_eq!(metrics.tx_packets_count.get(), 4);
}

#[test]
fn a_port_that_the_guest_refuses_closes() {
    let mut pair = Pair::new();
    let mut stream = pair.dial();
    stream.write_all(b"CONNECT 9\n").unwrap();
    let (header, _) = pair.hear().unwrap();
    pair.send(Operation::Reset, 9, header.src_port, 0, &[]);
    assert!(is_closed(&mut stream));
    assert_eq!(pair.hear_operation(), None);
}

#[test]
fn a_host_program_that_gives_up_early_is_forgotten() {
    let mut pair = Pair::new();
    let mut stream = pair.dial();
    stream.write_all(b"CONNECT 9\n").unwrap();
    assert_eq!(pair.hear_operation(), Some(Operation::Request));
    drop(stream);
    assert_eq!(pair.hear_operation(), Some(Operation::Reset));
    let mut nonsense = pair.dial();
    nonsense.write_all(b"HELLO\n").unwrap();
    pair.guest.run();
    assert!(is_closed(&mut nonsense));
}

#[test]
fn a_port_that_nobody_serves_is_refused() {
    let mut pair = Pair::new();
    pair.send(Operation::Request, 1000, 7, 0, &[]);
    let (header, _) = pair.hear().unwrap();
    assert_eq!((header.operation, header.src_port, header.dst_port), (Some(Operation::Reset), 7, 1000));
    // A reset is never answered with one.
    pair.send(Operation::Reset, 1000, 7, 0, &[]);
    assert_eq!(pair.hear_operation(), None);
}

#[test]
fn an_inherited_socket_serves_one_connection() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut pair = Pair::with(|_| GuestConnect::Ports(HashMap::from([(1024, theirs)])));
    pair.send(Operation::Request, 1, 1024, 0, &[]);
    assert_eq!(pair.hear_operation(), Some(Operation::Response));
    pair.send(Operation::Data, 1, 1024, 0, b"ready");
    assert_eq!(read(&mut ours), b"ready");
    pair.send(Operation::Request, 2, 1024, 0, &[]);
    assert_eq!(pair.hear_operation(), Some(Operation::Reset));
}

#[test]
fn half_closes_pass_both_ways() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut stream = pair.guest_connects(&listener, 1, 80);
    pair.send(Operation::Data, 1, 80, 0, b"request");
    pair.send(Operation::Shutdown, 1, 80, SHUTDOWN_SEND, &[]);
    assert_eq!(read(&mut stream), b"request");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the end of the request");
    stream.write_all(b"response").unwrap();
    assert_eq!(pair.hear().unwrap().1, b"response");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (header, _) = pair.hear().unwrap();
    assert_eq!(header.operation, Some(Operation::Shutdown));
    assert_ne!(header.flags & SHUTDOWN_SEND, 0);
    pair.send(Operation::Shutdown, 1, 80, SHUTDOWN_BOTH, &[]);
    assert!(std::iter::from_fn(|| pair.hear_operation()).any(|operation| operation == Operation::Reset));
}

#[test]
fn a_guest_that_reads_no_more_stops_the_host() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut stream = pair.guest_connects(&listener, 1, 80);
    pair.send(Operation::Shutdown, 1, 80, SHUTDOWN_RECEIVE, &[]);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn what_was_sent_before_a_close_arrives() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut stream = pair.guest_connects(&listener, 1, 80);
    let sent: Vec<u8> = (0..300_000u32).map(|index| (index % 251) as u8).collect();
    // More than the socket takes: the rest waits in the buffer.
    let mut queued = 0;
    for part in sent.chunks(8192) {
        pair.send(Operation::Data, 1, 80, 0, part);
        queued += part.len();
    }
    assert_eq!(queued, sent.len());
    pair.send(Operation::Shutdown, 1, 80, SHUTDOWN_BOTH, &[]);
    let said: Vec<_> = std::iter::from_fn(|| pair.hear_operation()).collect();
    assert_eq!(said.last(), Some(&Operation::Reset), "the guest need not wait: {said:?}");
    let mut got = Vec::new();
    loop {
        pair.guest.run();
        let part = read(&mut stream);
        if part.is_empty() {
            break;
        }
        got.extend(part);
    }
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert!(is_closed(&mut stream));
}

#[test]
fn a_long_stream_lets_others_speak() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut long = pair.guest_connects(&listener, 1, 80);
    let mut short = pair.guest_connects(&listener, 2, 80);
    long.write_all(&[7; 60_000]).unwrap();
    short.write_all(b"here").unwrap();
    let order: Vec<u32> = std::iter::from_fn(|| pair.hear()).map(|(header, _)| header.dst_port).collect();
    let place = order.iter().position(|port| *port == 2).unwrap();
    assert!(order.len() > 10 && place <= 1 + MOST_PACKETS, "{order:?}");
}

#[test]
fn a_guest_gets_no_more_than_its_credit() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut stream = pair.guest_connects(&listener, 1, 80);
    let mut data: Vec<u8> = (0..150_000u32).map(|index| (index % 253) as u8).collect();
    stream.write_all(&data).unwrap();
    let mut take = |pair: &mut Pair| {
        let (mut count, mut asked) = (0, false);
        while let Some((header, part)) = pair.hear() {
            match header.operation {
                Some(Operation::Data) => assert_eq!(part, data.drain(..part.len()).collect::<Vec<_>>()),
                Some(Operation::CreditRequest) => asked = true,
                other => panic!("{other:?}"),
            }
            count += part.len();
        }
        (count, asked)
    };
    assert_eq!(take(&mut pair), (PEER_BUFFER as usize, true));
    let update = header(Operation::CreditUpdate, 1, 80);
    pair.send_raw(Header { fwd_cnt: 1000, ..update }, &[]);
    assert_eq!(take(&mut pair).0, 1000);
    pair.send_raw(Header { fwd_cnt: PEER_BUFFER + 1000, ..update }, &[]);
    assert_eq!(take(&mut pair).0, PEER_BUFFER as usize);
    // A guest that counts backwards gets nothing.
    pair.send_raw(Header { fwd_cnt: 0, ..update }, &[]);
    assert_eq!(take(&mut pair).0, 0);
}

#[test]
fn a_guest_that_outruns_its_credit_is_cut_off() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let _stream = pair.guest_connects(&listener, 1, 80);
    let mut reset = false;
    for _ in 0..100 {
        pair.send(Operation::Data, 1, 80, 0, &[7; 8192]);
        reset |= std::iter::from_fn(|| pair.hear_operation()).any(|operation| operation == Operation::Reset);
    }
    assert!(reset);
    assert!(pair.guest.faults().is_empty());
}

#[test]
fn a_guest_that_sends_what_is_no_memory_is_cut_off() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    pair.send(Operation::Request, 1, 80, 0, &[]);
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(pair.hear_operation(), Some(Operation::Response));
    let head = pair.guest.data(&Header { len: 60, ..header(Operation::Data, 1, 80) }.encode());
    let nowhere = crate::virtio::testing::Buffer { address: MEMORY_SIZE - 8, len: 60, writable: false };
    pair.guest.send(1, &[head, nowhere]);
    assert!(pair.guest.used(1).is_some());
    assert_eq!(pair.hear_operation(), Some(Operation::Reset));
    assert!(is_closed(&mut stream) && pair.guest.faults().is_empty());
}

#[test]
fn a_reader_gives_credit_back() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut stream = pair.guest_connects(&listener, 1, 80);
    let (mut forwarded, mut total) = (0, 0u32);
    for _ in 0..200 {
        assert!(total - forwarded + 8192 <= BUFFER, "the guest is starved");
        pair.send(Operation::Data, 1, 80, 0, &[7; 8192]);
        total += 8192;
        assert_eq!(read(&mut stream).len(), 8192);
        while let Some((header, _)) = pair.hear() {
            assert_eq!(header.operation, Some(Operation::CreditUpdate));
            forwarded = header.fwd_cnt;
        }
    }
}

#[test]
fn packets_of_strangers_are_ignored_or_refused() {
    let mut pair = Pair::new();
    let good = header(Operation::Request, 1, 80);
    pair.send_raw(Header { src_cid: 4, ..good }, &[]);
    assert_eq!(pair.hear_operation(), None);
    for bad in [
        Header { dst_cid: 4, ..good },
        Header { kind: 2, ..good },
        Header { len: 5, ..good },
        Header { operation: None, ..good },
    ] {
        pair.send_raw(bad, &[]);
        assert_eq!(pair.hear_operation(), Some(Operation::Reset), "{bad:?}");
    }
    let short = crate::virtio::testing::Buffer { len: 43, ..pair.out };
    pair.guest.send(1, &[short]);
    assert!(pair.guest.is_broken());
}

#[test]
fn a_restored_guest_forgets_its_connections() {
    let mut pair = Pair::new();
    let (mut stream, host) = pair.host_connects(5);
    let event = pair.guest.room(8, true);
    pair.guest.send(2, &[event]);
    assert_eq!(pair.guest.used(2), None);
    let path = pair.folder.path().join("other");
    let listener = UnixListener::bind(&path).unwrap();
    let config = VsockConfig {
        cid: 9,
        listener,
        ceiling: Ceiling::of_process(),
        guest_connect: GuestConnect::PathPrefix(path),
    };
    let mut guest = pair.guest.migrate(Box::new(Vsock::new(config).unwrap()));
    assert_eq!(guest.used(2).map(|(_, len)| len), Some(4));
    assert_eq!(guest.config(0), 9u64.to_le_bytes());
    assert!(is_closed(&mut stream), "port {host} is gone with its process");
}

#[test]
fn a_reset_closes_connections_and_keeps_the_sockets_of_ports() {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut pair = Pair::with(|_| GuestConnect::Ports(HashMap::from([(1024, theirs)])));
    let (mut stream, _) = pair.host_connects(5);
    pair.guest.set_status(0);
    pair.guest.run();
    assert!(is_closed(&mut stream));
    pair.guest.negotiate(VERSION_1 | EVENT_IDX);
    pair.guest.set_up_rings();
    pair.guest.set_status(15);
    pair.guest.run();
    pair.buffers.clear();
    let buffer = pair.guest.room(RECEIVE_BUFFER, true);
    pair.give(buffer);
    pair.send(Operation::Request, 1, 1024, 0, &[]);
    assert_eq!(pair.hear_operation(), Some(Operation::Response));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_sequence_of_packets_is_too_strange(
        packets in proptest::collection::vec(
            (1..4u32, 79..82u32, 0..9u16, any::<u32>(), 0..300usize, any::<u32>(), any::<u32>(), 0..10u8), 1..60,
        )
    ) {
        let mut pair = Pair::new();
        let listener = pair.listen(80);
        let mut streams = Vec::new();
        for (guest, host, operation, flags, len, buf_alloc, fwd_cnt, step) in packets {
            let mut raw = header(Operation::Data, guest, host).encode();
            raw[30..32].copy_from_slice(&operation.to_le_bytes());
            let parsed = Header::parse(&raw);
            let len_field = if step == 9 { flags } else { len as u32 };
            pair.send_raw(Header { flags: flags & 3, len: len_field, buf_alloc, fwd_cnt, ..parsed }, &vec![1; len]);
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                streams.push(stream);
            }
            match step {
                0 => drop(streams.pop()),
                1..4 => if let Some(stream) = streams.first_mut() {
                    let _ = stream.write(&vec![2; len]);
                },
                4 => if let Some(stream) = streams.first_mut() {
                    let _ = stream.read(&mut [0; 4096]);
                },
                _ => {}
            }
            while pair.hear().is_some() {}
        }
        prop_assert!(!pair.guest.is_broken());
    }
}

/// Packets of connections that do not exist: each is taken once. What is said to them needs buffers, which nobody gives.
struct Strays(tempfile::TempDir, u32);

impl Subject for Strays {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        self.1 += 1;
        let path = self.0.path().join(self.1.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let config = VsockConfig {
            cid: CID as u32,
            listener,
            ceiling: Ceiling::of_process(),
            guest_connect: GuestConnect::PathPrefix(path),
        };
        Box::new(Vsock::new(config).unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        let packet = guest.data(&header(Operation::Reset, number, 99).encode());
        (1, guest.offer(1, &[packet]))
    }

    fn answered<R: Registers>(&mut self, _guest: &mut GuestOver<R>, _number: u32, written: u32) {
        assert_eq!(written, 0);
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(|| Strays(tempfile::tempdir().unwrap(), 0));
}
