//! How long a job waits after failures: ten seconds, twice as long each time, six minutes at most, until a pod succeeds.

use super::super::{condition, time};
use crate::object;
use crate::store::Stored;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use std::sync::Arc;

/// After the first failure, in seconds.
const FIRST: i64 = 10;
/// At most, in seconds.
const MOST: i64 = 360;

/// Until when no new pod is made; nothing: one may be made now.
pub(super) fn until(pods: &[&Arc<Stored>], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let ends = |phase: &str| {
        let is = move |pod: &&&Arc<Stored>| object::text(&pod.object, &["status", "phase"]) == phase;
        pods.iter().filter(is).filter_map(|pod| end(&pod.object)).collect::<Vec<_>>()
    };
    let success = ends("Succeeded").into_iter().max();
    let failures: Vec<DateTime<Utc>> =
        ends("Failed").into_iter().filter(|end| success.is_none_or(|success| *end > success)).collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
    let wait = TimeDelta::seconds((FIRST << doublings).min(MOST));
    // A failure in the future is from before the clock was set back: nobody knows how long ago it was.
    let is_known = *last - now <= TimeDelta::seconds(MOST);
    (is_known && *last + wait > now).then_some(*last + wait)
}

/// When a pod ended: its last container, or the best that is known.
fn end(pod: &Value) -> Option<DateTime<Utc>> {
    let containers = object::list(pod, &["status", "containerStatuses"]).iter();
    let last =
        containers.filter_map(|container| time(container, &["state", "terminated", "finishedAt"])).max();
    last.or_else(|| time(condition(pod, "Ready")?, &["lastTransitionTime"]))
        .or_else(|| time(pod, &["metadata", "deletionTimestamp"]))
        .or_else(|| time(pod, &["metadata", "creationTimestamp"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(phase: &str, end: i64) -> Arc<Stored> {
        let end = DateTime::from_timestamp(end, 0).unwrap().to_rfc3339();
        let object = json!({"status": {"phase": phase, "containerStatuses": [{"state": {"terminated": {"finishedAt": end}}}]}});
        Arc::new(Stored { object, version: 1 })
    }

    fn wait(ends: &[(&str, i64)], now: i64) -> Option<i64> {
        let pods: Vec<_> = ends.iter().map(|(phase, end)| pod(phase, *end)).collect();
        let now = DateTime::from_timestamp(now, 0).unwrap();
        until(&pods.iter().collect::<Vec<_>>(), now).map(|until| (until - now).num_seconds())
    }

    #[test]
    fn each_failure_doubles_the_wait_and_a_success_ends_it() {
        assert_eq!(wait(&[], 1000), None);
        assert_eq!(wait(&[("Failed", 1000)], 1000), Some(10));
        assert_eq!(wait(&[("Failed", 1000)], 1010), None);
        assert_eq!(wait(&[("Failed", 990), ("Failed", 1000)], 1005), Some(15));
        assert_eq!(wait(&[("Failed", 990), ("Failed", 1000), ("Succeeded", 995)], 1005), Some(5));
        assert_eq!(wait(&[("Failed", 1000), ("Succeeded", 1001)], 1002), None);
        assert_eq!(wait(&[("Failed", 1000); 40], 1000), Some(360));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_a_job() {
        assert_eq!(wait(&[("Failed", 100_000)], 1000), None);
        assert_eq!(wait(&[("Failed", 1001)], 1000), Some(11));
    }
}
