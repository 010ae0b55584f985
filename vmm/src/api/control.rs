//! The control socket of a VM: one JSON object a line each way, over connections to an inherited listening Unix socket.
//!
//! A listener instead of a connected pair, because the daemon that made the VM may be gone when the next one wants to stop it.

use serde::{Deserialize, Serialize};

/// Upper bound of a request line in bytes.
pub const MAX_LINE: usize = 4096;

/// Host → VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Press the ACPI power button.
    PowerButton,
    /// End the VM now, in order.
    Stop,
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Counters and state.
    Info,
}

/// VMM → host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// It did not work; as in Firecracker's API.
    Fault {
        /// Why.
        fault_message: String,
    },
    /// It worked.
    Ok {
        /// `running` or `paused`.
        state: String,
        /// VM exits so far, by KVM's exit reason.
        exits: std::collections::BTreeMap<String, u64>,
    },
}
