//! Deployments: a ReplicaSet for each template that there was, and a way from one to the next.

use super::claim::claim;
use super::rollout::{self, Numbers, Set};
use super::{Action, Plan, Ref, Snapshot, condition, is_owned_by, kind, owner_reference, status_patch, time};
use crate::engine::Propagation;
use crate::kinds::scaled;
use crate::object;
use crate::selector::LabelSelector;
use crate::store::Stored;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotations that a deployment and a set have of their own (the deployment controller's `annotationsToSkip`).
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

pub(super) fn plan(snapshot: &Snapshot, deployment: &Arc<Stored>, plan: &mut Plan) {
    let value = &deployment.object;
    // One that does not say what it means has none.
    let Ok(Some(selector)) = LabelSelector::of_spec(&value["spec"]["selector"]) else { return };
    let mut sets =
        claim(snapshot, kind("replicasets"), (kind("deployments"), deployment), &selector, "", plan);
    sets.sort_by_key(|set| (revision(&set.object), object::name(&set.object).to_owned()));
    if object::is_deleted(value) {
        return;
    }
    let template = plain_template(&value["spec"]["template"]);
    let new = sets.iter().copied().find(|set| plain_template(&set.object["spec"]["template"]) == template);
    let old: Vec<&Arc<Stored>> =
        sets.iter().copied().filter(|set| new.is_none_or(|new| !Arc::ptr_eq(new, set))).collect();
    let is_paused = value["spec"]["paused"] == true;
    let newest = old.iter().map(|set| revision(&set.object)).max().unwrap_or(0);
    match new {
        None if is_paused => {}
        None => {
            let sets = snapshot.within("replicasets", object::namespace(value));
            let names = sets.map(|set| object::name(&set.object).to_owned()).collect();
            create(value, &template, newest + 1, &old, &names, plan);
            mark(deployment, newest + 1, plan);
        }
        Some(new) => {
            let own = revision(&new.object).max(1);
            let own = if own <= newest { newest + 1 } else { own };
            renew(new, own, value, plan);
            mark(deployment, own, plan);
        }
    }
    match (new, is_paused) {
        (_, true) => {
            // The new one last, as the one that all go to if none has any.
            let all: Vec<&Arc<Stored>> = old.iter().copied().chain(new).collect();
            resize(deployment, &all, plan);
        }
        (Some(new), false) => roll(snapshot, deployment, new, &old, plan),
        (None, false) => {}
    }
    if !is_paused {
        forget(value, &old, plan);
    }
    status(snapshot.now, deployment, new, &old, plan);
}

fn revision(set: &Value) -> i64 {
    object::text(set, &["metadata", "annotations", REVISION]).parse().unwrap_or(0)
}

/// A template without the label that tells ReplicaSets apart.
fn plain_template(template: &Value) -> Value {
    let mut plain = template.clone();
    object::remove(&mut plain, &["metadata", "labels", HASH]);
    object::remove(&mut plain, &["metadata", "creationTimestamp"]);
    plain
}

/// Ten characters that follow from a template (FNV-1a, 64 bits) and how often that was not enough.
fn hash(template: &Value, collisions: i64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = format!("{template}{collisions}");
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let letter = |_| {
        let letter = LETTERS[usize::try_from(hash % LETTERS.len() as u64).unwrap_or(0)];
        hash /= LETTERS.len() as u64;
        char::from(letter)
    };
    (0..10).map(letter).collect()
}

fn create(
    value: &Value,
    template: &Value,
    revision: i64,
    old: &[&Arc<Stored>],
    names: &BTreeSet<String>,
    plan: &mut Plan,
) {
    let mut collisions = object::number(value, &["status", "collisionCount"]).unwrap_or(0);
    let name = |collisions| format!("{}-{}", object::name(value), hash(template, collisions));
    // A set of the same hash and another template, or of somebody else.
    while names.contains(&name(collisions)) {
        collisions += 1;
    }
    let hash = hash(template, collisions);
    let mut template = template.clone();
    *object::entry(&mut template, &["metadata", "labels", HASH]) = hash.clone().into();
    let mut selector = value["spec"]["selector"].clone();
    *object::entry(&mut selector, &["matchLabels", HASH]) = hash.into();
    let mut annotations = shared(value);
    annotations.insert(REVISION.into(), revision.to_string().into());
    let set = json!({
        "metadata": {"name": name(collisions), "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [owner_reference(kind("deployments"), value)]},
        "spec": {"replicas": first_size(value, old), "minReadySeconds": value["spec"].get("minReadySeconds").cloned().unwrap_or(json!(0)),
            "selector": selector, "template": template},
    });
    plan.actions.push(Action::Create {
        kind: kind("replicasets"),
        namespace: object::namespace(value).into(),
        object: set,
    });
}

/// The annotations that the newest set has of its deployment: they are what `kubectl rollout undo` gives the deployment back.
fn shared(value: &Value) -> Map<String, Value> {
    let mut annotations = object::object(value, &["metadata", "annotations"]).clone();
    annotations.retain(|name, _| !OWN.contains(&name.as_str()));
    annotations
}

fn is_recreate(value: &Value) -> bool {
    object::text(value, &["spec", "strategy", "type"]) == "Recreate"
}

/// How many pods a set begins with.
fn first_size(value: &Value, old: &[&Arc<Stored>]) -> i64 {
    if is_recreate(value) {
        return if old.iter().all(|set| counts(set).wanted == 0 && replicas(set) == 0) {
            wanted(value)
        } else {
            0
        };
    }
    rollout::step(&numbers(value, Set::default(), old)).0
}

fn wanted(value: &Value) -> i64 {
    object::number(value, &["spec", "replicas"]).unwrap_or(1).max(0)
}

fn counts(set: &Arc<Stored>) -> Set {
    let available = object::number(&set.object, &["status", "availableReplicas"]).unwrap_or(0);
    Set { wanted: wanted(&set.object), available }
}

/// Pods that a set has, wanted or not.
fn replicas(set: &Arc<Stored>) -> i64 {
    object::number(&set.object, &["status", "replicas"]).unwrap_or(0)
}

fn numbers(value: &Value, new: Set, old: &[&Arc<Stored>]) -> Numbers {
    let replicas = wanted(value);
    let rolling = &value["spec"]["strategy"]["rollingUpdate"];
    Numbers {
        replicas,
        max_surge: scaled(&rolling["maxSurge"], replicas, true).unwrap_or(1),
        max_unavailable: scaled(&rolling["maxUnavailable"], replicas, false).unwrap_or(0).min(replicas),
        new,
        old: old.iter().map(|set| counts(set)).collect(),
    }
}

/// The revision is noted on the set, with those that it had before, and what else is noted on the deployment.
fn renew(new: &Arc<Stored>, own: i64, value: &Value, plan: &mut Plan) {
    let before = revision(&new.object);
    let there = object::object(&new.object, &["metadata", "annotations"]);
    let mut annotations = shared(value);
    annotations.retain(|name, text| there.get(name) != Some(text));
    if before != own {
        annotations.insert(REVISION.into(), own.to_string().into());
        if before > 0 {
            let history = object::text(&new.object, &["metadata", "annotations", HISTORY]);
            let history = if history.is_empty() { before.to_string() } else { format!("{history},{before}") };
            annotations.insert(HISTORY.into(), history.into());
        }
    }
    let mut patch = json!({});
    if !annotations.is_empty() {
        patch["metadata"] = json!({"annotations": annotations});
    }
    let patience = value["spec"].get("minReadySeconds").cloned().unwrap_or(json!(0));
    if new.object["spec"].get("minReadySeconds").cloned().unwrap_or(json!(0)) != patience {
        patch["spec"] = json!({"minReadySeconds": patience});
    }
    if patch != json!({}) {
        plan.actions.push(Action::Merge {
            target: Ref::to(kind("replicasets"), new),
            subresource: "",
            patch,
        });
    }
}

fn mark(deployment: &Arc<Stored>, own: i64, plan: &mut Plan) {
    if revision(&deployment.object) != own {
        let patch = json!({"metadata": {"annotations": {REVISION: own.to_string()}}});
        plan.actions.push(Action::Merge {
            target: Ref::to(kind("deployments"), deployment),
            subresource: "",
            patch,
        });
    }
}

fn scale(deployment: &Arc<Stored>, set: &Arc<Stored>, replicas: i64, plan: &mut Plan) {
    let from = wanted(&set.object);
    if from != replicas {
        let (target, owner) = (Ref::to(kind("replicasets"), set), Ref::to(kind("deployments"), deployment));
        plan.actions.push(Action::Scale { target, owner, from, to: replicas });
    }
}

/// While it is paused a deployment rolls nowhere, but its size is still followed.
fn resize(deployment: &Arc<Stored>, sets: &[&Arc<Stored>], plan: &mut Plan) {
    let value = &deployment.object;
    let sizes: Vec<i64> = sets.iter().map(|set| wanted(&set.object)).collect();
    let surge = if is_recreate(value) { 0 } else { numbers(value, Set::default(), &[]).max_surge };
    for (set, size) in sets.iter().zip(rollout::hold(wanted(value), surge, &sizes)) {
        scale(deployment, set, size, plan);
    }
}

fn roll(
    snapshot: &Snapshot,
    deployment: &Arc<Stored>,
    new: &Arc<Stored>,
    old: &[&Arc<Stored>],
    plan: &mut Plan,
) {
    let value = &deployment.object;
    if is_recreate(value) {
        old.iter().for_each(|set| scale(deployment, set, 0, plan));
        // No pod of the old and of the new together, not even one that is on its way out.
        let is_left = |set: &Arc<Stored>| {
            wanted(&set.object) > 0
                || snapshot
                    .within("pods", object::namespace(value))
                    .any(|pod| is_owned_by(&pod.object, object::uid(&set.object)))
        };
        if !old.iter().any(|set| is_left(set)) {
            scale(deployment, new, wanted(value), plan);
        }
        return;
    }
    let (next_new, next_old) = rollout::step(&numbers(value, counts(new), old));
    scale(deployment, new, next_new, plan);
    for (set, next) in old.iter().zip(next_old) {
        scale(deployment, set, next, plan);
    }
}

/// Old sets beyond `revisionHistoryLimit` go, the oldest first.
fn forget(value: &Value, old: &[&Arc<Stored>], plan: &mut Plan) {
    let kept = usize::try_from(object::number(value, &["spec", "revisionHistoryLimit"]).unwrap_or(10))
        .unwrap_or(usize::MAX);
    let empty: Vec<&Arc<Stored>> = old
        .iter()
        .copied()
        .filter(|set| wanted(&set.object) == 0 && replicas(set) == 0 && !object::is_deleted(&set.object))
        .collect();
    for set in &empty[..empty.len().saturating_sub(kept)] {
        let target = Ref::to(kind("replicasets"), set);
        plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
    }
}

fn status(
    now: DateTime<Utc>,
    deployment: &Arc<Stored>,
    new: Option<&Arc<Stored>>,
    old: &[&Arc<Stored>],
    plan: &mut Plan,
) {
    let value = &deployment.object;
    let all = || new.iter().copied().chain(old.iter().copied());
    let sum = |field: &str| {
        all().map(|set| object::number(&set.object, &["status", field]).unwrap_or(0)).sum::<i64>()
    };
    let (total, ready, available) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let updated = new.map_or(0, replicas);
    let unavailable = (all().map(|set| wanted(&set.object)).sum::<i64>().max(total) - available).max(0);
    let count = |count: i64| if count == 0 { Value::Null } else { count.into() };
    let mut status = json!({
        "observedGeneration": value["metadata"]["generation"], "replicas": count(total), "updatedReplicas": count(updated),
        "readyReplicas": count(ready), "availableReplicas": count(available), "unavailableReplicas": count(unavailable),
    });
    let is_complete = updated == wanted(value) && total == updated && available == updated;
    let conditions = vec![
        is_available(now, value, available),
        progress(now, value, new, is_complete, status_moved(value, &status), plan),
    ];
    status["conditions"] = conditions.into();
    plan.actions.extend(status_patch(kind("deployments"), deployment, status));
}

/// Whether the counts say that something has happened since the last look.
fn status_moved(value: &Value, status: &Value) -> bool {
    ["updatedReplicas", "readyReplicas", "availableReplicas", "replicas"]
        .iter()
        .any(|field| value["status"].get(*field).unwrap_or(&Value::Null) != &status[*field])
}

/// A condition, whose times change only when it does.
fn stamped(
    now: DateTime<Utc>,
    old: Option<&Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    touch: bool,
) -> Value {
    let now = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let same = |field: &str, text: &str| old.is_some_and(|old| old[field] == text);
    let kept = |field: &str| old.map(|old| old[field].clone()).filter(|time| !time.is_null());
    let transition = if same("status", status) { kept("lastTransitionTime") } else { None };
    let is_same = same("status", status) && same("reason", reason) && !touch;
    let update = if is_same { kept("lastUpdateTime") } else { None };
    json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": transition.unwrap_or_else(|| now.clone().into()), "lastUpdateTime": update.unwrap_or_else(|| now.into())})
}

fn is_available(now: DateTime<Utc>, value: &Value, available: i64) -> Value {
    let numbers = numbers(value, Set::default(), &[]);
    let unavailable = if is_recreate(value) { 0 } else { numbers.max_unavailable };
    let (status, reason, message) = if available >= wanted(value) - unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    stamped(now, condition(value, "Available"), "Available", status, reason, message, false)
}

fn progress(
    now: DateTime<Utc>,
    value: &Value,
    new: Option<&Arc<Stored>>,
    is_complete: bool,
    moved: bool,
    plan: &mut Plan,
) -> Value {
    let old = condition(value, "Progressing");
    let name = new.map_or_else(|| object::name(value).to_owned(), |new| object::name(&new.object).to_owned());
    let say = |status: &str, reason: &str, message: String, touch: bool| {
        stamped(now, old, "Progressing", status, reason, &message, touch)
    };
    if value["spec"]["paused"] == true {
        return say("Unknown", "DeploymentPaused", "Deployment is paused".into(), false);
    }
    if is_complete {
        return say(
            "True",
            "NewReplicaSetAvailable",
            format!("ReplicaSet \"{name}\" has successfully progressed."),
            false,
        );
    }
    // The deadline runs without a new set too: it may never come.
    let (reason, message) = match new {
        Some(_) => ("ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing.")),
        None => ("NewReplicaSetCreated", format!("Created new replica set for \"{name}\"")),
    };
    let deadline =
        object::number(value, &["spec", "progressDeadlineSeconds"]).unwrap_or(600).clamp(0, 1 << 31);
    let is_new_round = old
        .is_none_or(|old| old["reason"] == "NewReplicaSetAvailable" || old["reason"] == "DeploymentPaused");
    if moved || is_new_round {
        plan.look_again(now + TimeDelta::seconds(deadline));
        return say("True", reason, message, true);
    }
    let since = old.and_then(|old| time(old, &["lastUpdateTime"])).unwrap_or(now);
    let end = since + TimeDelta::seconds(deadline);
    let has_failed = old.is_some_and(|old| old["reason"] == "ProgressDeadlineExceeded");
    if has_failed || now >= end {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return say("False", "ProgressDeadlineExceeded", message, false);
    }
    plan.look_again(end);
    say("True", reason, message, false)
}
