//! Restart policies: a pure function from a container's past to what its policy wants. `docs/daemon.md` has the table.

use vial_api::RestartPolicy;

/// What is waited for before the first restart, in milliseconds. It doubles with each that follows, as Docker's does.
pub const FIRST_WAIT_MS: u64 = 100;
/// What is waited for at most, in milliseconds.
pub const LONGEST_WAIT_MS: u64 = 60_000;
/// A container that ran for so long, in milliseconds, was well: the next wait is the first one again.
pub const WELL_AFTER_MS: u64 = 10_000;

/// Why a policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// The container has just ended.
    Ended,
    /// A daemon starts and finds it ended; with the machine it may have been restarted too.
    DaemonStart,
}

/// What is known of a container that has run and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Its exit status.
    pub exit_code: i32,
    /// Whether a person stopped it.
    pub stopped: bool,
    /// How often its policy has started it since a person did.
    pub restarts: u32,
    /// What was waited for before the newest of these starts.
    pub backoff_ms: u64,
    /// How long its command ran.
    pub ran_ms: u64,
}

/// It is to be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// When: in so many milliseconds.
    pub wait_ms: u64,
    /// To be noted as [`Past::restarts`].
    pub restarts: u32,
    /// To be noted as [`Past::backoff_ms`].
    pub backoff_ms: u64,
}

/// Decides. None: it stays ended.
pub fn decide(policy: RestartPolicy, past: Past, occasion: Occasion) -> Option<Again> {
    let wanted = match policy {
        RestartPolicy::No => false,
        // Whoever stops such a container does so until the daemon is started again.
        RestartPolicy::Always => !past.stopped || occasion == Occasion::DaemonStart,
        RestartPolicy::UnlessStopped => !past.stopped,
        // A daemon that was there would have started it: one that finds it so makes up for that.
        RestartPolicy::OnFailure { max_retries } => {
            !past.stopped && past.exit_code != 0 && (max_retries == 0 || past.restarts < max_retries)
        }
    };
    if !wanted {
        return None;
    }
    let backoff_ms = match past.backoff_ms {
        _ if past.ran_ms >= WELL_AFTER_MS => FIRST_WAIT_MS,
        0 => FIRST_WAIT_MS,
        before => before.saturating_mul(2).min(LONGEST_WAIT_MS),
    };
    // Its wait is over by the time that a daemon was gone.
    let wait_ms = if occasion == Occasion::DaemonStart { 0 } else { backoff_ms };
    Some(Again { wait_ms, restarts: past.restarts.saturating_add(1), backoff_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Occasion::{DaemonStart, Ended};
    use proptest::prelude::*;

    const PAST: Past = Past { exit_code: 1, stopped: false, restarts: 0, backoff_ms: 0, ran_ms: 0 };
    const ON_FAILURE: RestartPolicy = RestartPolicy::OnFailure { max_retries: 0 };

    /// The table of `docs/daemon.md`, row by row: after an end with 0, with another status, by hand; the same found by a new daemon.
    #[test]
    fn the_table() {
        let ok = Past { exit_code: 0, ..PAST };
        let stopped = Past { exit_code: 143, stopped: true, ..PAST };
        let rows = [
            (RestartPolicy::No, [false, false, false], [false, false, false]),
            (ON_FAILURE, [false, true, false], [false, true, false]),
            (RestartPolicy::Always, [true, true, false], [true, true, true]),
            (RestartPolicy::UnlessStopped, [true, true, false], [true, true, false]),
        ];
        for (policy, after_end, at_start) in rows {
            for (past, (ended, found)) in
                [ok, PAST, stopped].into_iter().zip(after_end.into_iter().zip(at_start))
            {
                assert_eq!(decide(policy, past, Ended).is_some(), ended, "{policy} {past:?}");
                assert_eq!(decide(policy, past, DaemonStart).is_some(), found, "{policy} {past:?} found");
            }
        }
    }

    #[test]
    fn failures_are_counted() {
        let policy = RestartPolicy::OnFailure { max_retries: 3 };
        let mut past = PAST;
        let mut restarts = 0;
        while let Some(again) = decide(policy, past, Ended) {
            (past.restarts, past.backoff_ms) = (again.restarts, again.backoff_ms);
            restarts += 1;
        }
        assert_eq!(restarts, 3);
    }

    #[test]
    fn waits_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut past = PAST;
        let mut waits = Vec::new();
        for _ in 0..12 {
            let again = decide(RestartPolicy::Always, past, Ended).unwrap();
            waits.push(again.wait_ms);
            past.backoff_ms = again.backoff_ms;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        past.ran_ms = WELL_AFTER_MS;
        assert_eq!(decide(RestartPolicy::Always, past, Ended).unwrap().wait_ms, FIRST_WAIT_MS);
    }

    proptest! {
        #[test]
        fn whatever_the_store_holds_the_wait_is_bounded(
            backoff_ms in any::<u64>(), ran_ms in any::<u64>(), restarts in any::<u32>(), exit_code in any::<i32>(),
        ) {
            let past = Past { exit_code, stopped: false, restarts, backoff_ms, ran_ms };
            let again = decide(RestartPolicy::Always, past, Ended).unwrap();
            prop_assert!((FIRST_WAIT_MS..=LONGEST_WAIT_MS).contains(&again.wait_ms));
            prop_assert!(again.restarts >= restarts);
        }
    }
}
