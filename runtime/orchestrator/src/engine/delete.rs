//! Deletion: at once, or in order, when finalizers and whoever runs the object have done their part.

use super::{Engine, Target, check_uid, conflict};
use crate::decode;
use crate::kinds::Kind;
use crate::object;
use crate::status::{ApiError, Cause, CauseKind, Reason};
use crate::store::{Change, Key, Share, Stored};
use chrono::{SecondsFormat, TimeDelta};
use serde_json::Value;
use std::sync::Arc;

/// Finalizers of the garbage collector (meta/v1).
pub const ORPHAN: &str = "orphan";
/// The object goes when what it owns is gone.
pub const FOREGROUND: &str = "foregroundDeletion";

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    #[default]
    Background,
    /// It goes after them.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a client says beside the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds that whoever runs it may take; 0: it goes at once.
    pub grace_period: Option<i64>,
    /// What becomes of what it owns.
    pub propagation: Propagation,
    /// Only the object of this identity.
    pub uid: Option<String>,
    /// Only the object of this version.
    pub resource_version: Option<String>,
    /// Nothing happens.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Of a `DeleteOptions` object.
    ///
    /// # Errors
    /// It asks for something that there is not.
    pub fn of(value: &Value) -> Result<Self, ApiError> {
        let kind = object::text(value, &["kind"]);
        if !matches!(kind, "" | "DeleteOptions") {
            let message = format!("the body of a deletion is a DeleteOptions object, and this is a {kind}");
            return Err(ApiError::bad_request(message));
        }
        let value = &decode::shaped("DeleteOptions", value.clone())?;
        let text = |path: &[&str]| Some(object::text(value, path).to_owned()).filter(|text| !text.is_empty());
        let orphan = value.get("orphanDependents").and_then(Value::as_bool);
        if orphan.is_some() && !object::text(value, &["propagationPolicy"]).is_empty() {
            let message =
                "orphanDependents and propagationPolicy can't both be set: they may say different things";
            let cause = Cause::new(CauseKind::Invalid, "propagationPolicy", message);
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]));
        }
        let propagation = match (object::text(value, &["propagationPolicy"]), orphan) {
            ("Orphan", _) | ("", Some(true)) => Propagation::Orphan,
            ("Foreground", _) => Propagation::Foreground,
            ("Background" | "", _) => Propagation::Background,
            (other, _) => {
                let message = format!(
                    "propagationPolicy {other:?}: supported values: \"Orphan\", \"Background\", \"Foreground\""
                );
                return Err(ApiError::bad_request(message));
            }
        };
        let dry_run = object::list(value, &["dryRun"]);
        if let Some(other) = dry_run.iter().find(|one| *one != "All") {
            return Err(ApiError::bad_request(format!("dryRun {other}: supported values: \"All\"")));
        }
        Ok(Self {
            grace_period: object::number(value, &["gracePeriodSeconds"]).map(|seconds| seconds.max(0)),
            propagation,
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            dry_run: !dry_run.is_empty(),
        })
    }
}

/// Whether nothing holds an object any more that is to be deleted.
pub(super) fn is_over(object: &Value) -> bool {
    object::is_deleted(object)
        && object::list(object, &["metadata", "finalizers"]).is_empty()
        && object::list(object, &["spec", "finalizers"]).is_empty()
        && object::number(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
}

/// Objects that are deleted by one write to the disk; others write in between.
const BATCH: usize = 100;

/// What is to be written.
enum Step {
    /// Nothing is left.
    Gone,
    /// It waits for others now.
    Going(Value),
    /// Nothing: it waits already.
    None,
}

/// What a deletion came to.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; this was the last of it.
    Gone(Arc<Stored>),
    /// It will go.
    Going(Arc<Stored>),
}

/// The object at `key`, not a part of it.
fn whole(key: &Key) -> Target<'_> {
    Target { kind: key.kind(), namespace: &key.namespace, name: &key.name, subresource: "" }
}

impl Engine {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// It is not there, or is another than was meant.
    pub fn delete(&self, target: Target<'_>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let key = target.key();
        self.retry(&key, || {
            let current = self.store().get(&key).ok_or_else(|| target.kind.not_found(target.name))?;
            let share = (!options.dry_run).then_some(Share::Reserve);
            let commit = |object| self.commit(&key, Some(current.version), object, share);
            Ok(match self.step(target, &current, options)? {
                Step::Gone => Deleted::Gone(commit(None)?),
                Step::Going(new) => Deleted::Going(commit(Some(new))?),
                Step::None => Deleted::Going(current),
            })
        })
    }

