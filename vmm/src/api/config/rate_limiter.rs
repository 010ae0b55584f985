//! Rate limiters of drives and interfaces.

use serde::{Deserialize, Serialize};

/// How much a device may move, and how often. Both buckets are independent; a request waits for the slower one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes. Absent: no limit; in a change: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are requests or frames. Absent: no limit; in a change: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// `size` tokens every `refill_time` milliseconds, without steps; a full bucket may be spent at once. If `size` or `refill_time` is
/// 0 there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens that it holds.
    pub size: u64,
    /// Tokens that are there once, at the start, besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket gets full, 4294967295 at most.
    pub refill_time: u64,
}
