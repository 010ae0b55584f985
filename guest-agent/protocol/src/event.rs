//! What happened in the guest: events of the control connection, numbered and kept until the host has noted them.

use serde::{Deserialize, Serialize};

/// What happened in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A process ended and its streams are complete in the agent's rings.
    Exited {
        /// Which container.
        container: String,
        /// Which exec; none is the container's own process.
        exec: Option<String>,
        /// How.
        status: ExitStatus,
    },
    /// The kernel killed something in the container for want of memory.
    Oom {
        /// Which container.
        container: String,
        /// What it killed and why; absent when the kernel does not tell, as in a burst of kills.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        victim: Option<OomVictim>,
    },
    /// The agent has something to tell its people.
    Log {
        /// One line.
        message: String,
    },
}

/// A process that the kernel killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomVictim {
    /// Its id as the container sees it if that could be known before it was gone, else the guest's.
    pub pid: u32,
    /// Its name, which is the container's to choose: printable ASCII, at most [`OomVictim::NAME_MAX`] bytes.
    pub name: String,
    /// Which limit was hit.
    pub limit: OomLimit,
    /// That limit, bytes; 0 when it could not be read.
    pub limit_bytes: u64,
}

impl OomVictim {
    /// Longest name in bytes: the kernel's 15 bytes, each written as `\xff` at worst.
    pub const NAME_MAX: usize = 60;
}

/// A limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OomLimit {
    /// The container's own, or one that it has set below it.
    Container,
    /// That of all containers together ([`crate::Sandbox::memory`]).
    Pod,
    /// The guest itself ran dry.
    Vm,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code, 0 to 255; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the cgroup's OOM killer struck during its life.
    pub oom: bool,
}
