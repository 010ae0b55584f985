//! Which addresses pods get: pure arithmetic on what the host has.
//!
//! A pool's first address is the gateway's, on the host's end of every pod's wire; pods have the others, each alone (/32, /128), so
//! that no pod shares a link with another and none can answer for another's address.

use crate::NetworkError;
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Tried in this order. Away from what home routers (192.168), clouds (172.16 to 172.31, 10.0, 10.128) and other engines (172.17, 10.88, 10.42,
/// 10.244) take.
const CANDIDATES: [&str; 4] = ["10.77.0.0/16", "10.177.0.0/16", "172.29.0.0/16", "192.168.177.0/24"];
/// Pools between these lengths make sense: at least two pods, at most what the allocator counts quickly.
const LENGTHS: std::ops::RangeInclusive<u8> = 12..=29;

/// The addresses of this host's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// IPv4.
    pub v4: Ipv4Net,
    /// Unique local IPv6 (RFC 4193), a /64.
    pub v6: Ipv6Net,
}

impl Pool {
    /// The pool in this prefix, with an IPv6 prefix that follows from the machine's identity, so that it stays the same without being stored.
    pub fn new(v4: Ipv4Net, machine: &str) -> Self {
        // FNV-1a: it need not be hard to guess, only different from machine to machine.
        let hash = machine.bytes().chain(*b"vial").fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let [a, b, c, d, e, ..] = hash.to_be_bytes();
        let words =
            [0xfd00 | u16::from(a), u16::from_be_bytes([b, c]), u16::from_be_bytes([d, e]), 0, 0, 0, 0, 0];
        // 64 is a length of IPv6.
        let v6 = Ipv6Net::new_assert(Ipv6Addr::from(words), 64);
        Self { v4: v4.trunc(), v6 }
    }

    /// The gateway's IPv4 address: the pool's first.
    pub fn gateway4(&self) -> Ipv4Addr {
        self.v4_at(1)
    }

    /// The gateway's IPv6 address.
    pub fn gateway6(&self) -> Ipv6Addr {
        self.v6_at(1)
    }

    /// Numbers that pods may have: all but the network's own, the gateway's, and the broadcast address.
    pub fn numbers(&self) -> std::ops::Range<u32> {
        let size = 1u32 << (32 - u32::from(self.v4.prefix_len()));
        2..size - 1
    }

    /// The IPv4 address of this number.
    pub fn v4_at(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.v4.network()) | number)
    }

    /// The IPv6 address of this number.
    pub fn v6_at(&self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.v6.network()) | u128::from(number))
    }

    /// The number of an address of this pool.
    pub fn number_of(&self, address: Ipv4Addr) -> Option<u32> {
        let number = u32::from(address).wrapping_sub(u32::from(self.v4.network()));
        self.numbers().contains(&number).then_some(number)
    }
}

/// Link-layer address of the interface with this IPv4 address: locally administered, unique where the address is.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x76, a, b, c, d]
}

/// `aa:bb:cc:dd:ee:ff`
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads the administrator's wish for a pool.
///
/// # Errors
/// When it is no prefix, or too small or large a one.
pub fn parse_pool(text: &str) -> Result<Ipv4Net, NetworkError> {
    let net: Ipv4Net = text.parse().map_err(|_| NetworkError::Pool {
        text: text.to_owned(),
        why: "it is no IPv4 prefix such as 10.77.0.0/16",
    })?;
    if !LENGTHS.contains(&net.prefix_len()) {
        return Err(NetworkError::Pool {
            text: text.to_owned(),
            why: "its length must be between /12 and /29",
        });
    }
    Ok(net.trunc())
}

/// Chooses a prefix that the host has no other use for: `used` are the destinations of its routes and its own addresses, without ours.
///
/// # Errors
/// When all overlap with something.
pub fn choose(used: &[Ipv4Net]) -> Result<Ipv4Net, NetworkError> {
    // A default route covers everything and is no use of anything; so are the halves that VPNs split it into.
    let used = || used.iter().filter(|net| net.prefix_len() >= 4);
    let free = |candidate: &Ipv4Net| {
        !used().any(|net| net.contains(&candidate.network()) || candidate.contains(&net.network()))
    };
    CANDIDATES.iter().filter_map(|text| text.parse().ok()).find(free).ok_or_else(|| NetworkError::NoPool {
        taken: used().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    })
}

