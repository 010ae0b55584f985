//! A container's network as requests name it and answers show it.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::str::FromStr;

/// Ports of one `-p` at most: a range is a list.
const MAX_RANGE: usize = 1024;

/// Which network a container's pod is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Nobody said: the routed one where the host has what it takes, else the loopback only, with a warning.
    #[default]
    Default,
    /// The routed one: addresses, a way out, published ports. A pod that can't have it does not start.
    Routed,
    /// The loopback only.
    None,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As it is written behind a port.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The host's address; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The host's port; in a request 0 is any that is free.
    pub host: u16,
    /// The container's port.
    pub container: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ip {
            None => write!(f, "{}", self.host)?,
            Some(ip) => write!(f, "{}", std::net::SocketAddr::new(ip, self.host))?,
        }
        write!(f, "->{}/{}", self.container, self.protocol.as_str())
    }
}

/// The words of one `-p`: one port or a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<Port>);

impl FromStr for Ports {
    type Err = String;

    /// Reads Docker's form `[[ip:][host]:]container[/tcp|/udp]`, where ports may be ranges of equal length.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
        };
        let (front, container) =
            ports.rsplit_once(':').map_or((None, ports), |(front, back)| (Some(front), back));
        let container = range(container)?;
        let (ip, host) = match front {
            None => (None, None),
            Some(front) => match front.rsplit_once(':') {
                // [::1]:80 has colons of its own.
                Some((ip, host)) if !front.ends_with(']') => (address(ip)?, Some(host)),
                _ if front.ends_with(']') || front.contains('.') => (address(front)?, None),
                _ => (None, Some(front)),
            },
        };
        let host = host.filter(|host| !host.is_empty()).map(range).transpose()?;
        let host = host.unwrap_or_else(|| vec![0; container.len()]);
        if host.len() != container.len() {
            return Err("the ranges of the host's and the container's ports differ in length".into());
        }
        let pairs = host.into_iter().zip(container);
        Ok(Self(pairs.map(|(host, container)| Port { ip, host, container, protocol }).collect()))
    }
}

fn address(text: &str) -> Result<Option<IpAddr>, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip: IpAddr = bare.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    Ok(Some(ip).filter(|ip| !ip.is_unspecified()))
}

fn range(text: &str) -> Result<Vec<u16>, String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text:?} is no port: 1 to 65535")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    let ports: Vec<u16> = (first..=last).collect();
    if ports.is_empty() || ports.len() > MAX_RANGE {
        return Err(format!("{text} is no range of 1 to {MAX_RANGE} ports"));
    }
    Ok(ports)
}

/// A running container's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its address.
    pub ipv4: IpAddr,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<IpAddr>,
    /// The host's address on its wire.
    pub gateway: IpAddr,
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: String,
    /// The host's end of its wire.
    pub interface: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let ports: Ports = text.parse().unwrap();
        ports.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ports_are_written_as_for_docker() {
        for (text, meaning) in [
            ("80", "0->80/tcp"),
            ("8080:80", "8080->80/tcp"),
            ("53:53/udp", "53->53/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:0->80/tcp"),
            ("0.0.0.0:8080:80", "8080->80/tcp"),
            ("[::1]:8080:80/tcp", "[::1]:8080->80/tcp"),
            ("8000-8001:80-81/udp", "8000->80/udp 8001->81/udp"),
            ("90-91", "0->90/tcp 0->91/tcp"),
        ] {
            assert_eq!(shown(text), meaning, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "0",
            "80:0",
            "65536",
            "80/sctp",
            "a:80",
            "1.2.3:80:80",
            "1-3:1-2",
            "5-4:5-4",
            "1-60000:1-60000",
            ":::",
            "-",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }
}
