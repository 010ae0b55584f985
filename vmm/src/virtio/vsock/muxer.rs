//! All connections of a guest: who gets a packet, and whose turn it is.

use super::GuestConnect;
use super::connection::{BUFFER, Connection, Fate, Key, SMALL_BUFFER};
use super::handshake::{Handshake, Progress};
use super::metrics::VsockMetrics;
use super::packet::{HEADER_LEN, HOST_CID, Header, Operation, TYPE_STREAM};
use crate::door::{Ceiling, Spare};
use crate::lock::lock;
use crate::virtio::io::{connect_unix_below, set_nonblocking};
use crate::virtio::{Chain, GuestMemory, RingError};
use std::collections::{HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// Connections and handshakes at a time, in a process that may have so many descriptors: [`Ceiling`].
pub const MAX_CONNECTIONS: usize = 4096;
/// Of these so many have a buffer of the full size; those that come when there are more get a small one. So host programs that don't read
/// cost 120 MiB at most.
pub const ROOMY: usize = 512;
/// Host programs that have connected and not said which port they want. One more, and the one that has waited longest goes:
/// honest ones say it at once.
pub const MAX_HANDSHAKES: usize = 64;
/// Resets that wait for the guest to take them; beyond that it is not listened to.
const MAX_RESETS: usize = 256;
/// Host programs that are let in at a time, before others get their turn.
const MAX_ACCEPTS: usize = 32;
/// Where host ports of connections that the host asked for begin: as Firecracker's.
pub const FIRST_HOST_PORT: u32 = 1 << 30;
/// The listener among the epoll set's numbers.
pub const LISTENER: u64 = 0;
/// The timer among them.
pub const TIMER: u64 = 1;
/// How long a guest has to answer a host program; Firecracker's number.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What a guest's connections have of the host.
pub struct Host {
    /// Watches `listener` as [`LISTENER`] and `timer` as [`TIMER`] already.
    pub epoll: Arc<Epoll>,
    /// Where host programs connect.
    pub listener: Arc<UnixListener>,
    /// How many there may be.
    pub ceiling: Ceiling,
    /// For guests that don't answer.
    pub timer: Arc<Mutex<TimerFd>>,
}

/// All connections of a guest.
pub struct Muxer {
    guest_cid: u64,
    host: Host,
    spare: Spare,
    connect: GuestConnect,
    // Sockets by the number that they have in the epoll set; a number is never used again.
    sockets: HashMap<u64, Socket>,
    by_key: HashMap<Key, u64>,
    // Oldest first; some may have become something else since.
    handshakes: VecDeque<u64>,
    // Connections that the guest was asked for, and until when it may answer; oldest first, and some may have been answered since.
    asked: VecDeque<(Instant, u64)>,
    next_id: u64,
    next_host_port: u32,
    // Those that have something to say, in the order in which they may; some may be gone since.
    turns: VecDeque<u64>,
    resets: VecDeque<Key>,
    metrics: Arc<VsockMetrics>,
}

enum Socket {
    Handshake(Handshake),
    Connection(Box<Connection>),
    // The guest is done with it; what it sent is not delivered yet.
    Lingering(Box<Connection>),
}

impl Muxer {
    /// For the sockets of `host`.
    pub fn new(guest_cid: u64, host: Host, connect: GuestConnect, metrics: Arc<VsockMetrics>) -> Self {
        Self {
            guest_cid,
            host,
            spare: Spare::default(),
            connect,
            sockets: HashMap::new(),
            by_key: HashMap::new(),
            handshakes: VecDeque::new(),
            asked: VecDeque::new(),
            next_id: TIMER + 1,
            next_host_port: FIRST_HOST_PORT,
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            metrics,
        }
    }

    /// Where the guest's connections go, for the next driver: what was used up stays so.
    pub fn into_connect(self) -> GuestConnect {
        let connections = self.sockets.values().filter(|socket| !matches!(socket, Socket::Handshake(_)));
        self.metrics.conns_removed.add(connections.count() as u64);
        self.connect
    }

    /// What it counts.
    pub fn metrics(&self) -> &VsockMetrics {
        &self.metrics
    }

    /// Whether the guest may be listened to: it takes its resets.
    pub fn can_handle(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// A packet of the guest.
    ///
    /// # Errors
    /// It has no header.
    pub fn handle(&mut self, memory: &GuestMemory, chain: &Chain) -> Result<(), RingError> {
        let mut raw = [0; HEADER_LEN];
        if chain.read_at(memory, 0, &mut raw) != HEADER_LEN {
            return Err(RingError::Malformed("is shorter than a packet's header"));
        }
        self.metrics.tx_packets_count.add(1);
        let header = Header::parse(&raw);
        // There is nobody to answer to (section 5.10.6.4.1).
        if header.src_cid != self.guest_cid {
            return Ok(());
        }
        let key = Key { guest: header.src_port, host: header.dst_port };
        let complete = header.len <= chain.readable_len() - HEADER_LEN as u32;
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM || !complete {
            self.refuse(key, &header);
            return Ok(());
        }
        match (self.by_key.get(&key).copied(), header.operation) {
            (None, Some(Operation::Request)) => self.accept_guest(key, &header),
            (None, _) => self.refuse(key, &header),
            (Some(id), _) => {
                let fate = match self.sockets.get_mut(&id) {
                    // What a program of the guest sends may lie where no device reads; the rest of it would be something else.
                    Some(_) if chain.elsewhere().is_some() => Fate::Reset,
                    Some(Socket::Connection(connection)) => {
                        connection.handle(&header, memory, chain, &self.metrics)
                    }
                    _ => Fate::Drop,
                };
                self.settle(id, fate);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, key: Key, header: &Header) {
        if header.operation != Some(Operation::Reset) {
            self.resets.push_back(key);
        }
    }

    fn accept_guest(&mut self, key: Key, header: &Header) {
        let room = self.sockets.len() < MAX_CONNECTIONS;
        let stream = if room { self.connect.open(key.host, self.host.ceiling) } else { None };
        let Some(stream) = stream else { return self.refuse(key, header) };
        let connection = Connection::accepted(key, self.guest_cid, stream, self.buffer(), header);
        self.add_connection(connection);
    }

    fn add_connection(&mut self, connection: Connection) {
        let (key, id) = (connection.key(), self.next_id);
        self.next_id += 1;
        if self.watch(connection.stream(), id) {
            self.begin(id, connection);
        } else {
            self.resets.push_back(key);
        }
    }

    /// Events come at edges: each connection remembers what its socket was last heard to be, and one that can't go on for
    /// lack of credit keeps nobody awake.
    fn watch(&self, stream: &UnixStream, id: u64) -> bool {
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.host.epoll.ctl(ControlOperation::Add, stream.as_raw_fd(), EpollEvent::new(events, id)).is_ok()
    }

    /// News of the sockets; at most one round of the epoll set.
    pub fn socket_events(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        // Interrupted or broken: the set stays readable, so the loop calls again.
        let count = self.host.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept_host(),
                TIMER => self.give_up(Instant::now()),
                id => self.socket_event(id, event.event_set()),
            }
        }
    }

    fn accept_host(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            // Nobody there, or no descriptors left: the listener stays readable if someone waits.
            let Some(stream) = self.spare.accept(&self.host.listener) else { return };
            self.make_room_for_handshake();
            // Too many: closing says so.
            let room = self.sockets.len() < MAX_CONNECTIONS && self.host.ceiling.admits(&stream);
            if !room || set_nonblocking(&stream).is_err() {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            if self.watch(&stream, id) {
                self.sockets.insert(id, Socket::Handshake(Handshake::new(stream)));
                self.handshakes.push_back(id);
            }
        }
    }

    fn make_room_for_handshake(&mut self) {
        let sockets = &self.sockets;
        self.handshakes.retain(|id| matches!(sockets.get(id), Some(Socket::Handshake(_))));
        if self.handshakes.len() < MAX_HANDSHAKES {
            return;
        }
        let Some(oldest) = self.handshakes.pop_front() else { return };
        // Its line may have come and wait to be read.
        self.socket_event(oldest, EventSet::IN);
        if let Some(Socket::Handshake(_)) = self.sockets.get(&oldest) {
            self.sockets.remove(&oldest);
        }
    }

    fn socket_event(&mut self, id: u64, events: EventSet) {
        let readable = events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        let writable = events.contains(EventSet::OUT);
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        match self.sockets.get_mut(&id) {
            Some(Socket::Handshake(handshake)) => match handshake.advance() {
                Progress::Waiting => {}
                Progress::Failed => drop(self.sockets.remove(&id)),
                Progress::Connect(port) => self.ask_guest(id, port),
            },
            Some(Socket::Connection(connection)) => {
                let fate = connection.socket_event(readable, writable, hung_up, &self.metrics);
                self.settle(id, fate);
            }
            Some(Socket::Lingering(connection)) => {
                connection.socket_event(false, writable, hung_up, &self.metrics);
                if connection.is_drained() {
                    self.sockets.remove(&id);
                    self.metrics.conns_removed.add(1);
                }
            }
            None => {}
        }
    }

    /// A host program named its port; its socket keeps its number, so it stays watched.
    fn ask_guest(&mut self, id: u64, guest: u32) {
        let Some(Socket::Handshake(handshake)) = self.sockets.remove(&id) else { return };
        let key = Key { guest, host: self.free_host_port(guest) };
        let connection = Connection::asking(key, self.guest_cid, handshake.into_stream(), self.buffer());
        self.begin(id, connection);
        let sockets = &self.sockets;
        if self.asked.len() > 2 * sockets.len() + MAX_HANDSHAKES {
            self.asked.retain(|(_, id)| sockets.contains_key(id));
        }
        self.asked.push_back((Instant::now() + ANSWER_TIME, id));
        if self.asked.len() == 1 {
            self.set_timer(ANSWER_TIME);
        }
    }

    fn set_timer(&self, wait: Duration) {
        let mut timer = lock(&self.host.timer);
        // 0 would disarm it. A descriptor of a timer always takes a time.
        let _ = timer.reset(wait.max(Duration::from_nanos(1)), None);
    }

    /// Ends connections whose time to be answered is over: host programs read an end.
    fn give_up(&mut self, now: Instant) {
        // What has fired is readable until it is set again, or off.
        let _ = lock(&self.host.timer).clear();
        while let Some((until, id)) = self.asked.front().copied() {
            if until > now {
                return self.set_timer(until - now);
            }
            self.asked.pop_front();
            if let Some(Socket::Connection(connection)) = self.sockets.get(&id) {
                let fate = connection.unanswered();
                self.settle(id, fate);
            }
        }
    }

    /// A guest that could not run could not answer either: its time begins anew.
    pub fn go_on(&mut self) {
        if !self.asked.is_empty() {
            let until = Instant::now() + ANSWER_TIME;
            self.asked.iter_mut().for_each(|(time, _)| *time = until);
            self.set_timer(ANSWER_TIME);
        }
    }

    /// One more connection, whose socket is watched as `id`.
    fn begin(&mut self, id: u64, connection: Connection) {
        self.by_key.insert(connection.key(), id);
        self.sockets.insert(id, Socket::Connection(Box::new(connection)));
        self.metrics.conns_added.add(1);
        self.settle(id, Fate::Keep);
    }

    /// The buffer of the next connection, and so its credit.
    fn buffer(&self) -> u32 {
        if self.sockets.len() < ROOMY { BUFFER } else { SMALL_BUFFER }
    }

    fn free_host_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_host_port;
            self.next_host_port = host.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            // There are more ports than connections, so this ends.
            if !self.by_key.contains_key(&Key { guest, host }) {
                return host;
            }
        }
    }

    /// Does to a connection what became of it.
    fn settle(&mut self, id: u64, fate: Fate) {
        if fate == Fate::Keep {
            if let Some(Socket::Connection(connection)) = self.sockets.get_mut(&id)
                && !connection.queued
                && connection.has_something_to_say()
            {
                connection.queued = true;
                self.turns.push_back(id);
            }
            return;
        }
        let Some(Socket::Connection(connection)) = self.sockets.remove(&id) else { return };
        let key = connection.key();
        self.by_key.remove(&key);
        if fate != Fate::Drop {
            self.resets.push_back(key);
        }
        if fate == Fate::Linger {
            self.sockets.insert(id, Socket::Lingering(connection));
        } else {
            self.metrics.conns_removed.add(1);
        }
        self.shorten_turns();
    }

    /// Those that are gone leave the line when they may be most of it. A guest that takes no packets lets nobody have a turn, but can make
    /// connections come and go.
    fn shorten_turns(&mut self) {
        let sockets = &self.sockets;
        if self.turns.len() > 2 * sockets.len() + MAX_HANDSHAKES {
            self.turns.retain(|id| matches!(sockets.get(id), Some(Socket::Connection(_))));
        }
    }

    /// Whether the guest is to get a packet, as far as is known before sockets are read.
    pub fn has_something_to_say(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// How many packets the next one to speak may have.
    pub fn packets(&self) -> usize {
        match self.turns.front().and_then(|id| self.sockets.get(id)) {
            Some(Socket::Connection(connection)) if self.resets.is_empty() => connection.packets(),
            _ => 1,
        }
    }

    /// Puts the next packet into the first of `chains`, or several of one connection into as many, and their lengths into `lens`: none if nobody
    /// had anything to say after all.
    ///
    /// # Errors
    /// One has no room for a header.
    pub fn speak(
        &mut self,
        memory: &GuestMemory,
        chains: &[Chain],
        lens: &mut Vec<u32>,
    ) -> Result<(), RingError> {
        if chains.iter().any(|chain| chain.writable_len() < HEADER_LEN as u32) {
            return Err(RingError::Malformed("has no room for a packet's header"));
        }
        if let (Some(chain), Some(key)) = (chains.first(), self.resets.front().copied()) {
            self.resets.pop_front();
            chain.write_at(memory, 0, &self.reset(key).encode());
            self.metrics.rx_packets_count.add(1);
            lens.push(HEADER_LEN as u32);
            return Ok(());
        }
        // Each says one thing, or its share of a long one, and goes to the end of the line.
        while let Some(id) = self.turns.pop_front() {
            let Some(Socket::Connection(connection)) = self.sockets.get_mut(&id) else { continue };
            connection.speak(memory, chains, lens, &self.metrics);
            connection.queued = !lens.is_empty() && connection.has_something_to_say();
            if connection.queued {
                self.turns.push_back(id);
            }
            if !lens.is_empty() {
                self.metrics.rx_packets_count.add(lens.len() as u64);
                return Ok(());
            }
        }
        Ok(())
    }

    fn reset(&self, key: Key) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: key.host,
            dst_port: key.guest,
            len: 0,
            kind: TYPE_STREAM,
            operation: Some(Operation::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

impl GuestConnect {
    /// A socket for a connection of the guest to a port of the host, if there is one.
    fn open(&mut self, port: u32, ceiling: Ceiling) -> Option<UnixStream> {
        match self {
            Self::Ports(ports) => {
                let stream = ports.remove(&port)?;
                set_nonblocking(&stream).ok()?;
                Some(stream)
            }
            Self::PathPrefix(prefix) => {
                let mut path = prefix.as_os_str().to_owned();
                path.push(format!("_{port}"));
                connect_unix_below(&PathBuf::from(path), ceiling).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing;
    use std::io::{Read, Write};
    use vm_memory::{Bytes, GuestAddress};

    /// A muxer whose guest takes nothing, and the folder of its sockets.
    fn muxer(ceiling: Ceiling) -> (Muxer, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, LISTENER);
        epoll.ctl(ControlOperation::Add, listener.as_raw_fd(), event).unwrap();
        let connect = GuestConnect::PathPrefix(path);
        let timer = Arc::new(Mutex::new(TimerFd::new().unwrap()));
        let host = Host { epoll: Arc::new(epoll), listener: Arc::new(listener), ceiling, timer };
        (Muxer::new(3, host, connect, Arc::default()), folder)
    }

    fn say(muxer: &mut Muxer, memory: &GuestMemory, operation: Operation) {
        let packet = Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: 1,
            dst_port: 80,
            ..muxer.reset(Key { guest: 1, host: 80 })
        };
        let packet = Header { operation: Some(operation), ..packet }.encode();
        memory.write_slice(&packet, GuestAddress(0x2000)).unwrap();
        memory.write_obj(0x2000u64, GuestAddress(0x1000)).unwrap();
        memory.write_obj(packet.len() as u32, GuestAddress(0x1008)).unwrap();
        let mut chain = Chain::default();
        chain.load(memory, GuestAddress(0x1000), 1, 0).unwrap();
        muxer.handle(memory, &chain).unwrap();
    }

    #[test]
    fn connections_that_come_and_go_unheard_leave_nothing() {
        let (mut muxer, folder) = muxer(Ceiling::of_process());
        let memory = testing::memory();
        let port = UnixListener::bind(folder.path().join("v_80")).unwrap();
        for _ in 0..3000 {
            say(&mut muxer, &memory, Operation::Request);
            drop(port.accept().unwrap());
            say(&mut muxer, &memory, Operation::Reset);
            let mut host = UnixStream::connect(folder.path().join("v")).unwrap();
            host.write_all(b"CONNECT 9\n").unwrap();
            // Let in, then heard.
            muxer.socket_events();
            muxer.socket_events();
            drop(host);
            muxer.socket_events();
        }
        assert_eq!((muxer.sockets.len(), muxer.by_key.len(), muxer.resets.len()), (0, 0, 0));
        assert!(muxer.turns.len() <= MAX_HANDSHAKES + 2, "{}", muxer.turns.len());
    }

    #[test]
    fn connections_leave_descriptors_to_others() {
        // All below the ceiling are taken: here it is the floor.
        let (mut muxer, folder) = muxer(Ceiling::below(0));
        let memory = testing::memory();
        let port = UnixListener::bind(folder.path().join("v_80")).unwrap();
        port.set_nonblocking(true).unwrap();
        say(&mut muxer, &memory, Operation::Request);
        assert_eq!((muxer.sockets.len(), muxer.resets.len()), (0, 1));
        // The host program is not even bothered.
        assert_eq!(port.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let mut host = UnixStream::connect(folder.path().join("v")).unwrap();
        muxer.socket_events();
        assert_eq!((host.read(&mut [0]).unwrap(), muxer.sockets.len()), (0, 0));
    }

    /// A host program that has asked for port 9.
    fn ask(muxer: &mut Muxer, folder: &tempfile::TempDir) -> UnixStream {
        let mut host = UnixStream::connect(folder.path().join("v")).unwrap();
        host.write_all(b"CONNECT 9\n").unwrap();
        // Let in, then heard.
        muxer.socket_events();
        muxer.socket_events();
        host.set_nonblocking(true).unwrap();
        host
    }

    #[test]
    fn a_guest_that_does_not_answer_is_not_waited_for() {
        let (mut muxer, folder) = muxer(Ceiling::of_process());
        let before = Instant::now();
        let mut first = ask(&mut muxer, &folder);
        let asked = Instant::now();
        let mut second = ask(&mut muxer, &folder);
        muxer.give_up(before + ANSWER_TIME);
        assert_eq!((muxer.sockets.len(), muxer.asked.len()), (2, 2));
        assert_eq!(first.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        muxer.give_up(asked + ANSWER_TIME);
        assert_eq!((first.read(&mut [0]).unwrap(), muxer.sockets.len(), muxer.asked.len()), (0, 1, 1));
        // The guest has not heard of it.
        assert!(muxer.resets.is_empty());
        // As much again after a pause.
        muxer.go_on();
        muxer.give_up(asked + ANSWER_TIME);
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        muxer.give_up(Instant::now() + ANSWER_TIME);
        assert_eq!((second.read(&mut [0]).unwrap(), muxer.by_key.len(), muxer.asked.len()), (0, 0, 0));
    }
}
