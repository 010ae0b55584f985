//! What every end-to-end test needs: the installed `vial`, a daemon of the test's own, fixtures, and the check that
//! nothing is left over.
//!
//! It must never know how Vial works inside: it runs built binaries and looks at the machine, as a person would.

pub mod bare;
pub mod crash;
pub mod declared;
pub mod fixtures;
pub mod host;
pub mod kubectl;
pub mod leftovers;
pub mod limit;
pub mod outside;
pub mod registry;
pub mod screen;
pub mod soak;
pub mod story;
pub mod talk;
