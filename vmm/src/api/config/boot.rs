//! `/boot-source`: what to boot.

use super::FileSource;
use serde::{Deserialize, Serialize};

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// ELF vmlinux, entered through its PVH note if it has one, else through the Linux 64-bit protocol; or a bzImage, entered through
    /// the latter.
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
