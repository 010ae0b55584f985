//! Does what controllers say.

use super::{DeleteOptions, Engine, Note, Patch, Target, WriteOptions};
use crate::controllers::{self, Action, Plan, Ref, Snapshot};
use crate::decode::Decoded;
use crate::kinds::Kind;
use crate::object;
use crate::status::{ApiError, Cause, Reason};
use serde_json::{Value, json};

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
            self.act_or_tell(action)?;
        }
        Ok((self.store().version() != before, plan))
    }

    /// Does one thing. What breaks a rule is told to whom it was for, once, and holds nobody else up. Whether there is nothing to be done about
    /// it any more: `false` where somebody else wrote first, and another look will decide again.
    ///
    /// # Errors
    /// The store does not work.
    pub fn act_or_tell(&self, action: &Action) -> Result<bool, ApiError> {
        match self.act(action) {
            Err(error) if error.reason != Reason::InternalError => {
                self.complain(action, &error).map(|()| true)
            }
            result => result,
        }
    }

    fn complain(&self, action: &Action, error: &ApiError) -> Result<(), ApiError> {
        let (about, reason) = match action {
            Action::Create { object, namespace, .. } => match self.owner(object, namespace) {
                Some((owner, _)) => (owner, "FailedCreate"),
                None => return Ok(()),
            },
            Action::Merge { target, .. } | Action::Scale { target, .. } => (target.clone(), "FailedUpdate"),
            Action::Delete { target, .. } | Action::Forget(target) => (target.clone(), "FailedDelete"),
            Action::Tell(_) => return Ok(()),
        };
        // Without the name, which chance makes another one each time. Counting at every look would be a write that leads to the next look.
        let causes: Vec<String> = error.causes.iter().map(Cause::text).collect();
        let message = match &causes[..] {
            [] if error.reason == Reason::Crowded => "no memory is left for more objects: delete some".into(),
            [] => error.reason.name(),
            causes => causes.join(", "),
        };
        self.tell_once(&Note::warning(about, "vial-controller", reason, message))
    }

    /// Who has an object made, and the name of the controller that does it.
    fn owner(&self, made: &Value, namespace: &str) -> Option<(Ref, &'static str)> {
        let owners = object::list(made, &["metadata", "ownerReferences"]);
        let owner = owners.iter().find(|owner| owner["controller"] == true)?;
        let source = match object::text(owner, &["kind"]) {
            "ReplicaSet" => "replicaset-controller",
            "Job" => "job-controller",
            "CronJob" => "cronjob-controller",
            _ => "deployment-controller",
        };
        let kind = Kind::by_name(object::text(owner, &["apiVersion"]), object::text(owner, &["kind"]))?;
        let namespace = if kind.namespaced { namespace } else { "" };
        let target = Target { kind, namespace, name: object::text(owner, &["name"]), subresource: "" };
        Some((Ref::to(kind, &*self.get(target).ok()?), source))
    }

    /// Does one thing. That an object is gone, another or there already is no error: who decided did not know, and will look again. Nor is it that
    /// the namespace is going. Whether it was done.
    ///
    /// # Errors
    /// The store does not work or is full, or an object breaks a rule that its maker should have kept.
    pub fn act(&self, action: &Action) -> Result<bool, ApiError> {
        let options =
            WriteOptions { manager: "vial-controller".into(), own: true, ..WriteOptions::default() };
        let result = match action {
            Action::Create { kind, namespace, object } => {
                let target = Target { kind, namespace, name: "", subresource: "" };
                let body = Decoded { value: object.clone(), duplicates: Vec::new() };
                let made = self.create(target, body, &options);
                made.and_then(|made| self.tell_owner(&made.object.object))
            }
            Action::Merge { target, subresource, patch } => {
                self.merge(target, subresource, patch.clone(), &options)
            }
            Action::Scale { target, owner, from, to } => {
                let patch = json!({"spec": {"replicas": to}});
                let done = self.merge(target, "", patch, &options);
                done.and_then(|()| self.tell_scaled(owner.clone(), &target.name, *from, *to))
            }
            Action::Delete { target, propagation } => {
                let options = DeleteOptions { propagation: *propagation, ..DeleteOptions::default() };
                self.remove(target, options)
            }
            Action::Forget(target) => {
                let options = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
                self.remove(target, options)
            }
            Action::Tell(note) => self.tell(note),
        };
        match result {
            Err(error)
                if matches!(
                    error.reason,
                    Reason::NotFound | Reason::Conflict | Reason::AlreadyExists | Reason::Forbidden
                ) =>
            {
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    /// Merges a patch into the version that it was decided on, and into no other.
    fn merge(
        &self,
        target: &Ref,
        subresource: &str,
        mut patch: Value,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let guard = object::entry(&mut patch, &["metadata"]);
        guard["resourceVersion"] = target.version.to_string().into();
        guard["uid"] = json!(target.uid);
        let place =
            Target { kind: target.kind, namespace: &target.namespace, name: &target.name, subresource };
        self.patch(place, &Patch::Merge(patch), options).map(drop)
    }

    /// Deletes this object and no other of its name.
    fn remove(&self, target: &Ref, options: DeleteOptions) -> Result<(), ApiError> {
        let place =
            Target { kind: target.kind, namespace: &target.namespace, name: &target.name, subresource: "" };
        self.delete(place, &DeleteOptions { uid: Some(target.uid.clone()), ..options }).map(drop)
    }

    /// Who has something made for it is told its name, which nobody knew before.
    fn tell_owner(&self, made: &Value) -> Result<(), ApiError> {
        let Some((owner, source)) = self.owner(made, object::namespace(made)) else { return Ok(()) };
        let message = match source {
            // A deployment tells what it scales a set to, not that there is one.
            "deployment-controller" => {
                let replicas = object::number(made, &["spec", "replicas"]).unwrap_or(0);
                return self.tell_scaled(owner, object::name(made), 0, replicas);
            }
            "cronjob-controller" => format!("Created job {}", object::name(made)),
            _ => format!("Created pod: {}", object::name(made)),
        };
        self.tell(&Note::normal(owner, source, "SuccessfulCreate", message))
    }

    fn tell_scaled(&self, owner: Ref, set: &str, from: i64, to: i64) -> Result<(), ApiError> {
        if from == to {
            return Ok(());
        }
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        self.tell(&Note::normal(owner, "deployment-controller", "ScalingReplicaSet", message))
    }
}
