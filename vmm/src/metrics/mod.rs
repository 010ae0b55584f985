//! Figures of a running process: Firecracker's JSON lines, and Prometheus' text.

mod counters;
mod figures;
mod requests;
mod sink;

pub use counters::Counter;
pub(crate) use counters::counters;
pub use figures::{Figure, Figures};
pub use requests::Requests;
pub use sink::{Sink, Tick};

counters! {
    /// What calls the guest's drivers, under Firecracker's names.
    pub struct InterruptMetrics {
        /// Interrupts and messages that devices raised; those of vhost-net and of vhost-user back ends pass through here.
        triggers,
        /// Changes of a message's route.
        config_updates,
    }
}
