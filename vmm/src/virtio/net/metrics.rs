//! What an interface has done so far. The names are those of Firecracker's metrics.

use crate::metrics::counters;

counters! {
    /// Counters since the start.
    pub struct NetMetrics {
        /// Kicks because of buffers for frames to the guest.
        rx_queue_event_count,
        /// Times that the TAP had frames, or was gone.
        rx_tap_event_count,
        /// Times that the limiter let frames to the guest pass again.
        rx_event_rate_limiter_count,
        /// Kicks because of frames of the guest, and turns taken up again.
        tx_queue_event_count,
        /// Times that the limiter let frames of the guest pass again.
        tx_rate_limiter_event_count,
        /// Times that the TAP was gone when it was read.
        tap_read_fails,
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
        /// Frames that are longer than any TAP takes.
        tx_malformed_frames,
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
