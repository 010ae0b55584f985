//! What a guest tells of its own start, laid on the host's clock. Pure; the guest may say anything.
//!
//! Both clocks run at one rate for as long as a start takes, so a single number relates them: the host's time at the guest's zero. Each message
//! bounds it from one side, because none arrives before it was sent; half of what is left between the bounds is what every step may be off.

use crate::timing::Step;
use agent_protocol::{BootTimes, MAX_BOOT_STEPS};

/// A message of the guest that told its clock, and when it was here: both microseconds, each side by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The guest's clock before it was sent.
    pub guest_us: u64,
    /// The host's clock when it was here.
    pub host_us: u64,
}

/// A question to the guest, by the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Before it was sent.
    pub sent_us: u64,
    /// After the answer was here.
    pub heard_us: u64,
}

/// Longest name of a step in bytes.
const MAX_NAME: usize = 64;

/// The guest's steps on the host's clock. `first_run`: before the guest's first instruction. Steps that can't be, because they lie before that or
/// after the answer, are left out, as are names that are not a guest's.
pub fn lay(times: &BootTimes, asked: Asked, ready: Option<Heard>, first_run: Option<u64>) -> Vec<Step> {
    let number = |us: u64| i64::try_from(us).ok();
    let bounds = || {
        let asked_first = number(asked.sent_us)?.checked_sub(times.received_us)?;
        let low = asked_first.max(number(first_run.unwrap_or(0))?);
        let answered = number(asked.heard_us)?.checked_sub(times.answered_us)?;
        let reported = match ready {
            Some(heard) => number(heard.host_us)?.checked_sub(number(heard.guest_us)?)?,
            None => answered,
        };
        Some((low, answered.min(reported))).filter(|(low, high)| low <= high)
    };
    let Some((low, high)) = bounds() else { return Vec::new() };
    let (zero, within) = (i64::midpoint(low, high), high.abs_diff(low).div_ceil(2));
    let mut steps = Vec::new();
    for step in times.steps.iter().take(MAX_BOOT_STEPS) {
        let guests = step.step.starts_with("kernel: ") || step.step.starts_with("agent: ");
        let printable = step.step.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let at = zero.checked_add(step.at_us).and_then(|at| u64::try_from(at).ok());
        let Some(at_us) = at.filter(|_| guests && printable && step.step.len() <= MAX_NAME) else { continue };
        let possible = first_run.unwrap_or(0).saturating_sub(within)..=asked.heard_us;
        if possible.contains(&at_us) {
            // Not before what surely came first, by no more than what it may be off anyway.
            let at_us = at_us.max(first_run.unwrap_or(0));
            steps.push(Step { name: step.step.clone(), at_us, within_us: Some(within) });
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::BootStep;
    use proptest::prelude::*;

    fn times(received_us: i64, answered_us: i64, steps: &[(&str, i64)]) -> BootTimes {
        let step = |&(step, at_us): &(&str, i64)| BootStep { step: step.into(), at_us };
        BootTimes { received_us, answered_us, steps: steps.iter().map(step).collect() }
    }

    #[test]
    fn the_tightest_bounds_count() {
        // The guest's zero is at 1000 on the host's clock.
        let asked = Asked { sent_us: 6000, heard_us: 6400 };
        let told = times(5100, 5200, &[("kernel: clock running", 50), ("agent: started", 700)]);
        let steps = |ready, first_run| {
            let steps = lay(&told, asked, ready, first_run);
            steps.into_iter().map(|step| (step.at_us, step.within_us)).collect::<Vec<_>>()
        };
        // 900 to 1200 by the exchange alone.
        assert_eq!(steps(None, None), [(1100, Some(150)), (1750, Some(150))]);
        // The report says 1020 at most, the first run 980 at least.
        let ready = Some(Heard { guest_us: 2000, host_us: 3020 });
        assert_eq!(steps(ready, Some(980)), [(1050, Some(20)), (1700, Some(20))]);
    }

    #[test]
    fn what_can_not_be_is_left_out() {
        let asked = Asked { sent_us: 6000, heard_us: 6400 };
        let names = [
            ("agent: started", -2000),
            ("agent: started", 90_000),
            ("VMM: FirstRun", 10),
            ("kernel: \u{1b}[2J", 10),
        ];
        assert_eq!(lay(&times(5100, 5200, &names), asked, None, Some(950)), []);
        // Answered before it was asked, or after the answer was here: such a clock says nothing.
        assert_eq!(lay(&times(100, 6000, &[("agent: started", 5)]), asked, None, None), []);
        assert_eq!(lay(&times(i64::MIN, i64::MAX, &[("agent: started", 5)]), asked, None, None), []);
    }

    proptest! {
        #[test]
        fn no_guest_gets_a_step_out_of_its_time(
            received: i64, answered: i64, at: i64, guest_us: u64, host_us: u64, sent in 0u64..1 << 40, took in 0u64..1 << 30, run: u64,
        ) {
            let asked = Asked { sent_us: sent, heard_us: sent + took };
            let ready = Some(Heard { guest_us, host_us });
            for first_run in [None, Some(run), Some(run % (1 << 40))] {
                for step in lay(&times(received, answered, &[("agent: x", at)]), asked, ready, first_run) {
                    prop_assert!(step.at_us >= first_run.unwrap_or(0));
                }
            }
        }
    }
}
