//! What a job's pods are, and what of them is counted already.

use super::indexes::Indexes;
use super::policy::{self, Verdict};
use super::{is_over, is_tracked};
use crate::controllers::{is_active, is_ready};
use crate::object;
use crate::store::Stored;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Ends that are noted at a time: a status has a size (batch's `MaxUncountedPods`).
const MAX_UNCOUNTED: usize = 500;

/// One look at a job's pods.
#[derive(Default)]
pub(super) struct Tally<'a> {
    /// All.
    pub(super) pods: Vec<&'a Arc<Stored>>,
    /// Those that run or are going to.
    pub(super) active: Vec<&'a Arc<Stored>>,
    /// Those on their way out that have not ended yet.
    pub(super) terminating: Vec<&'a Arc<Stored>>,
    /// Active ones that are ready.
    pub(super) ready: usize,
    /// Those whose end is noted in the stored status: they need not be held any longer.
    pub(super) noted: Vec<&'a Arc<Stored>>,
    /// For `uncountedTerminatedPods`.
    pub(super) uncounted_succeeded: Vec<&'a str>,
    pub(super) uncounted_failed: Vec<&'a str>,
    /// Counted for good.
    succeeded: usize,
    failed: usize,
    /// Of an Indexed job.
    pub(super) indexes: Option<Indexes>,
    /// Why a new failure ends the job, by its rules.
    pub(super) verdict: Option<String>,
    /// A terminating pod's place is not free before it has ended (`podReplacementPolicy: Failed`).
    is_patient: bool,
    duplicates: Vec<&'a Arc<Stored>>,
}

