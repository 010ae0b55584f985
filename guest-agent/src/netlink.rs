//! The few rtnetlink messages that set an interface up: pure encoding, and one exchange with the kernel.
//!
//! Source: linux/rtnetlink.h, linux/netlink.h; rtnetlink(7). All messages of a set-up go in one write and are answered in order.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::io;
use std::net::IpAddr;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A list of messages on their way to the kernel.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each was for.
    what: Vec<String>,
}

fn family(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Batch {
    /// Sets an interface's MTU and brings it up.
    pub fn link_up(&mut self, index: u32, mtu: u32) {
        // struct ifinfomsg: family, padding, type, index, flags, mask of flags.
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend([1u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat());
        attribute(&mut body, 4, &mtu.to_ne_bytes()); // IFLA_MTU
        self.message(RTM_NEWLINK, 0, &body, format!("bringing the interface up with an MTU of {mtu}"));
    }

    /// Gives it an address that stands alone.
    pub fn address(&mut self, index: u32, ip: &IpAddr) {
        const IFA_F_NODAD: u8 = 2;
        let octets = octets(ip);
        // struct ifaddrmsg: family, prefix length, flags, scope, index. Nobody else is on this wire who could have the address too.
        let mut body =
            vec![family(ip), (octets.len() * 8) as u8, if ip.is_ipv6() { IFA_F_NODAD } else { 0 }, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, 2, &octets); // IFA_LOCAL
        attribute(&mut body, 1, &octets); // IFA_ADDRESS
        self.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body, format!("address {ip}"));
    }

    /// Notes a neighbour for good.
    pub fn neighbour(&mut self, index: u32, ip: &IpAddr, mac: [u8; 6]) {
        const NUD_PERMANENT: u16 = 0x80;
        // struct ndmsg: family, padding, index, state, flags, type.
        let mut body = vec![family(ip), 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(NUD_PERMANENT.to_ne_bytes());
        body.extend([0, 0]);
        attribute(&mut body, 1, &octets(ip)); // NDA_DST
        attribute(&mut body, 2, &mac); // NDA_LLADDR
        self.message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &body, format!("neighbour {ip}"));
    }

    /// Adds a route through a gateway that is on this link whatever the addresses say.
    pub fn route(&mut self, index: u32, destination: &IpAddr, length: u8, gateway: &IpAddr) {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_STATIC: u8 = 4;
        const RTN_UNICAST: u8 = 1;
        const RTNH_F_ONLINK: u32 = 4;
        // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
        let mut body = vec![family(destination), length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST];
        body.extend(RTNH_F_ONLINK.to_ne_bytes());
        if length > 0 {
            attribute(&mut body, 1, &octets(destination)); // RTA_DST
        }
        attribute(&mut body, 4, &index.to_ne_bytes()); // RTA_OIF
        attribute(&mut body, 5, &octets(gateway)); // RTA_GATEWAY
        let what = format!("route to {destination}/{length} through {gateway}");
        self.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body, what);
    }

    fn message(&mut self, kind: u16, flags: u16, body: &[u8], what: String) {
        self.what.push(what);
        let length = (HEADER + body.len()) as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        self.bytes.extend((self.what.len() as u32).to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Sends all and waits until the kernel has carried out every one.
    ///
    /// # Errors
    /// With the first that it refused.
    pub fn send(self) -> io::Result<()> {
        // No protocol number is 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        sendto(&socket, &self.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut waiting = self.what.len();
        while waiting > 0 {
            let mut buffer = [0u8; 8192];
            let (_, count) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            let answers = answers(buffer.get(..count).unwrap_or_default());
            if answers.is_empty() {
                return Err(io::Error::other("the kernel answers with something else"));
            }
            for (number, error) in answers {
                let what = self.what.get((number as usize).wrapping_sub(1)).map_or("?", String::as_str);
                if error != 0 {
                    let error = io::Error::from_raw_os_error(error.wrapping_neg());
                    return Err(io::Error::new(error.kind(), format!("{what}: {error}")));
                }
                waiting = waiting.saturating_sub(1);
            }
        }
        Ok(())
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Numbers and errors (0 or negative) of the acknowledgements in a datagram.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes)
    };
    while let (Some(length), Some(kind), Some(number)) = (word(bytes, 0), word(bytes, 4), word(bytes, 8)) {
        if kind as u16 == NLMSG_ERROR
            && let Some(error) = word(bytes, HEADER)
        {
            found.push((number, error as i32));
        }
        let next = (length as usize).next_multiple_of(4).max(HEADER);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let mut batch = Batch::default();
        batch.address(2, &"10.77.0.2".parse().unwrap());
        let bytes = &batch.bytes;
        assert_eq!(bytes.len(), 16 + 8 + 8 + 8);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), 40);
        assert_eq!(bytes[16..20], [2, 32, 0, 0]);
        assert_eq!(bytes[28..32], [10, 77, 0, 2]);
        batch.route(2, &"::".parse().unwrap(), 0, &"fe80::1".parse().unwrap());
        assert_eq!(batch.bytes.len(), 40 + 16 + 12 + 8 + 20);
        assert_eq!(batch.what.len(), 2);
    }

    #[test]
    fn answers_are_read_whatever_comes() {
        let mut bytes = vec![0; 36];
        bytes[0] = 36;
        bytes[4] = 2;
        bytes[8] = 7;
        bytes[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(answers(&[bytes.clone(), bytes.clone()].concat()), [(7, -17), (7, -17)]);
        bytes[0] = 0;
        assert_eq!(answers(&bytes).len(), 1);
        assert_eq!(answers(&[1, 2, 3]), []);
    }

    /// The loopback is there on every machine, and what it has already may be set again only by root: either answer is the kernel's.
    #[test]
    fn the_kernel_answers_each_message() {
        let mut batch = Batch::default();
        batch.neighbour(u32::MAX, &"10.0.0.1".parse().unwrap(), [2, 0, 0, 0, 0, 1]);
        let error = batch.send().unwrap_err().to_string();
        assert!(error.starts_with("neighbour 10.0.0.1: "), "{error}");
    }
}
