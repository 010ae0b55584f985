//! The one configuration document of a VM.
//!
//! The shape is Firecracker's `--config-file` (version 1.10), so its documents work here; what Vial adds is optional and
//! marked *(Vial)*. Unknown fields are errors. Sizes are in MiB as there. Each endpoint of Firecracker's API has its types in a file of its own.

mod balloon;
mod boot;
mod cpu;
mod drive;
mod entropy;
mod extensions;
mod file_system;
mod hotplug;
mod machine;
mod mmds;
mod network;
mod observe;
mod pmem;
mod rate_limiter;
mod serial;
mod update;
mod vsock;

pub use balloon::{
    Balloon, BalloonHinting, BalloonStart, BalloonStats, BalloonStatsUpdate, BalloonUpdate, GuestStats,
};
pub use boot::{BootProtocol, BootSource, KernelLoad};
pub use cpu::{
    Bitmap, CpuConfig, CpuidLeafModifier, CpuidRegister, CpuidRegisterModifier, KvmCapability, MsrModifier,
    Number,
};
pub use drive::{CacheType, Drive, IoEngine};
pub use entropy::Entropy;
pub use extensions::{Console, Extensions, Profile, Transport};
pub use file_system::FileSystem;
pub use hotplug::{MemoryHotplug, MemoryHotplugStatus, MemoryHotplugUpdate};
pub use machine::{CpuTemplate, HugePages, MachineConfig, MachineConfigUpdate, MemoryBacking};
pub use mmds::{MmdsConfig, MmdsVersion};
pub use network::NetworkInterface;
pub use observe::{LogLevel, Logger, Metrics};
pub use pmem::{PartialPmem, Pmem};
pub use rate_limiter::{RateLimiter, TokenBucket};
pub use serial::Serial;
pub use update::{PartialDrive, PartialNetworkInterface};
pub use vsock::{HostPort, Vsock};

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Takes null for a field that is left out: Firecracker has it as an option, and clients write those out.
fn null_is_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A whole VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmConfig {
    /// Kernel, initrd, command line.
    pub boot_source: BootSource,
    /// vCPUs and memory.
    #[serde(default)]
    pub machine_config: MachineConfig,
    /// What is changed of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_config: Option<CpuConfig>,
    /// Block devices, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<Drive>,
    /// Network devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Socket device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// Memory that the guest gets later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_hotplug: Option<MemoryHotplug>,
    /// Files in the guest's address space.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pmem: Vec<Pmem>,
    /// *(Vial)* File systems of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_systems: Vec<FileSystem>,
    /// Memory that the guest gives back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Balloon>,
    /// Entropy device; the empty object asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<Entropy>,
    /// Serial port; the empty object asks for one on the standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// Metadata service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmds_config: Option<MmdsConfig>,
    /// What is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger: Option<Logger>,
    /// Where metrics go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// *(Vial)* Console, control, status, profile.
    #[serde(default)]
    pub vial: Extensions,
}

impl VmConfig {
    /// A machine of the default size with nothing but a kernel.
    pub fn booting(boot_source: BootSource) -> Self {
        Self {
            boot_source,
            machine_config: MachineConfig::default(),
            cpu_config: None,
            drives: Vec::new(),
            network_interfaces: Vec::new(),
            vsock: None,
            memory_hotplug: None,
            pmem: Vec::new(),
            file_systems: Vec::new(),
            balloon: None,
            entropy: None,
            serial: None,
            mmds_config: None,
            logger: None,
            metrics: None,
            vial: Extensions::default(),
        }
    }

    /// The sockets of its vhost-user back ends with a name for messages, in the order of their devices: drives, then file systems.
    pub fn back_ends(&self) -> impl Iterator<Item = (String, &FileSource)> {
        let drive = |drive: &'_ Drive| format!("drive {:?}", drive.drive_id);
        let drives =
            self.drives.iter().filter_map(move |of| of.socket.as_ref().map(|socket| (drive(of), socket)));
        drives.chain(self.file_systems.iter().map(|fs| (format!("file system {:?}", fs.tag), &fs.socket)))
    }

    /// What guest memory is made of: of a memory file where nothing was said and a back end has to map it.
    pub fn memory_backing(&self) -> &MemoryBacking {
        match &self.machine_config.memory_backing {
            MemoryBacking::Anonymous if self.back_ends().next().is_some() => &MemoryBacking::Shared,
            backing => backing,
        }
    }
}

/// Where bytes come from or go to: a path, or a descriptor that the process inherited *(Vial)*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FileSource {
    /// Opened by the VMM; refused under [`Profile::Pod`].
    Path(PathBuf),
    /// Already open.
    Fd {
        /// Its number in the VMM process, 3 or above.
        fd: RawFd,
    },
}

// By hand, since serde's own for untagged enumerations says what did not match instead of what would have.
impl<'de> Deserialize<'de> for FileSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = FileSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path or {\"fd\": N}")
    }

    fn visit_str<E>(self, path: &str) -> Result<FileSource, E> {
        Ok(FileSource::Path(path.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FileSource, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inherited {
            fd: RawFd,
        }
        Inherited::deserialize(MapAccessDeserializer::new(map)).map(|Inherited { fd }| FileSource::Fd { fd })
    }
}
