//! What may change of a device while the VM runs.

use super::RateLimiter;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Body of `PATCH /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialDrive {
    /// Which drive.
    pub drive_id: String,
    /// The file that takes the place of the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<PathBuf>,
    /// *(Vial)* Files that make one disk in their order and take the place of the present ones: for a drive that the guest only reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concat: Vec<PathBuf>,
    /// Buckets that take the place of the present ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// Body of `PATCH /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialNetworkInterface {
    /// Which interface.
    pub iface_id: String,
    /// Buckets for what the guest gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Buckets for what the guest sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}
