//! A pod's network, between what was asked for, what the host gives, and what the guest is told.

use crate::error::{ApiError, Result};
use crate::state::Shared;
use crate::store::Store;
use agent_protocol::{EtcFiles, Neighbour, Route};
use std::net::IpAddr;
use std::os::fd::AsFd;
use vial_api::{CreateContainer, ErrorKind, NetworkMode, PodState, State};
use vial_network::helper::{self, MAX_PORTS};
use vial_network::{Held, Lease, Network, NetworkError, Port, Protocol, Slot, address, names, ports};
use vial_sandbox::{PodId, Sandbox, SandboxPlan};
use vial_vm::{NetSpec, Registry, TapSource, VmState};

/// Where the host says whom it asks for names, and where systemd-resolved says whom it asks itself.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// Entries that a container may add to its /etc/hosts.
const MAX_HOSTS: usize = 256;
/// The word that stands for the gateway in such an entry, as Docker has it.
const HOST_GATEWAY: &str = "host-gateway";

/// What is asked of a pod's network.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which one.
    pub mode: NetworkMode,
    /// Ports to publish.
    pub ports: &'a [vial_api::Port],
    /// Name servers instead of the host's.
    pub dns: &'a [IpAddr],
    /// Entries for /etc/hosts.
    pub add_hosts: &'a [String],
}

impl<'a> From<&'a CreateContainer> for Wanted<'a> {
    fn from(request: &'a CreateContainer) -> Self {
        let CreateContainer { network, ports, dns, add_hosts, .. } = request;
        Self { mode: *network, ports, dns, add_hosts }
    }
}

/// What can be said about it without looking at anything else.
///
/// # Errors
/// When it makes no sense.
pub fn check(wanted: Wanted<'_>) -> Result<()> {
    let gateway = match wanted.mode {
        NetworkMode::Default | NetworkMode::Routed => Some(IpAddr::from([0; 4])),
        NetworkMode::None if wanted.ports.is_empty() => None,
        NetworkMode::None => {
            return Err(invalid(
                "without a network there are no ports to publish: leave out -p or --network none",
            ));
        }
    };
    if wanted.ports.len() > MAX_PORTS {
        let message = format!("{} ports to publish; a pod may have {MAX_PORTS}", wanted.ports.len());
        return Err(invalid(message));
    }
    add_hosts(wanted.add_hosts, gateway).map(drop)
}

/// Whether a pod may start without a network that this host can't give.
fn may_lack(wanted: Wanted<'_>) -> bool {
    wanted.mode == NetworkMode::Default && wanted.ports.is_empty()
}

fn lacking(error: &NetworkError) -> String {
    format!("this container has no network but its loopback: {error} (vial doctor tells more)")
}

/// What a new container will have to do without.
pub async fn foresee(daemon: &Shared, wanted: Wanted<'_>) -> Option<String> {
    if !may_lack(wanted) {
        return None;
    }
    daemon.network.prepare().await.err().filter(NetworkError::is_of_the_host).map(|error| lacking(&error))
}

