//! `/machine-config`: vCPUs and memory.

use super::{FileSource, null_is_absent};
use serde::{Deserialize, Serialize};

/// vCPUs and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// 1 to 32.
    pub vcpu_count: u8,
    /// Guest memory in MiB, 32 or more.
    pub mem_size_mib: u64,
    /// Two threads to each core, as the guest sees it; `vcpu_count` is then even, or 1. Without it each vCPU is a core of its own.
    #[serde(default)]
    pub smt: bool,
    /// A named set of CPU features to show.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "CpuTemplate::is_none")]
    pub cpu_template: CpuTemplate,
    /// KVM keeps a log of the pages that the guest writes, for differential snapshots; each page's first write then costs an exit.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Pages behind guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// *(Vial)* What guest memory is made of.
    #[serde(default, skip_serializing_if = "MemoryBacking::is_default")]
    pub memory_backing: MemoryBacking,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: CpuTemplate::None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            memory_backing: MemoryBacking::Anonymous,
        }
    }
}

/// Firecracker's static templates, deprecated there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuTemplate {
    /// What the host has.
    #[default]
    None,
    /// EC2 C3.
    C3,
    /// EC2 T2.
    T2,
    /// T2 on Skylake and Cascade Lake.
    T2S,
    /// T2 on Cascade Lake and newer.
    T2CL,
    /// T2 on AMD Milan.
    T2A,
    /// Neoverse V1 as N1.
    V1N1,
}

impl CpuTemplate {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Pages behind guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// No reserved ones: transparent ones where the host has them to give, because boots are faster by it. Firecracker's has none at all.
    #[default]
    None,
    /// The same.
    Transparent,
    /// Of 2 MiB, from those that the host has set aside (hugetlbfs); `mem_size_mib` is then even, and without enough of them there is no
    /// VM.
    #[serde(rename = "2M")]
    TwoMiB,
}

/// What guest memory is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemoryBacking {
    /// Private memory of the process.
    #[default]
    Anonymous,
    /// A memory file, which vhost-user back ends can map too. Taken without asking when there is one.
    Shared,
    /// A private, copy-on-write mapping of a file that holds the guest's memory, of `mem_size_mib` bytes or more: what lies above 3 GiB
    /// follows without a gap. The file never changes.
    PrivateFile(FileSource),
}

impl MemoryBacking {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What `PATCH /machine-config` changes: absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfigUpdate {
    /// See [`MachineConfig::vcpu_count`].
    pub vcpu_count: Option<u8>,
    /// See [`MachineConfig::mem_size_mib`].
    pub mem_size_mib: Option<u64>,
    /// See [`MachineConfig::smt`].
    pub smt: Option<bool>,
    /// See [`MachineConfig::cpu_template`].
    pub cpu_template: Option<CpuTemplate>,
    /// See [`MachineConfig::track_dirty_pages`].
    pub track_dirty_pages: Option<bool>,
    /// See [`MachineConfig::huge_pages`].
    pub huge_pages: Option<HugePages>,
}

impl MachineConfigUpdate {
    /// `old` with the changes.
    pub fn apply(&self, old: &MachineConfig) -> MachineConfig {
        MachineConfig {
            vcpu_count: self.vcpu_count.unwrap_or(old.vcpu_count),
            mem_size_mib: self.mem_size_mib.unwrap_or(old.mem_size_mib),
            smt: self.smt.unwrap_or(old.smt),
            cpu_template: self.cpu_template.unwrap_or(old.cpu_template),
            track_dirty_pages: self.track_dirty_pages.unwrap_or(old.track_dirty_pages),
            huge_pages: self.huge_pages.unwrap_or(old.huge_pages),
            memory_backing: old.memory_backing.clone(),
        }
    }
}
