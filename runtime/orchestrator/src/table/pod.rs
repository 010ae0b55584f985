//! A pod's state in one word, as kubectl has always told it (printers' `printPod`).

use super::age;
use crate::kinds::GATED;
use crate::object;
use chrono::{DateTime, Utc};
use serde_json::Value;

fn statuses<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    object::list(pod, &["status", list])
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    let containers = object::list(pod, &["spec", "initContainers"]);
    containers
        .iter()
        .any(|container| object::text(container, &["name"]) == name && container["restartPolicy"] == "Always")
}

/// `1/2`.
pub(super) fn ready(pod: &Value) -> String {
    let sidecars: Vec<&Value> = object::list(pod, &["spec", "initContainers"])
        .iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .collect();
    let total = object::list(pod, &["spec", "containers"]).len() + sidecars.len();
    let is_ready = |status: &&Value| status["ready"] == true && status["state"].get("running").is_some();
    let own = statuses(pod, "containerStatuses").iter().filter(is_ready).count();
    let beside = statuses(pod, "initContainerStatuses")
        .iter()
        .filter(|status| is_sidecar(pod, object::text(status, &["name"])))
        .filter(is_ready)
        .count();
    format!("{}/{total}", own + beside)
}

/// `Running`, `Init:0/2`, `CrashLoopBackOff`, `Terminating`, …
pub(super) fn status(pod: &Value) -> String {
    let reason = object::text(pod, &["status", "reason"]);
    let phase = object::text(pod, &["status", "phase"]);
    let mut word = if reason.is_empty() { phase.to_owned() } else { reason.to_owned() };
    if word.is_empty() {
        word = "Unknown".into();
    }
    let conditions = object::list(pod, &["status", "conditions"]);
    if conditions.iter().any(|one| one["type"] == "PodScheduled" && one["reason"] == GATED) {
        word = GATED.into();
    }
    let init = initializing(pod);
    let runs = init.is_none() || is_initialized(pod);
    word = init.unwrap_or(word);
    if runs {
        word = running(pod).unwrap_or(word);
    }
    if object::is_deleted(pod) {
        return if reason == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    word
}

/// Whether the beginning is over, though a sidecar may begin anew.
fn is_initialized(pod: &Value) -> bool {
    object::list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "Initialized" && condition["status"] == "True")
}

/// Whether an init container is done, or a sidecar has begun.
fn is_past(pod: &Value, status: &Value) -> bool {
    match is_sidecar(pod, object::text(status, &["name"])) {
        true => status["started"] == true,
        false => object::number(status, &["state", "terminated", "exitCode"]) == Some(0),
    }
}

fn initializing(pod: &Value) -> Option<String> {
    let total = object::list(pod, &["spec", "initContainers"]).len();
    for (index, status) in statuses(pod, "initContainerStatuses").iter().enumerate() {
        if is_past(pod, status) {
            continue;
        }
        let state = &status["state"];
        if let Some(terminated) = state.get("terminated") {
            return Some(format!("Init:{}", ended(terminated)));
        }
        let waiting = object::text(state, &["waiting", "reason"]);
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

fn running(pod: &Value) -> Option<String> {
    let mut word = None;
    let mut any_running = false;
    for status in statuses(pod, "containerStatuses").iter().rev() {
        let state = &status["state"];
        let waiting = object::text(state, &["waiting", "reason"]);
        if !waiting.is_empty() {
            word = Some(waiting.to_owned());
        } else if let Some(terminated) = state.get("terminated") {
            word = Some(ended(terminated));
        } else if status["ready"] == true && state.get("running").is_some() {
            any_running = true;
        }
    }
    if word.as_deref() == Some("Completed") && any_running {
        let is_ready = object::list(pod, &["status", "conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        word = Some(if is_ready { "Running" } else { "NotReady" }.into());
    }
    word
}

fn ended(terminated: &Value) -> String {
    let reason = object::text(terminated, &["reason"]);
    let signal = object::number(terminated, &["signal"]).unwrap_or(0);
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", object::number(terminated, &["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

/// `3 (5m ago)`.
pub(super) fn restarts(pod: &Value, now: DateTime<Utc>) -> String {
    let init = statuses(pod, "initContainerStatuses");
    // Once the beginning is over only those of it count that go on; until then those up to the one that holds it up.
    let runs = initializing(pod).is_none() || is_initialized(pod);
    let up_to = init.iter().position(|status| !is_past(pod, status)).map_or(init.len(), |at| at + 1);
    let (init, own) =
        if runs { (init, statuses(pod, "containerStatuses")) } else { (&init[..up_to], &[][..]) };
    let counts = |status: &&Value| !runs || is_sidecar(pod, object::text(status, &["name"]));
    let all = || init.iter().filter(counts).chain(own);
    let count: i64 = all().filter_map(|status| object::number(status, &["restartCount"])).sum();
    let last = all()
        .filter_map(|status| age::time(object::at(status, &["lastState", "terminated", "finishedAt"])))
        .max();
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", age::human(now - last)),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pods_state_is_one_word() {
        let pod = |status: Value| json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}, "status": status});
        for (value, word) in [
            (json!({"phase": "Pending"}), "Pending"),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
                "SchedulingGated",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}}]}),
                "Running",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "CrashLoopBackOff",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                "Completed",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                "Init:0/1",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                "Init:Error",
            ),
        ] {
            assert_eq!(status(&pod(value.clone())), word, "{value}");
        }
        let mut going = pod(json!({"phase": "Running"}));
        going["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(status(&going), "Terminating");
        assert_eq!(
            ready(&pod(json!({"containerStatuses": [{"ready": true, "state": {"running": {}}}]}))),
            "1/1"
        );
    }

    #[test]
    fn restarts_of_the_beginning_count_only_while_it_lasts() {
        let pod = |state: Value| {
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
                "status": {"containerStatuses": [{"name": "a", "restartCount": 1}], "initContainerStatuses": [
                    {"name": "i", "restartCount": 4, "state": state}, {"name": "s", "restartCount": 2, "started": true, "state": {"running": {}}}]}})
        };
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(restarts(&pod(json!({"terminated": {"exitCode": 0}})), now), "3");
        // Those after the one that is at work have no say yet.
        assert_eq!(restarts(&pod(json!({"running": {}})), now), "4");
    }
}
