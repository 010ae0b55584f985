//! When each step of a start was reached.

use crate::guest_clock::Heard;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// When a start is no longer waiting for its turn.
pub const TURN: &str = "turn to boot";
/// When the agent in the VM can be asked.
pub const CONNECTED: &str = "agent connected";

/// CLOCK_MONOTONIC in microseconds: the clock of the VMM's milestones too, so that both fit on one line.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative, and the sum is far from overflow.
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// A step that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was reached.
    pub name: String,
    /// CLOCK_MONOTONIC, microseconds.
    pub at_us: u64,
    /// How far off that may be, microseconds; none for a time that was read on this clock.
    pub within_us: Option<u64>,
}

/// Steps and their times.
#[derive(Debug, Clone)]
pub struct Timing {
    begin_us: u64,
    steps: Vec<Step>,
    /// The agent's report, if it was this start's.
    ready: Option<Heard>,
}

impl Timing {
    /// Begins now.
    pub fn begin() -> Self {
        Self { begin_us: monotonic_us(), steps: Vec::new(), ready: None }
    }

    /// When it began.
    pub fn begin_us(&self) -> u64 {
        self.begin_us
    }

    /// A step was reached now.
    pub fn reached(&mut self, step: &str) {
        self.reached_at(step, monotonic_us());
    }

    /// A step was reached at this time of the same clock.
    pub fn reached_at(&mut self, step: &str, at_us: u64) {
        self.note(Step { name: step.to_owned(), at_us, within_us: None });
    }

    /// A step was reached.
    pub fn note(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// The agent has just reported, with its guest's clock.
    pub(crate) fn heard(&mut self, guest_us: u64) {
        self.ready = Some(Heard { guest_us, host_us: monotonic_us() });
    }

    /// The agent's report, if the guest was started here.
    pub(crate) fn ready(&self) -> Option<Heard> {
        self.ready
    }

    /// When a step was reached.
    pub(crate) fn at(&self, name: &str) -> Option<u64> {
        self.steps.iter().find(|step| step.name == name).map(|step| step.at_us)
    }

    /// How long it took from one step to another, if both were reached.
    pub fn between(&self, from: &str, to: &str) -> Option<Duration> {
        Some(Duration::from_micros(self.at(to)?.saturating_sub(self.at(from)?)))
    }

    /// Steps in the order of their times.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = self.steps.clone();
        steps.sort_by_key(|step| step.at_us);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_the_order_of_their_times() {
        let mut timing = Timing::begin();
        let begin = timing.begin_us();
        timing.reached_at("late", begin + 9);
        timing.reached_at("early", begin + 2);
        timing.reached_at("before the clock", begin - 5);
        let steps: Vec<_> = timing.steps().into_iter().map(|step| (step.name, step.at_us)).collect();
        let expected = [("before the clock", begin - 5), ("early", begin + 2), ("late", begin + 9)];
        assert_eq!(steps, expected.map(|(name, at)| (name.to_owned(), at)));
    }
}
