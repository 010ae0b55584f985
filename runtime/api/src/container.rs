//! Containers and the pods that they live in: `/v1/containers…`.
//!
//! A pod is one VM. A container that is made without naming a pod has one to itself; see [`crate::pod`] for the others.

use crate::network::{Network, NetworkMode, Port};
use crate::{LogOptions, RestartPolicy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Body of `POST /v1/containers` (make, start, answer [`Created`]) and of `POST /v1/containers/run` (make, upgrade, start,
/// stream).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateContainer {
    /// Name or id of the image.
    pub image: String,
    /// Name of the container; absent: one is made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name or id of the pod that it is to live in; absent: one of its own. What a pod's containers share (host name, network, ports, name
    /// servers, hosts) is the pod's, and must not be asked for here then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Command and arguments; empty: the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Instead of the image's entrypoint. Some but empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=VALUE`, over the image's; a `KEY` alone removes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Instead of the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Instead of the image's user: `user`, `uid`, `user:group`, `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Host name; absent: the container's short id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Memory of the container in bytes; absent: the daemon's default, or seven eighths of its pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processors of the container in thousandths; absent: the daemon's default, or all of its pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milli_cpus: Option<u32>,
    /// How many processes and threads it may have; absent: the daemon's default; 0: as many as the guest can hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Size of the writable layer in bytes; absent: the daemon's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Whether standard input is kept open; otherwise it is /dev/null.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal of this size instead of plain streams; all output comes as standard output then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Whether the daemon removes the container when it has ended.
    #[serde(default)]
    pub auto_remove: bool,
    /// Which network its pod is in.
    #[serde(default)]
    pub network: NetworkMode,
    /// Ports to publish on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Name servers instead of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// `name:address` entries for its `/etc/hosts`; the address may be `host-gateway`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_hosts: Vec<String>,
    /// Whether a [`crate::frame::Kind::Timing`] frame is wanted.
    #[serde(default)]
    pub timing: bool,
    /// The caller's notes: `KEY=VALUE` in `ps --filter label=` and `inspect`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether the daemon starts it again when it has ended.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_no")]
    pub restart: RestartPolicy,
    /// Bounds of its log.
    #[serde(default, skip_serializing_if = "LogOptions::is_default")]
    pub log: LogOptions,
    /// Its rights, as far as they are not the usual ones.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// Volumes of its pod that it sees; only what brings volumes into pods (declared Pods) can have any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<VolumeMount>,
}

/// A container's rights beside or below the usual ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// Its root file system can't be written.
    #[serde(default)]
    pub read_only: bool,
    /// No program gives it more rights than it has (`no_new_privs`).
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Capabilities beside the usual ones, without `CAP_`; `ALL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Of the usual ones, those that it has not; `ALL`. What is added comes after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Groups beside those that its user has in the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
}

impl Security {
    /// Whether it is what every container has.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A volume of the pod in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Below the guest's place of volumes: `empty/NAME`, `files/NAME[/path]`.
    pub source: String,
    /// An absolute path in the container.
    pub path: String,
    /// It can't be written there.
    #[serde(default)]
    pub read_only: bool,
}

/// How large a terminal is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters in a line; 0 is unknown.
    pub cols: u16,
    /// Lines; 0 is unknown.
    pub rows: u16,
}

impl TerminalSize {
    /// Payload of a [`crate::frame::Kind::Resize`].
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.cols.to_le_bytes(), self.rows.to_le_bytes());
        [a, b, c, d]
    }

    /// Reads such a payload; none when it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d] = *bytes else { return None };
        Some(Self { cols: u16::from_le_bytes([a, b]), rows: u16::from_le_bytes([c, d]) })
    }
}

/// Answer of `POST /v1/containers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it has to do without, in words for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It exists and has never been started.
    Created,
    /// Its VM is being made.
    Starting,
    /// Its command runs.
    Running,
    /// Its VM stands still (`vial pause`).
    Paused,
    /// It has ended, and its restart policy will start it again in a moment.
    Restarting,
    /// Its command is over, or its VM is, or its start failed.
    Exited,
    /// It is being removed.
    Removing,
    /// It could not be removed; `vial rm` and the next start of the daemon try again.
    Dead,
}

impl State {
    /// As it is written in tables and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// Every state, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Exited,
        Self::Removing,
        Self::Dead,
    ];

    /// What [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether it has a VM, or will have one without being asked again: what `ps` shows without `-a`.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// How a container's (or an exec's) process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + signal when a signal ended it; 125 to 127 when it could not be run; 255 when its VM is gone and
    /// nobody knows.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether memory ran out during its life.
    #[serde(default)]
    pub oom: bool,
    /// Why, when it was not the process's own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A container as `ps` and `inspect` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of the pod, that is the VM, that it lives in.
    pub pod: String,
    /// Name of that pod; absent: the container has it to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// The image as it was asked for.
    pub image: String,
    /// Id of the image.
    pub image_id: String,
    /// Entrypoint and arguments as run.
    pub command: Vec<String>,
    /// Where it is in its life.
    pub state: State,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// Milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
    /// Memory of the container, bytes.
    pub memory: u64,
    /// Processors in thousandths.
    pub milli_cpus: u32,
    /// Whether it goes when it has ended.
    pub auto_remove: bool,
    /// Whether it has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Whether its standard input is kept open.
    #[serde(default)]
    pub stdin: bool,
    /// The caller's notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether the daemon starts it again when it has ended.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_no")]
    pub restart: RestartPolicy,
    /// How often its restart policy has started it since a person did.
    #[serde(default)]
    pub restart_count: u32,
    /// Its network while it runs; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Its published ports while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What the kernel killed last in it for want of memory while it went on: the process and the limit, in words. Always there,
    /// so that templates can ask for it.
    #[serde(default)]
    pub last_oom: Option<String>,
    /// Process id of its VMM on the host while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
}

