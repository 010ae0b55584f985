//! `/mmds/config`: the metadata service as the guest sees it.

use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Who may ask, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmdsConfig {
    /// How the guest asks.
    #[serde(default)]
    pub version: MmdsVersion,
    /// Interfaces on which it is answered, by id; at least one.
    pub network_interfaces: Vec<String>,
    /// A link-local address; absent: 169.254.169.254.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Ipv4Addr>,
    /// Answers are plain text whatever the guest accepts, as EC2's service does.
    #[serde(default)]
    pub imds_compat: bool,
}

/// How the guest asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MmdsVersion {
    /// GET alone.
    #[default]
    V1,
    /// GET with a token that a PUT gave out.
    V2,
}
