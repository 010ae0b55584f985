//! What is to be done about one pod: from what is declared and what is observed to the next steps. It holds no state and each step is asked
//! for again until it is seen to be done, so whatever is lost on the way is decided again.

use super::observed::{Attempt, End, Observed, Sandbox, State};
use super::status::{self, Phase};
use super::{Part, Role, parts};
use crate::object;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// The first wait before a container is started again (kubelet's `initialBackOff`).
const FIRST_WAIT_S: i64 = 10;
/// The longest (kubelet's `MaxContainerBackOff`).
const LONGEST_WAIT_S: i64 = 300;
/// Who ran as long as this begins anew.
const LASTED_S: i64 = 600;
/// Ended attempts of a container that are kept: for `kubectl logs`, and `--previous`.
const KEPT: usize = 2;
/// A pod that is to go at once still has so much time for its sockets and files.
const LEAST_GRACE: TimeDelta = TimeDelta::seconds(1);

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Start a container, and the sandbox before it if that does not run.
    Start {
        /// Which.
        container: String,
        /// Its [`Attempt::number`].
        number: u32,
        /// Its [`Attempt::failures`].
        failures: u32,
        /// In this run of the sandbox ([`Sandbox::Running`]'s `since`) and in no other: what was before it may have to come again there. None:
        /// in the one that is made for it.
        run: Option<DateTime<Utc>>,
    },
    /// End an attempt: its hook, its stop signal, and after the time that it has the kill.
    Stop {
        /// Which container.
        container: String,
        /// [`Attempt::id`]
        id: String,
        /// Until it is killed.
        grace: TimeDelta,
        /// Why, for people.
        why: String,
    },
    /// Remove what is left of an ended attempt.
    Forget {
        /// Which container.
        container: String,
        /// [`Attempt::id`]
        id: String,
    },
    /// End the sandbox; its containers are over.
    StopSandbox,
    /// Remove sandbox and containers.
    Remove,
    /// Let the object go: nothing is left of the pod.
    Finalize,
}

/// What a look came to.
#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    /// In any order: each is about something that nothing is being done with.
    pub steps: Vec<Step>,
    /// Look again then, even if nothing happens.
    pub again: Option<DateTime<Utc>>,
}

