//! Addresses of the pool that no pod has lead nowhere. Without that, packets for a pod that is gone would take the host's way out, and
//! whoever sits there could answer in the pod's place.
//!
//! A route of kind `unreachable` covers the pool, its network and broadcast address included; a pod's own route is more specific. The metric
//! says which daemon's it is, so that two of one pool keep out of each other's way, and is high, so that any route of the administrator's wins.

use crate::NetworkError;
use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Who made such a route, for the kernel (`ip route` calls it `proto 118`): a number that nobody has in rtnetlink.h.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(b'v');

/// What is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Routes that are missing.
    pub add: Vec<IpNet>,
    /// Routes of ours that lead where pods are no more.
    pub remove: Vec<IpNet>,
}

/// From what is there of one daemon to what it wants.
pub fn plan(there: &[IpNet], wanted: &[IpNet]) -> Plan {
    let without =
        |all: &[IpNet], others: &[IpNet]| all.iter().filter(|net| !others.contains(net)).copied().collect();
    Plan { add: without(wanted, there), remove: without(there, wanted) }
}

/// The metric of a daemon's routes, from the name of its table: behind all that people and programs write.
pub fn metric(table: &str) -> u32 {
    let hash =
        table.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    0x7600_0000 | (hash >> 8)
}

/// Whether a route is one of these, of whichever daemon: no other use of its addresses.
pub fn is_ours(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unreachable && route.header.protocol == PROTOCOL
}

/// A route's destination and metric.
fn read(route: &RouteMessage) -> Option<(IpNet, u32)> {
    let (mut net, mut metric) = (None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => net = Some((*ip).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => net = Some((*ip).into()),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some((IpNet::new(net?, route.header.destination_prefix_length).ok()?, metric))
}

fn route(net: IpNet, metric: u32) -> RouteMessage {
    match net {
        IpNet::V4(net) => {
            message4(net).kind(RouteType::Unreachable).protocol(PROTOCOL).priority(metric).build()
        }
        IpNet::V6(net) => {
            message6(net).kind(RouteType::Unreachable).protocol(PROTOCOL).priority(metric).build()
        }
    }
}

fn message4(net: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.network(), net.prefix_len())
}

fn message6(net: Ipv6Net) -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.network(), net.prefix_len())
}

async fn there(handle: &Handle, metric: u32) -> Result<Vec<IpNet>, rtnetlink::Error> {
    let mut found = Vec::new();
    for message in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut routes = handle.route().get(message).execute();
        while let Some(route) = routes.try_next().await? {
            found.extend(
                read(&route).filter(|(_, own)| is_ours(&route) && *own == metric).map(|(net, _)| net),
            );
        }
    }
    Ok(found)
}

/// Makes the routes of this metric those that are wanted.
///
/// # Errors
/// When the kernel refuses one; the others are as they should be.
pub async fn set(handle: &Handle, metric: u32, wanted: &[IpNet]) -> Result<(), NetworkError> {
    let refused = |what: &'static str| {
        move |error: rtnetlink::Error| NetworkError::Netlink { what, why: error.to_string() }
    };
    let there = there(handle, metric).await.map_err(refused("list routes"))?;
    let plan = plan(&there, wanted);
    let mut done = Ok(());
    for net in plan.add {
        let added = handle.route().add(route(net, metric)).execute().await;
        done = done.and(added.map_err(refused("make addresses that no pod has unreachable")));
    }
    for net in plan.remove {
        let removed = handle.route().del(route(net, metric)).execute().await;
        done = done.and(removed.map_err(refused("remove the route of addresses that no pod has")));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_there_becomes_what_is_wanted() {
        let wanted = nets(&["10.77.0.0/16", "fd00::/64"]);
        let change = |there: &[&str], wanted: &[IpNet]| plan(&nets(there), wanted);
        assert_eq!(change(&[], &wanted).add, wanted);
        assert_eq!(
            change(&["10.77.0.0/16", "fd00::/64"], &wanted),
            Plan::default(),
            "a new daemon finds them"
        );
        let moved = change(&["10.9.0.0/24", "fd00::/64"], &wanted);
        assert_eq!((moved.add, moved.remove), (nets(&["10.77.0.0/16"]), nets(&["10.9.0.0/24"])));
        assert_eq!(change(&["10.77.0.0/16"], &[]).remove, nets(&["10.77.0.0/16"]), "nothing is left");
    }

    #[test]
    fn a_route_says_whose_it_is() {
        for net in nets(&["10.77.0.0/16", "fd01:2:3::/64"]) {
            let message = route(net, metric("vial"));
            assert!(is_ours(&message));
            assert_eq!(read(&message), Some((net, metric("vial"))));
        }
        assert_ne!(metric("vial"), metric("vial_1234abcd"));
        assert!(metric("vial") >= 0x7600_0000);
        let other = message4("10.77.0.0/16".parse().unwrap()).kind(RouteType::Unreachable).build();
        assert!(!is_ours(&other), "an administrator's own");
    }
}
