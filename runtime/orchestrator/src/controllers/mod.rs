//! Controllers: from what is observed to what is to be done, one pure function each. They hold no state: whatever is lost between an
//! observation and a write is seen again.
//!
//! Nothing here waits or writes; [`Engine::act`](crate::engine::Engine::act) does what they say, and each action names the version that it
//! was decided on, so one that comes too late does nothing.

mod claim;
pub mod cron_job;
pub mod deployment;
pub mod event;
mod eviction;
pub mod garbage;
pub mod job;
pub mod namespace;
pub mod replica_set;
mod rollout;

use crate::engine::{Note, Propagation};
use crate::kinds::Kind;
use crate::object;
use crate::store::{Store, Stored};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make an object.
    Create {
        /// Of this kind.
        kind: &'static Kind,
        /// There.
        namespace: String,
        /// This one.
        object: Value,
    },
    /// Merge a patch into an object (RFC 7386), unless it has changed since.
    Merge {
        /// Which.
        target: Ref,
        /// `status`; empty for the object itself.
        subresource: &'static str,
        /// Into it.
        patch: Value,
    },
    /// Have a ReplicaSet keep another number of pods, unless it has changed since, and tell its Deployment.
    Scale {
        /// Which.
        target: Ref,
        /// Whose it is.
        owner: Ref,
        /// So many it kept.
        from: i64,
        /// So many it is to keep.
        to: i64,
    },
    /// Delete an object.
    Delete {
        /// Which.
        target: Ref,
        /// What becomes of what it owns.
        propagation: Propagation,
    },
    /// Take a deleted object away for good: whoever would say that it has ended is not there.
    Forget(Ref),
    /// Tell people.
    Tell(Note),
}

/// An object as it was when something was decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// Its kind.
    pub kind: &'static Kind,
    /// Where.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity: another object of the name is not meant.
    pub uid: String,
    /// Its version.
    pub version: u64,
}

impl Ref {
    /// To this object.
    pub fn to(kind: &'static Kind, stored: &Stored) -> Self {
        Self {
            kind,
            namespace: object::namespace(&stored.object).into(),
            name: object::name(&stored.object).into(),
            uid: object::uid(&stored.object).into(),
            version: stored.version,
        }
    }
}

/// What a controller came to.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Look again then, even if nothing happens.
    pub again: Option<DateTime<Utc>>,
}

impl Plan {
    fn look_again(&mut self, at: DateTime<Utc>) {
        self.again = Some(self.again.map_or(at, |earlier| earlier.min(at)));
    }
}

/// The kind of this plural.
pub fn kind(plural: &str) -> &'static Kind {
    crate::kinds::KINDS
        .iter()
        .find(|kind| kind.plural == plural)
        .expect("controllers name kinds of the table")
}

/// All objects at one moment.
pub struct Snapshot {
    objects: BTreeMap<&'static str, Vec<Arc<Stored>>>,
    /// When.
    pub now: DateTime<Utc>,
}

impl Snapshot {
    /// Of a store.
    pub fn of(store: &Store, now: DateTime<Utc>) -> Self {
        Self { objects: store.all(), now }
    }

    /// Objects of a kind.
    pub fn all(&self, plural: &str) -> &[Arc<Stored>] {
        self.objects.get(plural).map_or(&[], Vec::as_slice)
    }

    fn within<'a>(&'a self, plural: &str, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Stored>> {
        self.all(plural).iter().filter(move |stored| object::namespace(&stored.object) == namespace)
    }
}

/// What all controllers want done now. The order is that of cause and effect, so that a change goes a long way at once.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    namespace::plan(snapshot, &mut plan);
    for stored in snapshot.all("deployments") {
        deployment::plan(snapshot, stored, &mut plan);
    }
    for stored in snapshot.all("replicasets") {
        replica_set::plan(snapshot, stored, &mut plan);
    }
    cron_job::plan(snapshot, &mut plan);
    job::plan(snapshot, &mut plan);
    eviction::plan(snapshot, &mut plan);
    event::plan(snapshot, &mut plan);
    garbage::plan(snapshot, &mut plan);
    plan
}

/// The reference of whom an object belongs to.
fn controller_of(value: &Value) -> Option<&Value> {
    object::list(value, &["metadata", "ownerReferences"]).iter().find(|owner| owner["controller"] == true)
}

fn is_owned_by(value: &Value, uid: &str) -> bool {
    controller_of(value).is_some_and(|owner| object::text(owner, &["uid"]) == uid)
}

/// What an object that `owner` makes says of it.
fn owner_reference(kind: &'static Kind, owner: &Value) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "name": object::name(owner), "uid": object::uid(owner),
        "controller": true, "blockOwnerDeletion": true})
}

/// Whether a pod counts: it is not over and not on its way out.
fn is_active(pod: &Value) -> bool {
    !object::is_deleted(pod) && !is_over(pod)
}

/// Whether a pod has run to its end.
fn is_over(pod: &Value) -> bool {
    matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

fn time(value: &Value, path: &[&str]) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(object::text(value, path)).ok().map(|time| time.to_utc())
}

fn condition<'a>(value: &'a Value, kind: &str) -> Option<&'a Value> {
    object::list(value, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind)
}

/// The status patch that is needed to make `status` of an object's, if one is. What it does not name stays.
fn status_patch(kind: &'static Kind, stored: &Stored, status: Value) -> Option<Action> {
    let mut wanted = stored.object.get("status").cloned().unwrap_or_else(|| json!({}));
    json_patch::merge(&mut wanted, &status);
    let is_so = stored.object.get("status") == Some(&wanted);
    (!is_so).then(|| Action::Merge {
        target: Ref::to(kind, stored),
        subresource: "status",
        patch: json!({"status": status}),
    })
}

#[cfg(test)]
mod tests;
