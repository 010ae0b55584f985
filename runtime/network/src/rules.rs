//! The firewall rules: text for `nft -f`, from what pods there are. Pure.
//!
//! One table holds all of it. The rules know interfaces by their name's beginning and pods by the routes that lead to them, so a pod that
//! publishes nothing starts and ends without any change here. A published port is an element of a map.

use crate::ports::{Port, Protocol};
use ipnet::Ipv4Net;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the table is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Its name.
    pub table: String,
    /// Ranges that pods' IPv4 addresses come from: today's pool, and those that running pods were made with.
    pub v4: Vec<Ipv4Net>,
    /// Range of pods' IPv6 addresses, if they have any.
    pub v6: Option<ipnet::Ipv6Net>,
    /// Ports of running pods.
    pub published: Vec<Published>,
}

/// A pod's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The pod's address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, if it can be reached under it from outside.
    pub v6: Option<Ipv6Addr>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// The whole table, in place of whatever it was before, in one transaction: no packet ever meets half of it.
pub fn whole(rules: &Rules) -> String {
    let table = &rules.table;
    let v4 = rules.v4.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let v6 =
        rules.v6.map_or_else(String::new, |net| format!("ip6 saddr {net} oifname != \"vial*\" masquerade"));
    let mut text = format!(
        r#"add table inet {table}
delete table inet {table}
table inet {table} {{
	comment "made by vial; changes are lost"
	map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
	map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
	map one4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
	map one6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
	set self4 {{ type ipv4_addr . ipv4_addr; }}
	set self6 {{ type ipv6_addr . ipv6_addr; }}
	chain from_pod {{
		ip daddr 127.0.0.0/8 drop
		fib saddr . iif oif missing drop
	}}
	chain raw {{
		type filter hook prerouting priority raw; policy accept;
		iifname "vial*" jump from_pod
	}}
	chain published {{
		dnat ip to ip daddr . meta l4proto . th dport map @one4
		dnat ip to meta l4proto . th dport map @any4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6
		dnat ip6 to meta l4proto . th dport map @any6
	}}
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		fib daddr type local jump published
	}}
	chain output {{
		type nat hook output priority -100; policy accept;
		ip6 daddr ::1 return
		fib daddr type local jump published
	}}
	chain into_pod {{
		ip saddr 127.0.0.0/8 masquerade
		ip saddr . ip daddr @self4 masquerade
		ip6 saddr . ip6 daddr @self6 masquerade
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		oifname "vial*" jump into_pod
		ip saddr {{ {v4} }} oifname != "vial*" masquerade
		{v6}
	}}
	chain from_outside {{
		ct state established,related accept
		ct status dnat accept
		drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname "vial*" iifname != "vial*" jump from_outside
	}}
}}
"#
    );
    for published in &rules.published {
        text.push_str(&publish(table, published));
    }
    text
}

/// Adds a pod's ports.
pub fn publish(table: &str, published: &Published) -> String {
    elements("add", table, published)
}

/// Takes a pod's ports away.
pub fn unpublish(table: &str, published: &Published) -> String {
    elements("delete", table, published)
}

/// Removes the table; fine when there is none.
pub fn remove(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn elements(verb: &str, table: &str, published: &Published) -> String {
    // Adding must give the value, deleting must not.
    let value =
        |pod: IpAddr, port: u16| if verb == "add" { format!(" : {pod} . {port}") } else { String::new() };
    let mut text = String::new();
    let mut line = |map: &str, element: String| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{verb} element inet {table} {map} {{ {element} }}");
    };
    if !published.ports.is_empty() {
        line("self4", format!("{0} . {0}", published.v4));
        if let Some(v6) = published.v6 {
            line("self6", format!("{v6} . {v6}"));
        }
    }
    for port in &published.ports {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let (host, value4) = (port.host, value(published.v4.into(), port.pod));
        let value6 = published.v6.map(|v6| value(v6.into(), port.pod));
        match port.ip {
            None => {
                line("any4", format!("{protocol} . {host}{value4}"));
                if let Some(value6) = value6 {
                    line("any6", format!("{protocol} . {host}{value6}"));
                }
            }
            Some(IpAddr::V4(ip)) => line("one4", format!("{ip} . {protocol} . {host}{value4}")),
            Some(IpAddr::V6(ip)) => {
                if let Some(value6) = value6 {
                    line("one6", format!("{ip} . {protocol} . {host}{value6}"));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ports: Vec<Port>) -> Published {
        Published { v4: Ipv4Addr::new(10, 77, 0, 2), v6: Some("fd00::2".parse().unwrap()), ports }
    }

    #[test]
    fn a_pod_that_publishes_nothing_changes_nothing() {
        assert_eq!(publish("vial", &pod(vec![])), "");
    }

    #[test]
    fn ports_are_elements_and_go_as_they_came() {
        let any = Port { ip: None, host: 8080, pod: 80, protocol: Protocol::Tcp };
        let one =
            Port { ip: Some("127.0.0.1".parse().unwrap()), host: 53, pod: 5353, protocol: Protocol::Udp };
        let pod = pod(vec![any, one]);
        let added = publish("vial", &pod);
        assert_eq!(
            added.lines().collect::<Vec<_>>(),
            [
                "add element inet vial self4 { 10.77.0.2 . 10.77.0.2 }",
                "add element inet vial self6 { fd00::2 . fd00::2 }",
                "add element inet vial any4 { tcp . 8080 : 10.77.0.2 . 80 }",
                "add element inet vial any6 { tcp . 8080 : fd00::2 . 80 }",
                "add element inet vial one4 { 127.0.0.1 . udp . 53 : 10.77.0.2 . 5353 }",
            ]
        );
        let keys = |text: &str| -> Vec<String> {
            text.lines()
                .map(|l| {
                    l.split_once(' ').unwrap().1.split(" : ").next().unwrap().trim_end_matches(" }").into()
                })
                .collect()
        };
        assert_eq!(keys(&unpublish("vial", &pod)), keys(&added));
    }

    #[test]
    fn the_table_is_replaced_in_one_transaction() {
        let rules = Rules {
            table: "vial".into(),
            v4: vec!["10.77.0.0/16".parse().unwrap(), "10.9.0.0/24".parse().unwrap()],
            v6: None,
            published: vec![pod(vec![Port { ip: None, host: 1, pod: 2, protocol: Protocol::Tcp }])],
        };
        let text = whole(&rules);
        assert!(text.starts_with("add table inet vial\ndelete table inet vial\ntable inet vial {"));
        assert!(text.contains("ip saddr { 10.77.0.0/16, 10.9.0.0/24 } oifname != \"vial*\" masquerade"));
        assert!(text.trim_end().ends_with("{ tcp . 1 : fd00::2 . 2 }"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
