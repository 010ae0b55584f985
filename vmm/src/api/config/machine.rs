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
    /// Two threads a core.
    #[serde(default)]
    pub smt: bool,
    /// A named set of CPU features to show.
    #[serde(default, skip_serializing_if = "CpuTemplate::is_none")]
    pub cpu_template: CpuTemplate,
    /// Whether KVM logs the pages that the guest writes.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Pages behind guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
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
    /// No explicit ones.
    #[default]
    None,
    /// Transparent huge pages.
    Transparent,
    /// 2 MiB pages of hugetlbfs.
    #[serde(rename = "2M")]
    TwoMiB,
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
        }
    }
}
