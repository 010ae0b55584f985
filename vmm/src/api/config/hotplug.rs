//! `/hotplug/memory`: memory that a guest gets later.

use serde::{Deserialize, Serialize};

/// Memory besides `mem_size_mib`, given and taken in blocks while the VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplug {
    /// The most that there can be, a multiple of `slot_size_mib`.
    pub total_size_mib: u64,
    /// What the guest gets and gives at a time, a power of two of 2 or more.
    #[serde(default = "block")]
    pub block_size_mib: u64,
    /// What the host puts into the machine at a time, a power of two of 128 or more: memory of slots without a block in use is out of the
    /// guest's reach.
    #[serde(default = "slot")]
    pub slot_size_mib: u64,
}

fn block() -> u64 {
    2
}

fn slot() -> u64 {
    128
}

/// `PATCH /hotplug/memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplugUpdate {
    /// What the guest is to have, a multiple of `block_size_mib`.
    pub requested_size_mib: u64,
}

/// `GET /hotplug/memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryHotplugStatus {
    /// See [`MemoryHotplug`].
    pub total_size_mib: u64,
    /// See [`MemoryHotplug`].
    pub slot_size_mib: u64,
    /// See [`MemoryHotplug`].
    pub block_size_mib: u64,
    /// What the guest has.
    pub plugged_size_mib: u64,
    /// What it was asked to have.
    pub requested_size_mib: u64,
}
