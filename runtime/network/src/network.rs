//! All pods' networks of one daemon: slots prepared ahead, ports, and the table.
//!
//! Nothing is touched before the first pod wants a network. What is kept in memory follows from the running pods' leases, which the daemon
//! stores: a new daemon hands them in and goes on.

use crate::address::{self, Numbers, Pool};
use crate::firewall::{self, Insertions};
use crate::links::{self, HostView, LINK_LOCAL};
use crate::ports::Port;
use crate::rules::{self, Published, Rules};
use crate::sysctl::{self, Forwarding};
use crate::{NetworkError, nft, nowhere, tap};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Slots that lie ready. One start in peace never waits; of many at once the others make their own meanwhile.
const READY: usize = 4;
/// Numbers that may turn out to be somebody else's before it is given up.
const ATTEMPTS: u32 = 64;

/// What a daemon's network is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for notes that are good until the host is restarted.
    pub run: PathBuf,
    /// Name of the nftables table.
    pub table: String,
    /// The pool that the administrator wants, as written.
    pub pool: Option<String>,
}

impl Config {
    /// The configuration of the daemon with this run folder. Daemons with other run folders have tables of their own.
    pub fn new(run: PathBuf, pool: Option<String>) -> Self {
        let table = if run.as_os_str() == "/run/vial" {
            "vial".into()
        } else {
            let hash =
                run.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
                });
            format!("vial_{:08x}", hash >> 32)
        };
        Self { run, table, pool }
    }

    /// There while the table may be.
    fn note(&self) -> PathBuf {
        self.run.join("network")
    }
}

/// What a pod was given: stored with it, and enough to find everything again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The host's end of its wire.
    pub interface: String,
    /// The pool that its address is from.
    pub pool: Ipv4Net,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// The gateway's.
    pub gateway_mac: [u8; 6],
    /// The gateway's address.
    pub gateway4: Ipv4Addr,
    /// Where IPv6 routes lead, and what they are to.
    pub route6: Option<(Ipv6Addr, ipnet::Ipv6Net)>,
    /// Largest packet.
    pub mtu: u32,
    /// Whether its ports are reachable under its IPv6 address from outside.
    pub publish6: bool,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Whether it asks its gateway for names, so that its helper must forward.
    #[serde(default)]
    pub forwarder: bool,
}

impl Lease {
    fn published(&self) -> Published {
        Published { v4: self.v4, v6: self.v6.filter(|_| self.publish6), ports: self.ports.clone() }
    }
}

/// A wire for a pod to come.
#[derive(Debug)]
pub struct Slot {
    /// What goes with it.
    pub lease: Lease,
    /// The VM's end.
    pub tap: OwnedFd,
}

/// All pods' networks. Clones are the same.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    forwarding: Forwarding,
    insertions: Insertions,
    /// Leases of pods that run or are about to, by interface.
    leases: Mutex<HashMap<String, Lease>>,
    /// Held over changes of the table, one at a time; none until the first pod.
    ready: tokio::sync::Mutex<Option<Arc<Ready>>>,
}

/// After the first pod.
#[derive(Debug)]
struct Ready {
    handle: rtnetlink::Handle,
    pool: Pool,
    numbers: Mutex<Numbers>,
    slots: Mutex<VecDeque<Slot>>,
    /// Held by whoever prepares slots.
    filling: tokio::sync::Mutex<()>,
    /// No more slots are prepared.
    closed: AtomicBool,
    mtu: u32,
    ipv6: Option<Ipv6>,
}

