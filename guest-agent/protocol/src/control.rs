//! The control connection: a hello each way, then requests, responses and events, multiplexed.
//!
//! Requests may be pipelined (`ApplySandbox`, `CreateContainer`, `Start` in one write); the agent carries them out in
//! order and answers each under its number. Events carry sequence numbers from 1 and are kept until acknowledged: a new control
//! connection receives all that were not. The newest connection that asked for events gets them.

use crate::{AgentError, Event};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Agent → host on [`crate::READY_PORT`], once per cold boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Newest protocol version that the agent speaks.
    pub protocol: u32,
    /// Version of the agent's build.
    pub build: String,
    /// The guest kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Guest clock since boot when the agent became ready, in microseconds (CLOCK_BOOTTIME).
    pub uptime_us: u64,
}

/// Host → agent, the answer to [`Ready`]: the secret of this VM. Until it has arrived the agent accepts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// 32 random bytes in hexadecimal; every control hello and stream header must carry it.
    pub token: String,
}

/// Host → agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a few of them exist at a time, and most are requests")]
pub enum ClientMessage {
    /// First on every connection.
    Hello(ClientHello),
    /// Something to do.
    Request {
        /// Chosen by the host, unique on this connection.
        id: u64,
        /// What to do.
        request: Request,
    },
    /// All events up to and including this one are safely noted on the host.
    Ack {
        /// The newest of them.
        seq: u64,
    },
}

/// The host's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// Newest protocol version that the host speaks.
    pub protocol: u32,
    /// Oldest that it still speaks.
    pub protocol_min: u32,
    /// The VM's secret.
    pub token: String,
    /// Whether events are to come on this connection.
    pub events: bool,
}

/// Agent → host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerMessage {
    /// Answer to the hello; or, with a wrong secret or no common version, `Err` and the end of the connection.
    Hello(Result<ServerHello, AgentError>),
    /// Answer to a request.
    Response {
        /// The request's number.
        id: u64,
        /// How it went.
        result: Result<Response, AgentError>,
    },
    /// Something happened.
    Event {
        /// From 1, without gaps, over the VM's whole life.
        seq: u64,
        /// What.
        event: Event,
    },
}

/// The agent's answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// The version spoken on this connection from now on.
    pub protocol: u32,
    /// Version of the agent's build.
    pub build: String,
    /// What the agent can do beyond the version's base (`"exec"`, …).
    pub features: Vec<String>,
}

/// What the host can ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Set up what the pod's containers share. First on a new VM; again is an error.
    ApplySandbox(Sandbox),
    /// Have a volume there; one of that name stays as it is. Needs the feature [`crate::FEATURE_VOLUMES`].
    PutVolume(PutVolume),
    /// Write a piece of a file of a volume of files; with its last piece it takes the place of the one before.
    PutFile(PutFile),
    /// Mount a root file system and make a container on it, not yet running its command.
    CreateContainer(CreateContainer),
    /// Run a created container's command.
    Start {
        /// Which container.
        container: String,
    },
    /// Run one more process in a running container.
    Exec(Exec),
    /// Send a signal to a container's or an exec's first process.
    Signal {
        /// Which container.
        container: String,
        /// Which exec; none is the container's own process.
        exec: Option<String>,
        /// Signal number, 1 to 64.
        signal: i32,
    },
    /// Give a process's terminal another size. Its foreground processes get SIGWINCH when that changes something.
    Resize {
        /// Which container.
        container: String,
        /// Which exec; none is the container's own process.
        exec: Option<String>,
        /// Characters in a line; 0 is unknown.
        cols: u16,
        /// Lines; 0 is unknown.
        rows: u16,
    },
    /// What a container uses now.
    Stats {
        /// Which container.
        container: String,
    },
    /// What the VM and the agent itself use now, containers aside.
    SandboxStats,
    /// When the guest's start reached what. Needs the feature [`crate::FEATURE_BOOT_TIMES`].
    BootTimes,
    /// What runs in a container.
    Processes {
        /// Which container.
        container: String,
    },
    /// Give files of a running container, as a tar on the standard output of an exec of its own.
    GetArchive(GetArchive),
    /// Take files for a running container, as a tar on the standard input of an exec of its own.
    PutArchive(PutArchive),
    /// Kill what is left of a container, unmount its root, forget it and its streams.
    Delete {
        /// Which container.
        container: String,
    },
    /// Sync file systems and power the VM off. Answered before the power goes.
    Shutdown,
}

