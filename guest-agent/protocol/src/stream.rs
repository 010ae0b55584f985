//! A stdio stream: one connection each, that can be lost and resumed without losing a byte.
//!
//! The host connects to [`crate::STREAM_PORT`], sends a frame with [`StreamHeader`], receives a frame with
//! [`StreamReply`], and then data flows in *chunks*: a little-endian `u32` length, then as many bytes; a length of 0 is the end of the
//! stream. An explicit end, because a half-closed socket and a killed daemon look the same.
//!
//! Output (stdout, stderr): agent → host chunks from byte `offset` on; host → agent little-endian `u64`s, each saying
//! that all bytes before this offset are safe. The agent keeps what is not yet safe in a bounded ring ([`RING`] bytes) and stops
//! reading from the container when it is full. A connection without any `u64` keeps everything.
//! Input (stdin): host → agent chunks; the reply's `offset` says how many bytes the container's side has taken already, and agent → host
//! `u64`s say the same from time to time.

use crate::AgentError;
use serde::{Deserialize, Serialize};

/// Bytes that the agent keeps of each output stream until the host says they are safe.
pub const RING: usize = 256 << 10;
/// Upper bound of a chunk in bytes; a longer one ends the connection.
pub const MAX_CHUNK: usize = 64 << 10;

/// Host → agent, first on a stream connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHeader {
    /// The VM's secret.
    pub token: String,
    /// Which container.
    pub container: String,
    /// Which exec; none is the container's own process.
    pub exec: Option<String>,
    /// Which stream.
    pub stream: StreamKind,
    /// Output: the first byte wanted. Input: ignored.
    pub offset: u64,
}

/// The three standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Standard input, host to container.
    Stdin,
    /// Standard output, container to host.
    Stdout,
    /// Standard error, container to host.
    Stderr,
}

/// Agent → host, the answer to a header. A new connection for the same stream replaces the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReply {
    /// The first byte that will come (output) or that is wanted (input); or why there is no stream.
    pub result: Result<u64, AgentError>,
}
