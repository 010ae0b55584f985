//! A container's output on the host's disk: the one place that it goes to and is read from, by attached clients too.
//!
//! So output survives the daemon: what is in the log is acknowledged to the agent, what is not is still in the agent's ring.

pub mod format;
mod output;
mod reader;
mod select;
mod writer;

pub use format::{Position, Stream};
pub use output::{Follower, OutputLog};
pub use reader::{Item, Reader};
pub use select::{Selector, Wanted};
pub use writer::{Limits, Writer};

#[cfg(test)]
mod tests;
