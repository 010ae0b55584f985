//! What the metadata service has done so far, on all interfaces. The names are those of Firecracker's metrics.

use crate::metrics::counters;

counters! {
    /// Counters since the start.
    pub struct MmdsMetrics {
        /// Frames of guests that were for the service.
        rx_accepted,
        /// Those of them that are neither ARP nor TCP.
        rx_accepted_unusual,
        /// Requests with a token that is none, or no longer.
        rx_invalid_token,
        /// Requests without the token that they need.
        rx_no_token,
        /// Frames that were made for guests.
        tx_count,
        /// Frames that guests took.
        tx_frames,
        /// Bytes of these.
        tx_bytes,
        /// Connections of guests.
        connections_created,
        /// Those of them that are gone.
        connections_destroyed,
    }
}
