//! CronJobs: a job whenever it is time.
//!
//! A job's name is its time, so the same time is never used twice, whatever was lost. Of times that were missed only the last is made up for.

use super::{Action, Plan, Ref, Snapshot, condition, is_owned_by, kind, owner_reference, status_patch, time};
use crate::engine::{Note, Propagation};
use crate::object;
use crate::schedule::Schedule;
use crate::store::Stored;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use std::sync::Arc;

/// Who says it.
const SOURCE: &str = "cronjob-controller";
/// When a job was due (batch's `CronJobScheduledTimestampAnnotation`).
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A last run that lies further ahead than this was noted by a wrong clock, and is forgotten; else times that have been are not used again.
const MAX_AHEAD: TimeDelta = TimeDelta::days(1);

/// What all CronJobs want done.
pub(super) fn plan(snapshot: &Snapshot, plan: &mut Plan) {
    for cron in snapshot.all("cronjobs") {
        Look::at(snapshot, cron).plan(plan);
    }
}

struct Look<'a> {
    snapshot: &'a Snapshot,
    cron: &'a Arc<Stored>,
    value: &'a Value,
    jobs: Vec<&'a Arc<Stored>>,
    now: DateTime<Utc>,
}

impl<'a> Look<'a> {
    fn at(snapshot: &'a Snapshot, cron: &'a Arc<Stored>) -> Self {
        let value = &cron.object;
        let own = |job: &&Arc<Stored>| is_owned_by(&job.object, object::uid(value));
        let jobs = snapshot.within("jobs", object::namespace(value)).filter(own).collect();
        Self { snapshot, cron, value, jobs, now: snapshot.now }
    }

    fn plan(&self, plan: &mut Plan) {
        let last = self.last();
        self.tell_ends(plan);
        if !object::is_deleted(self.value) {
            if object::at(self.value, &["spec", "suspend"]) != Some(&Value::Bool(true)) {
                // The time is used up when there is a job that says so, which the next look sees: one that is refused is made later.
                self.start(last, plan);
            }
            self.forget(plan);
        }
        self.report(last, plan);
    }

