//! The node side: what a machine that runs pods says of itself and of them, and what is to be done so that they run. Pure functions: what is
//! observed comes in, steps and status go out, and time is a parameter. How a pod is run is its caller's knowledge.
//!
//! [`schedule`] places pods, [`life`] says what is to be done about one of them, [`status`] what it says of itself, [`request`] what one of
//! its containers is to be, [`volumes`] what it finds in its folders, [`probe`] what asking it came to; [`machine`] is the Node, [`mirror`] shows pods that nobody declared.

pub mod life;
pub mod machine;
pub mod mirror;
pub mod observed;
pub mod probe;
pub mod request;
pub mod schedule;
pub mod status;
mod view;
pub mod volumes;

pub use view::{Part, Role, parts, refused};

#[cfg(test)]
mod tests;
