//! A vhost-user back end for tests: a disk in memory, written against the specification and not against the front end, whose code it
//! uses nothing of. It can misbehave.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1, EVENT_IDX, INDIRECT_DESC.
pub const FEATURES: u64 = 1 << 30 | 1 << 32 | 1 << 29 | 1 << 28;
/// MQ, REPLY_ACK, CONFIG.
pub const PROTOCOL: u64 = 1 << 0 | 1 << 3 | 1 << 9;

/// What a back end is like.
#[derive(Clone)]
pub struct Manners {
    /// Device features.
    pub features: u64,
    /// Protocol features.
    pub protocol: u64,
    /// Queues.
    pub queues: u64,
    /// The disk.
    pub disk: Arc<Mutex<Vec<u8>>>,
    /// What it does instead of what is asked, by the number of the request.
    pub sin: Option<(u32, Sin)>,
}

/// What can be done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sin {
    /// Goes away.
    Die,
    /// Answers another request.
    Confuse,
    /// Announces an answer of 4 GiB.
    Boast,
    /// Says no.
    Refuse,
    /// Answers about another ring, or a part of the configuration space that nobody asked for.
    Stray,
    /// Answers, and speaks on.
    Chatter,
    /// Does not answer; if not to features, not to memory either.
    Mute,
    /// Clears O_NONBLOCK of the event that it gets: the front end, which has the same open file, waits where it reads it.
    Wait,
}

impl Manners {
    /// A good one with a disk of so many sectors.
    pub fn good(sectors: usize) -> Self {
        let disk = Arc::new(Mutex::new(vec![0; sectors * 512]));
        Self { features: FEATURES, protocol: PROTOCOL, queues: 4, disk, sin: None }
    }

    /// One that does `sin` when it gets `request`.
    pub fn bad(request: u32, sin: Sin) -> Self {
        Self { sin: Some((request, sin)), ..Self::good(8) }
    }

    /// Starts it in a thread of its own; the front end's end of its connection.
    pub fn start(&self) -> UnixStream {
        let (front, back) = UnixStream::pair().unwrap();
        let manners = self.clone();
        std::thread::spawn(move || BackEnd::new(back, manners).run());
        front
    }
}

#[derive(Default)]
struct Ring {
    queue: Option<Queue>,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    base: u16,
    size: u16,
    addresses: [u64; 3],
}

