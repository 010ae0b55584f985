//! Jobs: pods that run to their end, so many successes, so many failures at most.
//!
//! A pod is counted once, whatever becomes of it: it has a finalizer, its end is first noted in `uncountedTerminatedPods`, then the finalizer
//! is taken off, and when it is off the note becomes a number. A crash between any two of these steps is seen in what is stored, and the
//! next look does the rest.

mod backoff;
mod indexes;
mod outcome;
mod policy;
mod tally;

use super::claim::claim;
use super::{
    Action, Plan, Ref, Snapshot, condition, controller_of, is_over, kind, owner_reference, status_patch, time,
};
use crate::engine::{Note, Propagation};
use crate::object;
use crate::selector::LabelSelector;
use crate::store::Stored;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use indexes::INDEX;
use outcome::Outcome;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tally::Tally;

/// Holds a pod until its end is counted (batch's `JobTrackingFinalizer`).
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Who says it.
const SOURCE: &str = "job-controller";
/// Pods that one look makes or deletes at most: a typo in `parallelism` must not fill the store before it can be taken back.
const BURST: usize = 100;

/// What all jobs want done.
pub(super) fn plan(snapshot: &Snapshot, plan: &mut Plan) {
    for job in snapshot.all("jobs") {
        one(snapshot, job, plan);
    }
    release(snapshot, plan);
}

fn one(snapshot: &Snapshot, job: &Arc<Stored>, plan: &mut Plan) {
    let value = &job.object;
    let manager = object::text(value, &["spec", "managedBy"]);
    if !manager.is_empty() && manager != "kubernetes.io/job-controller" {
        return;
    }
    if let Some(end) = finished(value) {
        return expire(snapshot.now, job, end, plan);
    }
    let selector = LabelSelector::of_spec(object::at(value, &["spec", "selector"]).unwrap_or(&Value::Null));
    let Ok(Some(selector)) = selector else { return };
    let pods = claim(snapshot, kind("pods"), (kind("jobs"), job), &selector, TRACKING, plan);
    let tally = Tally::of(value, &pods);
    let outcome = Outcome::of(value, &tally, snapshot.now);
    if outcome == Outcome::Running
        && let Some(deadline) = outcome::deadline(value)
    {
        plan.look_again(deadline);
    }
    report(snapshot.now, job, &tally, &outcome, plan);
    for pod in &tally.noted {
        plan.actions.push(untrack(pod));
    }
    match outcome {
        // What is taken away for these reasons has failed; what is too many has not.
        Outcome::Failed { .. } | Outcome::Complete => delete(job, tally.active.clone(), true, plan),
        Outcome::Running if object::is_deleted(value) => {}
        Outcome::Running if is_suspended(value) => delete(job, tally.active.clone(), false, plan),
        Outcome::Running => scale(snapshot.now, job, &tally, plan),
    }
}

fn is_suspended(job: &Value) -> bool {
    object::at(job, &["spec", "suspend"]) == Some(&Value::Bool(true))
}

/// The condition that says that a job is over, if it is.
fn finished(job: &Value) -> Option<&Value> {
    ["Complete", "Failed"]
        .into_iter()
        .find_map(|kind| condition(job, kind).filter(|condition| condition["status"] == "True"))
}

/// A job that is over goes when its time has come.
fn expire(now: DateTime<Utc>, job: &Arc<Stored>, end: &Value, plan: &mut Plan) {
    let Some(seconds) = object::number(&job.object, &["spec", "ttlSecondsAfterFinished"]) else { return };
    let Some(end) = time(end, &["lastTransitionTime"]) else { return };
    let due = end + TimeDelta::seconds(seconds.clamp(0, 1 << 31));
    if due > now {
        plan.look_again(due);
    } else if !object::is_deleted(&job.object) {
        let target = Ref::to(kind("jobs"), job);
        plan.actions.push(Action::Delete { target, propagation: Propagation::Foreground });
    }
}