/// Query of `GET /v1/containers`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    /// Those that do not run too.
    #[serde(default)]
    pub all: bool,
}

/// Query of `GET /v1/containers/{id}/logs`, whose answer is a body of [`crate::frame`]s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsQuery {
    /// Go on until the container ends.
    #[serde(default)]
    pub follow: bool,
    /// Of what is there, only so many lines at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// Not what is older, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Not what is newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Each line with its time in front.
    #[serde(default)]
    pub timestamps: bool,
}

/// Query of `POST /v1/containers/{id}/attach`, an upgrade. The offsets say what the client has already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachQuery {
    /// First byte of standard output wanted.
    #[serde(default)]
    pub stdout: u64,
    /// First byte of standard error wanted.
    #[serde(default)]
    pub stderr: u64,
    /// Instead of those two: only what comes from now on, after a [`crate::frame::Kind::Position`].
    #[serde(default)]
    pub tail: bool,
    /// Whether the client will send standard input, beginning where the first [`crate::frame::Kind::StdinTaken`] says.
    #[serde(default)]
    pub stdin: bool,
}

/// Body of `POST /v1/containers/{id}/exec`, an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Command and arguments.
    pub command: Vec<String>,
    /// `KEY=VALUE`, over the container's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Instead of the container's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Instead of the container's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether standard input will come.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal of this size instead of plain streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// Body of `POST /v1/containers/{id}/archive`, an upgrade: a tar as standard output, or with `put` as standard input; then the end, as of
/// an exec whose standard error says why it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// What or where in the container.
    pub path: String,
    /// If it is a link, what that points to.
    #[serde(default)]
    pub follow: bool,
    /// Files go into the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put: Option<Put>,
}

/// How files are put into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The first folder of the tar is left out, what is in it is not.
    #[serde(default)]
    pub contents: bool,
    /// Owners and groups are the tar's; otherwise all is root's.
    #[serde(default)]
    pub owners: bool,
    /// Any tar, whose entries keep their names, into a folder that is there. Otherwise one file or folder by the rules of cp.
    #[serde(default)]
    pub stream: bool,
}

/// Answer of `GET /v1/containers/{id}/stats`: what a container uses now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The guest's clock when this was read, microseconds; differences tell how much time went by.
    pub at_us: u64,
    /// Processor time so far, microseconds.
    pub cpu_usec: u64,
    /// Memory, without copies of files that nobody has used for a while; bytes.
    pub memory_bytes: u64,
    /// Limit of its memory; bytes.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Read from disks; bytes.
    pub read_bytes: u64,
    /// Written to disks; bytes.
    pub written_bytes: u64,
    /// Received by its pod; bytes.
    pub received_bytes: u64,
    /// Sent by its pod; bytes.
    pub sent_bytes: u64,
}

/// One of the answer of `GET /v1/containers/{id}/top`: a process as its container sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's; 0 is none.
    pub ppid: u32,
    /// Its effective user.
    pub uid: u32,
    /// The kernel's letter for its state.
    pub state: String,
    /// Threads.
    pub threads: u32,
    /// Processor time, microseconds.
    pub cpu_usec: u64,
    /// Memory in RAM, bytes.
    pub resident_bytes: u64,
    /// Its command line, as the process wants it seen.
    pub command: String,
}

/// Query of `POST /v1/containers/{id}/stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopQuery {
    /// Seconds between the image's stop signal and SIGKILL; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// Query of `POST /v1/containers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateQuery {
    /// Whether it is started at once.
    #[serde(default = "yes")]
    pub start: bool,
}

fn yes() -> bool {
    true
}

/// Query of `POST /v1/containers/{id}/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameQuery {
    /// The new name.
    pub name: String,
}

/// Query of `POST /v1/containers/{id}/kill`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillQuery {
    /// Number or name (`9`, `KILL`, `SIGKILL`); absent: SIGKILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// Query of `DELETE /v1/containers/{id}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveQuery {
    /// Kill it first if it runs.
    #[serde(default)]
    pub force: bool,
}

/// What takes room on the host's disk: answer of `GET /v1/system/df`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Each image. Layers that several share count with each.
    pub images: Vec<ImageUse>,
    /// All images together, each layer counted once, with what is just being loaded; bytes.
    pub images_size: u64,
    /// Each container.
    pub containers: Vec<ContainerUse>,
}

/// An image on the host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// `sha256:…`
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// How many containers, ended or not, are made from it.
    pub containers: u64,
}

/// A container on the host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUse {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: State,
    /// Bytes of its writable layer.
    pub layer: u64,
    /// Bytes of its log.
    pub log: u64,
}

/// One step of a start, for `--timing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimingStep {
    /// What was reached.
    pub step: String,
    /// Microseconds since the request arrived at the daemon; 0 for what was before.
    pub at_us: u64,
    /// The same moment on the host's CLOCK_MONOTONIC, microseconds: what the client's own moments can be laid beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mono_us: Option<u64>,
    /// How far off it may be, microseconds: of a step that a guest's clock has told. Absent: read on the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_us: Option<u64>,
}