/// A back end that serves one connection.
pub struct BackEnd {
    socket: UnixStream,
    manners: Manners,
    memory: Option<GuestMemoryMmap>,
    acked: u64,
    rings: Vec<Ring>,
    acks: bool,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl BackEnd {
    /// On a connection.
    pub fn new(socket: UnixStream, manners: Manners) -> Self {
        let rings = (0..manners.queues).map(|_| Ring::default()).collect();
        Self { socket, manners, memory: None, acked: 0, rings, acks: false }
    }

    /// Serves until the front end is gone, or until it has done what it was made to do.
    pub fn run(mut self) {
        loop {
            let mut polled: Vec<libc::pollfd> = [self.socket.as_raw_fd()]
                .into_iter()
                .chain(self.rings.iter().map(|ring| match (&ring.queue, &ring.kick) {
                    (Some(_), Some(kick)) if ring.enabled => kick.as_raw_fd(),
                    _ => -1,
                }))
                .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
                .collect();
            // SAFETY: the list is as long as it says.
            if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as _, -1) } < 0 {
                continue;
            }
            for index in (0..self.rings.len()).filter(|index| polled[index + 1].revents != 0) {
                self.serve_if_kicked(index);
            }
            if polled[0].revents != 0 && self.message().is_none() {
                return;
            }
        }
    }

    /// One message; none when the connection is over.
    fn message(&mut self) -> Option<()> {
        let mut header = [0; 12];
        let mut numbers = [0 as RawFd; 8];
        let mut part = [libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: 12 }];
        // SAFETY: the part is the header.
        let (read, files) = unsafe { self.socket.recv_with_fds(&mut part, &mut numbers) }.ok()?;
        // SAFETY: they have just come and are nobody else's.
        let files: Vec<File> = numbers[..files].iter().map(|fd| unsafe { File::from_raw_fd(*fd) }).collect();
        if read == 0 {
            return None;
        }
        self.socket.read_exact(&mut header[read..]).ok()?;
        let (request, flags) = (word(&header, 0), word(&header, 4));
        assert_eq!(flags & 3, 1, "the version");
        let mut payload = vec![0; word(&header, 8) as usize];
        self.socket.read_exact(&mut payload).ok()?;
        let answer = self.obey(request, &payload, files);
        let mute = matches!((self.manners.sin, request), (Some((2, Sin::Mute)), 2 | 5));
        let ack = if flags & 8 != 0 && self.acks && !mute { Some(vec![0; 8]) } else { None };
        self.answer(request, answer.or(ack))
    }

    fn answer(&mut self, request: u32, answer: Option<Vec<u8>>) -> Option<()> {
        let sin = self.manners.sin.filter(|(at, _)| *at == request).map(|(_, sin)| sin);
        if sin == Some(Sin::Die) {
            return None;
        }
        let Some(mut answer) = answer.filter(|_| sin != Some(Sin::Mute)) else { return Some(()) };
        let (mut kind, mut len) = (request, answer.len() as u32);
        match sin {
            Some(Sin::Confuse) => kind += 1,
            Some(Sin::Boast) => len = u32::MAX,
            Some(Sin::Refuse) => answer = vec![1; answer.len()],
            Some(Sin::Stray) => answer[0] ^= 1,
            _ => {}
        }
        let mut bytes: Vec<u8> = [kind, 5, len].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(answer);
        if sin == Some(Sin::Chatter) {
            bytes.extend_from_within(..);
        }
        self.socket.write_all(&bytes).ok()
    }

    fn obey(&mut self, request: u32, payload: &[u8], mut files: Vec<File>) -> Option<Vec<u8>> {
        let ring = |bytes: &[u8]| word(bytes, 0) as usize;
        if self.manners.sin == Some((request, Sin::Wait)) {
            // SAFETY: F_SETFL takes a number.
            files
                .iter()
                .for_each(|file| assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) }, 0));
        }
        match request {
            1 => return Some(self.manners.features.to_le_bytes().to_vec()),
            15 => return Some(self.manners.protocol.to_le_bytes().to_vec()),
            17 => return Some(self.manners.queues.to_le_bytes().to_vec()),
            24 => return Some(self.config(payload)),
            2 => self.acked = number(payload, 0),
            16 => self.acks = number(payload, 0) & 1 << 3 != 0,
            5 => self.memory = Some(map(payload, files)),
            8 => self.rings[ring(payload)].size = word(payload, 4) as u16,
            10 => self.rings[ring(payload)].base = word(payload, 4) as u16,
            9 => self.rings[ring(payload)].addresses = [8, 16, 24].map(|at| number(payload, at)),
            12 => {
                let place = ring(payload);
                self.rings[place].kick = files.pop();
                self.rings[place].queue = self.make(place);
            }
            13 => self.rings[ring(payload)].call = files.pop(),
            18 => self.rings[ring(payload)].enabled = word(payload, 4) == 1,
            11 => {
                let place = ring(payload);
                if self.manners.sin.is_none_or(|(_, sin)| sin != Sin::Wait) {
                    self.serve_if_kicked(place);
                }
                let next = self.rings[place].queue.take().map_or(0, |queue| queue.next_avail());
                self.rings[place].kick = None;
                return Some([(place as u32).to_le_bytes(), u32::from(next).to_le_bytes()].concat());
            }
            _ => {}
        }
        // What is answered by an acknowledgement only.
        None
    }

    /// struct virtio_blk_config, behind what was asked for.
    fn config(&self, payload: &[u8]) -> Vec<u8> {
        let mut answer = payload.to_vec();
        let sectors = self.manners.disk.lock().unwrap().len() as u64 / 512;
        answer[12..20].copy_from_slice(&sectors.to_le_bytes());
        answer[12 + 34..12 + 36].copy_from_slice(&77u16.to_le_bytes());
        answer
    }

    fn make(&self, place: usize) -> Option<Queue> {
        let Ring { base, size, addresses: [table, used, available], .. } = self.rings[place];
        let half = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let mut queue = Queue::new(1024).ok()?;
        queue.set_size(size);
        queue.set_desc_table_address(half(table).0, half(table).1);
        queue.set_avail_ring_address(half(available).0, half(available).1);
        queue.set_used_ring_address(half(used).0, half(used).1);
        queue.set_event_idx(self.acked & 1 << 29 != 0);
        queue.set_next_avail(base);
        let used: u16 = self.memory.as_ref()?.read_obj(GuestAddress(used + 2)).ok()?;
        queue.set_next_used(used);
        queue.set_ready(true);
        Some(queue)
    }

    fn serve_if_kicked(&mut self, place: usize) {
        // Front ends make events that don't wait.
        if let Some(mut kick) = self.rings[place].kick.as_ref()
            && kick.read(&mut [0; 8]).is_ok()
        {
            self.serve(place);
        }
    }

    /// All requests that wait in a ring.
    fn serve(&mut self, place: usize) {
        let (Some(memory), Ring { queue: Some(queue), call, enabled: true, .. }) =
            (&self.memory, &mut self.rings[place])
        else {
            return;
        };
        loop {
            let chain = match queue.iter(memory) {
                Ok(mut chains) => chains.next(),
                Err(_) => return,
            };
            let Some(chain) = chain else {
                match queue.enable_notification(memory) {
                    Ok(true) => continue,
                    _ => return,
                }
            };
            let head = chain.head_index();
            let (mut header, mut data, mut status) = ([0; 16], None, None);
            for descriptor in chain {
                match (descriptor.is_write_only(), descriptor.len()) {
                    (false, 16) => drop(memory.read_slice(&mut header, descriptor.addr())),
                    (true, 1) => status = Some(descriptor.addr()),
                    (_, len) => data = Some((descriptor.addr(), len as usize % 4096)),
                }
            }
            let mut disk = self.manners.disk.lock().unwrap();
            let start = (number(&header, 8) as usize % 1000) * 512;
            let end = start + data.map_or(0, |(_, len)| len);
            let done = match (word(&header, 0), data, disk.get_mut(start..end)) {
                (0, Some((at, _)), Some(bytes)) => memory.write_slice(bytes, at).is_ok(),
                (1, Some((at, _)), Some(bytes)) => memory.read_slice(bytes, at).is_ok(),
                (4, ..) => true,
                _ => false,
            };
            drop(disk);
            if let Some(at) = status {
                let _ = memory.write_obj(u8::from(!done), at);
            }
            if queue.add_used(memory, head, 1).is_err() {
                return;
            }
            if queue.needs_notification(memory).unwrap_or(true)
                && let Some(call) = call
            {
                let _ = call.write(&1u64.to_le_bytes());
            }
        }
    }
}

/// Guest memory as a front end tells of it.
fn map(payload: &[u8], files: Vec<File>) -> GuestMemoryMmap {
    let regions = payload[8..].chunks(32).zip(files).map(|(region, file)| {
        assert_eq!(number(region, 0), number(region, 16), "this front end counts in guest addresses");
        let place = FileOffset::new(file, number(region, 24));
        let mapping = MmapRegion::from_file(place, number(region, 8) as usize).unwrap();
        Arc::new(GuestRegionMmap::new(mapping, GuestAddress(number(region, 0))).unwrap())
    });
    GuestMemoryMmap::from_arc_regions(regions.collect()).unwrap()
}
