//! Events are forgotten after an hour: they tell what is going on, not what was.

use super::{Action, Plan, Ref, Snapshot, kind, time};
use crate::engine::Propagation;
use chrono::TimeDelta;

/// As long as Kubernetes keeps them (`--event-ttl`).
const KEPT: TimeDelta = TimeDelta::hours(1);
/// Events that one look forgets at most: each is a write.
const BURST: usize = 100;

pub(super) fn plan(snapshot: &Snapshot, plan: &mut Plan) {
    let mut forgotten = 0;
    for event in snapshot.all("events") {
        let value = &event.object;
        let said = [&["lastTimestamp"][..], &["eventTime"], &["metadata", "creationTimestamp"]]
            .into_iter()
            .find_map(|path| time(value, path))
            .unwrap_or(snapshot.now);
        // One of the future is from before the clock was set back.
        let is_old = snapshot.now - said >= KEPT || said - snapshot.now > KEPT;
        if !is_old {
            plan.look_again(said + KEPT);
        } else if forgotten < BURST {
            forgotten += 1;
            let target = Ref::to(kind("events"), event);
            plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
        }
    }
}