    /// The same for each of a list; the disk is waited for once for many.
    ///
    /// # Errors
    /// One of them may not be deleted; those before it are.
    pub fn delete_all(
        &self,
        kind: &'static Kind,
        objects: &[Arc<Stored>],
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        for batch in objects.chunks(BATCH) {
            let (mut keys, mut changes, mut refused) = (Vec::new(), Vec::new(), Ok(()));
            for stored in batch {
                let key = Key::new(kind, object::namespace(&stored.object), object::name(&stored.object));
                let object = match self.step(whole(&key), stored, options) {
                    Ok(Step::Gone) => None,
                    Ok(Step::Going(new)) => Some(new),
                    Ok(Step::None) => continue,
                    Err(error) => {
                        refused = Err(error);
                        break;
                    }
                };
                let (expected, share) = (Some(stored.version), Share::Reserve);
                changes.push(Change { key: key.clone(), expected, object, share });
                keys.push(key);
            }
            if !options.dry_run {
                let done = self.store().commit_all(changes);
                let done = done.map_err(|error| super::refused(&error))?;
                for (key, _) in keys.iter().zip(done).filter(|(_, done)| done.is_none()) {
                    // It was changed since the list was made, or somebody else was faster.
                    match self.delete(whole(key), options) {
                        Err(error) if error.reason == Reason::NotFound => {}
                        result => drop(result?),
                    }
                }
            }
            refused?;
        }
        Ok(())
    }

    /// What a deletion makes of an object.
    fn step(&self, target: Target<'_>, current: &Stored, options: &DeleteOptions) -> Result<Step, ApiError> {
        check_uid(target.kind, &current.object, options.uid.as_deref().unwrap_or_default())?;
        let version = current.version.to_string();
        if options.resource_version.as_ref().is_some_and(|wanted| *wanted != version) {
            return Err(conflict(target.kind, target.name));
        }
        if let Some(why) = target.kind.strategy.undeletable(&current.object) {
            let message = format!("{} {:?} is forbidden: {why}", target.kind.dotted(), target.name);
            let error = ApiError::new(Reason::Forbidden, message);
            return Err(error.about(target.kind.group, target.kind.plural, target.name));
        }
        let mut new = current.object.clone();
        let allowed = target.kind.strategy.grace_period(&new);
        let asked = match (allowed, options.grace_period) {
            (None, _) => 0,
            (Some(0), _) => 0,
            (Some(own), asked) => asked.unwrap_or(own),
        };
        let already = object::number(&new, &["metadata", "deletionGracePeriodSeconds"]);
        // Who asks again may only make it faster.
        let grace = already.map_or(asked, |already| already.min(asked));
        let is_first = !object::is_deleted(&new);
        if is_first || already != Some(grace) {
            // Seventy years are as good as for ever, and fit into a calendar.
            let deadline = self.world.now() + TimeDelta::seconds(grace.min(1 << 31));
            let deadline = deadline.to_rfc3339_opts(SecondsFormat::Secs, true);
            *object::entry(&mut new, &["metadata", "deletionTimestamp"]) = deadline.into();
            *object::entry(&mut new, &["metadata", "deletionGracePeriodSeconds"]) = grace.into();
            if is_first && let Some(generation) = object::number(&new, &["metadata", "generation"]) {
                *object::entry(&mut new, &["metadata", "generation"]) = (generation + 1).into();
            }
        }
        if is_first {
            let mut finalizers = object::list(&new, &["metadata", "finalizers"]).to_vec();
            let wanted = match options.propagation {
                Propagation::Background => None,
                Propagation::Foreground => Some(FOREGROUND),
                Propagation::Orphan => Some(ORPHAN),
            };
            if let Some(wanted) = wanted.filter(|wanted| !finalizers.contains(&Value::from(*wanted))) {
                finalizers.push(wanted.into());
                *object::entry(&mut new, &["metadata", "finalizers"]) = finalizers.into();
            }
            if target.kind.kind == "Namespace" {
                *object::entry(&mut new, &["status", "phase"]) = "Terminating".into();
            }
        }
        Ok(if is_over(&new) {
            Step::Gone
        } else if new == current.object {
            Step::None
        } else {
            Step::Going(new)
        })
    }
}
