//! One connection: a Unix socket on the host, a port pair towards the guest, and the credit between them
//! (virtio 1.2, section 5.10.6.3).
//!
//! Towards the guest nothing is buffered: data goes from the socket into the guest's own buffers when it has both a buffer
//! and credit. From the guest, what the socket does not take waits in a buffer no larger than the credit that was given.

use super::metrics::VsockMetrics;
use super::packet::{
    HEADER_LEN, HOST_CID, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use crate::virtio::io::{readv, send};
use crate::virtio::{Chain, GuestMemory};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

/// Credit for the guest, and so the most that waits for a host program that does not read.
pub const BUFFER: u32 = 128 << 10;
/// The same where there are very many connections.
pub const SMALL_BUFFER: u32 = 16 << 10;
/// The most data in one packet; what Linux sends at most, too.
const MAX_DATA: u32 = 64 << 10;

/// The most packets that a connection has in a row, before others get their turn.
pub const MOST_PACKETS: usize = 16;

/// Pieces of memory that one read fills at most; IOV_MAX is 1024.
const MOST_SLICES: usize = 256;

/// Port pair: what a connection is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The guest's.
    pub guest: u32,
    /// The host's.
    pub host: u32,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The host asked; the guest has not answered.
    Asking,
    /// Data flows.
    Open,
}

/// Data that a packet in these buffers may have.
fn room(chain: &Chain) -> u32 {
    chain.writable_len().saturating_sub(HEADER_LEN as u32).min(MAX_DATA)
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Keep,
    /// The guest is told that it is gone.
    Reset,
    /// It is gone, and the guest knows or has never heard of it.
    Drop,
    /// The guest is done with it and told so; the host still has data to read.
    Linger,
}

/// What waits to be said, apart from data.
#[derive(Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
}

/// One connection.
pub struct Connection {
    key: Key,
    guest_cid: u64,
    stage: Stage,
    stream: UnixStream,
    // The most that waits in `buffer`.
    capacity: u32,
    pending: Pending,
    // Guest to host, in bytes modulo 2³²: received from the guest, given to the socket, and what of that the guest knows.
    buffer: VecDeque<u8>,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    announced: Wrapping<u32>,
    // Host to guest: what the guest has room for and took out, and what it was sent.
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    credit_asked: bool,
    // What the socket was last heard to be: events come at edges only.
    readable: bool,
    writable: bool,
    // Whether it had more for the guest than it was asked for.
    long: bool,
    // Shutdown flags that the host's end amounts to, those that the guest was told, and the guest's own.
    host_shutdown: u32,
    host_shutdown_told: u32,
    guest_shutdown: u32,
    write_closed: bool,
    /// Whether it stands in the muxer's line of those that have something to say.
    pub queued: bool,
}

impl Connection {
    /// The guest asked for it and the host has a socket for it.
    pub fn accepted(key: Key, guest_cid: u64, stream: UnixStream, capacity: u32, request: &Header) -> Self {
        let mut connection = Self::new(key, guest_cid, stream, capacity, Stage::Open);
        connection.pending.response = true;
        connection.note_credit(request);
        connection
    }

    /// The host asks for it.
    pub fn asking(key: Key, guest_cid: u64, stream: UnixStream, capacity: u32) -> Self {
        let mut connection = Self::new(key, guest_cid, stream, capacity, Stage::Asking);
        connection.pending.request = true;
        connection
    }

    fn new(key: Key, guest_cid: u64, stream: UnixStream, capacity: u32, stage: Stage) -> Self {
        Self {
            key,
            guest_cid,
            stage,
            stream,
            capacity,
            pending: Pending::default(),
            buffer: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            peer_alloc: 0,
            peer_forwarded: Wrapping(0),
            sent: Wrapping(0),
            credit_asked: false,
            // Trying finds out.
            readable: true,
            writable: true,
            long: false,
            host_shutdown: 0,
            host_shutdown_told: 0,
            guest_shutdown: 0,
            write_closed: false,
            queued: false,
        }
    }

    /// Its ports.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Its socket, to be watched.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The guest sent `header`, whose data begins after it in `chain`.
    pub fn handle(
        &mut self,
        header: &Header,
        memory: &GuestMemory,
        chain: &Chain,
        metrics: &VsockMetrics,
    ) -> Fate {
        self.note_credit(header);
        match (self.stage, header.operation) {
            (_, Some(Operation::Reset)) => Fate::Drop,
            (Stage::Asking, Some(Operation::Response)) => self.open(),
            (Stage::Open, Some(Operation::Data)) => self.receive(header.len, memory, chain, metrics),
            (Stage::Open, Some(Operation::Shutdown)) => self.shut_down(header.flags, metrics),
            (Stage::Open, Some(Operation::CreditUpdate)) => Fate::Keep,
            (Stage::Open, Some(Operation::CreditRequest)) => {
                self.pending.credit_update = true;
                Fate::Keep
            }
            _ => Fate::Reset,
        }
    }

