//! How many lines a guest may bring about.

use std::time::{Duration, Instant};

/// Lines at once.
const BURST: u32 = 10;
/// Until the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// A bucket of lines.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Whether one more may be written.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let intervals = u32::try_from(passed.as_secs() / INTERVAL.as_secs()).unwrap_or(u32::MAX);
        if intervals > 0 {
            self.left = self.left.saturating_add(intervals).min(BURST);
            // No interval begun is lost, so the rate is exact.
            self.since += INTERVAL * intervals;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_one_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let taken = |budget: &mut Budget, at: u64| {
            (0..100).filter(|_| budget.take(start + Duration::from_millis(at))).count()
        };
        assert_eq!(taken(&mut budget, 0), 10);
        assert_eq!(taken(&mut budget, 999), 0);
        assert_eq!(taken(&mut budget, 1000), 1);
        assert_eq!(taken(&mut budget, 3500), 2);
        assert_eq!(taken(&mut budget, 4000), 1);
        assert_eq!(taken(&mut budget, 100_000_000), 10);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(gaps in proptest::collection::vec(0u64..3000, 1..200)) {
            let start = Instant::now();
            let mut budget = Budget::new(start);
            let (mut now, mut taken) = (0, 0);
            for gap in gaps {
                now += gap;
                taken += u64::from(budget.take(start + Duration::from_millis(now)));
                prop_assert!(taken <= u64::from(BURST) + now / 1000);
            }
        }
    }
}
