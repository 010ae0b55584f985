//! Published ports: what they are, and keeping them from everybody else on the host.
//!
//! A port is held by sockets of ours as long as its pod lives, although packets for it never reach them but in one case (the host's own
//! `[::1]`, which the kernel's address translation leaves alone). So a program of the host that wants the port is told that it is taken,
//! and a pod that wants a program's port is refused before its VM is made.

use crate::NetworkError;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The host's address; none is all of them.
    pub ip: Option<IpAddr>,
    /// Port of the host. 0 asks for any that is free.
    pub host: u16,
    /// Port of the pod.
    pub pod: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Port {
    /// Whether both want the same of the host.
    fn overlaps(&self, other: &Self) -> bool {
        let everywhere = |ip: Option<IpAddr>, other: Option<IpAddr>| match (ip, other) {
            (None, _) => true,
            (Some(ip), Some(other)) => ip == other || ip.is_unspecified() && ip.is_ipv4() == other.is_ipv4(),
            (Some(_), None) => false,
        };
        self.host != 0
            && (self.host, self.protocol) == (other.host, other.protocol)
            && (everywhere(self.ip, other.ip) || everywhere(other.ip, self.ip))
    }

    /// The host's end, for people.
    fn name(&self) -> String {
        match self.ip {
            None => format!("{}/{}", self.host, self.protocol),
            Some(ip) => format!("{}/{}", SocketAddr::new(ip, self.host), self.protocol),
        }
    }
}

/// A socket that holds a port.
#[derive(Debug)]
pub struct Held {
    /// Listening, if TCP.
    pub socket: OwnedFd,
    /// What it holds, with the port's number that it got.
    pub port: Port,
}

/// How often a free port is asked for that must be free for both families.
const ATTEMPTS: u32 = 16;
/// Connections that wait for the proxy.
const BACKLOG: i32 = 128;

/// Takes all of them, or none. Gives the ports with the numbers that they got, and the sockets that hold them.
///
/// # Errors
/// [`NetworkError::PortInUse`], [`NetworkError::PortTwice`], [`NetworkError::NoAddress`], or when the system refuses.
pub fn hold(wanted: &[Port]) -> Result<(Vec<Port>, Vec<Held>), NetworkError> {
    // Else the second would meet the first, and be told that a stranger has it.
    let mut rest = wanted;
    while let Some((port, others)) = rest.split_first() {
        if let Some(twice) = others.iter().find(|other| port.overlaps(other)) {
            return Err(NetworkError::PortTwice(twice.name()));
        }
        rest = others;
    }
    let (mut ports, mut held) = (Vec::new(), Vec::new());
    for port in wanted {
        let (number, sockets) = hold_one(port)?;
        let port = Port { host: number, ..*port };
        ports.push(port);
        held.extend(sockets.into_iter().map(|socket| Held { socket: socket.into(), port }));
    }
    Ok((ports, held))
}

fn hold_one(port: &Port) -> Result<(u16, Vec<Socket>), NetworkError> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            NetworkError::PortInUse { port: port.name(), by: "another program or pod".into() }
        }
        io::ErrorKind::AddrNotAvailable if let Some(ip) = port.ip => NetworkError::NoAddress(ip),
        _ => NetworkError::System { what: "take a port of the host", source: error },
    };
    let Some(ip) = port.ip else {
        for attempt in 1.. {
            let first = bind(Ipv4Addr::UNSPECIFIED.into(), port.host, port.protocol).map_err(refused)?;
            let number = local_port(&first).map_err(refused)?;
            match bind(Ipv6Addr::UNSPECIFIED.into(), number, port.protocol) {
                Ok(second) => return Ok((number, vec![first, second])),
                // A host without IPv6.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
                    ) =>
                {
                    return Ok((number, vec![first]));
                }
                Err(error)
                    if port.host == 0 && attempt < ATTEMPTS && error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(refused(error)),
            }
        }
        unreachable!("the loop ends by returning only");
    };
    let socket = bind(ip, port.host, port.protocol).map_err(refused)?;
    Ok((local_port(&socket).map_err(refused)?, vec![socket]))
}

fn bind(ip: IpAddr, port: u16, protocol: Protocol) -> io::Result<Socket> {
    let address = SocketAddr::new(ip, port);
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of the last owner that are not quite over do not count.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn local_port(socket: &Socket) -> io::Result<u16> {
    Ok(socket.local_addr()?.as_socket().map_or(0, |address| address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(protocol: Protocol, host: u16) -> Port {
        Port { ip: None, host, pod: 80, protocol }
    }

    #[test]
    fn a_held_port_is_nobody_elses() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (ports, held) = hold(&[any(protocol, 0)]).unwrap();
            assert_ne!(ports[0].host, 0);
            let error = hold(&ports).unwrap_err().to_string();
            assert!(error.contains(&format!("{}/{protocol}", ports[0].host)), "{error}");
            let one = Port { ip: Some(Ipv4Addr::LOCALHOST.into()), ..ports[0] };
            assert!(matches!(hold(&[one]), Err(NetworkError::PortInUse { .. })));
            drop(held);
            hold(&ports).unwrap();
        }
    }

    #[test]
    fn all_or_none() {
        let (ports, _held) = hold(&[any(Protocol::Tcp, 0)]).unwrap();
        let (free, other) = hold(&[any(Protocol::Tcp, 0)]).unwrap();
        drop(other);
        assert!(hold(&[free[0], ports[0]]).is_err());
        hold(&free).unwrap();
    }

    #[test]
    fn an_address_of_somebody_else_is_told_as_such() {
        let port = Port { ip: Some("192.0.2.1".parse().unwrap()), ..any(Protocol::Tcp, 0) };
        let told = hold(&[port]).unwrap_err().to_string();
        assert!(told.contains("192.0.2.1 is no address of this host"), "{told}");
    }

    #[test]
    fn a_port_that_is_given_twice_is_told_as_such() {
        let at = |ip: &str, host| Port { ip: Some(ip.parse().unwrap()), ..any(Protocol::Tcp, host) };
        let twice = |ports: &[Port]| matches!(hold(ports), Err(NetworkError::PortTwice(_)));
        let (all, other) = (any(Protocol::Tcp, 1), any(Protocol::Tcp, 2));
        assert!(twice(&[all, other, Port { pod: 81, ..all }]));
        assert!(twice(&[at("127.0.0.1", 1), all]) && twice(&[all, at("::1", 1)]));
        assert!(twice(&[at("0.0.0.0", 1), at("127.0.0.1", 1)]));
        let overlap = |a: Port, b: Port| a.overlaps(&b) || b.overlaps(&a);
        assert!(!overlap(all, other) && !overlap(all, any(Protocol::Udp, 1)));
        assert!(!overlap(at("127.0.0.1", 1), at("127.0.0.2", 1)) && !overlap(at("0.0.0.0", 1), at("::1", 1)));
        assert!(!overlap(any(Protocol::Tcp, 0), any(Protocol::Tcp, 0)), "any two that are free");
    }
}
