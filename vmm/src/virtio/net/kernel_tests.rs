//! What takes root and the kernel's own devices: the suite of pauses and saved states with vhost-net, and a TAP of several queues. The
//! end-to-end tests run it.

use super::super::*;
use super::Guest;
use super::pairs_tests::{MQ, ask};
use super::tests::{MAC, unlimited};
use crate::sys;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{Buffer, GuestOver, Registers, VERSION_1};
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

/// From linux/if_ether.h: for experiments in one's own network; nobody else speaks it.
const ETHER_TYPE: u16 = 0x88b5;
const FRAME: usize = 14 + 4;
const HEADER: usize = super::super::tap::HEADER;

/// What another end of a TAP sees of this kind of frames.
fn other_end(name: &str) -> File {
    let name = CString::new(name).unwrap();
    // SAFETY: nothing but numbers, and a string that ends.
    let (socket, index) = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        (libc::socket(libc::AF_PACKET, kind, 0), libc::if_nametoindex(name.as_ptr()))
    };
    assert!(socket >= 0 && index > 0, "{}", std::io::Error::last_os_error());
    // SAFETY: all of it may be zero.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHER_TYPE.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: it was just made and belongs to nobody else; the address is as long as is said.
    let (socket, bound) = unsafe {
        let bound = libc::bind(socket, (&raw const address).cast(), size_of_val(&address) as u32);
        (OwnedFd::from_raw_fd(socket), bound)
    };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    File::from(socket)
}

/// A TAP of its own; even requests send a frame, odd ones receive one.
struct Kernel {
    tap: File,
    other: File,
    sent: Vec<u32>,
    buffers: HashMap<u32, Buffer>,
    late: VecDeque<u32>,
}

/// A queue of a TAP, which goes with its last one.
pub(super) fn attach(name: &str, multi_queue: bool) -> File {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    sys::attach_tap(&tap, name, multi_queue).unwrap();
    tap
}

impl Kernel {
    fn new(name: &str) -> Self {
        let tap = attach(name, false);
        // It would speak for itself.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        assert!(Command::new("ip").args(["link", "set", name, "up"]).status().unwrap().success());
        let other = other_end(name);
        Self { tap, other, sent: Vec::new(), buffers: HashMap::new(), late: VecDeque::new() }
    }

    fn frame(number: u32) -> Vec<u8> {
        let addresses = [2, 0, 0, 0, 0, 2].into_iter().chain(MAC);
        addresses.chain(ETHER_TYPE.to_be_bytes()).chain(number.to_le_bytes()).collect()
    }

    fn hear(&mut self) {
        let mut bytes = [0; 2000];
        while let Ok(len @ 1..) = self.other.read(&mut bytes) {
            assert_eq!(len, FRAME);
            self.sent.push(u32::from_le_bytes([bytes[14], bytes[15], bytes[16], bytes[17]]));
        }
    }
}

impl Subject for Kernel {
    const ELSEWHERE: bool = true;

    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        let vhost = OpenOptions::new().read(true).write(true).open("/dev/vhost-net").unwrap();
        let net = Net::new(NetConfig {
            id: "n".into(),
            taps: vec![self.tap.try_clone().unwrap()],
            mac: MAC,
            mtu: None,
            vhost: Some(vhost),
            receive_limit: None,
            transmit_limit: None,
        });
        Box::new(net.unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        if number.is_multiple_of(2) {
            let frame: Vec<u8> = std::iter::repeat_n(0, HEADER).chain(Self::frame(number)).collect();
            let frame = guest.data(&frame);
            return (1, guest.offer(1, &[frame]));
        }
        self.late.push_back(number);
        let buffer = guest.room(1526, true);
        self.buffers.insert(number, buffer);
        (0, guest.offer(0, &[buffer]))
    }

    fn come(&mut self) {
        if let Some(number) = self.late.pop_front() {
            self.other.write_all(&Self::frame(number)).unwrap();
        }
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        self.hear();
        if let Some(buffer) = self.buffers.remove(&number) {
            assert_eq!(guest.bytes(buffer, written as usize)[HEADER..], Self::frame(number));
        }
    }

    fn finish(&mut self, count: u32) {
        self.hear();
        assert_eq!(self.sent, (0..count).step_by(2).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs root and /dev/vhost-net: the end-to-end tests run it"]
fn pauses_and_saved_states_of_vhost_net() {
    let mut made = 0;
    Guest::suite(|| {
        made += 1;
        Kernel::new(&format!("vialsuite{made}"))
    });
}

/// How many queues a TAP spreads frames over.
fn attached(name: &str) -> usize {
    let shown = Command::new("ip").args(["-d", "link", "show", name]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    let mut words = shown.split_whitespace().skip_while(|word| *word != "numqueues");
    words.nth(1).expect(&shown).parse().unwrap()
}

#[test]
#[ignore = "needs root and /dev/net/tun: the end-to-end tests run it"]
fn a_tap_gives_frames_to_those_of_its_queues_that_a_driver_uses() {
    const NAME: &str = "vialqueues";
    let start = |guest: &mut Guest, features| {
        guest.set_status(0);
        guest.negotiate(features);
        guest.set_up_rings();
        guest.set_status(15);
        guest.run();
    };
    let all_pairs = [4, 0, 3, 0];
    let taps = (0..3).map(|_| attach(NAME, true)).map(|tap| Tap::new(tap, true).unwrap()).collect();
    let mut guest = Guest::cold(Box::new(Net::with_taps(taps, MAC, None, unlimited())));
    // Whatever was attached before, and whatever another driver used.
    for _ in 0..2 {
        start(&mut guest, VERSION_1 | MQ);
        assert_eq!(attached(NAME), 1);
        assert!(ask(&mut guest, 6, &all_pairs));
        guest.run();
        assert_eq!(attached(NAME), 3);
    }
    // One that knows of one pair only.
    start(&mut guest, VERSION_1);
    assert_eq!(attached(NAME), 1);
    start(&mut guest, VERSION_1 | MQ);
    assert!(ask(&mut guest, 6, &all_pairs));
    guest.run();
    assert_eq!(attached(NAME), 3);
}
