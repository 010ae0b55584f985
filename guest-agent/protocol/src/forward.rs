//! A connection to a port of the pod: what its containers reach at `localhost`.
//!
//! The host connects to [`crate::FORWARD_PORT`] and sends a frame with [`ForwardHeader`]; the agent connects to the port and answers with a frame
//! that holds [`ForwardReply`]. From then on the bytes are those of the TCP connection, and a half-closed socket is one there too: unlike
//! streams of processes this connection is nothing that could be gone on with.

use crate::AgentError;
use serde::{Deserialize, Serialize};

/// Host → agent, first on the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardHeader {
    /// The VM's secret.
    pub token: String,
    /// The TCP port, on 127.0.0.1 or, if nobody listens there, on ::1.
    pub port: u16,
}

/// Agent → host, the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardReply {
    /// It is connected; or why not.
    pub result: Result<(), AgentError>,
}
