//! Garbage: objects whose owners are gone go too; owners wait for what they own if they were told to; orphans are let go. Pods that are to go
//! do so without the word of a node that is not there.

use super::{Action, Plan, Ref, Snapshot, kind};
use crate::engine::{FOREGROUND, ORPHAN, Propagation};
use crate::kinds::{KINDS, Kind};
use crate::object;
use crate::store::Stored;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn plan(snapshot: &Snapshot, plan: &mut Plan) {
    plan.actions.extend(forsaken(snapshot).map(|pod| Action::Forget(Ref::to(kind("pods"), pod))));
    plan.actions.extend(never_placed(snapshot).map(|pod| Action::Merge {
        target: Ref::to(kind("pods"), pod),
        subresource: "status",
        patch: json!({"status": {"phase": "Failed"}}),
    }));
    let everything: Vec<(&'static Kind, &Arc<Stored>)> = KINDS
        .iter()
        .flat_map(|kind| snapshot.all(kind.plural).iter().map(move |stored| (kind, stored)))
        .collect();
    let living: BTreeMap<&str, &Arc<Stored>> =
        everything.iter().map(|(_, stored)| (object::uid(&stored.object), *stored)).collect();
    let mut owned: Owned<'_> = BTreeMap::new();
    for (kind, stored) in &everything {
        for owner in owners(&stored.object) {
            owned.entry(object::text(owner, &["uid"])).or_default().push((kind, stored));
        }
    }
    // What an owner orphans is not garbage in the same look.
    let mut let_go = BTreeSet::new();
    for (kind, stored) in &everything {
        let finalizers = object::list(&stored.object, &["metadata", "finalizers"]);
        let has = |name: &str| finalizers.iter().any(|one| one == name);
        if !object::is_deleted(&stored.object) {
            continue;
        }
        let own = owned.get(object::uid(&stored.object)).map_or(&[][..], Vec::as_slice);
        if has(ORPHAN) {
            for (kind, dependent) in own {
                let uid = object::uid(&stored.object);
                let rest: Vec<&Value> = owners(&dependent.object)
                    .iter()
                    .filter(|owner| object::text(owner, &["uid"]) != uid)
                    .collect();
                let patch = json!({"metadata": {"ownerReferences": rest}});
                plan.actions.push(Action::Merge { target: Ref::to(kind, dependent), subresource: "", patch });
                let_go.insert(object::uid(&dependent.object));
            }
            if own.is_empty() {
                plan.actions.push(without(kind, stored, finalizers, ORPHAN));
            }
        } else if has(FOREGROUND) {
            let uid = object::uid(&stored.object);
            let holds = |dependent: &Value| {
                let blocks = |owner: &Value| owner["blockOwnerDeletion"] == true;
                owners(dependent).iter().any(|owner| object::text(owner, &["uid"]) == uid && blocks(owner))
                    // Who waits for this one can't be waited for.
                    && !leads_to(&owned, object::uid(dependent), uid)
            };
            // Whoever has another owner that stays is let go.
            let stays = |owner: &&Value| {
                living
                    .get(object::text(owner, &["uid"]))
                    .is_some_and(|owner| !object::is_deleted(&owner.object))
            };
            for (kind, dependent) in
                own.iter().filter(|(_, dependent)| !object::is_deleted(&dependent.object))
            {
                let_go.insert(object::uid(&dependent.object));
                let rest: Vec<&Value> = owners(&dependent.object).iter().filter(stays).collect();
                if !rest.is_empty() {
                    let patch = json!({"metadata": {"ownerReferences": rest}});
                    let target = Ref::to(kind, dependent);
                    plan.actions.push(Action::Merge { target, subresource: "", patch });
                    continue;
                }
                plan.actions.push(Action::Delete {
                    target: Ref::to(kind, dependent),
                    propagation: Propagation::Foreground,
                });
            }
            if !own.iter().any(|(_, dependent)| holds(&dependent.object)) {
                plan.actions.push(without(kind, stored, finalizers, FOREGROUND));
            }
        }
    }
    for (kind, stored) in &everything {
        let owners = owners(&stored.object);
        let is_orphan = !owners.is_empty()
            && owners.iter().all(|owner| !living.contains_key(object::text(owner, &["uid"])));
        if is_orphan && !object::is_deleted(&stored.object) && !let_go.contains(object::uid(&stored.object)) {
            plan.actions
                .push(Action::Delete { target: Ref::to(kind, stored), propagation: Propagation::Background });
        }
    }
}

/// Deleted pods that a finalizer holds and that no node has seen: somebody has to say that they are over, because a Job may wait for it.
fn never_placed(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Stored>> {
    snapshot.all("pods").iter().filter(|pod| {
        let text = |path| object::text(&pod.object, path);
        object::is_deleted(&pod.object)
            && text(&["spec", "nodeName"]).is_empty()
            && !matches!(text(&["status", "phase"]), "Succeeded" | "Failed")
    })
}

/// Deleted pods of nodes that are not there. Where there is no node at all, ours has not come yet.
fn forsaken(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Stored>> {
    let nodes = snapshot.all("nodes");
    let is_there = move |name: &str| nodes.iter().any(|node| object::name(&node.object) == name);
    snapshot.all("pods").iter().filter(move |pod| {
        let node = object::text(&pod.object, &["spec", "nodeName"]);
        object::is_deleted(&pod.object) && !node.is_empty() && !nodes.is_empty() && !is_there(node)
    })
}

fn owners(value: &Value) -> &[Value] {
    object::list(value, &["metadata", "ownerReferences"])
}

type Owned<'a> = BTreeMap<&'a str, Vec<(&'static Kind, &'a Arc<Stored>)>>;

/// Whether `to` is `from`, or what it owns, or what that owns in turn.
fn leads_to(owned: &Owned<'_>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
    while let Some(uid) = open.pop() {
        if uid == to {
            return true;
        }
        let own = owned.get(uid).into_iter().flatten().map(|(_, stored)| object::uid(&stored.object));
        open.extend(own.filter(|uid| seen.insert(uid)));
    }
    false
}

fn without(kind: &'static Kind, stored: &Arc<Stored>, finalizers: &[Value], gone: &str) -> Action {
    let rest: Vec<&Value> = finalizers.iter().filter(|one| *one != gone).collect();
    let patch = json!({"metadata": {"finalizers": rest}});
    Action::Merge { target: Ref::to(kind, stored), subresource: "", patch }
}