    fn note_credit(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = Wrapping(header.fwd_cnt);
        if self.credit() > 0 {
            self.credit_asked = false;
        }
    }

    /// What the guest has room for. A guest that counts wrong gets nothing until it counts right.
    fn credit(&self) -> u32 {
        self.peer_alloc.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    fn open(&mut self) -> Fate {
        self.stage = Stage::Open;
        // A new socket has room for a line.
        match (&self.stream).write_all(format!("OK {}\n", self.key.host).as_bytes()) {
            Ok(()) => Fate::Keep,
            Err(_) => Fate::Reset,
        }
    }

    fn receive(&mut self, len: u32, memory: &GuestMemory, chain: &Chain, metrics: &VsockMetrics) -> Fate {
        let free = self.capacity - (self.received - self.forwarded).0;
        if len > free || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Fate::Reset;
        }
        self.received += len;
        if self.host_shutdown & SHUTDOWN_RECEIVE != 0 {
            // The host's end is gone and the guest will hear of it.
            self.forwarded += len;
            return Fate::Keep;
        }
        let mut rest = chain.readable_slices(memory, HEADER_LEN as u32, len);
        let mut done = 0;
        if self.buffer.is_empty() && self.writable && len > 0 {
            match send(&self.stream, &rest) {
                Ok(sent) => done = sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    metrics.tx_write_fails.add(1);
                    self.host_stopped_reading();
                }
            }
        }
        metrics.tx_bytes_count.add(done as u64);
        self.forward(done as u32);
        for slice in &mut rest {
            let skip = done.min(slice.len());
            done -= skip;
            if let Ok(tail) = slice.offset(skip)
                && self.host_shutdown & SHUTDOWN_RECEIVE == 0
            {
                let mut bytes = vec![0; tail.len()];
                tail.copy_to(&mut bytes[..]);
                self.buffer.extend(bytes);
            }
        }
        if self.host_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.forwarded = self.received;
        }
        self.drain(metrics)
    }

    /// `count` bytes reached the socket: the guest hears of it when it might run out of credit.
    fn forward(&mut self, count: u32) {
        self.forwarded += count;
        let believed_free = self.capacity.saturating_sub((self.received - self.announced).0);
        if self.forwarded != self.announced && believed_free < self.capacity / 2 {
            self.pending.credit_update = true;
        }
    }

    fn host_stopped_reading(&mut self) {
        self.host_shutdown |= SHUTDOWN_RECEIVE;
        self.buffer = VecDeque::new();
        self.forwarded = self.received;
    }

    /// Gives buffered data to the socket as far as it takes it.
    fn drain(&mut self, metrics: &VsockMetrics) -> Fate {
        while self.writable && !self.buffer.is_empty() {
            let (first, _) = self.buffer.as_slices();
            // std's write to a socket raises no SIGPIPE in a Rust program, which ignores it from the start.
            match (&self.stream).write(first) {
                Ok(written) => {
                    self.buffer.drain(..written);
                    metrics.tx_bytes_count.add(written as u64);
                    self.forward(written as u32);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(_) => {
                    metrics.tx_flush_fails.add(1);
                    self.host_stopped_reading();
                }
            }
        }
        if self.buffer.is_empty() {
            // Its memory is worth more than its next allocation.
            self.buffer = VecDeque::new();
            if self.guest_shutdown & SHUTDOWN_SEND != 0 && !std::mem::replace(&mut self.write_closed, true) {
                // Once: each time is an event of this very socket. The peer may be gone already.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        Fate::Keep
    }

    fn shut_down(&mut self, flags: u32, metrics: &VsockMetrics) -> Fate {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        self.drain(metrics);
        if self.guest_shutdown != SHUTDOWN_BOTH {
            if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
                // A host program that goes on writing learns that nobody reads.
                let _ = self.stream.shutdown(Shutdown::Read);
            }
            return Fate::Keep;
        }
        // The guest waits for a reset, a few seconds only; it must not wait for a host program that reads slowly.
        if self.buffer.is_empty() { Fate::Reset } else { Fate::Linger }
    }

    /// The socket has news. `hung_up`: both of its directions are closed.
    pub fn socket_event(
        &mut self,
        readable: bool,
        writable: bool,
        hung_up: bool,
        metrics: &VsockMetrics,
    ) -> Fate {
        self.readable |= readable | hung_up;
        self.writable |= writable | hung_up;
        if hung_up {
            if self.stage == Stage::Asking {
                return self.unanswered();
            }
            self.host_stopped_reading();
        }
        self.drain(metrics)
    }

    /// The guest has had its time to answer.
    pub fn unanswered(&self) -> Fate {
        match self.stage {
            Stage::Open => Fate::Keep,
            // It has not heard of it.
            Stage::Asking if self.pending.request => Fate::Drop,
            Stage::Asking => Fate::Reset,
        }
    }

    /// Whether a lingering connection has delivered everything, or can't any more.
    pub fn is_drained(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the guest is to get a packet.
    pub fn has_something_to_say(&self) -> bool {
        let Pending { request, response, credit_update, credit_request } = self.pending;
        request
            || response
            || credit_update
            || credit_request
            || self.may_read() && self.credit() > 0
            || self.shutdown_due()
            || self.wants_credit()
    }

    fn may_read(&self) -> bool {
        self.stage == Stage::Open
            && self.readable
            && self.host_shutdown & SHUTDOWN_SEND == 0
            && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    fn wants_credit(&self) -> bool {
        self.may_read() && self.credit() == 0 && !self.credit_asked
    }

    fn shutdown_due(&self) -> bool {
        self.stage == Stage::Open && self.host_shutdown & !self.host_shutdown_told != 0
    }

    /// Buffers for how many packets it could use: Linux' have a page each, and a system call for each is most of what it costs.
    pub fn packets(&self) -> usize {
        if self.long && self.may_read() { MOST_PACKETS } else { 1 }
    }

    /// Puts the most urgent packet into the first of `chains`, or data into as many as it takes, and the lengths into `lens`; none if there is
    /// nothing to say after all.
    pub fn speak(
        &mut self,
        memory: &GuestMemory,
        chains: &[Chain],
        lens: &mut Vec<u32>,
        metrics: &VsockMetrics,
    ) {
        let Some(chain) = chains.first() else { return };
        if std::mem::take(&mut self.pending.request) {
            return lens.push(self.write(Operation::Request, 0, 0, memory, chain));
        }
        if std::mem::take(&mut self.pending.response) {
            return lens.push(self.write(Operation::Response, 0, 0, memory, chain));
        }
        if let Some(mut rest) = self.read_into(memory, chains, metrics) {
            for chain in chains {
                let len = rest.min(room(chain));
                rest -= len;
                lens.push(self.write(Operation::Data, len, 0, memory, chain));
                if rest == 0 {
                    return;
                }
            }
        }
        if self.shutdown_due() {
            self.host_shutdown_told = self.host_shutdown;
            return lens.push(self.write(Operation::Shutdown, 0, self.host_shutdown, memory, chain));
        }
        if self.pending.credit_update {
            return lens.push(self.write(Operation::CreditUpdate, 0, 0, memory, chain));
        }
        if std::mem::take(&mut self.pending.credit_request) || self.wants_credit() {
            self.credit_asked = true;
            lens.push(self.write(Operation::CreditRequest, 0, 0, memory, chain));
        }
    }

    /// Fills the buffers one after the other; with how many bytes.
    fn read_into(&mut self, memory: &GuestMemory, chains: &[Chain], metrics: &VsockMetrics) -> Option<u32> {
        if !self.may_read() {
            return None;
        }
        let mut slices = Vec::new();
        let (mut limit, mut left) = (0, self.credit());
        for chain in chains {
            let wanted = room(chain).min(left);
            // What was unplugged meanwhile ends it: nothing may come behind a gap.
            let found = chain.writable_slices(memory, HEADER_LEN as u32, wanted);
            let whole = found.iter().map(|slice| slice.len() as u32).sum::<u32>() == wanted;
            if wanted == 0 || !whole && limit > 0 || slices.len() + found.len() > MOST_SLICES && limit > 0 {
                break;
            }
            slices.extend(found);
            (limit, left) = (limit + wanted, left - wanted);
            // A shorter one would be followed by a gap too.
            if !whole || wanted < room(chain) {
                break;
            }
        }
        if limit == 0 {
            return None;
        }
        match readv(&self.stream, &slices) {
            Ok(0) => self.host_shutdown |= SHUTDOWN_SEND,
            Ok(len) => {
                self.long = len == limit as usize;
                metrics.rx_bytes_count.add(len as u64);
                return Some(len as u32);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => {
                metrics.rx_read_fails.add(1);
                self.host_shutdown |= SHUTDOWN_BOTH;
            }
        }
        None
    }

    fn write(
        &mut self,
        operation: Operation,
        len: u32,
        flags: u32,
        memory: &GuestMemory,
        chain: &Chain,
    ) -> u32 {
        // Every packet says what was forwarded, so it is an update too.
        self.pending.credit_update = false;
        self.announced = self.forwarded;
        self.sent += len;
        let header = Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.key.host,
            dst_port: self.key.guest,
            len,
            kind: TYPE_STREAM,
            operation: Some(operation),
            flags,
            buf_alloc: self.capacity,
            fwd_cnt: self.forwarded.0,
        };
        chain.write_at(memory, 0, &header.encode());
        HEADER_LEN as u32 + len
    }
}
