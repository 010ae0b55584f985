//! Errors that travel.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// Most characters of a message that are shown.
const MAX_SHOWN: usize = 4096;

/// An error that the agent answers with. The kind decides what the host does, the message is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct AgentError {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// What failed and why, in a sentence.
    pub message: String,
}

/// One line, without control characters: a guest that was taken over may have written it, and it ends on a person's terminal.
impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.message.chars().take(MAX_SHOWN) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_can_not_write_to_the_terminal_what_it_likes() {
        let error = AgentError::new(ErrorKind::Internal, "\x1b[2Jno\nvial: all is well\u{9b}");
        assert_eq!(error.to_string(), "\\u{1b}[2Jno\\nvial: all is well\\u{9b}");
        assert_eq!(
            AgentError::new(ErrorKind::Internal, "é".repeat(9000)).to_string().chars().count(),
            MAX_SHOWN
        );
    }
}
