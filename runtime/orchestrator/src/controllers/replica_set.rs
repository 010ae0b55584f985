//! ReplicaSets: so many pods of a template, no more and no fewer.

use super::claim::claim;
use super::{
    Action, Plan, Ref, Snapshot, condition, is_active, is_ready, kind, owner_reference, status_patch, time,
};
use crate::engine::{Note, Propagation};
use crate::object;
use crate::selector::LabelSelector;
use crate::store::Stored;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::sync::Arc;

/// Pods that one look makes or deletes at most: a typo in `replicas` must not fill the store before it can be taken back.
const BURST: usize = 100;
const SOURCE: &str = "replicaset-controller";

pub(super) fn plan(snapshot: &Snapshot, set: &Arc<Stored>, plan: &mut Plan) {
    let value = &set.object;
    let selector = LabelSelector::of_spec(object::at(value, &["spec", "selector"]).unwrap_or(&Value::Null));
    let Ok(Some(selector)) = selector else { return };
    let pods = claim(snapshot, kind("pods"), (kind("replicasets"), set), &selector, "", plan);
    let active: Vec<&Arc<Stored>> = pods.iter().filter(|pod| is_active(&pod.object)).copied().collect();
    if !object::is_deleted(value) {
        let wanted = object::number(value, &["spec", "replicas"]).unwrap_or(1).max(0);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if active.len() < wanted {
            for _ in 0..(wanted - active.len()).min(BURST) {
                plan.actions.push(create(value));
            }
        } else {
            for pod in least_wanted(&active).into_iter().take((active.len() - wanted).min(BURST)) {
                let target = Ref::to(kind("pods"), pod);
                let message = format!("Deleted pod: {}", target.name);
                plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
                let me = Ref::to(kind("replicasets"), set);
                plan.actions.push(Action::Tell(Note::normal(me, SOURCE, "SuccessfulDelete", message)));
            }
        }
    }
    status(snapshot.now, set, &active, plan);
}

fn create(set: &Value) -> Action {
    let mut pod = object::at(set, &["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
    let metadata = object::entry(&mut pod, &["metadata"]);
    metadata["generateName"] = format!("{}-", object::name(set)).into();
    metadata["ownerReferences"] = json!([owner_reference(kind("replicasets"), set)]);
    Action::Create { kind: kind("pods"), namespace: object::namespace(set).into(), object: pod }
}

/// Those first that are missed least: not placed, not running, not ready, the youngest (kube-controller-manager's `ActivePods`).
fn least_wanted<'a>(pods: &[&'a Arc<Stored>]) -> Vec<&'a Arc<Stored>> {
    let mut sorted = pods.to_vec();
    sorted.sort_by_key(|pod| {
        let value = &pod.object;
        let is_placed = !object::text(value, &["spec", "nodeName"]).is_empty();
        let is_running = object::text(value, &["status", "phase"]) == "Running";
        let age = std::cmp::Reverse(object::text(value, &["metadata", "creationTimestamp"]).to_owned());
        (is_placed, is_running, is_ready(value), age, object::name(value).to_owned())
    });
    sorted
}

/// Since when a pod is ready.
fn ready_since(pod: &Value) -> Option<DateTime<Utc>> {
    time(condition(pod, "Ready")?, &["lastTransitionTime"])
}

fn status(now: DateTime<Utc>, set: &Arc<Stored>, active: &[&Arc<Stored>], plan: &mut Plan) {
    let value = &set.object;
    let patience = TimeDelta::seconds(
        object::number(value, &["spec", "minReadySeconds"]).unwrap_or(0).clamp(0, 1 << 31),
    );
    let template = object::at(value, &["spec", "template"]).unwrap_or(&Value::Null);
    let wanted = object::labels(template);
    let (mut ready, mut available, mut labeled) = (0, 0, 0);
    for pod in active {
        let labels = object::labels(&pod.object);
        labeled += i64::from(wanted.iter().all(|(key, text)| labels.get(key) == Some(text)));
        if !is_ready(&pod.object) {
            continue;
        }
        ready += 1;
        match ready_since(&pod.object) {
            // Ready since the future: the clock was set back, and it was ready before.
            Some(since) if since <= now && since + patience > now => plan.look_again(since + patience),
            _ => available += 1,
        }
    }
    // Null takes a count out: in Kubernetes a zero is not there.
    let count = |count: i64| if count == 0 { Value::Null } else { count.into() };
    let status = json!({"replicas": active.len(), "fullyLabeledReplicas": count(labeled), "readyReplicas": count(ready),
        "availableReplicas": count(available), "observedGeneration": value["metadata"]["generation"]});
    plan.actions.extend(status_patch(kind("replicasets"), set, status));
}
