//! What becomes of a job: pure decisions from its specification and the tally.

use super::tally::Tally;
use super::{condition, is_suspended, time};
use crate::controllers::is_over;
use crate::object;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// How it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Running,
    /// All that was wanted has succeeded.
    Complete,
    /// It has failed for good.
    Failed {
        /// For programs.
        reason: String,
        /// For people.
        message: String,
    },
}

impl Outcome {
    pub(super) fn of(job: &Value, tally: &Tally<'_>, now: DateTime<Utc>) -> Self {
        let failed = |reason: &str, message: String| Self::Failed { reason: reason.into(), message };
        // What was decided once stays.
        if let Some(target) = condition(job, "FailureTarget").filter(|target| target["status"] == "True") {
            return failed(object::text(target, &["reason"]), object::text(target, &["message"]).into());
        }
        if condition(job, "SuccessCriteriaMet").is_some_and(|met| met["status"] == "True") {
            return Self::Complete;
        }
        if let Some(why) = &tally.verdict {
            return failed("PodFailurePolicy", why.clone());
        }
        if is_beyond_backoff(job, tally) {
            return failed("BackoffLimitExceeded", "Job has reached the specified backoff limit".into());
        }
        if deadline(job).is_some_and(|deadline| deadline <= now) {
            return failed("DeadlineExceeded", "Job was active longer than specified deadline".into());
        }
        let is_complete = match completions(job) {
            Some(completions) => tally.succeeded() >= completions && tally.active.is_empty(),
            None => tally.succeeded() > 0 && tally.active.is_empty(),
        };
        if is_complete { Self::Complete } else { Self::Running }
    }
}

fn completions(job: &Value) -> Option<usize> {
    object::number(job, &["spec", "completions"]).map(|number| usize::try_from(number).unwrap_or(0))
}

/// Failed pods; and restarts of containers, where a pod restarts them itself.
fn is_beyond_backoff(job: &Value, tally: &Tally<'_>) -> bool {
    let limit = object::number(job, &["spec", "backoffLimit"]).unwrap_or(6).max(0);
    if i64::try_from(tally.failed()).unwrap_or(i64::MAX) > limit {
        return true;
    }
    if object::text(job, &["spec", "template", "spec", "restartPolicy"]) != "OnFailure" {
        return false;
    }
    let restarts: i64 = tally
        .pods
        .iter()
        .filter(|pod| !is_over(&pod.object))
        .flat_map(|pod| {
            ["initContainerStatuses", "containerStatuses"]
                .map(|list| object::list(&pod.object, &["status", list]))
        })
        .flatten()
        .filter_map(|container| object::number(container, &["restartCount"]))
        .fold(0, i64::saturating_add);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// When it will have been active for too long.
pub(super) fn deadline(job: &Value) -> Option<DateTime<Utc>> {
    let seconds = object::number(job, &["spec", "activeDeadlineSeconds"])?;
    if is_suspended(job) {
        return None;
    }
    Some(time(job, &["status", "startTime"])? + TimeDelta::seconds(seconds.clamp(0, 1 << 31)))
}

/// Pods that should be active now.
pub(super) fn wanted(job: &Value, tally: &Tally<'_>) -> usize {
    let parallelism = object::number(job, &["spec", "parallelism"]).unwrap_or(1);
    let parallelism = usize::try_from(parallelism).unwrap_or(0);
    match completions(job) {
        Some(completions) => completions.saturating_sub(tally.succeeded()).min(parallelism),
        // Of a work queue that one pod has seen the end of, nobody else takes anything.
        None if tally.succeeded() > 0 => tally.active.len().min(parallelism),
        None => parallelism,
    }
}
