//! `/entropy`: the entropy device.

use super::RateLimiter;
use serde::{Deserialize, Serialize};

/// Random numbers of the host's kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits requests and the bytes that they get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}
