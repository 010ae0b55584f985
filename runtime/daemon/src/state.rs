//! What the daemon's tasks and handlers share.

use crate::error::{ApiError, Result};
use crate::live::{Live, Phase};
use crate::names;
use crate::paths::Paths;
use crate::registry::Transfers;
use crate::store::{Record, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use vial_api::{Container, ErrorKind, State};
use vial_image::ImageStore;
use vial_network::{Network, address};
use vial_sandbox::log::OutputLog;
use vial_sandbox::upper::Uppers;
use vial_sandbox::{ContainerId, Host};
use vial_vm::{Launcher, Parts, Registry};

/// The daemon's insides.
#[derive(Debug)]
pub struct Daemon {
    /// Its folders.
    pub paths: Paths,
    /// What it remembers.
    pub store: Store,
    /// Images.
    pub images: ImageStore,
    /// Pulls and pushes that are going on.
    pub transfers: Arc<Transfers>,
    /// Writable layers.
    pub uppers: Uppers,
    /// Makes VM processes.
    pub launcher: Launcher,
    /// Knows them.
    pub registry: Registry,
    /// Pods' networks.
    pub network: Network,
    live: Mutex<HashMap<ContainerId, Arc<Live>>>,
    /// True from when the daemon is to end.
    pub stopping: watch::Sender<bool>,
    /// Held by who starts a container that is there, until the others can see that.
    pub start_gate: tokio::sync::Mutex<()>,
    /// The machine's boot id.
    pub boot: String,
}

/// What a shared daemon is passed around as.
pub type Shared = Arc<Daemon>;

impl Daemon {
    /// Puts the parts together.
    #[expect(clippy::too_many_arguments, reason = "called once, with one of each")]
    pub fn new(
        paths: Paths,
        store: Store,
        images: ImageStore,
        uppers: Uppers,
        launcher: Launcher,
        registry: Registry,
        boot: String,
        network: Network,
    ) -> Shared {
        Arc::new(Self {
            paths,
            store,
            images,
            transfers: Arc::default(),
            uppers,
            launcher,
            registry,
            network,
            live: Mutex::default(),
            stopping: watch::Sender::new(false),
            start_gate: tokio::sync::Mutex::default(),
            boot,
        })
    }

    fn live_map(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What pods are made with; looked for at each start, so that an upgrade of the parts counts at once.
    ///
    /// # Errors
    /// When a part is missing, or there is no KVM.
    pub fn host(&self) -> Result<Host> {
        let parts = Parts::find().and_then(|parts| parts.require_guest().map(|()| parts))?;
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            return Err(ApiError::new(
                ErrorKind::NoVirtualisation,
                format!(
                    "this machine gives Vial no virtual machines (/dev/kvm: {error}); ask vial doctor what to do"
                ),
            ));
        }
        let seconds = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        Ok(Host {
            launcher: self.launcher.clone(),
            registry: self.registry.clone(),
            parts,
            start_within: std::time::Duration::from_secs(seconds("VIAL_START_TIMEOUT_S").unwrap_or(60)),
            verbose: std::env::var_os("VIAL_POD_DEBUG").is_some(),
        })
    }

    /// Looks after a container from now on.
    pub fn adopt(&self, id: &ContainerId, live: Arc<Live>) {
        self.live_map().insert(id.clone(), live);
    }

    /// A container that is looked after.
    pub fn live(&self, id: &ContainerId) -> Option<Arc<Live>> {
        self.live_map().get(id).cloned()
    }

    /// All containers that are looked after.
    pub fn all_live(&self) -> Vec<Arc<Live>> {
        self.live_map().values().cloned().collect()
    }

    /// Looks after it no longer.
    pub fn forget(&self, id: &ContainerId) {
        self.live_map().remove(id);
    }

    /// The container of this name, id, or beginning of an id.
    ///
    /// # Errors
    /// When there is none, or several ids begin so.
    pub fn find(&self, wanted: &str) -> Result<Record> {
        let records = self.store.list()?;
        let exact = records.iter().find(|record| record.name == wanted || record.id.as_str() == wanted);
        if let Some(record) = exact {
            return Ok(record.clone());
        }
        let digits = !wanted.is_empty() && wanted.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut begin = records.iter().filter(|record| digits && record.id.as_str().starts_with(wanted));
        match (begin.next(), begin.next()) {
            (Some(record), None) => Ok(record.clone()),
            (Some(_), Some(_)) => Err(ApiError::new(
                ErrorKind::InvalidArgument,
                format!("several containers' ids begin with {wanted}; write more digits"),
            )),
            (None, _) => {
                let guess = names::suggest(wanted, records.iter().map(|record| record.name.as_str()));
                let hint = guess
                    .map_or_else(|| "see: vial ps -a".to_owned(), |name| format!("did you mean {name}?"));
                Err(ApiError::new(
                    ErrorKind::NoSuchContainer,
                    format!("no container is called {wanted}; {hint}"),
                ))
            }
        }
    }

    /// A container's log: that which is being written, else the one on the disk.
    pub fn log(&self, id: &ContainerId) -> Arc<OutputLog> {
        match self.live(id) {
            Some(live) => live.log.clone(),
            None => OutputLog::of_ended(&self.paths.log(id.as_str())),
        }
    }

    /// Where a container is in its life, by the store and what is seen of it now.
    pub fn state(&self, record: &Record) -> State {
        let live = self.live(&record.id);
        match (record.state, live) {
            (State::Exited, Some(live)) if live.is_restarting() => State::Restarting,
            (State::Running, Some(live)) if live.is_paused() => State::Paused,
            (state, _) => state,
        }
    }

    /// A container as the API shows it.
    pub fn describe(&self, record: &Record) -> Container {
        let state = self.state(record);
        let task = self.live(&record.id).and_then(|live| match live.phase() {
            Phase::Running(task) => Some(task),
            _ => None,
        });
        let lease = record.network.as_ref().filter(|_| matches!(state, State::Running | State::Paused));
        Container {
            id: record.id.to_string(),
            name: record.name.clone(),
            pod: record.pod.to_string(),
            image: record.image.clone(),
            image_id: record.image_id.clone(),
            command: record.args.clone(),
            state,
            exit: record.exit.clone(),
            created_ms: record.created_ms,
            started_ms: record.started_ms,
            finished_ms: record.finished_ms,
            memory: record.memory,
            milli_cpus: record.milli_cpus,
            auto_remove: record.auto_remove,
            terminal: vial_sandbox::spec::has_terminal(&record.spec),
            stdin: record.stdin,
            labels: record.request.labels.clone(),
            restart: record.request.restart,
            restart_count: record.restarts,
            network: lease.map(|lease| vial_api::Network {
                ipv4: lease.v4.into(),
                ipv6: lease.v6.map(Into::into),
                gateway: lease.gateway4.into(),
                mac: address::mac_text(lease.mac),
                interface: lease.interface.clone(),
            }),
            ports: lease
                .map(|lease| lease.ports.iter().map(crate::network::shown).collect())
                .unwrap_or_default(),
            vmm_pid: task
                .filter(|_| matches!(state, State::Running | State::Paused))
                .and_then(|task| task.sandbox().vmm_pid())
                .and_then(|pid| u32::try_from(pid).ok()),
        }
    }
}
