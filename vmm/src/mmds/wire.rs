//! The metadata service as a neighbour on the guest's network: Ethernet, ARP, IPv4 and TCP by smoltcp, over queues of frames.
//!
//! Nothing here ever touches the host's network. Frames are handed in as the guest sends them and taken out as it has room for
//! them, so none is lost on the way; what the guest itself loses is sent again when a timer says so.

use super::answers::{Context, MAX_REQUEST, answer};
use super::token::Tokens;
use super::{MmdsMetrics, Store};
use crate::api::config::{MmdsConfig, MmdsVersion};
use crate::lock::lock;
use crate::sys;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpProtocol};
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vmm_sys_util::timerfd::TimerFd;

/// Where EC2 has its service, and Firecracker too.
pub const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Firecracker's.
const MAC: EthernetAddress = EthernetAddress([0x06, 0x01, 0x23, 0x45, 0x67, 0x01]);
const PORT: u16 = 80;
/// Connections at a time.
const CONNECTIONS: usize = 8;
/// Bytes that wait to be sent on one.
const SEND_BUFFER: usize = 8192;
/// A connection on which nothing comes for so long is given up when the next frame comes.
const TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(10);
/// Frames that wait, in each direction: for the guest to make room, and for that to be answered. More are lost, as on any wire.
pub(super) const MAX_WAITING: usize = 64;
/// Bytes of a frame with its Ethernet header.
const MAX_FRAME: usize = 1514;
/// Bytes of a frame that are enough to tell whether it is for the service.
pub const HEAD: usize = 42;

/// The document, shared with the API.
pub type SharedStore = Arc<Mutex<Store>>;

/// Frames in both directions.
#[derive(Default)]
pub(super) struct Frames {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) to_send: VecDeque<Vec<u8>>,
    metrics: Arc<MmdsMetrics>,
}

pub(super) struct Receive(Vec<u8>);

pub(super) struct Send<'a>(&'a mut VecDeque<Vec<u8>>, &'a MmdsMetrics);

impl phy::RxToken for Receive {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.push_back(frame);
        self.1.tx_count.add(1);
        result
    }
}

