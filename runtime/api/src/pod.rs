//! Pods of several containers: `/v1/pods…`.
//!
//! Every container lives in a pod, that is in a VM. One that is made without naming a pod has one to itself, which comes and goes with it and is
//! not shown here. A pod that was made by name stays until it is removed; its containers share its network, its host name and its IPC.

use crate::network::{Network, NetworkMode, Port};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most containers that a pod may have at a time.
pub const MAX_CONTAINERS: u8 = 16;

/// Body of `POST /v1/pods`: makes a pod and, unless the query says `start=false`, starts it; answers [`crate::Created`] when it is ready for
/// containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatePod {
    /// Name of the pod; absent: one is made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Host name; absent: the pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Memory of all its containers together in bytes; absent: the daemon's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processors of all its containers together in thousandths; absent: the daemon's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milli_cpus: Option<u32>,
    /// How many containers may be in it at a time, 1 to [`MAX_CONTAINERS`]; absent: the daemon's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<u8>,
    /// Which network it is in.
    #[serde(default)]
    pub network: NetworkMode,
    /// Ports to publish on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Name servers instead of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// `name:address` entries for `/etc/hosts`; the address may be `host-gateway`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_hosts: Vec<String>,
    /// The caller's notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodState {
    /// It has no VM. The first container that is started in it makes one.
    Stopped,
    /// Its VM is being made.
    Starting,
    /// Its VM runs.
    Running,
    /// It is being removed.
    Removing,
}

impl PodState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Stopped, Self::Starting, Self::Running, Self::Removing];

    /// As it is written in tables and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Removing => "removing",
        }
    }

    /// What [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A pod as `pod ls` and `pod inspect` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: PodState,
    /// Why it is stopped, when that was nobody's wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Memory of all its containers together, bytes.
    pub memory: u64,
    /// Processors of all its containers together, thousandths.
    pub milli_cpus: u32,
    /// How many containers may be in it at a time.
    pub max_containers: u8,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// Its network while it runs; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Its published ports while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The caller's notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Process id of its VMM on the host while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// Its containers, newest first, ended ones too.
    pub containers: Vec<Member>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// Where it is in its life.
    pub state: crate::State,
}