/// Pods that wait to be counted, and nobody counts: their job is over or gone.
fn release(snapshot: &Snapshot, plan: &mut Plan) {
    let counting: BTreeSet<&str> = snapshot
        .all("jobs")
        .iter()
        .filter(|job| finished(&job.object).is_none())
        .map(|job| object::uid(&job.object))
        .collect();
    for pod in snapshot.all("pods").iter().filter(|pod| is_tracked(&pod.object)) {
        let owner = controller_of(&pod.object).filter(|owner| owner["kind"] == "Job");
        let is_counted = owner.is_some_and(|owner| counting.contains(object::text(owner, &["uid"])));
        // A pod that goes on is not let go: its job may be one that has only ended for us.
        if !is_counted && (owner.is_none() || is_over(&pod.object) || object::is_deleted(&pod.object)) {
            plan.actions.push(untrack(pod));
        }
    }
}

fn is_tracked(pod: &Value) -> bool {
    object::list(pod, &["metadata", "finalizers"]).iter().any(|one| one == TRACKING)
}

fn untrack(pod: &Arc<Stored>) -> Action {
    let rest: Vec<&Value> = object::list(&pod.object, &["metadata", "finalizers"])
        .iter()
        .filter(|one| **one != TRACKING)
        .collect();
    let patch = json!({"metadata": {"finalizers": rest}});
    Action::Merge { target: Ref::to(kind("pods"), pod), subresource: "", patch }
}

/// As many pods as are wanted now: fewer at once, more when the last failure is long enough ago.
fn scale(now: DateTime<Utc>, job: &Arc<Stored>, tally: &Tally<'_>, plan: &mut Plan) {
    let value = &job.object;
    let wanted = outcome::wanted(value, tally);
    let surplus = tally.surplus(wanted);
    if !surplus.is_empty() {
        return delete(job, surplus, false, plan);
    }
    let missing = wanted.saturating_sub(tally.occupied());
    if missing == 0 {
        return;
    }
    if let Some(until) = backoff::until(&tally.pods, now) {
        return plan.look_again(until);
    }
    match &tally.indexes {
        None => (0..missing.min(BURST)).for_each(|_| plan.actions.push(create(value, None))),
        Some(indexes) => {
            for index in indexes.pending().take(missing.min(BURST)) {
                plan.actions.push(create(value, Some(index)));
            }
        }
    }
}

fn delete(job: &Arc<Stored>, pods: Vec<&Arc<Stored>>, has_failed: bool, plan: &mut Plan) {
    for pod in pods.into_iter().take(BURST) {
        if !has_failed && is_tracked(&pod.object) {
            plan.actions.push(untrack(pod));
        }
        let message = format!("Deleted pod: {}", object::name(&pod.object));
        let target = Ref::to(kind("pods"), pod);
        plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
        let note = Note::normal(Ref::to(kind("jobs"), job), SOURCE, "SuccessfulDelete", message);
        plan.actions.push(Action::Tell(note));
    }
}

fn create(job: &Value, index: Option<u32>) -> Action {
    let mut pod = object::at(job, &["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
    let name = object::name(job);
    let metadata = object::entry(&mut pod, &["metadata"]);
    let mut finalizers = object::list(metadata, &["finalizers"]).to_vec();
    finalizers.push(TRACKING.into());
    *object::entry(metadata, &["finalizers"]) = finalizers.into();
    *object::entry(metadata, &["ownerReferences"]) = json!([owner_reference(kind("jobs"), job)]);
    let stem = match index {
        None => name.to_owned(),
        Some(index) => format!("{name}-{index}"),
    };
    *object::entry(metadata, &["generateName"]) = format!("{stem}-").into();
    if let Some(index) = index {
        for place in ["annotations", "labels"] {
            *object::entry(metadata, &[place, INDEX]) = index.to_string().into();
        }
        let host = stem[..stem.floor_char_boundary(63)].trim_end_matches(['-', '.']);
        object::default(&mut pod, &["spec", "hostname"], host);
        for list in ["initContainers", "containers"] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            containers.into_iter().flatten().for_each(name_index);
        }
    }
    Action::Create { kind: kind("pods"), namespace: object::namespace(job).into(), object: pod }
}

/// A container learns its index, unless it says itself what the variable is.
fn name_index(container: &mut Value) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let mut variables = object::list(container, &["env"]).to_vec();
    if variables.iter().all(|variable| variable["name"] != VARIABLE) {
        let path = format!("metadata.labels['{INDEX}']");
        variables.push(
            json!({"name": VARIABLE, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}),
        );
        container["env"] = variables.into();
    }
}