/// Hands out numbers, each as late as possible again: whoever still speaks to the last owner of an address does not meet the next one.
#[derive(Debug)]
pub struct Numbers {
    range: std::ops::Range<u32>,
    next: u32,
    used: HashSet<u32>,
}

impl Numbers {
    /// All of them free but these.
    pub fn new(range: std::ops::Range<u32>, used: impl IntoIterator<Item = u32>) -> Self {
        let used: HashSet<u32> = used.into_iter().collect();
        // Behind the newest of those that a daemon before this one gave out.
        let next = used.iter().max().map_or(range.start, |last| last + 1);
        Self { range, next, used }
    }

    /// A free one; none when all are in use.
    pub fn take(&mut self) -> Option<u32> {
        let behind = self.next.max(self.range.start)..self.range.end;
        let number = behind.chain(self.range.clone()).find(|number| !self.used.contains(number))?;
        self.next = number + 1;
        self.used.insert(number);
        Some(number)
    }

    /// It is free again.
    pub fn give_back(&mut self, number: u32) {
        self.used.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_prefix_that_the_host_uses_is_left_alone() {
        let chosen = |used: &[&str]| choose(&nets(used)).unwrap().to_string();
        assert_eq!(chosen(&["0.0.0.0/0", "192.168.1.0/24"]), "10.77.0.0/16");
        assert_eq!(chosen(&["0.0.0.0/1", "128.0.0.0/1"]), "10.77.0.0/16");
        assert_eq!(chosen(&["10.77.3.0/24"]), "10.177.0.0/16", "a part of it");
        assert_eq!(chosen(&["10.0.0.0/8"]), "172.29.0.0/16", "all of it");
        let all = nets(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
        assert!(choose(&all).unwrap_err().to_string().contains("VIAL_POOL"));
    }

    #[test]
    fn pools_of_odd_sizes_are_refused() {
        assert_eq!(parse_pool("10.9.8.7/24").unwrap().to_string(), "10.9.8.0/24");
        for bad in ["10.9.8.7", "10.9.8.7/30", "10.0.0.0/8", "fd00::/64", ""] {
            assert!(parse_pool(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_follow_from_numbers() {
        let pool = Pool::new("10.77.0.0/16".parse().unwrap(), "machine");
        assert_eq!(pool.gateway4(), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(pool.v4_at(258), Ipv4Addr::new(10, 77, 1, 2));
        assert_eq!(pool.number_of(Ipv4Addr::new(10, 77, 1, 2)), Some(258));
        assert_eq!(pool.number_of(Ipv4Addr::new(10, 77, 255, 255)), None);
        assert_eq!(pool.number_of(Ipv4Addr::new(10, 78, 0, 2)), None);
        assert_eq!(pool.v6.network().octets()[0], 0xfd);
        assert!(pool.v6.contains(&pool.v6_at(65_000)));
        assert_eq!(mac_text(mac(pool.v4_at(2))), "0a:76:0a:4d:00:02");
        assert_ne!(Pool::new(pool.v4, "another").v6, pool.v6);
    }

    #[test]
    fn a_number_comes_back_late() {
        let mut numbers = Numbers::new(2..6, [3]);
        assert_eq!(numbers.take(), Some(4));
        numbers.give_back(4);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(5), Some(2), Some(4)]);
        assert_eq!(numbers.take(), None);
        numbers.give_back(3);
        assert_eq!(numbers.take(), Some(3));
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(used in proptest::collection::hash_set(2u32..40, 0..20), back in proptest::collection::vec(2u32..40, 0..40)) {
            let mut numbers = Numbers::new(2..40, used.clone());
            let mut held = used;
            for number in back {
                if let Some(taken) = numbers.take() {
                    prop_assert!((2..40).contains(&taken) && held.insert(taken));
                }
                numbers.give_back(number);
                held.remove(&number);
            }
        }
    }
}
