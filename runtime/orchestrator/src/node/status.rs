//! What a pod says of itself: phase, conditions, containers; as kubelet says it, for `kubectl` and everybody else reads it so.

use super::life::{again, is_done, wait_s};
use super::observed::{Attempt, End, Health, Observed, Sandbox, State};
use super::{Part, Role, parts, refused};
use crate::controllers::{Action, Ref, kind};
use crate::object;
use crate::store::Stored;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It goes on.
    Going,
    /// It does not, for good.
    Over {
        /// `Succeeded` or `Failed`.
        phase: String,
        /// Why, if not by its containers' exit statuses.
        reason: String,
        /// In words.
        message: String,
    },
}

/// When a pod has to be over (`activeDeadlineSeconds`).
pub fn deadline(pod: &Value) -> Option<DateTime<Utc>> {
    let seconds = object::number(pod, &["spec", "activeDeadlineSeconds"])?.clamp(0, 1 << 31);
    let start = DateTime::parse_from_rfc3339(object::text(pod, &["status", "startTime"])).ok()?.to_utc();
    Some(start + TimeDelta::seconds(seconds))
}

/// Where it is. What is over stays over.
pub fn phase(pod: &Value, observed: &Observed, now: DateTime<Utc>) -> Phase {
    let over = |phase: &str, reason: &str, message: &str| Phase::Over {
        phase: phase.into(),
        reason: reason.into(),
        message: message.into(),
    };
    let old = |field| object::text(pod, &["status", field]);
    if matches!(old("phase"), "Succeeded" | "Failed") {
        return over(old("phase"), old("reason"), old("message"));
    }
    if deadline(pod).is_some_and(|deadline| deadline <= now) {
        return over(
            "Failed",
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        );
    }
    let all = parts(pod);
    let ended = |part: &Part<'_>| match observed.newest(part.name).map(|attempt| &attempt.state) {
        Some(State::Ended(end)) if !again(pod, part, end, observed) => Some(end.code),
        _ => None,
    };
    let lost = all.iter().any(|part| part.role == Role::Init && ended(part).is_some_and(|code| code != 0));
    let codes: Option<Vec<i32>> = all.iter().filter(|part| part.role == Role::Main).map(ended).collect();
    let rests = observed.active().all(|(_, attempt)| matches!(attempt.state, State::Ended(_)));
    if object::is_deleted(pod) {
        return match rests && observed.busy.iter().all(String::is_empty) {
            true => over(end_of_deleted(&all, observed), "", ""),
            false => Phase::Going,
        };
    }
    match codes {
        _ if lost && rests => over("Failed", "", ""),
        Some(codes) if rests && !codes.is_empty() => {
            over(if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" }, "", "")
        }
        _ => Phase::Going,
    }
}

/// What a deleted pod has come to that is held after its containers: nothing of it begins again, whatever its restart policy, and who waits
/// for its end (a Job) has to hear of one.
fn end_of_deleted(all: &[Part<'_>], observed: &Observed) -> &'static str {
    let has_succeeded = |part: &Part<'_>| {
        let newest = observed.newest(part.name).map(|attempt| &attempt.state);
        matches!(newest, Some(State::Ended(end)) if end.code == 0)
    };
    let mut main = all.iter().filter(|part| part.role == Role::Main);
    if main.all(has_succeeded) { "Succeeded" } else { "Failed" }
}

/// What there is beside the pod.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The machine's address.
    pub host_ip: &'a str,
    /// Now.
    pub now: DateTime<Utc>,
}

