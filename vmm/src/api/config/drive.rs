//! `/drives/{drive_id}`: block devices.

use super::{FileSource, RateLimiter, null_is_absent};
use serde::{Deserialize, Serialize};

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Unique name; its first 20 bytes are the virtio-blk serial that the guest reads.
    pub drive_id: String,
    /// The Unix socket of a vhost-user back end, whose disk this is; nothing but `is_root_device`, `partuuid`, `cache_type` and `num_queues`
    /// goes with it. As a descriptor *(Vial)* it is connected already. The back end sees all of the guest's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<FileSource>,
    /// The file behind it. Exactly one of this, `concat` and `socket` is given, none of them for a removable drive.
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
    #[serde(default, deserialize_with = "null_is_absent")]
    pub is_read_only: bool,
    /// Adds `root=/dev/vda` (of the matching letter) and `ro` or `rw` to the command line.
    #[serde(default)]
    pub is_root_device: bool,
    /// Partition that the kernel mounts as its root, instead of the whole disk, if `is_root_device`: a name for `root=PARTUUID=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partuuid: Option<String>,
    /// Whether what the guest flushes becomes durable.
    #[serde(default)]
    pub cache_type: CacheType,
    /// How the file is read and written. *(Vial)* Absent: `Async` where the host allows it and there is one file, else `Sync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_engine: Option<IoEngine>,
    /// *(Vial)* Queues, 1 to 32: as many as vCPUs lets each have its own.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub num_queues: u8,
    /// *(Vial)* Threads of its own that serve the queues in turn, up to one for each; 0: the VMM's own thread serves them, beside all
    /// other devices.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub io_threads: u8,
    /// *(Vial)* Goes around the host's page cache (O_DIRECT).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// *(Vial)* What the guest reads as serial, 1 to 20 printable ASCII characters; absent: the first 20 bytes of `drive_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How much the guest may read and write, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

fn one() -> u8 {
    1
}

fn is_one(number: &u8) -> bool {
    *number == 1
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// What a flush of the guest's does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Nothing, and the guest is not offered any: what it wrote may be lost with the host's power.
    #[default]
    Unsafe,
    /// What was written is on the disk when it is answered.
    Writeback,
}

/// How a drive's file is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// One request after the other, each waited for.
    Sync,
    /// Many at a time, by io_uring.
    Async,
}
