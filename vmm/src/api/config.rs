//! The one configuration document of a VM.
//!
//! The shape is Firecracker's `--config-file` (version 1.10), so its documents work here; what Vial adds is optional and
//! marked *(Vial)*. Unknown fields are errors. Sizes are in MiB as there.

use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// A whole VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmConfig {
    /// Kernel, initrd, command line.
    pub boot_source: BootSource,
    /// vCPUs and memory.
    #[serde(default)]
    pub machine_config: MachineConfig,
    /// Block devices, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<Drive>,
    /// Network devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Socket device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// Entropy device; the empty object asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<Entropy>,
    /// *(Vial)* Console, control, status, profile.
    #[serde(default)]
    pub vial: Extensions,
}

/// Where bytes come from or go to: a path, or a descriptor that the process inherited *(Vial)*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// ELF vmlinux; entered through its PVH note if it has one, else through the Linux 64-bit protocol.
    pub kernel_image_path: FileSource,
    /// Initial RAM file system (cpio).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<FileSource>,
    /// Kernel command line. Empty or absent: only what the devices need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
    /// *(Vial)* How the kernel gets into memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<KernelLoad>,
    /// *(Vial)* Which entry protocol; absent: PVH if the kernel has its note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<BootProtocol>,
}

/// How the kernel's segments get into guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelLoad {
    /// Read into anonymous memory with transparent huge pages.
    #[default]
    Read,
    /// Mapped privately from the file: loading is free, faults come later.
    Map,
}

/// How the kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootProtocol {
    /// x86/HVM direct boot (Xen's PVH): 32-bit protected mode, `hvm_start_info` in EBX.
    Pvh,
    /// Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL": long mode, `boot_params` in RSI.
    Linux64,
}

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

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Unique name; its first 20 bytes are the virtio-blk serial that the guest reads.
    pub drive_id: String,
    /// The file behind it. Exactly one of this and `concat` is given, none of them for a removable drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<FileSource>,
    /// *(Vial)* Files one after the other as one read-only disk; each is a multiple of 512 bytes long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concat: Vec<FileSource>,
    /// *(Vial)* Starts without a medium; [`crate::api::control::Request::Insert`] brings one. `is_read_only` says for good what the
    /// guest may do with any of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_removable: bool,
    /// Whether the guest may not write.
    #[serde(default)]
    pub is_read_only: bool,
    /// Adds `root=/dev/vda` (of the matching letter) and `ro` or `rw` to the command line.
    #[serde(default)]
    pub is_root_device: bool,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Unique name.
    pub iface_id: String,
    /// Name of the TAP on the host, or a descriptor of it *(Vial)* as `{"fd": N}`.
    pub host_dev_name: FileSource,
    /// `aa:bb:cc:dd:ee:ff`; absent: a locally administered one derived from the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
}

/// The socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// 3 to 2³²−2.
    pub guest_cid: u32,
    /// Path of the Unix socket on which the host connects to guest ports (`CONNECT <port>\n` → `OK <host port>\n`; a refusal closes);
    /// guest connections to host port P go to the socket at `<path>_<P>`. Or *(Vial)* a listening descriptor.
    pub uds_path: FileSource,
    /// *(Vial)* Guest connections to these host ports go to these connected stream sockets, one connection each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// *(Vial)* A host port served by an inherited, connected stream socket: the first guest connection gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPort {
    /// Port on CID 2.
    pub port: u32,
    /// The socket.
    pub fd: RawFd,
}

/// The entropy device has no settings yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {}

/// *(Vial)* What Firecracker's document has no place for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extensions {
    /// What the process may do.
    #[serde(default)]
    pub profile: Profile,
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
}