/// The whole status of a pod that has a node.
pub fn status(pod: &Value, observed: &Observed, around: Around<'_>) -> Value {
    let told = &pod["status"];
    if object::is_deleted(pod)
        && observed.is_gone()
        && matches!(told["phase"].as_str(), Some("Succeeded" | "Failed"))
    {
        // All was said of it when there was something to see, and whoever holds the object wants to read that.
        return told.clone();
    }
    let now = stamp(around.now);
    let all = parts(pod);
    let phase = phase(pod, observed, around.now);
    let goes_on = phase == Phase::Going && !object::is_deleted(pod);
    let told = |part: &&Part<'_>| container(pod, part, &all, observed, goes_on);
    let (main, init): (Vec<&Part<'_>>, Vec<&Part<'_>>) = all.iter().partition(|part| part.role == Role::Main);
    let main_statuses: Vec<Value> = main.iter().map(told).collect();
    let init_statuses: Vec<Value> = init.iter().map(told).collect();
    let (word, reason, message) = match &phase {
        Phase::Over { phase, reason, message } => (phase.clone(), reason.clone(), message.clone()),
        Phase::Going => (going(observed, &main).to_owned(), String::new(), refused(pod).unwrap_or_default()),
    };
    let old = pod.get("status").cloned().unwrap_or_default();
    let start = object::text(&old, &["startTime"]);
    let mut status = json!({
        "phase": word, "hostIP": around.host_ip, "hostIPs": [{"ip": around.host_ip}],
        "startTime": if start.is_empty() { now.as_str() } else { start },
        "qosClass": crate::kinds::qos_class(pod),
        "containerStatuses": main_statuses,
        "conditions": conditions(pod, observed, &phase, &all, &now),
    });
    if !init_statuses.is_empty() {
        status["initContainerStatuses"] = init_statuses.into();
    }
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            status[field] = text.into();
        }
    }
    match &observed.sandbox {
        Sandbox::Running { ips, .. } if !ips.is_empty() => {
            status["podIP"] = ips[0].to_string().into();
            status["podIPs"] = ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        }
        // What is over keeps its last address, for whoever reads logs beside it.
        _ if matches!(phase, Phase::Over { .. }) => {
            for field in ["podIP", "podIPs"] {
                if let Some(value) = old.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        _ => {}
    }
    status
}

fn going(observed: &Observed, main: &[&Part<'_>]) -> &'static str {
    // Once its containers have begun a pod is running, whatever becomes of them.
    let begun = |part: &&Part<'_>| {
        observed.containers.get(part.name).is_some_and(|attempts| attempts.iter().any(has_run))
    };
    if main.iter().any(begun) { "Running" } else { "Pending" }
}

fn has_run(attempt: &Attempt) -> bool {
    attempt.number > 0
        || match &attempt.state {
            State::Starting => false,
            State::Running { .. } => true,
            State::Ended(end) => !end.is_lost_start,
        }
}

fn stamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Whether an attempt's start is over and whether it can be spoken to; as it was told last while nobody has asked it yet, so that a new
/// daemon does not take pods out of service.
pub fn health(pod: &Value, container: &str, attempt: &Attempt, observed: &Observed) -> Health {
    if let Some(health) = observed.health.get(&attempt.id) {
        return health.clone();
    }
    let lists = ["containerStatuses", "initContainerStatuses"];
    let all = lists.iter().flat_map(|list| object::list(pod, &["status", list]));
    let id = container_id(&attempt.id);
    let mut told = all.filter(|told| {
        object::text(told, &["name"]) == container && object::text(told, &["containerID"]) == id
    });
    told.next().map_or_else(Health::default, |told| Health {
        started: told["started"] == true,
        ready: told["ready"] == true,
        unhealthy: None,
    })
}

fn container_id(id: &str) -> String {
    format!("vial://{id}")
}

/// `goes_on`: the pod starts containers again.
fn container(pod: &Value, part: &Part<'_>, all: &[Part<'_>], observed: &Observed, goes_on: bool) -> Value {
    let newest = observed.newest(part.name);
    let mut told = json!({"name": part.name, "image": part.spec["image"], "imageID": "", "restartCount": 0, "ready": false, "started": false});
    if let Some(attempt) = newest {
        told["restartCount"] = attempt.number.into();
        told["image"] = attempt.image.as_str().into();
        told["imageID"] = attempt.image_id.as_str().into();
        told["containerID"] = container_id(&attempt.id).into();
    }
    let before = observed.containers.get(part.name).and_then(|attempts| attempts.iter().rev().nth(1));
    let (state, last) = match newest.map(|attempt| (&attempt.state, attempt)) {
        Some((State::Running { since }, attempt)) => {
            let health = health(pod, part.name, attempt, observed);
            told["ready"] = (health.ready && part.role != Role::Init).into();
            told["started"] = health.started.into();
            (json!({"running": {"startedAt": stamp(*since)}}), before)
        }
        Some((State::Ended(end), attempt)) if goes_on && again(pod, part, end, observed) => {
            (waits_again(pod, part, attempt, observed), Some(attempt))
        }
        Some((State::Ended(end), attempt)) => {
            // An init container that has done its work is ready, so that readers need not know of it.
            told["ready"] = (part.role == Role::Init && end.code == 0).into();
            (terminated(attempt, end), before)
        }
        Some((State::Starting, _)) => (waiting("ContainerCreating", ""), before),
        None => (waits(part, all, observed), None),
    };
    told["state"] = state;
    if let Some((attempt, State::Ended(end))) = last.map(|attempt| (attempt, &attempt.state)) {
        told["lastState"] = terminated(attempt, end);
    }
    told
}

fn waiting(reason: &str, message: &str) -> Value {
    match message {
        "" => json!({"waiting": {"reason": reason}}),
        _ => json!({"waiting": {"reason": reason, "message": message}}),
    }
}

/// A container that was never there.
fn waits(part: &Part<'_>, all: &[Part<'_>], observed: &Observed) -> Value {
    if let Some(known) = observed.waiting.get(part.name) {
        return waiting(&known.reason, &known.message);
    }
    let before = all.iter().take_while(|other| other.name != part.name);
    let is_held = before.filter(|other| other.role == Role::Init).any(|other| !is_done(observed, other.name));
    waiting(if is_held { "PodInitializing" } else { "ContainerCreating" }, "")
}

