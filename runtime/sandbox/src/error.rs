//! Why a pod can't be run.

use agent_protocol::{AgentError, ErrorKind};
use std::time::Duration;
use vial_vm::AgentCallError;

/// Why a pod can't be started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Its VM.
    #[error(transparent)]
    Vm(#[from] vial_vm::Error),
    /// The agent in it said no.
    #[error("{0}")]
    Refused(AgentError),
    /// The agent in it can't be spoken to.
    #[error("the agent in the VM cannot be spoken to: {0}")]
    Agent(AgentCallError),
    /// It did not get far enough in time.
    #[error(
        "the VM runs, but {what} took longer than {within:?}: the guest hangs, or this machine is overloaded"
    )]
    Slow {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        within: Duration,
    },
    /// A spec that can't be sent.
    #[error("the container's spec cannot be written as JSON: {0}")]
    Spec(#[from] serde_json::Error),
    /// Something of the host.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Whoever wanted it no longer does.
    #[error("the start was given up")]
    Cancelled,
}

impl From<AgentCallError> for PodError {
    fn from(error: AgentCallError) -> Self {
        match error {
            AgentCallError::Refused(refused) => Self::Refused(refused),
            other => Self::Agent(other),
        }
    }
}

impl PodError {
    /// The agent's kind of refusal, if it was one.
    pub fn refusal(&self) -> Option<ErrorKind> {
        match self {
            Self::Refused(error) => Some(error.kind),
            Self::Vm(vial_vm::Error::Agent(AgentCallError::Refused(error))) => Some(error.kind),
            Self::Vm(vial_vm::Error::Stream(vial_vm::StreamError::Refused(error))) => Some(error.kind),
            _ => None,
        }
    }
}