/// The wire of a pod; none when it may do without, and has to.
async fn slot(daemon: &Shared, wanted: Wanted<'_>) -> Result<Option<Slot>> {
    match daemon.network.slot().await {
        Ok(slot) => Ok(Some(slot)),
        Err(error) if may_lack(wanted) && error.is_of_the_host() => {
            tracing::warn!("{}", lacking(&error));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives a pod that is about to start the network that was asked for: its lease, and the sockets that hold its ports.
///
/// # Errors
/// When a port is taken, or the host has no network to give.
pub async fn give(
    daemon: &Shared,
    wanted: Wanted<'_>,
    plan: &mut SandboxPlan,
) -> Result<(Option<Lease>, Vec<Held>)> {
    let hostname = plan.hostname.clone();
    let host = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let files = |hosts: String, resolv_conf: String| {
        Some(EtcFiles { hosts, resolv_conf, hostname: format!("{hostname}\n") })
    };
    // Before there is a wire to give back.
    let ports: Vec<Port> = wanted.ports.iter().map(port).collect();
    let (ports, held) = ports::hold(&ports).map_err(|error| in_use(daemon, error))?;
    let slot = if wanted.mode == NetworkMode::None { None } else { slot(daemon, wanted).await? };
    let Some(slot) = slot else {
        let (resolv, _) = names::resolver(&host, None, wanted.dns, false);
        let added = add_hosts(wanted.add_hosts, None)?;
        plan.files = files(names::hosts(&hostname, &[], &added), names::resolv_conf(&resolv, wanted.dns));
        return Ok((None, held));
    };
    let mut lease = slot.lease;
    lease.ports = ports;
    let upstream = std::fs::read_to_string(UPSTREAM).ok();
    let outside6 = lease.route6.is_some_and(|(_, net)| net.prefix_len() == 0);
    let (resolv, servers) = names::resolver(&host, upstream.as_deref(), wanted.dns, outside6);
    let gateway = IpAddr::from(lease.gateway4);
    let servers = match servers {
        names::Servers::Direct(servers) => servers,
        names::Servers::Forwarder => {
            lease.forwarder = true;
            vec![gateway]
        }
    };
    let own: Vec<IpAddr> = [Some(lease.v4.into()), lease.v6.map(Into::into)].into_iter().flatten().collect();
    let added = add_hosts(wanted.add_hosts, Some(gateway))?;
    plan.files = files(names::hosts(&hostname, &own, &added), names::resolv_conf(&resolv, &servers));
    plan.net = Some(NetSpec {
        id: "eth0".into(),
        tap: TapSource::Open(slot.tap),
        mac: Some(address::mac_text(lease.mac)),
    });
    plan.network = Some(guest(&lease, own));
    Ok((Some(lease), held))
}

/// Notes a pod's lease and lets its ports through, while other things of its start are done.
///
/// # Errors
/// When the store can't, or nft refuses.
pub async fn publish(daemon: &Shared, pod: &PodId, lease: Option<&Lease>) -> Result<()> {
    let (noting, pod, noted) = (daemon.clone(), pod.clone(), lease.cloned());
    let noted = tokio::task::spawn_blocking(move || noting.store.set_network(&pod, noted.as_ref()));
    let published = async {
        match lease {
            Some(lease) => daemon.network.publish(lease).await,
            None => Ok(()),
        }
    };
    let (noted, published) = tokio::join!(noted, published);
    noted??;
    Ok(published?)
}

fn guest(lease: &Lease, addresses: Vec<IpAddr>) -> agent_protocol::Network {
    let gateway_mac = address::mac_text(lease.gateway_mac);
    let neighbour = |ip: IpAddr| Neighbour { ip, mac: gateway_mac.clone() };
    let default = Route { destination: IpAddr::from([0; 4]), length: 0, gateway: lease.gateway4.into() };
    let v6 = lease.route6.map(|(gateway, net)| Route {
        destination: net.network().into(),
        length: net.prefix_len(),
        gateway: gateway.into(),
    });
    let neighbours = [Some(lease.gateway4.into()), lease.route6.map(|(gateway, _)| gateway.into())];
    agent_protocol::Network {
        mac: address::mac_text(lease.mac),
        mtu: lease.mtu,
        addresses,
        routes: [Some(default), v6].into_iter().flatten().collect(),
        neighbours: neighbours.into_iter().flatten().map(neighbour).collect(),
    }
}

/// Reads `name:address` entries.
fn add_hosts(entries: &[String], gateway: Option<IpAddr>) -> Result<Vec<(String, IpAddr)>> {
    if entries.len() > MAX_HOSTS {
        return Err(invalid(format!("more than {MAX_HOSTS} entries for /etc/hosts")));
    }
    let entry = |text: &String| {
        let (name, ip) =
            text.split_once([':', '=']).ok_or_else(|| invalid(format!("{text:?} is not NAME:ADDRESS")))?;
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        let ip = match (bare, gateway) {
            (HOST_GATEWAY, Some(gateway)) => gateway,
            (HOST_GATEWAY, None) => return Err(invalid("without a network there is no host-gateway")),
            (text, _) => {
                text.parse().map_err(|_| invalid(format!("{text:?} is no address (nor {HOST_GATEWAY})")))?
            }
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
            return Err(invalid(format!("{name:?} is no host name")));
        }
        Ok((name.to_owned(), ip))
    };
    entries.iter().map(entry).collect()
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidArgument, message)
}

fn port(port: &vial_api::Port) -> Port {
    let protocol = match port.protocol {
        vial_api::Protocol::Tcp => Protocol::Tcp,
        vial_api::Protocol::Udp => Protocol::Udp,
    };
    Port { ip: port.ip, host: port.host, pod: port.container, protocol }
}

fn shown(port: &Port) -> vial_api::Port {
    let protocol = match port.protocol {
        Protocol::Tcp => vial_api::Protocol::Tcp,
        Protocol::Udp => vial_api::Protocol::Udp,
    };
    vial_api::Port { ip: port.ip, host: port.host, container: port.pod, protocol }
}

/// A pod's network as the API shows it.
pub fn described(lease: &Lease) -> vial_api::Network {
    vial_api::Network {
        ipv4: lease.v4.into(),
        ipv6: lease.v6.map(Into::into),
        gateway: lease.gateway4.into(),
        mac: address::mac_text(lease.mac),
        interface: lease.interface.clone(),
    }
}

/// A pod's published ports as the API shows them.
pub fn ports(lease: Option<&Lease>) -> Vec<vial_api::Port> {
    lease.map(|lease| lease.ports.iter().map(shown).collect()).unwrap_or_default()
}

/// Names the container or pod that has a port, if it is one of ours.
fn in_use(daemon: &Shared, error: NetworkError) -> ApiError {
    let NetworkError::PortInUse { port, by } = &error else { return error.into() };
    let has = |lease: &Lease| {
        lease.ports.iter().any(|p| {
            *port == format!("{}/{}", p.host, p.protocol)
                || port.ends_with(&format!(":{}/{}", p.host, p.protocol))
        })
    };
    let holders = holders(&daemon.store).unwrap_or_default();
    let by = holders
        .into_iter()
        .find(|holder| has(&holder.lease))
        .map_or_else(|| by.clone(), |holder| holder.name);
    NetworkError::PortInUse { port: port.clone(), by }.into()
}

/// Who is said to run and has a network.
struct Holder {
    /// In words.
    name: String,
    pod: PodId,
    lease: Lease,
}

fn holders(store: &Store) -> Result<Vec<Holder>> {
    let alone = store.list()?.into_iter().filter_map(|record| {
        let runs = record.pod_name.is_none() && record.state == State::Running;
        let lease = record.network.filter(|_| runs)?;
        Some(Holder { name: format!("container {}", record.name), pod: record.pod, lease })
    });
    let pods = store.pods()?.into_iter().filter_map(|pod| {
        let lease = pod.network.filter(|_| pod.state == PodState::Running)?;
        Some(Holder { name: format!("pod {}", pod.name), pod: pod.id, lease })
    });
    Ok(alone.chain(pods).collect())
}

/// Leases of the pods whose VMs live and that are said to run.
///
/// # Errors
/// When the store can't be read.
pub fn running(store: &Store, registry: &Registry) -> Result<Vec<Lease>> {
    let alive = |pod: &PodId| {
        let info = pod.vm_name().parse().ok().and_then(|id| registry.info(&id).ok());
        info.is_some_and(|info| matches!(info.state, VmState::Running))
    };
    Ok(holders(store)?.into_iter().filter(|holder| alive(&holder.pod)).map(|holder| holder.lease).collect())
}

/// How often a pod's helper that something killed is started again.
const HELPERS: u32 = 16;
/// How long a VM may take to end after its helper. Mostly both are killed at once, and then there is nothing to be started.
const TOGETHER: std::time::Duration = std::time::Duration::from_secs(1);

/// Starts what serves a running pod beside the kernel, if it needs that, and starts it again when it is killed.
///
/// # Errors
/// When it can't be started.
pub fn help(sandbox: &Sandbox, lease: &Lease, held: &[Held]) -> Result<(), NetworkError> {
    help_times(sandbox, lease, held, HELPERS)
}

fn help_times(sandbox: &Sandbox, lease: &Lease, held: &[Held], times: u32) -> Result<(), NetworkError> {
    let resolver = if lease.forwarder { helper::resolver_sockets(lease)? } else { None };
    if held.is_empty() && resolver.is_none() {
        return Ok(());
    }
    // A pod whose VM is gone already needs no help.
    let Some(process) = sandbox.vm().process() else { return Ok(()) };
    let meta = sandbox.vm().meta();
    let mut child =
        helper::spawn(lease, process.as_fd(), meta.uid, meta.cgroup.as_deref(), held, resolver.as_ref())?;
    let (sandbox, lease) = (sandbox.clone(), lease.clone());
    tokio::spawn(async move {
        // It ends with its VM; somebody has to hear that.
        let _ = child.wait().await;
        if tokio::time::timeout(TOGETHER, sandbox.over()).await.is_ok() {
            return;
        }
        let vm = sandbox.vm().id();
        if times == 0 {
            return tracing::error!(%vm, "a pod's network helper ended too often; its ports are reached, but not by [::1]");
        }
        tracing::warn!(%vm, "a pod's network helper was killed; it is started again");
        if let Err(error) = help_again_times(&sandbox, &lease, times - 1) {
            tracing::error!(%vm, %error, "a pod's network helper can't be started again");
        }
    });
    Ok(())
}

/// The same for a pod that was found running: its helper usually lives, and then its sockets are taken.
///
/// # Errors
/// When it can't be started.
pub fn help_again(sandbox: &Sandbox, lease: &Lease) -> Result<(), NetworkError> {
    help_again_times(sandbox, lease, HELPERS)
}

fn help_again_times(sandbox: &Sandbox, lease: &Lease, times: u32) -> Result<(), NetworkError> {
    let held = match ports::hold(&lease.ports) {
        Ok((_, held)) => held,
        Err(NetworkError::PortInUse { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    help_times(sandbox, lease, &held, times)
}

/// Takes a pod's network back, after its VM is gone.
pub async fn release(network: &Network, lease: Option<&Lease>) {
    if let Some(lease) = lease {
        network.release(lease).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_for_hosts_are_checked() {
        let gateway = IpAddr::from([10, 77, 0, 1]);
        let read = |text: &str| add_hosts(&[text.to_owned()], Some(gateway));
        assert_eq!(read("db:10.0.0.9").unwrap(), [("db".into(), IpAddr::from([10, 0, 0, 9]))]);
        assert_eq!(read("h:host-gateway").unwrap(), [("h".into(), gateway)]);
        assert_eq!(read("six:fd00::1").unwrap()[0].1.to_string(), "fd00::1");
        assert_eq!(read("six:[fd00::1]").unwrap()[0].1.to_string(), "fd00::1");
        for bad in ["db", "db:", ":1.2.3.4", "a b:1.2.3.4", "a\n:1.2.3.4", "db:localhost"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(add_hosts(&["h:host-gateway".into()], None).is_err());
    }
}
