//! Namespaces: each has its default account; one that is deleted takes all that is in it along.

use super::{Action, Plan, Ref, Snapshot, kind};
use crate::engine::Propagation;
use crate::kinds::KINDS;
use crate::object;
use crate::store::Stored;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn plan(snapshot: &Snapshot, plan: &mut Plan) {
    for namespace in snapshot.all("namespaces") {
        let name = object::name(&namespace.object);
        if !object::is_deleted(&namespace.object) {
            let accounts = kind("serviceaccounts");
            if !snapshot
                .within("serviceaccounts", name)
                .any(|account| object::name(&account.object) == "default")
            {
                let object = json!({"metadata": {"name": "default"}});
                plan.actions.push(Action::Create { kind: accounts, namespace: name.into(), object });
            }
            continue;
        }
        let mut is_empty = true;
        for kind in KINDS.iter().filter(|kind| kind.namespaced) {
            for stored in snapshot.within(kind.plural, name) {
                is_empty = false;
                if !object::is_deleted(&stored.object) {
                    let target = Ref::to(kind, stored);
                    plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
                }
            }
        }
        if is_empty {
            let patch = json!({"spec": {"finalizers": []}});
            plan.actions.push(Action::Merge {
                target: Ref::to(kind("namespaces"), namespace),
                subresource: "finalize",
                patch,
            });
        }
    }
    forsaken(snapshot, plan);
}

/// Objects of namespaces that are not there: somebody let their namespace go before they were gone.
fn forsaken(snapshot: &Snapshot, plan: &mut Plan) {
    let there: BTreeSet<&str> =
        snapshot.all("namespaces").iter().map(|namespace| object::name(&namespace.object)).collect();
    for kind in KINDS.iter().filter(|kind| kind.namespaced) {
        let lost = |stored: &&Arc<Stored>| {
            !there.contains(object::namespace(&stored.object)) && !object::is_deleted(&stored.object)
        };
        for stored in snapshot.all(kind.plural).iter().filter(lost) {
            let target = Ref::to(kind, stored);
            plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
        }
    }
}
