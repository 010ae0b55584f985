//! Errors that travel.

use serde::{Deserialize, Serialize};

/// An error that the agent answers with. The kind decides what the host does, the message is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// What failed and why, in a sentence.
    pub message: String,
}

/// The sorts of failure that the host tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The container, exec or stream does not exist.
    NotFound,
    /// A container or exec of that name exists.
    AlreadyExists,
    /// The request makes no sense (bad spec, bad signal number).
    InvalidArgument,
    /// The request does not fit the container's state (start of a running one).
    WrongState,
    /// The secret in a hello or a stream header is wrong.
    Unauthorized,
    /// The command does not exist in the container (exit status 127).
    CommandNotFound,
    /// The command exists but cannot be executed (exit status 126).
    CommandNotExecutable,
    /// The user or group does not exist in the container's /etc/passwd or /etc/group.
    UserNotFound,
    /// This build does not know the request.
    Unsupported,
    /// A bound of the agent is reached (containers, streams, frame size).
    ResourceExhausted,
    /// Anything else.
    Internal,
}

impl AgentError {
    /// An error of this kind with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
