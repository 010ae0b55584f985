//! The daemon's API: what travels over `<run dir>/vial.sock` as HTTP/1.1 with JSON bodies, and the framing of the
//! connections that are upgraded to carry standard streams.
//!
//! It must never know how either side works: no sockets, no files, no processes; types and their encoding only.
//!
//! Every path begins with [`PREFIX`]. Additions keep the version; whatever an older client would misread gets a new one.
//! Errors are answered with a status of [`ErrorKind::http_status`] and an [`ErrorBody`]; what HTTP itself refuses (no such path, no such
//! method, a query that makes no sense, a body too long) with HTTP's status (404, 405, 400, 413) and an [`ErrorBody`] too.
#![forbid(unsafe_code)]

pub mod container;
pub mod error;
pub mod frame;
pub mod image;
pub mod network;
pub mod pod;
pub mod policy;
pub mod registry;

pub use container::*;
pub use error::{ErrorBody, ErrorKind};
pub use image::*;
pub use network::{Network, NetworkMode, Port, Ports, Protocol};
pub use pod::{CreatePod, Member, Pod, PodState};
pub use policy::{LogOptions, RestartPolicy};
pub use registry::*;

use serde::{Deserialize, Serialize};

/// What every path of this version begins with.
pub const PREFIX: &str = "/v1";
/// The protocol's name in the `Upgrade` header of connections that carry [`frame`]s.
pub const UPGRADE: &str = "vial-streams";
/// Header of an upgrade's answer that holds the id of the container behind it.
pub const CONTAINER_HEADER: &str = "vial-container";
/// Header of an upgrade's answer that holds what the container has to do without, in words for the user. Absent: nothing.
pub const WARNING_HEADER: &str = "vial-warning";
/// Header of an upgrade's answer that holds where the container's output begins on this connection: `STDOUT,STDERR`, offsets in its log
/// in decimal. Absent: `0,0`.
pub const POSITION_HEADER: &str = "vial-position";
/// Upper bound of a JSON request body in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Answer of `POST /v1/kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// Where declared objects are served: address and port.
    pub address: String,
    /// A kubeconfig (YAML) with a credential for everything: a secret.
    pub kubeconfig: String,
}

/// Answer of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the daemon's build.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Its data folder.
    pub data_dir: String,
    /// Its run folder.
    pub run_dir: String,
}
