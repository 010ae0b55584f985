//! The short form of `tools/soak`.

use std::sync::atomic::AtomicBool;
use vial_tests::soak::{Of, Until, run};

fn passes(of: Of, seed: u64, rounds: u64) {
    if let Err(broken) = run(of, seed, Until::Rounds(rounds), &AtomicBool::new(false)) {
        panic!("{broken}");
    }
}

// Always the same steps: what the random ones find belongs to tools/soak, whose seed brings it back.

#[test]
fn random_kills_leave_the_truth() {
    // A blow to the daemon of a container that is being paused, and a crash of the agent of a pod of several.
    passes(Of::Containers, 980, 2);
    passes(Of::Containers, 50292, 3);
}

#[test]
fn random_kills_leave_what_is_declared() {
    // A blow to the daemon while a deployment's pod starts, and one to a VM while a job's pods do.
    passes(Of::Declared, 5814, 1);
}
