//! Segmentation of UDP with a TAP of the kernel: what a guest sends as one frame arrives as datagrams of the size that it named, and what
//! a program of the host sends so reaches the guest as one frame. Kernels have it from 6.2 on; on older ones it must not be offered.

use super::super::tap::{HEADER, Tap};
use super::super::*;
use super::Guest;
use super::kernel_tests::attach;
use super::tests::{MAC, unlimited};
use crate::virtio::testing::VERSION_1;
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP_L4,
};

const NAME: &str = "vialudp";
const HOST: [u8; 4] = [10, 97, 0, 1];
const GUEST: [u8; 4] = [10, 97, 0, 2];
const PORT: u16 = 7003;
const SEGMENT: u16 = 1000;
const PAYLOAD: usize = 2500;
/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;

const CHECKSUMS: u64 = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_GUEST_CSUM;
const UDP: u64 = 1 << VIRTIO_NET_F_HOST_USO | 1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6;

fn run(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
}

fn kernel_has_it() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap());
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

/// The sum of RFC 1071, not complemented.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// A frame that is to be cut up, as a driver gives it to its device.
fn large_frame(to: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(GUEST.into_iter().chain(HOST));
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // The addresses and the rest of the pseudo header are summed up already; the kernel adds what follows.
    let pseudo: Vec<u8> = GUEST.into_iter().chain(HOST).chain([0, 17]).chain(udp_len.to_be_bytes()).collect();
    let mut frame = vec![VIRTIO_NET_HDR_F_NEEDS_CSUM as u8, VIRTIO_NET_HDR_GSO_UDP_L4 as u8];
    frame.extend([HEADERS as u16, SEGMENT, 14 + 20, 6, 0].into_iter().flat_map(u16::to_le_bytes));
    frame.extend(to.into_iter().chain(MAC).chain([8, 0]));
    frame.extend(ip);
    frame.extend([PORT + 1, PORT, udp_len, sum(&pseudo)].into_iter().flat_map(u16::to_be_bytes));
    frame.extend(payload);
    frame
}

/// Has each datagram cut up by whoever can do it last.
fn cut_up(socket: &UdpSocket) {
    let size = libc::c_int::from(SEGMENT);
    // SAFETY: the kernel reads a number that lives until the call returns.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size) as u32,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// What arrives when the host sends: whether a frame is to be cut up, and its bytes without headers.
fn receive(guest: &mut Guest, socket: &UdpSocket, payload: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let give = |guest: &mut Guest| {
        let buffer = guest.room(4096, true);
        guest.send(0, &[buffer]);
        buffer
    };
    let mut buffers: VecDeque<_> = (0..4).map(|_| give(guest)).collect();
    socket.send_to(payload, (std::net::Ipv4Addr::from(GUEST), PORT)).unwrap();
    let (mut frames, mut bytes) = (Vec::new(), 0);
    while bytes < payload.len() {
        let mut len = None;
        guest.run_until(|guest| {
            len = guest.used(0);
            len.is_some()
        });
        let frame = guest.bytes(buffers.pop_front().unwrap(), len.unwrap().1 as usize);
        buffers.push_back(give(guest));
        // The host has other things to say on a new interface.
        if frame[HEADER + 12..][..2] == [8, 0] && frame[HEADER + 14 + 9] == 17 {
            let body = frame[HEADER + HEADERS..].to_vec();
            bytes += body.len();
            frames.push((u32::from(frame[1]) == VIRTIO_NET_HDR_GSO_UDP_L4, body));
        }
    }
    frames
}

#[test]
#[ignore = "needs root and /dev/net/tun: the end-to-end tests run it"]
fn udp_goes_through_a_tap_in_large_frames_where_the_kernel_cuts_them_up() {
    let tap = Tap::new(attach(NAME, false), true).unwrap();
    assert_eq!(tap.features() & UDP, if kernel_has_it() { UDP } else { 0 });
    if !kernel_has_it() {
        return;
    }
    // It would speak for itself.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1");
    run(&format!("addr add 10.97.0.1/24 dev {NAME}"));
    run(&format!("link set {NAME} up"));
    run(&format!("neigh add 10.97.0.2 lladdr 02:00:00:00:00:01 dev {NAME}"));
    let address = std::fs::read_to_string(format!("/sys/class/net/{NAME}/address")).unwrap();
    let address: Vec<u8> =
        address.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let socket = UdpSocket::bind((std::net::Ipv4Addr::from(HOST), PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let payload: Vec<u8> = (0..PAYLOAD).map(|index| (index % 251) as u8).collect();
    let pieces: Vec<Vec<u8>> = payload.chunks(SEGMENT.into()).map(<[u8]>::to_vec).collect();

    let net = Net::with_taps(vec![tap], MAC, None, unlimited());
    let mut guest = Guest::ready(Box::new(net), VERSION_1 | CHECKSUMS | UDP);
    let frame = guest.data(&large_frame(address.try_into().unwrap(), &payload));
    guest.send(1, &[frame]);
    assert!(guest.used(1).is_some());
    for piece in &pieces {
        let mut bytes = [0; PAYLOAD];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], from.port()), (&piece[..], PORT + 1));
    }
    cut_up(&socket);
    assert_eq!(receive(&mut guest, &socket, &payload), [(true, payload.clone())]);
    // A driver that can't take them gets the pieces.
    guest.set_status(0);
    guest.negotiate(VERSION_1 | CHECKSUMS);
    guest.set_up_rings();
    guest.set_status(15);
    let small: Vec<_> = pieces.into_iter().map(|piece| (false, piece)).collect();
    assert_eq!(receive(&mut guest, &socket, &payload), small);
}
