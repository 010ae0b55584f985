//! Which starts may be counted as independent of each other.
//!
//! Starts that are made at once wait for the same processors, disks and locks: a slow round makes all of its starts slow, and a test that took each of them
//! for a sample of its own would call chance a difference. So the sample of several at once is a round, told by the median of its starts.

use crate::result::Startup;
use crate::stats;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// What to give to tests and intervals: the samples themselves, or with several at once the median of each round's starts, in ms.
pub fn independent(of: &Startup) -> Cow<'_, [f64]> {
    let at_once = of.concurrency.max(1) as usize;
    if at_once == 1 {
        return Cow::Borrowed(&of.samples_ms);
    }
    // A failed start has no sample, but its place in a round.
    let failed: BTreeSet<usize> = of.failures.iter().map(|failure| failure.run as usize).collect();
    let starts = (0..).filter(|run| !failed.contains(run));
    let mut rounds: Vec<(usize, Vec<f64>)> = Vec::new();
    for (run, sample) in starts.zip(&of.samples_ms) {
        let round = run / at_once;
        match rounds.last_mut() {
            Some((last, samples)) if *last == round => samples.push(*sample),
            _ => rounds.push((round, vec![*sample])),
        }
    }
    rounds.iter().filter_map(|(_, samples)| stats::median(samples)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Failure, Scenario};

    fn startup(concurrency: u32, samples_ms: &[f64], failed: &[u32]) -> Startup {
        Startup {
            contender: "vial".into(),
            scenario: Scenario::Exit,
            concurrency,
            samples_ms: samples_ms.to_vec(),
            rounds_ms: Vec::new(),
            failures: failed.iter().map(|&run| Failure { run, reason: "it hung".into() }).collect(),
            counts: Vec::new(),
        }
    }

    #[test]
    fn starts_one_after_the_other_are_independent_and_those_of_a_round_are_one() {
        assert_eq!(*independent(&startup(1, &[1.0, 2.0], &[])), [1.0, 2.0]);
        assert_eq!(*independent(&startup(3, &[1.0, 2.0, 9.0, 4.0, 5.0, 6.0], &[])), [2.0, 5.0]);
        assert_eq!(*independent(&startup(0, &[1.0], &[])), [1.0]);
    }

    #[test]
    fn a_failed_start_keeps_its_place_in_its_round() {
        assert_eq!(*independent(&startup(2, &[1.0, 4.0, 6.0], &[1])), [1.0, 5.0]);
        assert_eq!(*independent(&startup(2, &[4.0, 6.0], &[0, 1])), [5.0]);
    }
}