impl Device for Frames {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Send<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Receive, Send<'_>)> {
        if self.to_send.len() >= MAX_WAITING {
            return None;
        }
        self.received.pop_front().map(|frame| (Receive(frame), Send(&mut self.to_send, &self.metrics)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Send<'_>> {
        (self.to_send.len() < MAX_WAITING).then_some(Send(&mut self.to_send, &self.metrics))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        // A driver may leave a packet's checksum to the device.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// One connection, or a place for one.
struct Connection {
    handle: SocketHandle,
    request: Vec<u8>,
    /// What of the answer has not gone into the socket yet; `None` while there is no answer.
    answer: Option<VecDeque<u8>>,
    /// Whether it was counted as one.
    created: bool,
}

/// The service on one interface.
pub struct Wire {
    address: Ipv4Addr,
    version: MmdsVersion,
    imds_compat: bool,
    store: SharedStore,
    tokens: Tokens,
    start: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    frames: Frames,
    timer: TimerFd,
}

impl Wire {
    /// What `config` describes, over `store`. `seed` is for sequence numbers.
    ///
    /// # Errors
    /// There is no timer.
    pub fn new(config: &MmdsConfig, store: SharedStore, seed: u64, now: Instant) -> io::Result<Self> {
        let address = config.ipv4_address.unwrap_or(DEFAULT_ADDRESS);
        let metrics = Arc::clone(lock(&store).metrics());
        let mut frames = Frames { metrics, ..Frames::default() };
        let mut settings = Config::new(HardwareAddress::Ethernet(MAC));
        settings.random_seed = seed;
        let mut interface = Interface::new(settings, &mut frames, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // Whatever address the guest has, it is a neighbour. There is room for one, and this is the first.
            let _ = addresses.push(IpCidr::new(address.into(), 0));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let connections = (0..CONNECTIONS).map(|_| {
            let mut socket =
                Socket::new(SocketBuffer::new(vec![0; MAX_REQUEST]), SocketBuffer::new(vec![0; SEND_BUFFER]));
            socket.set_timeout(Some(TIMEOUT));
            // Both would wait for a timer.
            socket.set_ack_delay(None);
            socket.set_nagle_enabled(false);
            Connection { handle: sockets.add(socket), request: Vec::new(), answer: None, created: false }
        });
        let connections = connections.collect();
        let (version, imds_compat) = (config.version, config.imds_compat);
        let tokens = Tokens::default();
        let timer = TimerFd::new().map_err(io::Error::from)?;
        // One that was set anew since it ran out has nothing to read.
        sys::set_nonblocking(&timer)?;
        Ok(Self {
            address,
            version,
            imds_compat,
            store,
            tokens,
            start: now,
            interface,
            sockets,
            connections,
            frames,
            timer,
        })
    }

    /// Becomes readable when [`Self::tick`] is to be called.
    pub fn timer(&self) -> &impl AsRawFd {
        &self.timer
    }

    /// Sends again what the guest has not got.
    pub fn tick(&mut self, now: Instant) {
        // Reading resets it.
        let _ = self.timer.wait();
        self.poll(now);
    }

    /// Whether a frame that begins with `head` is for the service: ARP that asks for its address or answers it, IPv4 to it.
    pub fn takes(&self, head: &[u8]) -> bool {
        let target = match head.get(12..14) {
            Some([0x08, 0x06]) => head.get(38..42),
            Some([0x08, 0x00]) => head.get(30..34),
            _ => None,
        };
        target == Some(&self.address.octets())
    }

    /// Takes a frame that the guest sent, and makes what it is answered. While as many answers wait as may, frames wait too; one for which
    /// there is no place is lost.
    pub fn receive(&mut self, frame: Vec<u8>, now: Instant) {
        self.frames.metrics.rx_accepted.add(1);
        if frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(23) != Some(&IpProtocol::Tcp.into()) {
            self.frames.metrics.rx_accepted_unusual.add(1);
        }
        // An answer to no address has nowhere to go, and smoltcp's `dispatch_ip` takes it for a mistake of its own.
        let nowhere = frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(26..30) == Some(&[0; 4]);
        if !nowhere && self.frames.received.len() < MAX_WAITING {
            self.frames.received.push_back(frame);
        }
        self.poll(now);
    }

    /// Whether it will be woken by its timer.
    #[cfg(test)]
    pub(super) fn is_timed(&self) -> bool {
        self.timer.is_armed().unwrap()
    }

    /// How many frames wait: the guest's, and for the guest.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.frames.received.len(), self.frames.to_send.len())
    }

    /// The next frame for the guest.
    pub fn next(&mut self, now: Instant) -> Option<Vec<u8>> {
        let frame = self.frames.to_send.pop_front()?;
        self.frames.metrics.tx_frames.add(1);
        self.frames.metrics.tx_bytes.add(frame.len() as u64);
        if self.frames.to_send.is_empty() {
            // There was no room for more, perhaps.
            self.poll(now);
        }
        Some(frame)
    }

    /// Whether frames wait for the guest.
    pub fn is_waiting(&self) -> bool {
        !self.frames.to_send.is_empty()
    }

    pub(super) fn poll(&mut self, now: Instant) {
        let passed = i64::try_from(now.saturating_duration_since(self.start).as_micros()).unwrap_or(i64::MAX);
        let time = smoltcp::time::Instant::from_micros(passed);
        self.interface.poll(time, &mut self.frames, &mut self.sockets);
        // Once more if the service had something to say to what has come.
        if self.serve(now) {
            self.interface.poll(time, &mut self.frames, &mut self.sockets);
        }
        // The guest's next frame finds a place for a new connection.
        self.serve(now);
        if self.frames.to_send.len() >= MAX_WAITING {
            // Nothing can be sent until the guest has taken all of them, which polls; the time of what is due is now, and would be again and again.
            let _ = self.timer.clear();
        } else if let Some(next) = self.interface.poll_at(time, &self.sockets) {
            let pause =
                Duration::from_micros(next.total_micros().saturating_sub(passed).try_into().unwrap_or(0));
            // Zero would stop it. If it can't be set, the guest's next frame does what it would have done.
            let _ = self.timer.reset(pause.max(Duration::from_millis(1)), None);
        }
    }

    /// Lets every connection go on; whether one did.
    fn serve(&mut self, now: Instant) -> bool {
        let mut moved = false;
        for Connection { handle, request, answer: reply, created } in &mut self.connections {
            let socket: &mut Socket<'_> = self.sockets.get_mut(*handle);
            let metrics = &self.frames.metrics;
            if matches!(socket.state(), State::Closed | State::TimeWait) {
                metrics.connections_destroyed.add(std::mem::take(created).into());
                request.clear();
                *reply = None;
                socket.abort();
                // A closed socket can listen, and the port is not zero.
                let _ = socket.listen(PORT);
                continue;
            }
            if !*created && !matches!(socket.state(), State::Listen | State::SynReceived) {
                *created = true;
                metrics.connections_created.add(1);
            }
            while reply.is_none() && socket.can_recv() {
                moved = true;
                let room = MAX_REQUEST.saturating_sub(request.len());
                let read = socket.recv(|bytes| {
                    let taken = bytes.len().min(room);
                    request.extend_from_slice(&bytes[..taken]);
                    (taken, taken)
                });
                let store = lock(&self.store);
                let mut context = Context {
                    store: &store,
                    tokens: &mut self.tokens,
                    version: self.version,
                    imds_compat: self.imds_compat,
                    now,
                    secret: sys::secret(),
                };
                *reply = answer(request, &mut context).map(VecDeque::from);
                if read.is_err() {
                    break;
                }
            }
            if let Some(rest) = reply {
                while socket.can_send() && !rest.is_empty() {
                    moved = true;
                    let Ok(sent) = socket.send_slice(rest.make_contiguous()) else { break };
                    rest.drain(..sent);
                }
                if rest.is_empty() && socket.may_send() {
                    moved = true;
                    socket.close();
                }
            } else if !socket.may_recv() && socket.is_active() && socket.state() != State::SynReceived {
                // It will never say what it wants.
                moved = true;
                socket.abort();
            }
        }
        moved
    }
}