impl<'a> Tally<'a> {
    pub(super) fn of(job: &'a Value, pods: &[&'a Arc<Stored>]) -> Self {
        let counted =
            |field: &str| usize::try_from(object::number(job, &["status", field]).unwrap_or(0)).unwrap_or(0);
        let noted = |field: &str| -> BTreeSet<&'a str> {
            let uids = object::list(job, &["status", "uncountedTerminatedPods", field]);
            uids.iter().filter_map(Value::as_str).collect()
        };
        let (noted_succeeded, noted_failed) = (noted("succeeded"), noted("failed"));
        let has_policy = object::at(job, &["spec", "podFailurePolicy"]).is_some();
        let is_patient = has_policy || object::text(job, &["spec", "podReplacementPolicy"]) == "Failed";
        let mut tally = Self {
            pods: pods.to_vec(),
            succeeded: counted("succeeded"),
            failed: counted("failed"),
            indexes: Indexes::of(job),
            is_patient,
            ..Self::default()
        };
        tally.count_released(&noted_succeeded, &noted_failed);
        for pod in pods {
            let value = &pod.object;
            let (uid, phase) = (object::uid(value), object::text(value, &["status", "phase"]));
            let has_succeeded = phase == "Succeeded";
            // One that was taken away has failed, if nobody waits for how it ends.
            let has_failed = phase == "Failed" || object::is_deleted(value) && !is_over(value) && !is_patient;
            if is_active(value) {
                tally.count_active(pod);
            } else if !is_over(value) {
                tally.terminating.push(pod);
                if is_patient
                    && let Some(indexes) = &mut tally.indexes
                    && let Some(index) = indexes.of_pod(value)
                {
                    indexes.take(index);
                }
            }
            if !is_tracked(value) {
                continue;
            }
            if noted_succeeded.contains(uid) || noted_failed.contains(uid) {
                tally.noted.push(pod);
                let list = match noted_succeeded.contains(uid) {
                    true => &mut tally.uncounted_succeeded,
                    false => &mut tally.uncounted_failed,
                };
                list.push(uid);
            } else if has_succeeded {
                tally.note_success(job, pod);
            } else if has_failed {
                tally.note_failure(job, pod);
            }
        }
        if let Some(indexes) = &mut tally.indexes {
            // Who is there for an index that is done, or has one already, is too many.
            let active = std::mem::take(&mut tally.active);
            for pod in &active {
                let is_wanted = indexes
                    .of_pod(&pod.object)
                    .is_some_and(|index| !indexes.is_done(index) && indexes.take(index));
                if !is_wanted {
                    tally.duplicates.push(pod);
                }
            }
            tally.active = active;
        }
        tally
    }

    /// Whose end was noted and who is held no longer, is a number now.
    fn count_released(&mut self, succeeded: &BTreeSet<&str>, failed: &BTreeSet<&str>) {
        let held: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(&pod.object))
            .map(|pod| object::uid(&pod.object))
            .collect();
        self.succeeded = self.succeeded.saturating_add(succeeded.difference(&held).count());
        self.failed = self.failed.saturating_add(failed.difference(&held).count());
    }

    fn count_active(&mut self, pod: &'a Arc<Stored>) {
        self.active.push(pod);
        self.ready += usize::from(is_ready(&pod.object));
    }

    fn note_success(&mut self, job: &Value, pod: &'a Arc<Stored>) {
        let has_room = self.uncounted() < MAX_UNCOUNTED;
        match &mut self.indexes {
            // An index is done once, however often it is said: no number is needed on the way.
            Some(indexes) => {
                let Some(index) = indexes.of_pod(&pod.object) else { return self.noted.push(pod) };
                let stored = Indexes::of(job).is_some_and(|stored| stored.is_done(index));
                indexes.complete(index);
                if stored {
                    self.noted.push(pod);
                }
            }
            None if has_room => self.uncounted_succeeded.push(object::uid(&pod.object)),
            None => {}
        }
    }

    fn note_failure(&mut self, job: &Value, pod: &'a Arc<Stored>) {
        match policy::judge(job, &pod.object) {
            Verdict::Ignore => return self.noted.push(pod),
            Verdict::Fail(why) => self.verdict = self.verdict.take().or(Some(why)),
            Verdict::Count => {}
        }
        if self.uncounted() < MAX_UNCOUNTED {
            self.uncounted_failed.push(object::uid(&pod.object));
        }
    }

    fn uncounted(&self) -> usize {
        self.uncounted_succeeded.len() + self.uncounted_failed.len()
    }

    /// Successes, noted ones too.
    pub(super) fn succeeded(&self) -> usize {
        self.indexes.as_ref().map_or(self.succeeded + self.uncounted_succeeded.len(), Indexes::done)
    }

    /// Failures, noted ones too.
    pub(super) fn failed(&self) -> usize {
        self.failed + self.uncounted_failed.len()
    }

    /// For `status.succeeded`.
    pub(super) fn told_succeeded(&self) -> usize {
        self.indexes.as_ref().map_or(self.succeeded, Indexes::done)
    }

    /// For `status.failed`.
    pub(super) fn told_failed(&self) -> usize {
        self.failed
    }

    /// Places that are not free.
    pub(super) fn occupied(&self) -> usize {
        self.active.len() + if self.is_patient { self.terminating.len() } else { 0 }
    }

    /// Nothing runs any more, and everything is counted.
    pub(super) fn is_quiet(&self) -> bool {
        let is_held = |pod: &&Arc<Stored>| is_tracked(&pod.object);
        self.active.is_empty()
            && self.terminating.is_empty()
            && self.uncounted() == 0
            && !self.pods.iter().any(is_held)
    }

    /// Active pods beyond `wanted`: first those that have no place, then those that are missed least.
    pub(super) fn surplus(&self, wanted: usize) -> Vec<&'a Arc<Stored>> {
        let mut surplus = self.duplicates.clone();
        let mut rest: Vec<&Arc<Stored>> = self
            .active
            .iter()
            .filter(|pod| !surplus.iter().any(|one| Arc::ptr_eq(one, pod)))
            .copied()
            .collect();
        rest.sort_by_key(|pod| {
            let age =
                std::cmp::Reverse(object::text(&pod.object, &["metadata", "creationTimestamp"]).to_owned());
            (is_ready(&pod.object), age, object::name(&pod.object).to_owned())
        });
        let more = rest.len().saturating_sub(wanted);
        surplus.extend(rest.into_iter().take(more));
        surplus
    }
}
