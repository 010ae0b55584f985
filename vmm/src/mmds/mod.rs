//! The metadata service: one JSON document of the host that the guest may read, through its network device.

mod answers;
mod metrics;
mod store;
mod token;
mod wire;
#[cfg(test)]
mod wire_tests;

pub use metrics::MmdsMetrics;
pub use store::{Store, StoreError};
pub use wire::{HEAD, SharedStore, Wire};
