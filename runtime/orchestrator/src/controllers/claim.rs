//! Whose a pod or a ReplicaSet is.

use super::{Action, Plan, Ref, Snapshot, controller_of, is_active, is_owned_by, owner_reference};
use crate::kinds::Kind;
use crate::object;
use crate::selector::LabelSelector;
use crate::store::Stored;
use serde_json::{Value, json};
use std::sync::Arc;

/// The objects of a kind that are its own: those that say so, and those that its selector means and nobody has. Those that it no longer means are let go.
/// `finalizer` is put on those that are adopted; empty: none.
pub(super) fn claim<'a>(
    snapshot: &'a Snapshot,
    claimed: &'static Kind,
    (owner_kind, owner): (&'static Kind, &'a Arc<Stored>),
    selector: &LabelSelector,
    finalizer: &str,
    plan: &mut Plan,
) -> Vec<&'a Arc<Stored>> {
    let (value, mut own) = (&owner.object, Vec::new());
    let uid = object::uid(value);
    for one in snapshot.within(claimed.plural, object::namespace(value)) {
        let matches = selector.matches(&object::labels(&one.object));
        if is_owned_by(&one.object, uid) {
            if matches {
                own.push(one);
            } else if !object::is_deleted(&one.object) {
                let owners: Vec<&Value> = object::list(&one.object, &["metadata", "ownerReferences"])
                    .iter()
                    .filter(|owner| object::text(owner, &["uid"]) != uid)
                    .collect();
                plan.actions.push(patch(claimed, one, json!({"ownerReferences": owners})));
            }
        } else if matches
            && controller_of(&one.object).is_none()
            && is_active(&one.object)
            && !object::is_deleted(value)
        {
            let mut owners = object::list(&one.object, &["metadata", "ownerReferences"]).to_vec();
            owners.push(owner_reference(owner_kind, value));
            let mut metadata = json!({"ownerReferences": owners});
            if !finalizer.is_empty() {
                let mut finalizers = object::list(&one.object, &["metadata", "finalizers"]).to_vec();
                finalizers.push(finalizer.into());
                metadata["finalizers"] = finalizers.into();
            }
            plan.actions.push(patch(claimed, one, metadata));
            own.push(one);
        }
    }
    own
}

fn patch(claimed: &'static Kind, one: &Arc<Stored>, metadata: Value) -> Action {
    Action::Merge { target: Ref::to(claimed, one), subresource: "", patch: json!({"metadata": metadata}) }
}
