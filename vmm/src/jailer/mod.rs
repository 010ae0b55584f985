//! `vial-jailer`: starts `vial-vmm` as Firecracker's jailer starts Firecracker, for tools that are used to it.
//!
//! Vial's own launcher (`runtime/vm`) confines more and starts faster; this is for hosts where something else drives the API.

pub mod args;
mod cgroup;
mod jail;
mod place;

pub use args::Order;
pub use jail::{JailError, run};