/// A container that will be there again.
fn waits_again(pod: &Value, part: &Part<'_>, attempt: &Attempt, observed: &Observed) -> Value {
    if let Some(known) = observed.waiting.get(part.name) {
        return waiting(&known.reason, &known.message);
    }
    let wait = wait_s(attempt);
    if wait == 0 {
        return waiting("ContainerCreating", "");
    }
    let (name, namespace, uid) = (object::name(pod), object::namespace(pod), object::uid(pod));
    let message =
        format!("back-off {wait}s restarting failed container={} pod={name}_{namespace}({uid})", part.name);
    waiting("CrashLoopBackOff", &message)
}

fn terminated(attempt: &Attempt, end: &End) -> Value {
    let reason = match end {
        End { started: None, .. } => "StartError",
        End { oom: true, .. } => "OOMKilled",
        End { code: 0, .. } => "Completed",
        _ => "Error",
    };
    // What was never started has no time of its own (kubelet tells the epoch).
    let epoch = DateTime::UNIX_EPOCH;
    let mut told = json!({"exitCode": if end.started.is_none() { 128 } else { end.code }, "reason": reason,
        "startedAt": stamp(end.started.unwrap_or(epoch)), "finishedAt": stamp(end.finished.unwrap_or(epoch)), "containerID": container_id(&attempt.id)});
    if !end.message.is_empty() {
        told["message"] = end.message.as_str().into();
    }
    json!({"terminated": told})
}

