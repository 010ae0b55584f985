//! What a disk has done so far. The names are those of Firecracker's metrics.

use super::request::Task;
use crate::metrics::counters;

counters! {
    /// Counters since the start.
    pub struct BlockMetrics {
        /// Kicks, and turns taken up again.
        queue_event_count,
        /// Times that the limiter let requests pass again.
        rate_limiter_event_count,
        /// Times that the ring was full, and requests waited for others.
        io_engine_throttled_events,
        /// Bytes that guests read.
        read_bytes,
        /// Reads.
        read_count,
        /// Bytes that guests wrote.
        write_bytes,
        /// Writes.
        write_count,
        /// Flushes.
        flush_count,
        /// Requests that made no sense.
        invalid_reqs_count,
        /// Requests that the disk failed.
        execute_fails,
        /// Changes of the files behind it, or of its limit.
        update_count,
        /// Changes that were refused.
        update_fails,
    }
}

impl BlockMetrics {
    pub(super) fn done(&self, task: Task) {
        match task {
            Task::Read { len, .. } => {
                self.read_count.add(1);
                self.read_bytes.add(len.into());
            }
            Task::Write { len, .. } => {
                self.write_count.add(1);
                self.write_bytes.add(len.into());
            }
            Task::Flush => self.flush_count.add(1),
            Task::Serial | Task::Discard { .. } | Task::Zeroes { .. } => {}
        }
    }

    pub(super) fn invalid(&self) {
        self.invalid_reqs_count.add(1);
    }

    pub(super) fn failed(&self) {
        self.execute_fails.add(1);
    }

    pub(super) fn updated(&self, ok: bool) {
        let counter = if ok { &self.update_count } else { &self.update_fails };
        counter.add(1);
    }
}
