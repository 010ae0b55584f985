//! Names inside a pod: the text of its `/etc/hosts` and `/etc/resolv.conf`. Pure; Docker's choices.

use std::fmt::Write;
use std::net::IpAddr;

/// Name servers that a resolver asks at most (MAXNS in resolv.h).
const MAX_SERVERS: usize = 3;
/// Bytes that are read of a `resolv.conf` at most.
pub const MAX_BYTES: u64 = 64 << 10;

/// What a `resolv.conf` says, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    /// `nameserver` lines that are addresses (an IPv6 one without its zone, and none that needs one).
    pub servers: Vec<IpAddr>,
    /// The last `search` or `domain` line's words.
    pub search: Vec<String>,
    /// `options` words.
    pub options: Vec<String>,
}

/// Reads a `resolv.conf`; what makes no sense is skipped, as the C library does.
pub fn parse_resolv(text: &str) -> Resolv {
    let mut found = Resolv::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                found.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
            }
            Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
            Some("options") => found.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    found
}

/// Whom a pod asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// These, directly.
    Direct(Vec<IpAddr>),
    /// The gateway's forwarder, which asks whoever the host asks: servers on the host's loopback can't be reached from a pod.
    Forwarder,
}

/// The resolver of a pod, from the host's `/etc/resolv.conf`, the file in which systemd-resolved names its upstream servers, and what was asked for.
///
/// `ipv6`: whether pods reach IPv6 servers.
pub fn resolver(host: &str, upstream: Option<&str>, wanted: &[IpAddr], ipv6: bool) -> (Resolv, Servers) {
    let mut resolv = parse_resolv(host);
    if !wanted.is_empty() {
        return (resolv, Servers::Direct(wanted.iter().copied().take(MAX_SERVERS).collect()));
    }
    let stub = |ip: &IpAddr| matches!(ip, IpAddr::V4(v4) if v4.octets()[..3] == [127, 0, 0]);
    if resolv.servers.iter().any(stub)
        && let Some(upstream) = upstream.map(parse_resolv)
        && upstream.servers.iter().any(|server| reachable(server, ipv6))
    {
        resolv.servers = upstream.servers;
    }
    let servers: Vec<IpAddr> =
        resolv.servers.iter().copied().filter(|server| reachable(server, ipv6)).take(MAX_SERVERS).collect();
    let servers = if servers.is_empty() { Servers::Forwarder } else { Servers::Direct(servers) };
    (resolv, servers)
}

fn reachable(server: &IpAddr, ipv6: bool) -> bool {
    match server {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
        // A link-local server is on a link that pods are not on.
        IpAddr::V6(v6) => ipv6 && !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

/// `/etc/resolv.conf` of a pod.
pub fn resolv_conf(resolv: &Resolv, servers: &[IpAddr]) -> String {
    let mut text = String::from("# Made by vial for this pod.\n");
    for server in servers {
        // Writing to a String can't fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !resolv.search.is_empty() {
        let _ = writeln!(text, "search {}", resolv.search.join(" "));
    }
    // Options about the host's own stub resolver do not hold for another server.
    let options: Vec<&str> =
        resolv.options.iter().map(String::as_str).filter(|o| !["edns0", "trust-ad"].contains(o)).collect();
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// `/etc/hosts` of a pod with these addresses of its own and these entries from outside.
pub fn hosts(hostname: &str, own: &[IpAddr], added: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, ip) in added {
        let _ = writeln!(text, "{ip}\t{name}");
    }
    // A name with dots is known by its first part too.
    let short = hostname.split_once('.').map_or_else(String::new, |(short, _)| format!(" {short}"));
    for ip in own {
        let _ = writeln!(text, "{ip}\t{hostname}{short}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UPSTREAM: &str = "nameserver 192.168.1.1\nnameserver fe80::1\n";

    fn servers(host: &str, upstream: Option<&str>) -> Servers {
        resolver(host, upstream, &[], false).1
    }

    fn direct(list: &[&str]) -> Servers {
        Servers::Direct(list.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    #[test]
    fn a_pod_asks_whom_the_host_asks_if_it_can_reach_them() {
        assert_eq!(
            servers("nameserver 9.9.9.9 # quad\nnameserver 1.1.1.1", None),
            direct(&["9.9.9.9", "1.1.1.1"])
        );
        assert_eq!(servers("nameserver 127.0.0.1\nnameserver 9.9.9.9", None), direct(&["9.9.9.9"]));
        assert_eq!(servers("nameserver 2620:fe::fe\nnameserver 9.9.9.9", None), direct(&["9.9.9.9"]));
        let four = "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4";
        assert_eq!(servers(four, None), direct(&["1.1.1.1", "1.1.1.2", "1.1.1.3"]));
    }

    #[test]
    fn behind_systemds_stub_are_its_upstream_servers() {
        assert_eq!(servers("nameserver 127.0.0.53", Some(UPSTREAM)), direct(&["192.168.1.1"]));
        assert_eq!(servers("nameserver 9.9.9.9", Some(UPSTREAM)), direct(&["9.9.9.9"]), "not a stub");
    }

    #[test]
    fn servers_that_only_the_host_reaches_are_asked_through_the_gateway() {
        for host in ["nameserver 127.0.0.53", "nameserver 127.0.0.1", "nameserver ::1", "", "garbage"] {
            assert_eq!(servers(host, None), Servers::Forwarder, "{host}");
        }
        assert_eq!(servers("nameserver 127.0.0.53", Some("nameserver 127.0.0.1")), Servers::Forwarder);
    }

    #[test]
    fn what_was_asked_for_wins() {
        let wanted: Vec<IpAddr> = vec!["8.8.8.8".parse().unwrap()];
        let (resolv, servers) = resolver("nameserver 127.0.0.1\nsearch a.b c.d", None, &wanted, false);
        assert_eq!(servers, direct(&["8.8.8.8"]));
        let text = resolv_conf(&resolv, &wanted);
        assert!(text.ends_with("nameserver 8.8.8.8\nsearch a.b c.d\n"), "{text}");
    }

    #[test]
    fn options_of_the_hosts_stub_stay_there() {
        let resolv = parse_resolv("domain x\noptions edns0 trust-ad ndots:2\nsearch y z");
        assert_eq!(resolv.search, ["y", "z"]);
        assert!(resolv_conf(&resolv, &[]).ends_with("search y z\noptions ndots:2\n"));
    }

    #[test]
    fn hosts_name_the_pod_and_what_was_added() {
        let text = hosts(
            "web.example.org",
            &["10.77.0.2".parse().unwrap()],
            &[("db".into(), "10.0.0.9".parse().unwrap())],
        );
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n10.77.0.2\tweb.example.org web\n"), "{text}");
    }

    proptest! {
        #[test]
        fn any_file_can_be_read(text in ".{0,400}") {
            let (resolv, servers) = resolver(&text, Some(&text), &[], true);
            let list = match servers { Servers::Direct(list) => list, Servers::Forwarder => vec![] };
            prop_assert!(list.len() <= MAX_SERVERS && list.iter().all(|ip| !ip.is_loopback()));
            let again = parse_resolv(&resolv_conf(&resolv, &list));
            prop_assert_eq!(again.servers, list);
        }
    }
}
