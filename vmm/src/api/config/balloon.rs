//! `/balloon`: memory that the guest gives back.

use serde::{Deserialize, Serialize};

/// The balloon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// How much the guest is asked to give, in MiB; at most its memory.
    pub amount_mib: u32,
    /// Whether the guest takes memory back before it runs out of it.
    pub deflate_on_oom: bool,
    /// Seconds between two statistics; 0: there are none, for the VM's whole life.
    #[serde(default)]
    pub stats_polling_interval_s: u16,
    /// Whether the guest says what is free when it is asked.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// Whether the guest says by itself what has become free, so that it goes back to the host at once.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// `PATCH /balloon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// See [`Balloon::amount_mib`].
    pub amount_mib: u32,
}

/// `PATCH /balloon/statistics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonStatsUpdate {
    /// See [`Balloon::stats_polling_interval_s`]; can't become 0, or be changed from 0.
    pub stats_polling_interval_s: u16,
}

/// `PATCH /balloon/hinting/start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonStart {
    /// Whether a run that the guest has finished is ended at once, so that it may use its pages again; else by a stop.
    #[serde(default = "yes")]
    pub acknowledge_on_stop: bool,
}

impl Default for BalloonStart {
    fn default() -> Self {
        Self { acknowledge_on_stop: true }
    }
}

fn yes() -> bool {
    true
}

/// `GET /balloon/hinting/status`: commands as numbers of virtio 1.2, 5.5.6.5: 0 stop, 1 done, others runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonHinting {
    /// The last one of the host.
    pub host_cmd: u32,
    /// The last one that the guest answered; `null`: none.
    #[serde(default)]
    pub guest_cmd: Option<u32>,
}

/// `GET /balloon/statistics`. Pages have 4 KiB; what the guest does not say is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStats {
    /// How many the guest is asked for.
    pub target_pages: u32,
    /// How many it gave.
    pub actual_pages: u32,
    /// The former in MiB.
    pub target_mib: u32,
    /// The latter in MiB.
    pub actual_mib: u32,
    /// The guest's own numbers, by their names in Firecracker's document.
    #[serde(flatten)]
    pub guest: GuestStats,
}

/// What the guest says of its memory: bytes and counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "virtio 1.2, 5.5.6.3 names and describes them")]
pub struct GuestStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}