/// What is told of a job: its status, and the turns that it takes.
fn report(now: DateTime<Utc>, job: &Arc<Stored>, tally: &Tally<'_>, outcome: &Outcome, plan: &mut Plan) {
    let value = &job.object;
    let mut told =
        Told { now: now.to_rfc3339_opts(SecondsFormat::Secs, true), job, conditions: Vec::new(), plan };
    told.conditions = object::list(value, &["status", "conditions"]).to_vec();
    let start = object::text(value, &["status", "startTime"]);
    let mut start = if start.is_empty() { Value::Null } else { start.into() };
    let mut end = Value::Null;
    match outcome {
        Outcome::Running => {
            if is_suspended(value) {
                start = Value::Null;
                told.turn("Suspended", true, "JobSuspended", "Job suspended", "Suspended");
            } else {
                if start.is_null() {
                    start = told.now.clone().into();
                }
                if condition(value, "Suspended").is_some_and(|condition| condition["status"] == "True") {
                    start = told.now.clone().into();
                    told.turn("Suspended", false, "JobResumed", "Job resumed", "Resumed");
                }
            }
        }
        Outcome::Complete => {
            let (reason, message) = ("CompletionsReached", "Reached expected number of succeeded pods");
            told.turn("SuccessCriteriaMet", true, reason, message, "");
            if tally.is_quiet() {
                end = told.now.clone().into();
                told.turn("Complete", true, reason, message, "Completed");
            }
        }
        Outcome::Failed { reason, message } => {
            told.turn("FailureTarget", true, reason, message, "");
            if tally.is_quiet() {
                told.turn("Failed", true, reason, message, reason);
            }
        }
    }
    let conditions = std::mem::take(&mut told.conditions);
    let count = |count: usize| if count == 0 { Value::Null } else { count.into() };
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let list = |uids: &[&str]| if uids.is_empty() { Value::Null } else { uids.into() };
    let status = json!({
        "startTime": start, "completionTime": end, "conditions": if conditions.is_empty() { Value::Null } else { conditions.into() },
        "active": count(tally.active.len()), "ready": tally.ready, "terminating": tally.terminating.len(),
        "succeeded": count(tally.told_succeeded()), "failed": count(tally.told_failed()),
        "completedIndexes": tally.indexes.as_ref().map_or(Value::Null, |indexes| text(&indexes.text())),
        "uncountedTerminatedPods": {"succeeded": list(&tally.uncounted_succeeded), "failed": list(&tally.uncounted_failed)},
    });
    plan.actions.extend(status_patch(kind("jobs"), job, status));
}

struct Told<'a> {
    now: String,
    job: &'a Arc<Stored>,
    conditions: Vec<Value>,
    plan: &'a mut Plan,
}

impl Told<'_> {
    /// A condition changes, and people hear of it as `event` (empty: they don't).
    fn turn(&mut self, kind_of: &str, is_so: bool, reason: &str, message: &str, event: &str) {
        let status = if is_so { "True" } else { "False" };
        if self.conditions.iter().any(|one| one["type"] == kind_of && one["status"] == status) {
            return;
        }
        self.conditions.retain(|one| one["type"] != kind_of);
        self.conditions.push(json!({"type": kind_of, "status": status, "reason": reason, "message": message,
            "lastProbeTime": self.now, "lastTransitionTime": self.now}));
        if event.is_empty() {
            return;
        }
        let about = Ref::to(kind("jobs"), self.job);
        let note = match kind_of {
            "Failed" => Note::warning(about, SOURCE, event, message),
            "Complete" => Note::normal(about, SOURCE, event, "Job completed"),
            _ => Note::normal(about, SOURCE, event, message),
        };
        self.plan.actions.push(Action::Tell(note));
    }
}