    /// Runs that are under way. A job that somebody made of it by hand (`create job --from`) is none: it holds up and is replaced by nobody.
    fn active(&self) -> impl Iterator<Item = &'a Arc<Stored>> {
        let is_run = |job: &Value| object::at(job, &["metadata", "annotations", DUE]).is_some();
        self.jobs.iter().copied().filter(move |job| end(&job.object).is_none() && is_run(&job.object))
    }

    /// The time of the last run: as noted, or as the jobs say, if the note was lost.
    fn last(&self) -> Option<DateTime<Utc>> {
        let due = self.jobs.iter().filter_map(|job| time(&job.object, &["metadata", "annotations", DUE]));
        due.chain(time(self.value, &["status", "lastScheduleTime"]))
            .filter(|last| *last - self.now <= MAX_AHEAD)
            .max()
    }

    /// Makes a job if it is time.
    fn start(&self, last: Option<DateTime<Utc>>, plan: &mut Plan) -> Option<()> {
        let text = |field: &str| object::text(self.value, &["spec", field]);
        // Checked when it was declared.
        let schedule = Schedule::parse(text("schedule"), text("timeZone")).ok()?;
        let mut from =
            last.or_else(|| time(self.value, &["metadata", "creationTimestamp"])).unwrap_or(self.now);
        // Made by a clock that has been set back since.
        if from - self.now > MAX_AHEAD {
            from = self.now;
        }
        if let Some(next) = schedule.next(from.max(self.now)) {
            plan.look_again(next);
        }
        if let Some(seconds) = object::number(self.value, &["spec", "startingDeadlineSeconds"]) {
            let patience = TimeDelta::seconds(seconds.clamp(0, 1 << 31));
            let due = schedule.latest(from, self.now)?;
            if self.now - due > patience {
                let message = format!("Missed scheduled time to start a job: {}", due.to_rfc2822());
                self.tell_once(due, true, "MissSchedule", message, plan);
                return None;
            }
        }
        let due = schedule.latest(from, self.now)?;
        if self.active().next().is_some() {
            match text("concurrencyPolicy") {
                "Forbid" => {
                    let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                    self.tell_once(due, false, "JobAlreadyActive", message.into(), plan);
                    return None;
                }
                "Replace" => self.active().for_each(|job| self.delete(job, plan)),
                _ => {}
            }
        }
        if schedule.has_missed_many(from, self.now) {
            let message = "too many missed start times; only the last is made up for: set or decrease .spec.startingDeadlineSeconds or check the clock";
            self.tell_once(due, true, "TooManyMissedTimes", message.into(), plan);
        }
        plan.actions.push(self.create(due));
        Some(())
    }

    fn create(&self, due: DateTime<Utc>) -> Action {
        let template = object::at(self.value, &["spec", "jobTemplate"]).unwrap_or(&Value::Null);
        let mut job = json!({"spec": template["spec"]});
        for field in ["labels", "annotations"] {
            if let Some(value) = object::at(template, &["metadata", field]) {
                *object::entry(&mut job, &["metadata", field]) = value.clone();
            }
        }
        let name = format!("{}-{}", object::name(self.value), due.timestamp().div_euclid(60));
        *object::entry(&mut job, &["metadata", "name"]) = name.into();
        *object::entry(&mut job, &["metadata", "annotations", DUE]) = text_of(due).into();
        *object::entry(&mut job, &["metadata", "ownerReferences"]) =
            json!([owner_reference(kind("cronjobs"), self.value)]);
        Action::Create { kind: kind("jobs"), namespace: object::namespace(self.value).into(), object: job }
    }

    fn me(&self) -> Ref {
        Ref::to(kind("cronjobs"), self.cron)
    }

    /// Says why nothing happens at a time, and not at every look again.
    fn tell_once(
        &self,
        due: DateTime<Utc>,
        is_warning: bool,
        reason: &str,
        message: String,
        plan: &mut Plan,
    ) {
        let uid = object::uid(self.value);
        let is_told = self.snapshot.within("events", object::namespace(self.value)).any(|event| {
            object::text(&event.object, &["involvedObject", "uid"]) == uid
                && event.object["reason"] == reason
                && time(&event.object, &["lastTimestamp"]).is_some_and(|told| told >= due)
        });
        if !is_told {
            let note = Note { is_warning, ..Note::normal(self.me(), SOURCE, reason, message) };
            plan.actions.push(Action::Tell(note));
        }
    }

    /// Jobs that were active when the status was written, and are over.
    fn tell_ends(&self, plan: &mut Plan) {
        for was in object::list(self.value, &["status", "active"]) {
            let uid = object::text(was, &["uid"]);
            let Some(job) = self.jobs.iter().find(|job| object::uid(&job.object) == uid) else { continue };
            if let Some((condition, _)) = end(&job.object) {
                let message =
                    format!("Saw completed job: {}, condition: {condition}", object::name(&job.object));
                plan.actions.push(Action::Tell(Note::normal(self.me(), SOURCE, "SawCompletedJob", message)));
            }
        }
    }

    /// Deletes jobs that are over, the oldest first, beyond what is to be kept of each sort.
    fn forget(&self, plan: &mut Plan) {
        for (condition, field, default) in
            [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
        {
            let kept = object::number(self.value, &["spec", field]).unwrap_or(default);
            let mut over: Vec<_> = self
                .jobs
                .iter()
                .copied()
                .filter(|job| end(&job.object).is_some_and(|(how, _)| how == condition))
                .map(|job| (time(&job.object, &["status", "startTime"]), object::name(&job.object), job))
                .collect();
            over.sort_by_key(|(start, name, _)| (*start, *name));
            let surplus = over.len().saturating_sub(usize::try_from(kept).unwrap_or(0));
            over.into_iter().take(surplus).for_each(|(_, _, job)| self.delete(job, plan));
        }
    }

    fn delete(&self, job: &Arc<Stored>, plan: &mut Plan) {
        if object::is_deleted(&job.object) {
            return;
        }
        let message = format!("Deleted job {}", object::name(&job.object));
        let target = Ref::to(kind("jobs"), job);
        plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
        plan.actions.push(Action::Tell(Note::normal(self.me(), SOURCE, "SuccessfulDelete", message)));
    }

    fn report(&self, last: Option<DateTime<Utc>>, plan: &mut Plan) {
        let active: Vec<Value> = self
            .active()
            .map(|job| {
                let value = &job.object;
                json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": object::namespace(value), "name": object::name(value),
                    "uid": object::uid(value)})
            })
            .collect();
        let done = self.jobs.iter().filter_map(|job| time(&job.object, &["status", "completionTime"]));
        let success = done.chain(time(self.value, &["status", "lastSuccessfulTime"])).max();
        let time = |time: Option<DateTime<Utc>>| time.map_or(Value::Null, |time| text_of(time).into());
        let status = json!({"active": if active.is_empty() { Value::Null } else { active.into() },
            "lastScheduleTime": time(last), "lastSuccessfulTime": time(success)});
        plan.actions.extend(status_patch(kind("cronjobs"), self.cron, status));
    }
}

fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// How a job ended.
fn end(job: &Value) -> Option<(&'static str, &Value)> {
    ["Complete", "Failed"].into_iter().find_map(|kind| {
        condition(job, kind)
            .filter(|condition| condition["status"] == "True")
            .map(|condition| (kind, condition))
    })
}
