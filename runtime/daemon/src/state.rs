//! What the daemon's tasks and handlers share.

use crate::error::{ApiError, Result};
use crate::kubernetes::Kubernetes;
use crate::live::{Live, Phase};
use crate::names;
use crate::paths::Paths;
use crate::pods::LivePod;
use crate::registry::Transfers;
use crate::store::{PodRecord, Record, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use vial_api::{Container, ErrorKind, State};
use vial_image::ImageStore;
use vial_network::Network;
use vial_sandbox::log::OutputLog;
use vial_sandbox::upper::Uppers;
use vial_sandbox::{ContainerId, Host, PodId, Task, Turns};
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
    /// Declared objects.
    pub kubernetes: Kubernetes,
    live: Mutex<HashMap<ContainerId, Arc<Live>>>,
    pods: Mutex<HashMap<PodId, Arc<LivePod>>>,
    /// True from when the daemon is to end.
    pub stopping: watch::Sender<bool>,
    /// Held by who starts a container that is there, until the others can see that.
    pub start_gate: tokio::sync::Mutex<()>,
    /// Whose VM boots now.
    turns: Turns,
    /// The machine's boot id.
    pub boot: String,
}

/// What a shared daemon is passed around as.
pub type Shared = Arc<Daemon>;

/// What something is called in an error.
struct Words {
    one: &'static str,
    many: &'static str,
    list: &'static str,
}

/// Which of these names and ids is meant: a name, an id, or the beginning of one id only.
fn pick<'a>(
    wanted: &str,
    known: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    words: Words,
) -> Result<usize> {
    if let Some(exact) = known.clone().position(|(name, id)| name == wanted || id == wanted) {
        return Ok(exact);
    }
    let digits = !wanted.is_empty() && wanted.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut begin = known.clone().enumerate().filter(|(_, (_, id))| digits && id.starts_with(wanted));
    match (begin.next(), begin.next()) {
        (Some((index, _)), None) => Ok(index),
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorKind::InvalidArgument,
            format!("several {}' ids begin with {wanted}; write more digits", words.many),
        )),
        (None, _) => {
            let guess = names::suggest(wanted, known.map(|(name, _)| name));
            let hint =
                guess.map_or_else(|| format!("see: {}", words.list), |name| format!("did you mean {name}?"));
            Err(ApiError::new(
                ErrorKind::NoSuchContainer,
                format!("no {} is called {wanted}; {hint}", words.one),
            ))
        }
    }
}

/// A switch of the environment that is a number.
fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

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
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let at_once = number("VIAL_STARTS_AT_ONCE").unwrap_or(2 * processors);
        Arc::new(Self {
            paths,
            store,
            images,
            transfers: Arc::default(),
            uppers,
            launcher,
            registry,
            network,
            kubernetes: Kubernetes::default(),
            live: Mutex::default(),
            pods: Mutex::default(),
            stopping: watch::Sender::new(false),
            start_gate: tokio::sync::Mutex::default(),
            turns: Turns::new(at_once),
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
        Ok(Host {
            launcher: self.launcher.clone(),
            turns: self.turns.clone(),
            registry: self.registry.clone(),
            parts,
            start_within: std::time::Duration::from_secs(number("VIAL_START_TIMEOUT_S").unwrap_or(60)),
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
        self.store.tell();
    }

    fn pod_map(&self) -> MutexGuard<'_, HashMap<PodId, Arc<LivePod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after a pod of several from now on.
    pub fn adopt_pod(&self, id: &PodId, live: Arc<LivePod>) {
        self.pod_map().insert(id.clone(), live);
    }

    /// A pod of several that is looked after.
    pub fn pod(&self, id: &PodId) -> Option<Arc<LivePod>> {
        self.pod_map().get(id).cloned()
    }

    /// All of them.
    pub fn all_pods(&self) -> Vec<Arc<LivePod>> {
        self.pod_map().values().cloned().collect()
    }

    /// Looks after it no longer.
    pub fn forget_pod(&self, id: &PodId) {
        self.pod_map().remove(id);
        self.store.tell();
    }

    /// The pod of several of this name, id, or beginning of an id.
    ///
    /// # Errors
    /// When there is none, or several ids begin so.
    pub fn find_pod(&self, wanted: &str) -> Result<PodRecord> {
        let pods = self.store.pods()?;
        let known = pods.iter().map(|pod| (pod.name.as_str(), pod.id.as_str()));
        let words = Words { one: "pod", many: "pods", list: "vial pod ls" };
        Ok(pods[pick(wanted, known, words)?].clone())
    }

    /// The container of this name, id, or beginning of an id.
    ///
    /// # Errors
    /// When there is none, or several ids begin so.
    pub fn find(&self, wanted: &str) -> Result<Record> {
        let records = self.store.list()?;
        let known = records.iter().map(|record| (record.name.as_str(), record.id.as_str()));
        let words = Words { one: "container", many: "containers", list: "vial ps -a" };
        Ok(records[pick(wanted, known, words)?].clone())
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
            pod_name: record.pod_name.clone(),
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
            network: lease.map(crate::network::described),
            ports: crate::network::ports(lease),
            last_oom: task.as_ref().and_then(Task::last_oom),
            vmm_pid: task
                .filter(|_| matches!(state, State::Running | State::Paused))
                .and_then(|task| task.sandbox().vmm_pid())
                .and_then(|pid| u32::try_from(pid).ok()),
        }
    }
}
