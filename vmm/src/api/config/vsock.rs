//! `/vsock`: the socket device.

use super::FileSource;
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;

/// The socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// Deprecated in Firecracker, and without meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
    /// 3 to 2³²−2.
    pub guest_cid: u32,
    /// Path of the Unix socket on which the host connects to guest ports (`CONNECT <port>\n` → `OK <host port>\n`; a refusal closes);
    /// guest connections to host port P go to the socket at `<path>_<P>`. Or *(Vial)* a listening descriptor.
    pub uds_path: FileSource,
    /// *(Vial)* Guest connections to these host ports go to these connected stream sockets, one connection each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// *(Vial)* A host port served by an inherited, connected stream socket: the first guest connection gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPort {
    /// Port on CID 2.
    pub port: u32,
    /// The socket.
    pub fd: RawFd,
}
