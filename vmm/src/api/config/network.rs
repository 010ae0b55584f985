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
    /// *(Vial)* Pairs of queues, 1 to 16: as many as vCPUs lets each have its own. With more than one the TAP must be made for several
    /// (`ip tuntap add … multi_queue`).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub queue_pairs: u8,
    /// *(Vial)* For a TAP that is given as a descriptor: its other queues, one less than `queue_pairs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_queues: Vec<FileSource>,
    /// *(Vial)* `/dev/vhost-net`, or a descriptor of it: the host's kernel moves the frames. A path that can't be opened is done without. Not
    /// with rate limiters, nor with more than one pair of queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_net: Option<FileSource>,
    /// The largest packet that the guest had better send, 68 to 65535 bytes; absent: it is told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// How much the guest may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// How much the guest may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

fn one() -> u8 {
    1
}

fn is_one(number: &u8) -> bool {
    *number == 1
}
