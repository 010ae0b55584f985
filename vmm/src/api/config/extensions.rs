//! *(Vial)* What Firecracker's document has no place for.

use super::FileSource;
use serde::{Deserialize, Serialize};

/// *(Vial)* What Firecracker's document has no place for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extensions {
    /// What the process may do.
    #[serde(default)]
    pub profile: Profile,
    /// How the guest reaches its virtio devices.
    #[serde(default)]
    pub transport: Transport,
    /// virtio-console (hvc0); absent: the guest has no console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<Console>,
    /// A *listening* Unix stream socket for [`crate::api::control`] requests, so that a restarted daemon can come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<FileSource>,
    /// Where [`crate::api::status`] records are appended, one JSON line each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<FileSource>,
}

/// In front of virtio devices, all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// virtio-mmio: boots fastest; up to 64 devices.
    #[default]
    Mmio,
    /// virtio-pci with MSI-X, as with Firecracker's `--enable-pci`: an interrupt for each queue, and devices can be plugged in while the
    /// guest runs; up to 31 devices.
    Pci,
}

/// hvc0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// Read and given to the guest; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<FileSource>,
    /// The guest's output; absent: dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<FileSource>,
}

/// Which seccomp filters and rules a VMM process lives under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Every descriptor is inherited; no open, no connect; filters are on before a kernel, disk or guest byte is read.
    Pod,
    /// Paths may be opened during set-up; afterwards as `Pod`, plus `connect` for vsock.
    #[default]
    Open,
    /// As `Open`, and the main thread may open files that are there while the VM runs: clients of the HTTP API name other ones for its
    /// drives. What `--api-sock` brings.
    Api,
}