/// What a pod's containers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Host name, at most 64 bytes.
    pub hostname: String,
    /// The host's clock, nanoseconds since the epoch.
    pub time_unix_ns: u64,
    /// 32 or more random bytes, in hexadecimal, mixed into the guest's RNG.
    pub entropy: String,
    /// The pod's network; absent: the loopback only. Needs the feature [`crate::FEATURE_NETWORK`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What containers find in /etc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<EtcFiles>,
    /// Most memory that all containers together may use, bytes, so that the guest's own OOM killer never gets to look at the agent;
    /// absent: no such limit. Needs the feature [`crate::FEATURE_PODS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// A folder in the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutVolume {
    /// Its name: 1 to 63 of `[a-z0-9-]`.
    pub name: String,
    /// Bytes that fit into it at most. What containers write there counts as theirs.
    pub size: u64,
    /// It holds files of the host's, which containers only read; else it is empty and theirs.
    pub files: bool,
    /// The group that it and everything in it belongs to.
    #[serde(default)]
    pub group: u32,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// The volume's name.
    pub volume: String,
    /// Where in the volume: names joined by `/`, none of them `.` or `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The bytes in hexadecimal, at most [`crate::MAX_PIECE`] of them.
    pub bytes: String,
    /// Whether these are the first bytes of the file.
    pub first: bool,
    /// Whether these are the last.
    pub last: bool,
}

/// A pod's one interface beside the loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Which one: its address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Where else packets go. A gateway need not lie in any prefix of the addresses.
    pub routes: Vec<Route>,
    /// Link-layer addresses of gateways, known for good, so that nobody has to be asked.
    pub neighbours: Vec<Neighbour>,
}

/// A route through the pod's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination; with a length of 0 everything.
    pub destination: IpAddr,
    /// Bits of the destination that count.
    pub length: u8,
    /// Next hop, of the destination's family.
    pub gateway: IpAddr,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The address.
    pub ip: IpAddr,
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: String,
}

/// Whole texts of files that every container of the pod sees, and may write, unless it mounts something else there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcFiles {
    /// `/etc/hosts`
    pub hosts: String,
    /// `/etc/resolv.conf`
    pub resolv_conf: String,
    /// `/etc/hostname`
    pub hostname: String,
}

/// A container to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateContainer {
    /// Its id: 1 to 64 of `[A-Za-z0-9_.-]`, beginning with a letter or a digit.
    pub container: String,
    /// Where its root file system comes from. The agent mounts it and puts its place into the spec's `root.path`.
    pub root: RootFs,
    /// The OCI runtime spec as JSON text, passed through whole. `process.user.username` holds the image's user
    /// string (`user`, `uid`, `user:group`, …) when names must be looked up in the container's /etc/passwd.
    pub spec: Box<serde_json::value::RawValue>,
    /// Whether standard input will come over a stream; otherwise it is /dev/null.
    pub stdin: bool,
}

/// A container's root file system: a read-only image below a writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Serial (virtio-blk id, at most 20 bytes) of the disk with the EROFS image.
    pub image: String,
    /// The size that this disk will have, bytes: its medium was just inserted, and the guest's kernel learns of that a moment later. Absent:
    /// the disk is taken as it is. Needs the feature [`crate::FEATURE_PODS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_bytes: Option<u64>,
    /// The writable layer.
    pub upper: Upper,
}

/// A writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upper {
    /// An ext4 file system on the disk with this serial.
    Disk {
        /// Serial of the disk.
        serial: String,
        /// As [`RootFs::image_bytes`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// The guest's memory, at most this many bytes.
    Tmpfs {
        /// Bound in bytes.
        size: u64,
    },
}

/// One more process in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// Which container.
    pub container: String,
    /// The exec's id, of the same form as a container's.
    pub exec: String,
    /// The OCI runtime spec's `process`, as JSON text. Empty capabilities, env PATH etc. are filled in by the host.
    pub process: Box<serde_json::value::RawValue>,
    /// Whether standard input will come over a stream.
    pub stdin: bool,
}

