//! From errors of the system to errors that travel.

use agent_protocol::{AgentError, ErrorKind};
use std::fmt::Display;

/// Wraps an error in what was being tried, as [`ErrorKind::Internal`].
pub fn internal<E: Display>(what: impl Display) -> impl FnOnce(E) -> AgentError {
    move |error| AgentError::new(ErrorKind::Internal, format!("{what}: {error}"))
}

/// An error about what the host asked for.
pub fn invalid(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::InvalidArgument, message)
}
