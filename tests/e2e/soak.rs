//! The short form of `tools/soak`.

use std::sync::atomic::AtomicBool;
use vial_tests::soak::{Until, run};

#[test]
fn random_kills_leave_the_truth() {
    // Always the same steps, with a blow to the daemon of a container that is being paused: what the random ones find belongs to tools/soak, whose seed brings it back.
    if let Err(broken) = run(980, Until::Rounds(2), &AtomicBool::new(false)) {
        panic!("{broken}");
    }
}
