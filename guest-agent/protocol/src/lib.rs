//! What the host and the agent in the guest say to each other: the only thing that both sides share.
//!
//! It must never know how either side works: no sockets, no processes, no files; types and their encoding only.
//!
//! The agent *listens*. On a cold boot it connects once to [`READY_PORT`] on the host, sends [`Ready`], and
//! receives [`Welcome`] with the secret that every later connection must show. From then on the host opens every
//! connection: one control connection ([`CONTROL_PORT`], see [`control`]) and one connection for each stdio stream
//! ([`STREAM_PORT`], see [`stream`]). So a cold start, a restore and a daemon's restart are one code path.
#![forbid(unsafe_code)]

pub mod control;
pub mod error;
pub mod event;
pub mod forward;
pub mod frame;
pub mod stream;

pub use control::*;
pub use error::{AgentError, ErrorKind};
pub use event::*;
pub use forward::*;
pub use stream::*;

/// Version of the protocol that this build speaks; a peer must understand this one and the one before.
pub const PROTOCOL: u32 = 1;
/// Oldest version that this build still understands.
pub const PROTOCOL_MIN: u32 = 1;

/// Feature of an agent that sets up a pod's network and its files in /etc.
pub const FEATURE_NETWORK: &str = "network";
/// Feature of an agent that keeps several containers: media that come later, memory of all together, shared IPC. It also names the victims
/// of the OOM killer.
pub const FEATURE_PODS: &str = "pods";

/// Feature of an agent that keeps volumes, which containers of the pod share.
pub const FEATURE_VOLUMES: &str = "volumes";
/// Where volumes are in the guest: a container's runtime spec names `empty/NAME` or `files/NAME[/path]` below it as the source of a bind mount.
pub const VOLUMES: &str = "/run/vial/volumes";
/// Bytes of a file that one [`PutFile`] carries at most: twice as many digits fit into a frame.
pub const MAX_PIECE: usize = 256 << 10;

/// Feature of an agent that knows when its own start reached what.
pub const FEATURE_BOOT_TIMES: &str = "boot-times";

/// Feature of an agent that connects to ports of the pod ([`forward`]).
pub const FEATURE_FORWARD: &str = "forward";
/// Feature of an agent that gives files under any name ([`GetArchive::name`]).
pub const FEATURE_ARCHIVE_NAMES: &str = "archive-names";

/// Vsock port on which the agent listens for the control connection.
pub const CONTROL_PORT: u32 = 1024;
/// Vsock port on which the agent listens for stdio streams.
pub const STREAM_PORT: u32 = 1025;
/// Vsock port on which the agent listens for connections to ports of the pod.
pub const FORWARD_PORT: u32 = 1027;
/// Vsock port on the *host* (CID 2) to which the agent connects once, on a cold boot.
pub const READY_PORT: u32 = 1026;
