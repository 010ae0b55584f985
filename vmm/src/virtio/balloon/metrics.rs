//! What a balloon has done so far. The names are those of Firecracker's metrics.

use crate::memory::{self, Recipe};
use crate::metrics::{Counter, counters};
use vm_memory::VolatileSlice;

counters! {
    /// Counters since the start.
    pub struct BalloonMetrics {
        /// Requests with pages that the guest does without.
        inflate_count,
        /// Requests with pages that it uses again.
        deflate_count,
        /// Statistics that it gave.
        stats_updates_count,
        /// Among them, values that this program does not know.
        stats_update_fails,
        /// Pieces of memory that it reported as free.
        free_page_report_count,
        /// Bytes of these that the host took.
        free_page_report_freed,
        /// Pieces that the host kept.
        free_page_report_fails,
        /// Pieces of memory that were free when it was asked.
        free_page_hint_count,
        /// Bytes of these that the host took.
        free_page_hint_freed,
        /// Pieces that the host kept.
        free_page_hint_fails,
    }
}

/// The counters for pieces of memory that the guest named as free: how many, bytes that the host took, pieces that it kept.
pub(super) struct Pieces<'a>(pub(super) [&'a Counter; 3]);

impl BalloonMetrics {
    pub(super) fn reports(&self) -> Pieces<'_> {
        Pieces([&self.free_page_report_count, &self.free_page_report_freed, &self.free_page_report_fails])
    }

    pub(super) fn hints(&self) -> Pieces<'_> {
        Pieces([&self.free_page_hint_count, &self.free_page_hint_freed, &self.free_page_hint_fails])
    }
}

impl Pieces<'_> {
    /// Gives a piece back to the host.
    pub(super) fn discard(&self, piece: &VolatileSlice<'_>, recipe: &Recipe) {
        let Self([count, freed, fails]) = self;
        count.add(1);
        match memory::discard(piece, recipe) {
            Ok(bytes) => freed.add(bytes),
            Err(_) => fails.add(1),
        }
    }
}
