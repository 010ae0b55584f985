//! What an interface has done so far. The names are those of Firecracker's metrics.

use crate::metrics::counters;

counters! {
    /// Counters since the start.
    pub struct NetMetrics {
        /// Bytes of frames that guests got.
        rx_bytes_count,
        /// Frames that guests got.
        rx_packets_count,
        /// Times that the guest had no room for a frame.
        no_rx_avail_buffer,
        /// Bytes of frames that guests sent.
        tx_bytes_count,
        /// Frames that guests sent.
        tx_packets_count,
        /// Frames that the TAP did not take.
        tx_fails,
        /// Changes of the address by the guest.
        mac_address_updates,
    }
}

impl NetMetrics {
    pub(super) fn received(&self, bytes: usize) {
        self.rx_packets_count.add(1);
        self.rx_bytes_count.add(bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.tx_packets_count.add(1);
        self.tx_bytes_count.add(bytes as u64);
    }
}