fn conditions(pod: &Value, observed: &Observed, phase: &Phase, all: &[Part<'_>], now: &str) -> Value {
    let over = match phase {
        Phase::Over { phase, .. } => Some(phase == "Succeeded"),
        Phase::Going => None,
    };
    let is_begun = all.iter().any(|part| part.role == Role::Main && observed.newest(part.name).is_some());
    let not_begun: Vec<&str> = all
        .iter()
        .filter(|part| match part.role {
            Role::Init => !is_begun && !is_done(observed, part.name),
            Role::Sidecar => !is_begun && !is_healthy(pod, part, observed, |health| health.started),
            Role::Main => false,
        })
        .map(|part| part.name)
        .collect();
    let not_ready: Vec<&str> = all
        .iter()
        .filter(|part| part.role != Role::Init && !is_healthy(pod, part, observed, |health| health.ready))
        .map(|part| part.name)
        .collect();
    let ready = match (over, &not_ready[..]) {
        (Some(true), _) => ("False", "PodCompleted", String::new()),
        (Some(false), _) => ("False", "PodFailed", String::new()),
        (None, []) => ("True", "", String::new()),
        (None, names) => {
            ("False", "ContainersNotReady", format!("containers with unready status: [{}]", names.join(" ")))
        }
    };
    let initialized = match (over, &not_begun[..]) {
        (Some(true), _) => ("True", "PodCompleted", String::new()),
        (_, []) => ("True", "", String::new()),
        (_, names) => (
            "False",
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", names.join(" ")),
        ),
    };
    let sandbox = if matches!(observed.sandbox, Sandbox::Running { .. }) { "True" } else { "False" };
    let list = [
        ("PodReadyToStartContainers", (sandbox, "", String::new())),
        ("Initialized", initialized),
        ("Ready", gated(pod, ready.clone())),
        ("ContainersReady", ready),
        ("PodScheduled", ("True", "", String::new())),
    ];
    let is_own = |told: &Value| list.iter().any(|(kind, _)| told["type"] == *kind);
    let told = object::list(pod, &["status", "conditions"]);
    // Those of readiness gates, and what else somebody says of the pod, are theirs.
    let others: Vec<Value> = told.iter().filter(|told| !is_own(told)).cloned().collect();
    list.into_iter().map(|(kind, told)| condition(pod, kind, told, now)).chain(others).collect()
}

/// Ready is who has ready containers, and of whom others say so as far as it waits for that (`readinessGates`).
fn gated<'a>(pod: &Value, ready: (&'a str, &'a str, String)) -> (&'a str, &'a str, String) {
    let told = object::list(pod, &["status", "conditions"]);
    let is_open = |gate: &&str| told.iter().any(|told| told["type"] == **gate && told["status"] == "True");
    let gates = object::list(pod, &["spec", "readinessGates"]).iter();
    let shut: Vec<&str> =
        gates.map(|gate| object::text(gate, &["conditionType"])).filter(|gate| !is_open(gate)).collect();
    match (ready.0, &shut[..]) {
        ("False", _) | (_, []) => ready,
        (_, shut) => {
            let list = shut
                .iter()
                .map(|gate| format!("corresponding condition of pod readiness gate {gate:?} is not True"));
            ("False", "ReadinessGatesNotReady", list.collect::<Vec<_>>().join("; "))
        }
    }
}

fn is_healthy(pod: &Value, part: &Part<'_>, observed: &Observed, is_so: impl Fn(&Health) -> bool) -> bool {
    observed.newest(part.name).is_some_and(|attempt| {
        matches!(attempt.state, State::Running { .. }) && is_so(&health(pod, part.name, attempt, observed))
    })
}

/// With when it last became another.
pub(super) fn condition(
    pod: &Value,
    kind: &str,
    (status, reason, message): (&str, &str, String),
    now: &str,
) -> Value {
    let old = object::list(pod, &["status", "conditions"])
        .iter()
        .find(|old| old["type"] == kind && old["status"] == status);
    let since = old.map_or(now, |old| object::text(old, &["lastTransitionTime"]));
    let mut told = json!({"type": kind, "status": status, "lastTransitionTime": since});
    for (field, text) in [("reason", reason), ("message", message.as_str())] {
        if !text.is_empty() {
            told[field] = text.into();
        }
    }
    told
}

/// The write that makes a pod say so; none: it does.
pub fn write(pod: &Stored, status: Value) -> Option<Action> {
    let old = pod.object.get("status").unwrap_or(&Value::Null);
    if *old == status {
        return None;
    }
    let mut patch = status;
    // In a merge what is not named stays.
    for field in object::object(&pod.object, &["status"]).keys() {
        object::default(&mut patch, &[field], Value::Null);
    }
    Some(Action::Merge {
        target: Ref::to(kind("pods"), pod),
        subresource: "status",
        patch: json!({"status": patch}),
    })
}
