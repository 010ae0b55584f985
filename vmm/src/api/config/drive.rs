//! `/drives/{drive_id}`: block devices.

use super::{FileSource, RateLimiter};
use serde::{Deserialize, Serialize};

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
    /// How much the guest may read and write, and how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}
