//! What is seen of a pod on the machine.

use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A pod's sandbox and containers, and what was noted about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its containers by name: each was started so often, the first first. Older ones may be gone.
    pub containers: BTreeMap<String, Vec<Attempt>>,
    /// Containers with which something is being done just now; an empty name is the sandbox.
    pub busy: BTreeSet<String>,
    /// Why a container is not there yet.
    pub waiting: BTreeMap<String, Waiting>,
    /// What probes say, by [`Attempt::id`].
    pub health: BTreeMap<String, Health>,
}

impl Observed {
    /// The newest of a container.
    pub fn newest(&self, container: &str) -> Option<&Attempt> {
        self.containers.get(container)?.last()
    }

    /// Whether nothing of it is left on the machine.
    pub fn is_gone(&self) -> bool {
        self.sandbox == Sandbox::Absent && self.containers.values().all(Vec::is_empty)
    }

    /// All that run or are about to.
    pub fn active(&self) -> impl Iterator<Item = (&str, &Attempt)> {
        self.containers.iter().flat_map(|(name, attempts)| {
            attempts.iter().filter(|attempt| attempt.active).map(move |attempt| (name.as_str(), attempt))
        })
    }
}

/// A sandbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Sandbox {
    /// There is nothing of it.
    #[default]
    Absent,
    /// It is noted and has no VM.
    Stopped,
    /// Its VM is being made.
    Starting,
    /// It can have containers.
    Running {
        /// Since when; also tells this run of it from others.
        since: DateTime<Utc>,
        /// Its addresses.
        ips: Vec<IpAddr>,
    },
}

/// One start of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Whoever runs it knows it by this.
    pub id: String,
    /// From 0.
    pub number: u32,
    /// How many before it in a row did not last.
    pub failures: u32,
    /// The image as it was asked for.
    pub image: String,
    /// The image's identity.
    pub image_id: String,
    /// Where it is in its life.
    pub state: State,
    /// Something of it is still there that has to end.
    pub active: bool,
    /// Since when the sandbox ran in which it was started: which run of the sandbox that was. None: it was not noted.
    pub sandbox: Option<DateTime<Utc>>,
}

/// Where an attempt is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It is noted and does not run yet.
    Starting,
    /// Its command runs.
    Running {
        /// Since when.
        since: DateTime<Utc>,
    },
    /// It is over.
    Ended(End),
}

/// How an attempt ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct End {
    /// Exit status.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It met its memory limit.
    pub oom: bool,
    /// It never ran, and that was not its own doing: whoever was about to start it ended.
    pub is_lost_start: bool,
    /// In words.
    pub message: String,
    /// When its command ran first; none: it never did.
    pub started: Option<DateTime<Utc>>,
    /// When it was over.
    pub finished: Option<DateTime<Utc>>,
}

/// Why a container is not there yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// As kubectl shows it: `ErrImagePull`, `ImagePullBackOff`, `CreateContainerConfigError`, …
    pub reason: String,
    /// In words.
    pub message: String,
    /// When it was tried last.
    pub since: DateTime<Utc>,
    /// Not tried again before then.
    pub until: DateTime<Utc>,
    /// How often it was tried in vain.
    pub failures: u32,
}

/// What probes and hooks say of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Its start is over: its startup probe, if it has one, and its hook have worked.
    pub started: bool,
    /// It can be spoken to.
    pub ready: bool,
    /// Why it is to be ended.
    pub unhealthy: Option<String>,
}
