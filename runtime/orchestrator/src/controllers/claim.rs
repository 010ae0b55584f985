//! Whose a pod is.

use super::{Action, Plan, Ref, Snapshot, controller_of, is_active, is_owned_by, kind, owner_reference};
use crate::kinds::Kind;
use crate::object;
use crate::selector::LabelSelector;
use crate::store::Stored;
use serde_json::{Value, json};
use std::sync::Arc;

/// The pods that are its own: those that say so, and those that its selector means and nobody has. Those that it no longer means are let go.
/// `finalizer` is put on those that are adopted; empty: none.
pub(super) fn claim<'a>(
    snapshot: &'a Snapshot,
    owner_kind: &'static Kind,
    owner: &'a Arc<Stored>,
    selector: &LabelSelector,
    finalizer: &str,
    plan: &mut Plan,
) -> Vec<&'a Arc<Stored>> {
    let (value, mut own) = (&owner.object, Vec::new());
    let uid = object::uid(value);
    for pod in snapshot.within("pods", object::namespace(value)) {
        let matches = selector.matches(&object::labels(&pod.object));
        if is_owned_by(&pod.object, uid) {
            if matches {
                own.push(pod);
            } else if !object::is_deleted(&pod.object) {
                let owners: Vec<&Value> = object::list(&pod.object, &["metadata", "ownerReferences"])
                    .iter()
                    .filter(|owner| object::text(owner, &["uid"]) != uid)
                    .collect();
                plan.actions.push(patch(pod, json!({"ownerReferences": owners})));
            }
        } else if matches
            && controller_of(&pod.object).is_none()
            && is_active(&pod.object)
            && !object::is_deleted(value)
        {
            let mut owners = object::list(&pod.object, &["metadata", "ownerReferences"]).to_vec();
            owners.push(owner_reference(owner_kind, value));
            let mut metadata = json!({"ownerReferences": owners});
            if !finalizer.is_empty() {
                let mut finalizers = object::list(&pod.object, &["metadata", "finalizers"]).to_vec();
                finalizers.push(finalizer.into());
                metadata["finalizers"] = finalizers.into();
            }
            plan.actions.push(patch(pod, metadata));
            own.push(pod);
        }
    }
    own
}

fn patch(pod: &Arc<Stored>, metadata: Value) -> Action {
    Action::Merge {
        target: Ref::to(kind("pods"), pod),
        subresource: "",
        patch: json!({"metadata": metadata}),
    }
}
