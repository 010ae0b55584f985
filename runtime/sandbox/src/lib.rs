//! A pod's life: VM, image and containers together.
//!
//! It must never know of the API, the store or the command line: it turns an image and options into a running VM with a container in it, moves the
//! container's streams, and cleans up; who asked, and what is remembered, is its caller's business.
#![forbid(unsafe_code)]

mod desk;
mod error;
mod guest_clock;
pub mod ids;
pub mod log;
pub mod oom;
pub mod pause;
mod sandbox;
pub mod signals;
pub mod sizing;
mod slots;
pub mod spec;
mod start;
mod supervise;
mod task;
pub mod timing;
mod turns;
pub mod upper;
mod volumes;

pub use desk::TaskExit;
pub use error::PodError;
pub use ids::{ContainerId, PodId};
pub use sandbox::{Host, Over, Sandbox};
pub use slots::{Shared, Slot};
pub use start::{SandboxPlan, TaskPlan};
pub use supervise::Ended;
pub use task::{Connections, ExecStreams, PutHow, Task};
pub use turns::Turns;
pub use volumes::{File, Volume};

/// Milliseconds since the epoch, by the host's clock.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Good for 584 million years.
    since.as_millis() as u64
}
