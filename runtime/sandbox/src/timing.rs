//! When each step of a start was reached.

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in microseconds: the clock of the VMM's milestones too, so that both fit on one line.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative, and the sum is far from overflow.
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Steps and their times.
#[derive(Debug, Clone)]
pub struct Timing {
    begin_us: u64,
    steps: Vec<(String, u64)>,
}

impl Timing {
    /// Begins now.
    pub fn begin() -> Self {
        Self { begin_us: monotonic_us(), steps: Vec::new() }
    }

    /// A step was reached now.
    pub fn reached(&mut self, step: &str) {
        self.reached_at(step, monotonic_us());
    }

    /// A step was reached at this time of the same clock.
    pub fn reached_at(&mut self, step: &str, at_us: u64) {
        self.steps.push((step.to_owned(), at_us.saturating_sub(self.begin_us)));
    }

    /// Steps with microseconds since the beginning, in order.
    pub fn steps(&self) -> Vec<(String, u64)> {
        let mut steps = self.steps.clone();
        steps.sort_by_key(|(_, at)| *at);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_the_order_of_their_times() {
        let mut timing = Timing::begin();
        let begin = timing.begin_us;
        timing.reached_at("late", begin + 9);
        timing.reached_at("early", begin + 2);
        timing.reached_at("before the clock", begin - 5);
        assert_eq!(timing.steps(), [("before the clock".into(), 0), ("early".into(), 2), ("late".into(), 9)]);
    }
}