impl Decision {
    fn look_again(&mut self, at: DateTime<Utc>) {
        self.again = Some(self.again.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Looks.
pub fn decide(pod: &Value, observed: &Observed, now: DateTime<Utc>) -> Decision {
    let mut decision = Decision::default();
    if object::is_deleted(pod) {
        end(pod, observed, now, &mut decision);
        return decision;
    }
    match status::phase(pod, observed, now) {
        Phase::Over { .. } => over(pod, observed, &mut decision),
        Phase::Going => go_on(pod, observed, now, &mut decision),
    }
    forget(observed, &mut decision);
    if let Some(deadline) = status::deadline(pod).filter(|deadline| *deadline > now) {
        decision.look_again(deadline);
    }
    decision
}

/// A pod that is to go: its containers, sidecars after the others, then all that is left, then the object.
fn end(pod: &Value, observed: &Observed, now: DateTime<Utc>, decision: &mut Decision) {
    let deadline = object::text(pod, &["metadata", "deletionTimestamp"]);
    let deadline = DateTime::parse_from_rfc3339(deadline).map_or(now, |deadline| deadline.to_utc());
    // A clock that was set back makes it no longer than it was given.
    let given = object::number(pod, &["metadata", "deletionGracePeriodSeconds"]);
    let longest = TimeDelta::seconds(given.unwrap_or(i64::MAX).clamp(0, 1 << 31));
    let grace = (deadline - now).min(longest).max(LEAST_GRACE);
    if stop_all(pod, observed, grace, "the pod is deleted", decision) {
        return;
    }
    if !observed.busy.is_empty() {
        return;
    }
    match observed.is_gone() {
        false => decision.steps.push(Step::Remove),
        // It is said already that it may go, and somebody else's finalizer holds it.
        true if given == Some(0) => {}
        true => decision.steps.push(Step::Finalize),
    }
}

/// A pod that has done its work, or can't: nothing of it goes on, and what it said stays.
fn over(pod: &Value, observed: &Observed, decision: &mut Decision) {
    let grace = TimeDelta::seconds(grace_s(pod));
    if stop_all(pod, observed, grace, "the pod is over", decision) || !observed.busy.is_empty() {
        return;
    }
    if matches!(observed.sandbox, Sandbox::Running { .. }) {
        decision.steps.push(Step::StopSandbox);
    }
}

/// Seconds that a container has after it was asked to end.
pub fn grace_s(pod: &Value) -> i64 {
    // Seventy years are as good as for ever, and fit into a calendar.
    object::number(pod, &["spec", "terminationGracePeriodSeconds"]).unwrap_or(30).clamp(1, 1 << 31)
}

/// Asks whatever runs to end, sidecars after the others; says whether something does.
fn stop_all(pod: &Value, observed: &Observed, grace: TimeDelta, why: &str, decision: &mut Decision) -> bool {
    let is_sidecar =
        |name: &str| parts(pod).iter().any(|part| part.name == name && part.role == Role::Sidecar);
    let (sidecars, others): (Vec<_>, Vec<_>) = observed.active().partition(|(name, _)| is_sidecar(name));
    let now = if others.is_empty() { &sidecars } else { &others };
    for (name, attempt) in now {
        // Also one that is just being started, or whose hook has not ended.
        if !matches!(attempt.state, State::Ended(_)) {
            decision.steps.push(stop(name, attempt, grace, why));
        }
    }
    !now.is_empty()
}

fn stop(container: &str, attempt: &Attempt, grace: TimeDelta, why: &str) -> Step {
    Step::Stop { container: container.into(), id: attempt.id.clone(), grace, why: why.into() }
}

/// A pod on its way.
fn go_on(pod: &Value, observed: &Observed, now: DateTime<Utc>, decision: &mut Decision) {
    let all = parts(pod);
    let mut is_open = true;
    for part in &all {
        if part.role != Role::Main {
            // The later ones wait for this one; sidecars that are there already go on.
            let has_been = observed.newest(part.name).is_some();
            if is_open || part.role == Role::Sidecar && has_been && !is_first_to_come(&all, observed, part) {
                is_open &= begin(pod, observed, part, now, decision);
            }
        } else if is_open {
            begin(pod, observed, part, now, decision);
        }
    }
    heal(pod, observed, &all, decision);
}

/// Whether an init container before this one has not done its work in this sandbox.
fn is_first_to_come(all: &[Part<'_>], observed: &Observed, part: &Part<'_>) -> bool {
    let before = all.iter().take_while(|other| other.name != part.name);
    before.filter(|other| other.role == Role::Init).any(|other| !is_done(observed, other.name))
}

/// Whether an init container has done its work in the sandbox that runs.
pub(super) fn is_done(observed: &Observed, container: &str) -> bool {
    let Sandbox::Running { since, .. } = &observed.sandbox else { return false };
    let Some(attempt) = observed.newest(container) else { return false };
    let State::Ended(end) = &attempt.state else { return false };
    // By which run of the sandbox it was in, and not by when it ended: a clock may be set back, and its work must not be done twice. Those of
    // before that was noted have nothing but their times.
    let is_of_this_run = match attempt.sandbox {
        Some(run) => run == *since,
        None => end.finished.is_some_and(|finished| finished >= *since),
    };
    end.code == 0 && is_of_this_run
}

/// Does what a container needs to be there; says whether those after it may begin.
fn begin(
    pod: &Value,
    observed: &Observed,
    part: &Part<'_>,
    now: DateTime<Utc>,
    decision: &mut Decision,
) -> bool {
    let newest = observed.newest(part.name);
    match newest.map(|attempt| (&attempt.state, attempt)) {
        Some((State::Ended(_), _)) if part.role == Role::Init && is_done(observed, part.name) => return true,
        Some((State::Running { .. }, attempt)) if part.role == Role::Sidecar => {
            return observed.health.get(&attempt.id).is_some_and(|health| health.started);
        }
        Some((State::Running { .. } | State::Starting, _)) => return false,
        Some((State::Ended(end), _)) if !again(pod, part, end, observed) => return false,
        _ => {}
    }
    if observed.busy.contains(part.name) || newest.is_some_and(|attempt| attempt.active) {
        return false;
    }
    // A wait that began in the future is from before the clock was set back: nobody knows how long ago that was.
    let waits = [
        observed.waiting.get(part.name).map(|waiting| (waiting.since, waiting.until)),
        newest.and_then(wait_after),
    ];
    let waits = waits.into_iter().flatten().filter(|(since, _)| *since <= now).map(|(_, until)| until);
    match waits.max().filter(|due| *due > now) {
        Some(due) => decision.look_again(due),
        None => decision.steps.push(Step::Start {
            container: part.name.into(),
            number: newest.map_or(0, |attempt| attempt.number.saturating_add(1)),
            failures: newest.map_or(0, failures_after),
            run: match &observed.sandbox {
                Sandbox::Running { since, .. } => Some(*since),
                Sandbox::Absent | Sandbox::Stopped | Sandbox::Starting => None,
            },
        }),
    }
    false
}

/// Whether it runs another image than the one that is declared now: an image is all that may change of a container.
fn is_changed(part: &Part<'_>, attempt: &Attempt) -> bool {
    attempt.image != object::text(part.spec, &["image"])
}

/// Whether a container that ended so is started again.
pub(super) fn again(pod: &Value, part: &Part<'_>, end: &End, observed: &Observed) -> bool {
    let policy = object::text(pod, &["spec", "restartPolicy"]);
    match (part.role, policy) {
        // It has not been there yet, so no policy is asked.
        _ if end.is_lost_start => true,
        // Whatever the policy: it was ended for that.
        (Role::Main, _) if observed.newest(part.name).is_some_and(|attempt| is_changed(part, attempt)) => {
            true
        }
        (Role::Sidecar, _) => true,
        // What it did went with its sandbox.
        (Role::Init, _) if end.code == 0 => !is_done(observed, part.name),
        (Role::Init, policy) => policy != "Never",
        (Role::Main, "Never") => false,
        (Role::Main, "OnFailure") => end.code != 0,
        (Role::Main, _) => true,
    }
}

/// From when to when a container that ended is not started again; none: it has not.
fn wait_after(attempt: &Attempt) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let State::Ended(end) = &attempt.state else { return None };
    let wait = wait_s(attempt);
    end.finished.map(|finished| (finished, finished + TimeDelta::seconds(wait)))
}

/// Seconds between the end of an attempt and the next one: none, 10, 20, … 300.
pub(super) fn wait_s(attempt: &Attempt) -> i64 {
    match failures_after(attempt) {
        0 | 1 => 0,
        failures => (FIRST_WAIT_S << (failures - 2).min(16)).min(LONGEST_WAIT_S),
    }
}

fn failures_after(attempt: &Attempt) -> u32 {
    let State::Ended(end) = &attempt.state else { return attempt.failures };
    if end.is_lost_start {
        return attempt.failures;
    }
    let lasted = match (end.started, end.finished) {
        (Some(started), Some(finished)) => finished - started >= TimeDelta::seconds(LASTED_S),
        _ => false,
    };
    if lasted { 1 } else { attempt.failures.saturating_add(1) }
}

/// Ends what its probes say is ill, and sidecars of a pod whose work is done.
fn heal(pod: &Value, observed: &Observed, all: &[Part<'_>], decision: &mut Decision) {
    let is_done = all.iter().filter(|part| part.role == Role::Main).all(|part| {
        let newest = observed.newest(part.name).map(|attempt| &attempt.state);
        matches!(newest, Some(State::Ended(end)) if !again(pod, part, end, observed))
    });
    let grace = TimeDelta::seconds(grace_s(pod));
    for part in all {
        let Some(attempt) = observed.newest(part.name) else { continue };
        if !matches!(attempt.state, State::Running { .. }) || observed.busy.contains(part.name) {
            continue;
        }
        let unhealthy = observed.health.get(&attempt.id).and_then(|health| health.unhealthy.as_deref());
        let useless = (is_done && part.role == Role::Sidecar).then_some("the pod's work is done");
        let changed = is_changed(part, attempt).then_some("its image was changed");
        if let Some(why) = unhealthy.or(useless).or(changed) {
            decision.steps.push(stop(part.name, attempt, grace, why));
        }
    }
}

/// Lets go of what nobody asks after any more.
fn forget(observed: &Observed, decision: &mut Decision) {
    for (container, attempts) in &observed.containers {
        let old = attempts.len().saturating_sub(KEPT);
        for attempt in attempts.iter().take(old).filter(|attempt| !attempt.active) {
            decision.steps.push(Step::Forget { container: container.clone(), id: attempt.id.clone() });
        }
    }
}