/// Files out of a container. The exec ends with 0, or with 1 and the reason on its standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetArchive {
    /// Which container.
    pub container: String,
    /// The id of the exec that its streams and its end will have.
    pub exec: String,
    /// What, as the container sees it. With a `/` at its end it must be a folder. The tar begins with its last name.
    pub path: String,
    /// If it is a link, what that points to.
    pub follow: bool,
    /// What the tar begins with instead, several names with `/` between them if need be; feature [`crate::FEATURE_ARCHIVE_NAMES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Files into a container; its end as with [`GetArchive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutArchive {
    /// Which container.
    pub container: String,
    /// The id of the exec that its streams and its end will have.
    pub exec: String,
    /// Where, as the container sees it: a folder that is there, or (not for a stream) a new name in one.
    pub path: String,
    /// The first folder of the tar is left out, what is in it is not.
    pub contents: bool,
    /// Owners and groups are the tar's; otherwise all is root's.
    pub owners: bool,
    /// Any tar, whose entries keep their names.
    pub stream: bool,
}

/// How a request went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Done,
    /// Done, and a process runs.
    Started {
        /// Its process id in the guest.
        pid: i32,
    },
    /// What a container uses.
    Stats(Stats),
    /// What runs in a container, in the kernel's order.
    Processes(Vec<ProcessInfo>),
    /// What the VM and the agent use.
    SandboxStats(SandboxStats),
    /// When the guest's start reached what.
    BootTimes(BootTimes),
}

/// Most steps that a [`BootTimes`] has.
pub const MAX_BOOT_STEPS: usize = 64;

/// When the guest's start reached what. All times are the guest's CLOCK_MONOTONIC, microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimes {
    /// The request was read.
    pub received_us: i64,
    /// At most [`MAX_BOOT_STEPS`].
    pub steps: Vec<BootStep>,
    /// Before this answer was sent.
    pub answered_us: i64,
}

/// A step of the guest's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootStep {
    /// What was reached: `kernel: …` by the kernel's log, `agent: …` by the agent's own notes; printable ASCII.
    pub step: String,
    /// When; negative before the kernel's clock ran.
    pub at_us: i64,
}

/// What the VM and the agent use, as the guest's kernel tells it: what a container can't see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStats {
    /// The agent's own memory, resident (VmRSS), bytes.
    pub agent_resident_bytes: u64,
    /// The part of it that is not pages of its program (RssAnon), bytes.
    pub agent_anonymous_bytes: u64,
    /// Memory that the guest's kernel has to give (MemTotal), bytes: what the VM has without the kernel's own.
    pub memory_total_bytes: u64,
    /// What could be given to programs without swapping (MemAvailable), bytes.
    pub memory_available_bytes: u64,
}

/// What a container uses, read from its cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Memory in use, bytes.
    pub memory_bytes: u64,
    /// Processor time, microseconds.
    pub cpu_usec: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Guest clock since boot at which this was read, microseconds (CLOCK_BOOTTIME).
    #[serde(default)]
    pub at_us: u64,
    /// The part of the memory that is copies of files which nobody has used for a while, bytes.
    #[serde(default)]
    pub inactive_file_bytes: u64,
    /// The limit of its memory, bytes; 0 without one.
    #[serde(default)]
    pub memory_limit_bytes: u64,
    /// Read from disks, bytes.
    #[serde(default)]
    pub read_bytes: u64,
    /// Written to disks, bytes.
    #[serde(default)]
    pub written_bytes: u64,
    /// Received by the pod over its network, bytes.
    #[serde(default)]
    pub received_bytes: u64,
    /// Sent by the pod over its network, bytes.
    #[serde(default)]
    pub sent_bytes: u64,
}

/// Most processes that [`Response::Processes`] lists.
pub const MAX_PROCESSES: usize = 1024;

/// A process in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its id as the container sees it.
    pub pid: u32,
    /// Its parent's, as the container sees it; 0 when that is outside.
    pub ppid: u32,
    /// Its effective user.
    pub uid: u32,
    /// The kernel's letter for its state (R, S, D, Z, T, …).
    pub state: String,
    /// Threads.
    pub threads: u32,
    /// Processor time, microseconds.
    pub cpu_usec: u64,
    /// Memory in RAM, bytes.
    pub resident_bytes: u64,
    /// Its command line, words parted by spaces, cut off; for one without, its name in brackets. The container's to choose.
    pub command: String,
}
