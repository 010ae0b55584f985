//! `/pmem/{id}`: files in the guest's address space.

use super::{FileSource, RateLimiter};
use serde::{Deserialize, Serialize};

/// A persistent memory device (`/dev/pmem0`, …), which file systems can use without a copy in the guest (DAX).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pmem {
    /// Unique name.
    pub id: String,
    /// A file or block device; the guest sees it rounded up to 2 MiB, what is behind its end is not kept. It must not shrink meanwhile.
    pub path_on_host: FileSource,
    /// Adds `root=/dev/pmem0` (of the matching number) and `ro` or `rw` to the command line.
    #[serde(default)]
    pub root_device: bool,
    /// Whether the guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Limits flushes: each batch of them is an operation, and as many bytes as the file has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// Body of `PATCH /pmem/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialPmem {
    /// Which.
    pub id: String,
    /// Buckets that take the place of the present ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}