/// What pods can do with IPv6.
#[derive(Debug, Clone, Copy)]
struct Ipv6 {
    /// The host forwards: pods reach each other, and are reached on published ports.
    forwards: bool,
    /// They reach the outside.
    outside: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// The network of a daemon that found these pods running. Makes the host's state fit them: the table as it should be, or gone when nobody
    /// needs it. What fails is logged and tried again with the next pod.
    pub async fn open(config: Config, running: Vec<Lease>) -> Self {
        let leases =
            running.into_iter().map(|lease| (lease.interface.clone(), lease)).collect::<HashMap<_, _>>();
        let some = !leases.is_empty();
        let network = Self(Arc::new(Inner {
            forwarding: Forwarding::new(&config.run),
            insertions: Insertions::new(&config.run),
            config,
            leases: Mutex::new(leases),
            ready: tokio::sync::Mutex::default(),
        }));
        if some {
            if let Err(error) = network.ready().await {
                tracing::error!(%error, "the rules of running pods' networks can't be renewed");
            }
        } else if network.0.config.note().exists() {
            network.close(false).await;
        }
        network
    }

    /// Does what has to be done before the first pod; whether pods can have networks on this host is known then.
    ///
    /// # Errors
    /// When the host can't give any, in words for the user.
    pub async fn prepare(&self) -> Result<(), NetworkError> {
        self.ready().await.map(drop)
    }

    /// A wire for a pod; one that lies ready, else a new one.
    ///
    /// # Errors
    /// When the host can't give any, in words for the user.
    pub async fn slot(&self) -> Result<Slot, NetworkError> {
        let ready = self.ready().await?;
        let prepared = lock(&ready.slots).pop_front();
        let slot = match prepared {
            Some(slot) => slot,
            None => ready.make().await?,
        };
        lock(&self.0.leases).insert(slot.lease.interface.clone(), slot.lease.clone());
        tokio::spawn(async move { ready.fill().await });
        Ok(slot)
    }

    /// Lets packets to these ports through to the pod. The ports must be held.
    ///
    /// # Errors
    /// When nft refuses; nothing is published then.
    pub async fn publish(&self, lease: &Lease) -> Result<(), NetworkError> {
        lock(&self.0.leases).insert(lease.interface.clone(), lease.clone());
        let script = rules::publish(&self.0.config.table, &lease.published());
        if script.is_empty() {
            return Ok(());
        }
        // One at a time.
        let _ready = self.0.ready.lock().await;
        nft::run(&script).await
    }

    /// The pod is gone, or never came: its ports and its address are free.
    pub async fn release(&self, lease: &Lease) {
        let Some(lease) = lock(&self.0.leases).remove(&lease.interface) else { return };
        let ready = self.0.ready.lock().await;
        let script = rules::unpublish(&self.0.config.table, &lease.published());
        if !script.is_empty()
            && let Err(error) = nft::run(&script).await
        {
            // Somebody else removed them, or all: what must be there follows from the leases.
            tracing::warn!(%error, "a pod's ports can't be taken out of the rules; writing all of them anew");
            if let Some(ready) = &*ready
                && let Err(error) = nft::run(&self.table(&ready.pool, ready.ipv6)).await
            {
                tracing::error!(%error, "the rules of pods' networks can't be written");
            }
        }
        if let Some(ready) = &*ready
            && let Some(number) = ready.pool.number_of(lease.v4)
        {
            lock(&ready.numbers).give_back(number);
        }
    }

    /// Gives prepared slots up and, when no pods are left, everything else.
    pub async fn close(&self, pods_left: bool) {
        if let Some(ready) = self.0.ready.lock().await.take() {
            ready.closed.store(true, Ordering::SeqCst);
            let _idle = ready.filling.lock().await;
            // The descriptors go, and the interfaces with them.
            lock(&ready.slots).clear();
        }
        if pods_left {
            return;
        }
        if self.0.config.note().exists() {
            self.restore_host().await;
        }
    }

    async fn ready(&self) -> Result<Arc<Ready>, NetworkError> {
        let mut ready = self.0.ready.lock().await;
        if let Some(ready) = &*ready {
            return Ok(ready.clone());
        }
        let made = Arc::new(self.set_up().await?);
        *ready = Some(made.clone());
        Ok(made)
    }

