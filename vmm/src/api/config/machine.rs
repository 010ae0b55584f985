//! `/machine-config`: vCPUs and memory.

use serde::{Deserialize, Serialize};

/// vCPUs and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// 1 to 32.
    pub vcpu_count: u8,
    /// Guest memory in MiB, 32 or more.
    pub mem_size_mib: u64,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self { vcpu_count: 1, mem_size_mib: 128 }
    }
}
