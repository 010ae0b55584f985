//! Does what controllers say.

use super::{DeleteOptions, Engine, Patch, Target, WriteOptions};
use crate::controllers::{self, Action, Plan, Snapshot};
use crate::decode::Decoded;
use crate::status::{ApiError, Reason};
use serde_json::json;

impl Engine {
    /// One look of all controllers, and what follows from it. Returns whether anything was done, and when to look again even if nothing
    /// happens.
    ///
    /// # Errors
    /// The store does not work. What was done so far stays; the next look goes on from there.
    pub fn control(&self) -> Result<(bool, Plan), ApiError> {
        let plan = controllers::plan(&Snapshot::of(self.store(), self.time()));
        let before = self.store().version();
        for action in &plan.actions {
            self.act(action)?;
        }
        Ok((self.store().version() != before, plan))
    }

    /// Does one thing. That an object is gone, another or there already is no error: who decided did not know, and will look again.
    ///
    /// # Errors
    /// The store does not work, or an object breaks a rule that its maker should have kept.
    pub fn act(&self, action: &Action) -> Result<(), ApiError> {
        let options = WriteOptions { manager: "vial-controller".into(), ..WriteOptions::default() };
        let result = match action {
            Action::Create { kind, namespace, object } => {
                let target = Target { kind, namespace, name: "", subresource: "" };
                let body = Decoded { value: object.clone(), duplicates: Vec::new() };
                self.create(target, body, &options).map(drop)
            }
            Action::Merge { target, subresource, patch } => {
                let mut patch = patch.clone();
                // Decided on this version, and on no other.
                let guard = crate::object::entry(&mut patch, &["metadata"]);
                guard["resourceVersion"] = target.version.to_string().into();
                guard["uid"] = json!(target.uid);
                let place = Target {
                    kind: target.kind,
                    namespace: &target.namespace,
                    name: &target.name,
                    subresource,
                };
                self.patch(place, &Patch::Merge(patch), &options).map(drop)
            }
            Action::Delete { target, propagation } => {
                let place = Target {
                    kind: target.kind,
                    namespace: &target.namespace,
                    name: &target.name,
                    subresource: "",
                };
                let options = DeleteOptions {
                    propagation: *propagation,
                    uid: Some(target.uid.clone()),
                    ..DeleteOptions::default()
                };
                self.delete(place, &options).map(drop)
            }
        };
        match result {
            Err(error)
                if matches!(
                    error.reason,
                    Reason::NotFound | Reason::Conflict | Reason::AlreadyExists | Reason::Forbidden
                ) =>
            {
                Ok(())
            }
            result => result,
        }
    }
}