    async fn set_up(&self) -> Result<Ready, NetworkError> {
        // What a host may lack, before anything of it is changed.
        nft::program()?;
        tap::open()?;
        let handle = links::connect()?;
        let view = links::look(&handle).await?;
        let leases: Vec<Lease> = lock(&self.0.leases).values().cloned().collect();
        let net = match (&self.0.config.pool, leases.first()) {
            (Some(text), _) => address::parse_pool(text)?,
            // The host may have got routes meanwhile that overlap: running pods are in their right.
            (None, Some(lease)) => lease.pool,
            (None, None) => address::choose(&view.used)?,
        };
        let pool = Pool::new(net, &machine_id());
        let used = leases.iter().filter_map(|lease| pool.number_of(lease.v4));
        let numbers = Mutex::new(Numbers::new(pool.numbers(), used));
        let ipv6 = match self.open_host(&handle, &view, &pool).await {
            Ok(ipv6) => ipv6,
            Err(error) => {
                if leases.is_empty() {
                    self.restore_host().await;
                }
                return Err(error);
            }
        };
        tracing::info!(pool = %pool.v4, ?ipv6, "pods' networks are set up");
        Ok(Ready {
            handle,
            pool,
            numbers,
            slots: Mutex::default(),
            filling: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            mtu: view.mtu,
            ipv6,
        })
    }

    /// Lets packets through the host; gives what it can do with IPv6.
    async fn open_host(
        &self,
        handle: &rtnetlink::Handle,
        view: &HostView,
        pool: &Pool,
    ) -> Result<Option<Ipv6>, NetworkError> {
        std::fs::write(self.0.config.note(), format!("{}\n", self.0.config.table))
            .map_err(NetworkError::system("note that there are rules of pods' networks"))?;
        let ipv6 = self.forward(view)?;
        nft::run(&self.table(pool, ipv6)).await?;
        self.lead_nowhere(handle, pool, ipv6).await;
        let plan = firewall::plan(&firewall::look().await, pool, &self.0.config.table);
        self.0.insertions.insert(&plan).await?;
        Ok(ipv6)
    }

    /// Takes all of that back.
    async fn restore_host(&self) {
        let removed = nft::run(&rules::remove(&self.0.config.table)).await;
        self.0.insertions.remove().await;
        let others = match links::connect() {
            Ok(handle) => {
                self.set_nowhere(&handle, &[]).await;
                links::look(&handle).await.is_ok_and(|view| others_forward(&view.interfaces))
            }
            Err(_) => true,
        };
        self.0.forwarding.off(others);
        match removed {
            Ok(()) => drop(std::fs::remove_file(self.0.config.note())),
            // The note stays, and the next daemon tries again.
            Err(error) => tracing::warn!(%error, "the rules of pods' networks can't be removed"),
        }
    }

    /// Switches forwarding on. That of IPv6 costs the host the routes that a router told it about, so it has to be on already
    /// where there are any.
    fn forward(&self, view: &HostView) -> Result<Option<Ipv6>, NetworkError> {
        let wanted = sysctl::has_ipv6();
        self.0.forwarding.on(wanted && !view.router_advertised)?;
        let forwards = wanted && sysctl::forwards6();
        Ok(wanted.then_some(Ipv6 { forwards, outside: forwards && view.default6 }))
    }

    /// Addresses that no pod has do not leave the host.
    async fn lead_nowhere(&self, handle: &rtnetlink::Handle, pool: &Pool, ipv6: Option<Ipv6>) {
        let mut nets: Vec<IpNet> = self.ranges(pool).into_iter().map(IpNet::from).collect();
        nets.extend(ipv6.map(|_| IpNet::from(pool.v6)));
        self.set_nowhere(handle, &nets).await;
    }

    async fn set_nowhere(&self, handle: &rtnetlink::Handle, nets: &[IpNet]) {
        if let Err(error) = nowhere::set(handle, nowhere::metric(&self.0.config.table), nets).await {
            tracing::warn!(%error, "packets for pods that are gone may leave this host, or their route stays");
        }
    }

