//! What the kernel is asked and told over netlink: the host's routes, and a pod's wire.

use crate::address::{Pool, mac};
use crate::{NetworkError, nowhere, sysctl, tap};
use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

/// The gateway's link-local address on every wire: what pods' IPv6 routes lead to.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// When nothing says otherwise.
const MTU: u32 = 1500;
/// IPv6 needs this much of a link (RFC 8200, section 5).
const MTU_MIN: u32 = 1280;

/// What the host looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    /// Destinations of its routes and its own addresses, without those on our interfaces.
    pub used: Vec<Ipv4Net>,
    /// Smallest MTU among the interfaces with a default route.
    pub mtu: u32,
    /// Whether it has a way to the IPv6 internet.
    pub default6: bool,
    /// Whether a router told it about IPv6 routes: those go when the host forwards IPv6.
    pub router_advertised: bool,
    /// Names of all interfaces.
    pub interfaces: Vec<String>,
}

fn netlink<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> NetworkError {
    move |error| NetworkError::Netlink { what, why: error.to_string() }
}

/// A connection to the kernel; served by a task of the current runtime.
///
/// # Errors
/// When there is no socket to be had.
pub fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(NetworkError::system("open a netlink socket"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Looks at the host.
///
/// # Errors
/// When the kernel does not answer.
pub async fn look(handle: &Handle) -> Result<HostView, NetworkError> {
    let mut names = HashMap::new();
    let mut mtus = HashMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(netlink("list interfaces"))? {
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => drop(names.insert(link.header.index, name)),
                LinkAttribute::Mtu(mtu) => drop(mtus.insert(link.header.index, mtu)),
                _ => {}
            }
        }
    }
    let ours = |index: u32| names.get(&index).is_some_and(|name: &String| name.starts_with(tap::PREFIX));
    let mut view = HostView {
        used: Vec::new(),
        mtu: MTU,
        default6: false,
        router_advertised: false,
        interfaces: Vec::new(),
    };
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await.map_err(netlink("list addresses"))? {
        let ip = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V4(ip)) => Some(*ip),
            _ => None,
        });
        let net = ip.and_then(|ip| Ipv4Net::new(ip, address.header.prefix_len).ok());
        view.used.extend(net.filter(|_| !ours(address.header.index)).map(|net| net.trunc()));
    }
    let mut uplinks = Vec::new();
    for message in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut routes = handle.route().get(message).execute();
        while let Some(route) = routes.try_next().await.map_err(netlink("list routes"))? {
            let index = output(&route);
            if index.is_some_and(ours) || nowhere::is_ours(&route) {
                continue;
            }
            note(&route, &mut view);
            // One that leads nowhere (a host's own unreachable default) is no uplink.
            if route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast {
                uplinks.extend(index);
            }
        }
    }
    let smallest = uplinks.iter().filter_map(|index| mtus.get(index)).min();
    view.mtu = smallest.copied().unwrap_or(MTU).clamp(MTU_MIN, 65_535);
    view.interfaces = names.into_values().collect();
    Ok(view)
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn note(route: &RouteMessage, view: &mut HostView) {
    let length = route.header.destination_prefix_length;
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    if let Some(RouteAddress::Inet(ip)) = destination {
        view.used.extend(Ipv4Net::new(*ip, length).ok().map(|net| net.trunc()));
    }
    let v6 = route.header.address_family == rtnetlink::packet_route::AddressFamily::Inet6;
    if v6 && route.header.protocol == RouteProtocol::Ra {
        view.router_advertised = true;
    }
    if v6 && length == 0 && route.header.kind == RouteType::Unicast {
        view.default6 = true;
    }
}

/// One pod's wire.
#[derive(Debug)]
pub struct Wire {
    /// Keeps it alive; the VM's end of it.
    pub tap: OwnedFd,
    /// Name of the host's end.
    pub interface: String,
}

/// Makes the wire of the pod with this number. None when somebody else on this host has its address already.
///
/// # Errors
/// When the kernel refuses. Nothing is left then.
pub async fn wire(
    handle: &Handle,
    pool: &Pool,
    number: u32,
    mtu: u32,
    ipv6: bool,
) -> Result<Option<Wire>, NetworkError> {
    let made = tokio::task::spawn_blocking(move || {
        let (tap, interface) = tap::create()?;
        sysctl::interface(&interface, ipv6)?;
        let index = index(&interface).map_err(NetworkError::errno("find a pod's new interface"))?;
        Ok((tap, interface, index))
    });
    let (tap, interface, index) = made.await.map_err(|error| NetworkError::System {
        what: "make a TAP",
        source: std::io::Error::other(error),
    })??;
    let gateway = mac(pool.gateway4());
    let link =
        LinkMessageBuilder::<LinkUnspec>::new().index(index).address(gateway.to_vec()).mtu(mtu).up().build();
    handle.link().set(link).execute().await.map_err(netlink("bring a pod's interface up"))?;

    let pod4 = pool.v4_at(number);
    let to_pod = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod4, 32)
        .output_interface(index)
        .scope(RouteScope::Link);
    address(handle, index, pool.gateway4().into(), 32).await?;
    let route = to_pod.pref_source(pool.gateway4()).build();
    // Two daemons, or an administrator, may have the same address: the kernel is the judge.
    if let Err(error) = handle.route().add(route).execute().await {
        return if is_taken(&error) { Ok(None) } else { Err(netlink("add a pod's route")(error)) };
    }
    neighbour(handle, index, pod4.into(), mac(pod4)).await?;
    if ipv6 {
        let pod6 = pool.v6_at(number);
        address(handle, index, pool.gateway6().into(), 128).await?;
        address(handle, index, LINK_LOCAL.into(), 64).await?;
        let route =
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(pod6, 128).output_interface(index);
        let route = route.pref_source(pool.gateway6()).build();
        if let Err(error) = handle.route().add(route).execute().await {
            return if is_taken(&error) { Ok(None) } else { Err(netlink("add a pod's IPv6 route")(error)) };
        }
        neighbour(handle, index, pod6.into(), mac(pod4)).await?;
    }
    Ok(Some(Wire { tap, interface }))
}

fn index(name: &str) -> rustix::io::Result<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::netdevice::name_to_index(socket, name)
}

fn is_taken(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::EEXIST)
}

async fn address(handle: &Handle, index: u32, ip: IpAddr, length: u8) -> Result<(), NetworkError> {
    let mut request = handle.address().add(index, ip, length);
    if ip.is_ipv6() {
        // Nobody else can be on this wire: no second of waiting for duplicates.
        let message = request.message_mut();
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.execute().await.map_err(netlink("give a pod's gateway its address"))
}

async fn neighbour(handle: &Handle, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), NetworkError> {
    let request =
        handle.neighbours().add(index, ip).link_layer_address(&mac).state(NeighbourState::Permanent);
    request.execute().await.map_err(netlink("note where a pod is"))
}
