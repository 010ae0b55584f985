//! What an interface has done so far. The names are those of Firecracker's metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; they wrap.
#[derive(Debug, Default)]
pub struct NetMetrics {
    /// Bytes of frames that guests got.
    pub rx_bytes_count: AtomicU64,
    /// Frames that guests got.
    pub rx_packets_count: AtomicU64,
    /// Times that the guest had no room for a frame.
    pub no_rx_avail_buffer: AtomicU64,
    /// Bytes of frames that guests sent.
    pub tx_bytes_count: AtomicU64,
    /// Frames that guests sent.
    pub tx_packets_count: AtomicU64,
    /// Frames that the TAP did not take.
    pub tx_fails: AtomicU64,
    /// Changes of the address by the guest.
    pub mac_address_updates: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl NetMetrics {
    /// All of them by name.
    pub fn figures(&self) -> [(&'static str, u64); 7] {
        [
            ("rx_bytes_count", &self.rx_bytes_count),
            ("rx_packets_count", &self.rx_packets_count),
            ("no_rx_avail_buffer", &self.no_rx_avail_buffer),
            ("tx_bytes_count", &self.tx_bytes_count),
            ("tx_packets_count", &self.tx_packets_count),
            ("tx_fails", &self.tx_fails),
            ("mac_address_updates", &self.mac_address_updates),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    pub(super) fn received(&self, bytes: usize) {
        add(&self.rx_packets_count, 1);
        add(&self.rx_bytes_count, bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        add(&self.tx_packets_count, 1);
        add(&self.tx_bytes_count, bytes as u64);
    }
}