    /// Where pods' IPv4 addresses are: today's pool, and those of pods that run. None overlaps another.
    fn ranges(&self, pool: &Pool) -> Vec<Ipv4Net> {
        let leases = lock(&self.0.leases);
        let ranges: Vec<Ipv4Net> = leases.values().map(|lease| lease.pool).chain([pool.v4]).collect();
        Ipv4Net::aggregate(&ranges)
    }

    fn table(&self, pool: &Pool, ipv6: Option<Ipv6>) -> String {
        let v4 = self.ranges(pool);
        let leases = lock(&self.0.leases);
        rules::whole(&Rules {
            table: self.0.config.table.clone(),
            v4,
            v6: ipv6.map(|_| pool.v6),
            published: leases.values().map(Lease::published).collect(),
        })
    }
}

impl Ready {
    /// Makes one slot.
    async fn make(&self) -> Result<Slot, NetworkError> {
        for _ in 0..ATTEMPTS {
            let number = lock(&self.numbers).take();
            let number = number.ok_or_else(|| NetworkError::Full(self.pool.numbers().len() as u32))?;
            match links::wire(&self.handle, &self.pool, number, self.mtu, self.ipv6.is_some()).await {
                Ok(Some(wire)) => {
                    return Ok(Slot { lease: self.lease(number, wire.interface), tap: wire.tap });
                }
                // Somebody else's: it stays marked as used.
                Ok(None) => {}
                Err(error) => {
                    lock(&self.numbers).give_back(number);
                    return Err(error);
                }
            }
        }
        Err(NetworkError::Full(self.pool.numbers().len() as u32))
    }

    fn lease(&self, number: u32, interface: String) -> Lease {
        let v4 = self.pool.v4_at(number);
        let everything = ipnet::Ipv6Net::default();
        let route6 = self.ipv6.filter(|ipv6| ipv6.forwards).map(|ipv6| {
            // Without a way out no default route: programs would try IPv6 first and wait.
            (LINK_LOCAL, if ipv6.outside { everything } else { self.pool.v6 })
        });
        Lease {
            interface,
            pool: self.pool.v4,
            v4,
            v6: self.ipv6.map(|_| self.pool.v6_at(number)),
            mac: address::mac(v4),
            gateway_mac: address::mac(self.pool.gateway4()),
            gateway4: self.pool.gateway4(),
            route6,
            mtu: self.mtu,
            publish6: self.ipv6.is_some_and(|ipv6| ipv6.forwards),
            ports: Vec::new(),
            forwarder: false,
        }
    }

    /// Makes slots until enough lie ready. One filler at a time; a failure shows when somebody needs a slot.
    async fn fill(&self) {
        let Ok(_one) = self.filling.try_lock() else { return };
        while lock(&self.slots).len() < READY && !self.closed.load(Ordering::SeqCst) {
            match self.make().await {
                Ok(slot) => lock(&self.slots).push_back(slot),
                Err(error) => return tracing::warn!(%error, "no network slot can be prepared"),
            }
        }
    }
}

/// Whether somebody else on this host may need packets to be forwarded, by the names of interfaces.
fn others_forward(interfaces: &[String]) -> bool {
    const ENGINES: [&str; 12] =
        ["vial", "docker", "br-", "virbr", "podman", "cni", "lxc", "lxd", "flannel", "cali", "kube", "wg"];
    interfaces.iter().any(|name| ENGINES.iter().any(|prefix| name.starts_with(prefix)))
}

fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_folder_has_a_table_of_its_own() {
        let table = |run: &str| Config::new(run.into(), None).table;
        assert_eq!(table("/run/vial"), "vial");
        assert_ne!(table("/run/a"), table("/run/b"));
        assert!(table("/run/a").starts_with("vial_"));
    }

    #[test]
    fn forwarding_stays_for_others() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(!others_forward(&names(&["lo", "eth0", "wlan0"])));
        assert!(others_forward(&names(&["lo", "docker0"])));
        assert!(others_forward(&names(&["vial3"])));
    }
}
