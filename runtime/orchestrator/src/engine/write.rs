//! Create, update, patch.

use super::{Engine, Failure, WriteOptions, Written, check_uid, conflict};
use crate::decode::Decoded;
use crate::kinds::Kind;
use crate::object;
use crate::patch::{self, Writer};
use crate::status::{ApiError, Cause, CauseKind, Reason};
use crate::store::{Key, Stored};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a write is about.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its kind.
    pub kind: &'static Kind,
    /// Empty for kinds without.
    pub namespace: &'a str,
    /// Empty when the object is to name itself.
    pub name: &'a str,
    /// `status`; empty for the object itself.
    pub subresource: &'a str,
}

impl Target<'_> {
    pub(super) fn key(&self) -> Key {
        Key::new(self.kind, self.namespace, self.name)
    }
}

/// A change of a part of an object.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// Metadata that the server owns: what a client says of it is not heard.
const SERVERS: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "resourceVersion",
];

impl Engine {
    /// Makes a new object.
    ///
    /// # Errors
    /// The name is taken, the namespace is not there, or the object breaks a rule.
    pub fn create(
        &self,
        target: Target<'_>,
        body: Decoded,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut warnings = Vec::new();
        let mut object = self.shape(target.kind, body, options, &mut warnings)?;
        self.check_namespace(target.kind, target.namespace)?;
        self.place(target, &mut object)?;
        let is_generated = object::name(&object).is_empty();
        let prefix = object::text(&object, &["metadata", "generateName"]).to_owned();
        if is_generated && prefix.is_empty() {
            let cause = Cause::new(CauseKind::Required, "metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(target.kind.group, target.kind.kind, "", vec![cause]));
        }
        for attempt in 0.. {
            let mut object = object.clone();
            if is_generated {
                // Room for the suffix in 63 characters.
                let kept: String = prefix.chars().take(58).collect();
                *object::entry(&mut object, &["metadata", "name"]) =
                    format!("{kept}{}", self.suffix()).into();
            }
            match self.insert(target, object, options, false) {
                Err(error)
                    if error.reason == Reason::AlreadyExists
                        && is_generated
                        && attempt < super::MAX_ATTEMPTS => {}
                result => {
                    let mut written = Written { object: result?, created: true, warnings };
                    self.warn(target.kind, None, &mut written, options.dry_run);
                    return Ok(written);
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Where it is must be where it says it is.
    fn place(&self, target: Target<'_>, object: &mut Value) -> Result<(), ApiError> {
        for (field, expected) in [("namespace", target.namespace), ("name", target.name)] {
            let found = object::text(object, &["metadata", field]);
            if !found.is_empty() && !expected.is_empty() && found != expected {
                return Err(ApiError::bad_request(format!(
                    "the {field} of the provided object does not match the {field} sent on the request: {found:?} is not {expected:?}"
                )));
            }
            if !expected.is_empty() {
                *object::entry(object, &["metadata", field]) = expected.into();
            }
        }
        if !target.kind.namespaced {
            object::remove(object, &["metadata", "namespace"]);
        }
        Ok(())
    }

    /// `is_managed`: apply has already counted the managers.
    fn insert(
        &self,
        target: Target<'_>,
        mut object: Value,
        options: &WriteOptions,
        is_managed: bool,
    ) -> Result<Arc<Stored>, ApiError> {
        let kind = target.kind;
        for field in SERVERS {
            object::remove(&mut object, &["metadata", field]);
        }
        let now = self.now();
        *object::entry(&mut object, &["metadata", "uid"]) = self.uid().into();
        *object::entry(&mut object, &["metadata", "creationTimestamp"]) = now.clone().into();
        if object.get("spec").is_some() {
            *object::entry(&mut object, &["metadata", "generation"]) = 1.into();
        }
        if let Some(name) =
            kind.strategy.reserved().iter().find(|name| {
                !options.own && object::at(&object, &["metadata", "annotations", name]).is_some()
            })
        {
            let message =
                format!("metadata.annotations[{name}] is written by the server only: leave it away");
            return Err(ApiError::new(Reason::Forbidden, message));
        }
        kind.strategy.default(&mut object);
        kind.strategy.prepare_create(&mut object);
        self.validate(kind, None, &object)?;
        let writer = Writer { manager: &options.manager, subresource: "", now: &now };
        if !is_managed {
            patch::track_update(kind.structure(), None, &mut object, writer);
        }
        check_weight(&object, 0, options)?;
        let name = object::name(&object).to_owned();
        let key = Key::new(kind, target.namespace, &name);
        let exists = || {
            let message = format!("{} {name:?} already exists", kind.dotted());
            ApiError::new(Reason::AlreadyExists, message).about(kind.group, kind.plural, &name)
        };
        if self.store().get(&key).is_some() {
            return Err(exists());
        }
        let share = options.share(target.kind, &object, true);
        self.commit(&key, None, Some(object), share).map_err(|failure| match failure {
            Failure::Stale => exists(),
            Failure::Told(error) => error,
        })
    }

    /// Replaces an object, its status, or what holds a namespace (core's `/finalize`).
    ///
    /// # Errors
    /// It is not there, was changed by somebody else, or breaks a rule.
    pub fn update(
        &self,
        target: Target<'_>,
        body: Decoded,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut warnings = Vec::new();
        let mut object = self.shape(target.kind, body, options, &mut warnings)?;
        self.place(target, &mut object)?;
        let asked = object::text(&object, &["metadata", "resourceVersion"]).to_owned();
        let key = target.key();
        let mut old = None;
        let object = self.retry(&key, || {
            let current = self.store().get(&key).ok_or_else(|| target.kind.not_found(target.name))?;
            check_uid(target.kind, &current.object, object::uid(&object))?;
            if !asked.is_empty() && asked != current.version.to_string() {
                return Err(conflict(target.kind, target.name).into());
            }
            let written = self.replace(target, &current, object.clone(), options, None);
            old = Some(current);
            written
        })?;
        let mut written = Written { object, created: false, warnings };
        self.warn(target.kind, old.as_ref().map(|old| &old.object), &mut written, options.dry_run);
        Ok(written)
    }

    /// Changes a part of an object; apply makes it if it is not there.
    ///
    /// # Errors
    /// As for an update; and the patch does not fit.
    pub fn patch(
        &self,
        target: Target<'_>,
        change: &Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let key = target.key();
        let (mut warnings, mut old) = (Vec::new(), None);
        let object = self.retry(&key, || {
            warnings.clear();
            let current = self.store().get(&key);
            let Some(current) = current else {
                // A part is of something that is there.
                let (Patch::Apply(config), "") = (change, target.subresource) else {
                    return Err(target.kind.not_found(target.name).into());
                };
                old = None;
                return Ok(self.apply_new(target, config, options, &mut warnings)?);
            };
            let patched = self.patched(target, &current, change, options, &mut warnings)?;
            let asked = object::text(&patched, &["metadata", "resourceVersion"]);
            if !asked.is_empty() && asked != current.version.to_string() {
                return Err(conflict(target.kind, target.name).into());
            }
            let uid = object::uid(&patched);
            if !uid.is_empty() && uid != object::uid(&current.object) {
                let message = format!("{uid:?}: field is immutable");
                let cause = Cause::new(CauseKind::Invalid, "metadata.uid", message);
                return Err(target.kind.invalid(target.name, vec![cause]).into());
            }
            let managed = match change {
                Patch::Apply(_) => object::at(&patched, &["metadata", "managedFields"]).cloned(),
                _ => None,
            };
            let written = self.replace(target, &current, patched, options, managed);
            old = Some(current);
            written
        })?;
        let mut written = Written { object, created: old.is_none(), warnings };
        self.warn(target.kind, old.as_ref().map(|old| &old.object), &mut written, options.dry_run);
        Ok(written)
    }

    /// The object that a patch makes of the current one.
    fn patched(
        &self,
        target: Target<'_>,
        current: &Stored,
        change: &Patch,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let kind = target.kind;
        let mut object = current.object.clone();
        match change {
            Patch::Json(patch) => patch::json(&mut object, patch)?,
            Patch::Merge(patch) => patch::merge(&mut object, patch)?,
            Patch::Strategic(patch) => patch::strategic(Some(kind.structure()), &mut object, patch)?,
            Patch::Apply(config) => {
                let config = self.config(target, config, options, warnings)?;
                let now = self.now();
                let writer = Writer { manager: &options.manager, subresource: target.subresource, now: &now };
                let applied =
                    patch::apply(kind.structure(), &object, &config, writer, options.force, |object| {
                        kind.strategy.default(object);
                    });
                object = applied.map_err(|error| error.about(kind.group, kind.plural, target.name))?.0;
            }
        }
        let mut object =
            self.shape(kind, Decoded { value: object, duplicates: Vec::new() }, options, warnings)?;
        self.place(target, &mut object)?;
        Ok(object)
    }

    /// What a manager wants, as apply takes it.
    fn config(
        &self,
        target: Target<'_>,
        config: &Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        if object::at(config, &["metadata", "managedFields"]).is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil in what is applied"));
        }
        let mut config = self.shape(
            target.kind,
            Decoded { value: config.clone(), duplicates: Vec::new() },
            options,
            warnings,
        )?;
        self.place(target, &mut config)?;
        Ok(config)
    }

    fn apply_new(
        &self,
        target: Target<'_>,
        config: &Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Stored>, ApiError> {
        let config = self.config(target, config, options, warnings)?;
        if !object::uid(&config).is_empty()
            || !object::text(&config, &["metadata", "resourceVersion"]).is_empty()
        {
            return Err(target.kind.not_found(target.name));
        }
        self.check_namespace(target.kind, target.namespace)?;
        let now = self.now();
        let writer = Writer { manager: &options.manager, subresource: "", now: &now };
        let applied = patch::apply(target.kind.structure(), &json!({}), &config, writer, false, |_| {})?;
        self.insert(target, applied.0, options, true)
    }

    /// Puts `new` in the place of `current`. `managed` are the managers when apply has already counted them.
    fn replace(
        &self,
        target: Target<'_>,
        current: &Stored,
        mut new: Value,
        options: &WriteOptions,
        managed: Option<Value>,
    ) -> Result<Arc<Stored>, Failure> {
        let (kind, old) = (target.kind, &current.object);
        for field in SERVERS {
            let place = object::entry(&mut new, &["metadata", field]);
            *place = old["metadata"].get(field).cloned().unwrap_or_default();
            if place.is_null() {
                object::remove(&mut new, &["metadata", field]);
            }
        }
        match target.subresource {
            "status" => {
                let status = new.get("status").cloned().unwrap_or_default();
                let metadata = new["metadata"].clone();
                new = old.clone();
                new["status"] = status;
                // As in Kubernetes a status may come with labels and annotations, but never with a new specification.
                for field in ["labels", "annotations", "finalizers"] {
                    if let Some(value) = metadata.get(field) {
                        new["metadata"][field] = value.clone();
                    }
                }
            }
            "finalize" => {
                let finalizers = object::list(&new, &["spec", "finalizers"]).to_vec();
                new = old.clone();
                *object::entry(&mut new, &["spec", "finalizers"]) = finalizers.into();
            }
            _ => {
                if kind.has_status() {
                    keep(&mut new, old, &["status"]);
                }
                if kind.subresources.contains(&"finalize") {
                    keep(&mut new, old, &["spec", "finalizers"]);
                }
            }
        }
        kind.strategy.default(&mut new);
        if old.get("spec") != new.get("spec") && old["metadata"].get("generation").is_some() {
            let generation = object::number(old, &["metadata", "generation"]).unwrap_or(0) + 1;
            *object::entry(&mut new, &["metadata", "generation"]) = generation.into();
        }
        self.validate(kind, Some(old), &new)?;
        let now = self.now();
        match managed {
            Some(managed) => *object::entry(&mut new, &["metadata", "managedFields"]) = managed,
            None => {
                let writer = Writer { manager: &options.manager, subresource: target.subresource, now: &now };
                patch::track_update(kind.structure(), Some(old), &mut new, writer);
            }
        }
        check_weight(&new, object::weight(old), options)?;
        if same_but_times(old, &new) {
            // A write that changes nothing makes no version: controllers that write what is there already would wake each other for ever.
            return Ok(Arc::new(Stored { object: old.clone(), version: current.version }));
        }
        // An object that was only waiting for its finalizers goes with the last of them.
        let share = options.share(target.kind, &new, false);
        let new = (!super::delete::is_over(&new)).then_some(new);
        self.commit(&target.key(), Some(current.version), new, share)
    }
}

/// An object that takes more memory than this is refused: a megabyte of small parts, counted once more for those who manage them, takes a
/// gigabyte.
const MAX_WEIGHT: usize = 32 << 20;

/// `already` is what it took before: whoever makes it lighter is not held up. Nor is the server itself: it adds a node's name, or what became of
/// it, to what a client made as large as may be.
fn check_weight(object: &Value, already: usize, options: &WriteOptions) -> Result<(), ApiError> {
    let weight = object::weight(object);
    let most = if options.own { MAX_WEIGHT + MAX_WEIGHT / 8 } else { MAX_WEIGHT };
    if weight <= most.max(already) {
        return Ok(());
    }
    let message = format!(
        "the object has too many parts: it would take some {} MiB of memory, and {} MiB is the most",
        weight >> 20,
        MAX_WEIGHT >> 20
    );
    Err(ApiError::new(Reason::RequestEntityTooLarge, message))
}

/// Leaves `path` as it was.
fn keep(new: &mut Value, old: &Value, path: &[&str]) {
    match object::at(old, path) {
        Some(value) => *object::entry(new, path) = value.clone(),
        None => drop(object::remove(new, path)),
    }
}

/// Whether two objects differ in nothing but when somebody wrote them.
fn same_but_times(old: &Value, new: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        object::remove(&mut object, &["metadata", "resourceVersion"]);
        if let Some(Value::Array(entries)) = object["metadata"].get_mut("managedFields") {
            entries.iter_mut().for_each(|entry| {
                object::remove(entry, &["time"]);
            });
        }
        object
    };
    plain(old) == plain(new)
}
