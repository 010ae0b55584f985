//! What a socket device has done so far. The names are those of Firecracker's metrics; as there, what the guest sends is transmitted.

use crate::metrics::counters;

counters! {
    /// Counters since the start.
    pub struct VsockMetrics {
        /// Kicks because of buffers for packets to the guest.
        rx_queue_event_count,
        /// Kicks because of packets of the guest.
        tx_queue_event_count,
        /// Bytes of data that host programs sent.
        rx_bytes_count,
        /// Bytes of data that host programs' sockets took.
        tx_bytes_count,
        /// Packets that the guest got.
        rx_packets_count,
        /// Packets that the guest sent.
        tx_packets_count,
        /// Connections that began, of either side; one that the host asks for counts before the guest has answered.
        conns_added,
        /// Connections that are gone.
        conns_removed,
        /// Times that a host program's socket failed while it was given what a packet brought.
        tx_write_fails,
        /// Times that it failed while it was given what had waited.
        tx_flush_fails,
        /// Times that it failed while it was read.
        rx_read_fails,
    }
}
