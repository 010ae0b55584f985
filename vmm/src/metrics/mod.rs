//! Figures of a running process: Firecracker's JSON lines, and Prometheus' text.

mod figures;
mod requests;
mod sink;

pub use figures::{Figure, Figures};
pub use requests::Requests;
pub use sink::{Sink, Tick};
