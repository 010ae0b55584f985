//! Pods that were made by name and hold several containers: `/v1/pods…`, their life, and the slots that their containers take.
//!
//! A container that was made without naming a pod has one to itself, which is `life`'s matter alone.

pub mod api;
mod creation;
pub mod life;
mod live;

pub use creation::create as make;
pub use live::{LivePod, Place, PodPhase};
