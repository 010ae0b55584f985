//! The metadata service: one JSON document of the host that the guest may read.

mod store;

pub use store::{Store, StoreError};
