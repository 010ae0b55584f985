//! `/network-interfaces/{iface_id}`: network devices.

use super::{FileSource, RateLimiter};
use serde::{Deserialize, Serialize};

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
    /// How much the guest may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// How much the guest may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}
