//! What a disk has done so far. The names are those of Firecracker's metrics.

use super::request::Task;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; they wrap.
#[derive(Debug, Default)]
pub struct BlockMetrics {
    /// Bytes that guests read.
    pub read_bytes: AtomicU64,
    /// Reads.
    pub read_count: AtomicU64,
    /// Bytes that guests wrote.
    pub write_bytes: AtomicU64,
    /// Writes.
    pub write_count: AtomicU64,
    /// Flushes.
    pub flush_count: AtomicU64,
    /// Requests that made no sense.
    pub invalid_reqs_count: AtomicU64,
    /// Requests that the disk failed.
    pub execute_fails: AtomicU64,
    /// Changes of the files behind it, or of its limit.
    pub update_count: AtomicU64,
    /// Changes that were refused.
    pub update_fails: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl BlockMetrics {
    /// All of them by name.
    pub fn figures(&self) -> [(&'static str, u64); 9] {
        [
            ("read_bytes", &self.read_bytes),
            ("read_count", &self.read_count),
            ("write_bytes", &self.write_bytes),
            ("write_count", &self.write_count),
            ("flush_count", &self.flush_count),
            ("invalid_reqs_count", &self.invalid_reqs_count),
            ("execute_fails", &self.execute_fails),
            ("update_count", &self.update_count),
            ("update_fails", &self.update_fails),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    pub(super) fn done(&self, task: Task) {
        match task {
            Task::Read { len, .. } => {
                add(&self.read_count, 1);
                add(&self.read_bytes, len.into());
            }
            Task::Write { len, .. } => {
                add(&self.write_count, 1);
                add(&self.write_bytes, len.into());
            }
            Task::Flush => add(&self.flush_count, 1),
            Task::Serial | Task::Ranges { .. } => {}
        }
    }

    pub(super) fn invalid(&self) {
        add(&self.invalid_reqs_count, 1);
    }

    pub(super) fn failed(&self) {
        add(&self.execute_fails, 1);
    }

    pub(super) fn updated(&self, ok: bool) {
        add(if ok { &self.update_count } else { &self.update_fails }, 1);
    }
}
