//! Sets of fields: who manages what (`FieldsV1`, structured-merge-diff's serialisation).
//!
//! A set is a tree. `f:name` is a field, `k:{…}` the item of a list with these keys, `v:…` a value of a set, `.` the place itself.

use crate::schema::{Field, Holds, Of, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A saved set may be a client's: deeper ones are cut.
const MAX_DEPTH: usize = 64;

/// Fields below one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// The place itself belongs to it.
    own: bool,
    /// By step, in the serialised form.
    below: BTreeMap<String, Fields>,
}

impl Fields {
    /// All fields of `value`, which is a `structure`.
    pub(super) fn of(structure: &'static Type, value: &Value) -> Self {
        let mut set = Self::default();
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                let below = match structure.fields.get(name) {
                    Some(field) => Self::of_field(field, value),
                    None => Self::leaf(),
                };
                set.below.insert(format!("f:{name}"), below);
            }
        }
        set
    }

    fn leaf() -> Self {
        Self { own: true, below: BTreeMap::new() }
    }

    fn of_field(field: &'static Field, value: &Value) -> Self {
        match (field.of, value) {
            (Of::One, value) => Self::of_one(field, value),
            (Of::Map, Value::Object(entries)) if !entries.is_empty() => {
                let below =
                    entries.iter().map(|(key, value)| (format!("f:{key}"), Self::of_one(field, value)));
                Self { own: true, below: below.collect() }
            }
            (Of::List, Value::Array(items)) if !field.keys.is_empty() && !items.is_empty() => {
                let below = items.iter().map(|item| {
                    let mut inner = Self::of_one(field, item);
                    inner.own = true;
                    (key_step(field, item), inner)
                });
                Self { own: true, below: below.collect() }
            }
            (Of::List, Value::Array(items)) if field.set => {
                let below = items.iter().map(|item| (format!("v:{item}"), Self::leaf()));
                Self { own: true, below: below.collect() }
            }
            _ => Self::leaf(),
        }
    }

    fn of_one(field: &'static Field, value: &Value) -> Self {
        match field.structure() {
            Some(structure) if !structure.atomic && field.holds == Holds::Object => {
                let inner = Self::of(structure, value);
                if inner.below.is_empty() { Self::leaf() } else { inner }
            }
            _ => Self::leaf(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.below.is_empty()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.own |= other.own;
        for (step, inner) in &other.below {
            self.below.entry(step.clone()).or_default().add(inner);
        }
    }

    /// Takes out what `other` has. A place is only lost together with its own mark.
    pub(super) fn remove(&mut self, other: &Self) {
        self.own &= !other.own;
        for (step, inner) in &other.below {
            if let Some(mine) = self.below.get_mut(step) {
                mine.remove(inner);
                if mine.is_empty() {
                    self.below.remove(step);
                }
            }
        }
    }

    /// What both have.
    pub(super) fn common(&self, other: &Self) -> Self {
        let below = self.below.iter().filter_map(|(step, mine)| {
            let common = mine.common(other.below.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        Self { own: self.own && other.own, below: below.collect() }
    }

    /// Only the places that end there: a conflict about an object is one about its fields.
    pub(super) fn leaves(&self) -> Self {
        if self.below.is_empty() {
            return self.clone();
        }
        let below = self.below.iter().map(|(step, inner)| (step.clone(), inner.leaves()));
        Self { own: false, below: below.collect() }
    }

    /// Without a whole field at the top, such as `status`.
    pub(super) fn without(mut self, path: &[&str]) -> Self {
        match path {
            [] => return Self::default(),
            [last] => {
                self.below.remove(&format!("f:{last}"));
            }
            [first, rest @ ..] => {
                let step = format!("f:{first}");
                if let Some(inner) = self.below.remove(&step) {
                    let inner = inner.without(rest);
                    if !inner.is_empty() {
                        self.below.insert(step, inner);
                    }
                }
            }
        }
        self
    }

    /// For messages: `.spec.replicas`, `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.own && self.below.is_empty() {
            paths.push(prefix.to_owned());
        }
        for (step, inner) in &self.below {
            let shown = match step.split_once(':') {
                Some(("f", name)) => format!(".{name}"),
                Some((_, rest)) => {
                    format!("[{}]", rest.trim_matches(['{', '}']).replace("\":", "=").replace('"', ""))
                }
                None => step.clone(),
            };
            inner.collect(&format!("{prefix}{shown}"), paths);
        }
    }

    /// Fields whose values differ between two objects, and those that only the first has.
    pub(super) fn changed(structure: &'static Type, old: &Value, new: &Value) -> (Self, Self) {
        let (before, after) = (Self::of(structure, old), Self::of(structure, new));
        let mut changed = Self::default();
        differing(structure, &after, old, new, &mut changed);
        let mut gone = before;
        gone.remove(&after);
        (changed, gone)
    }

    pub(super) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.below.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (step, inner) in &self.below {
            map.insert(step.clone(), inner.to_json());
        }
        Value::Object(map)
    }

    pub(super) fn from_json(value: &Value) -> Self {
        fn read(value: &Value, depth: usize) -> Fields {
            let Some(map) = value.as_object().filter(|_| depth < MAX_DEPTH) else { return Fields::leaf() };
            let steps = map.iter().filter(|(step, _)| *step != ".");
            let below: BTreeMap<_, _> =
                steps.map(|(step, inner)| (step.clone(), read(inner, depth + 1))).collect();
            Fields { own: map.contains_key(".") || below.is_empty(), below }
        }
        let mut set = read(value, 0);
        set.own = false;
        set
    }
}

/// `k:{"name":"web"}`: what tells an item of a list apart. A key that is left out is its default, as it will be once it is stored.
pub(super) fn key_step(field: &'static Field, item: &Value) -> String {
    let default = |key: &str| field.structure()?.fields.get(key)?.default.as_ref();
    let value =
        |key: &String| item.get(key).or_else(|| default(key)).map(|value| (key.clone(), value.clone()));
    let keys: Map<String, Value> = field.keys.iter().filter_map(value).collect();
    format!("k:{}", Value::Object(keys))
}

/// The field below `structure` that a step leads to.
fn field_of(structure: &'static Type, step: &str) -> Option<(&'static str, &'static Field)> {
    let (name, field) = structure.fields.get_key_value(step.strip_prefix("f:")?)?;
    Some((name.as_str(), field))
}

fn differing(structure: &'static Type, after: &Fields, old: &Value, new: &Value, out: &mut Fields) {
    for (step, inner) in &after.below {
        let Some(name) = step.strip_prefix("f:") else { continue };
        let (old, new) = (&old[name], &new[name]);
        if old == new {
            continue;
        }
        let mut found = Fields::default();
        match field_of(structure, step) {
            Some((_, field)) if !inner.below.is_empty() => {
                differing_field(field, inner, old, new, &mut found)
            }
            _ => found.own = true,
        }
        if !found.is_empty() {
            out.below.insert(step.clone(), found);
        }
    }
}

fn differing_field(field: &'static Field, inner: &Fields, old: &Value, new: &Value, out: &mut Fields) {
    out.own = inner.own && old.is_null();
    match field.of {
        Of::One => {
            if let Some(structure) = field.structure() {
                differing(structure, inner, old, new, out);
            }
        }
        Of::Map => {
            for (step, below) in &inner.below {
                let Some(name) = step.strip_prefix("f:") else { continue };
                if old[name] != new[name] {
                    out.below.insert(step.clone(), below.clone());
                }
            }
        }
        Of::List => {
            let (old, new) = (items(field, old), items(field, new));
            for (step, below) in &inner.below {
                let (before, after) = (old.get(step).copied(), new.get(step).copied());
                if before == after {
                    continue;
                }
                let mut found = Fields { own: before.is_none(), below: BTreeMap::new() };
                if let (Some(structure), Some(after)) = (field.structure(), after) {
                    differing(structure, below, before.unwrap_or(&Value::Null), after, &mut found);
                }
                if !found.is_empty() {
                    out.below.insert(step.clone(), found);
                }
            }
        }
    }
}

/// The items of a list by their steps.
fn items<'a>(field: &'static Field, list: &'a Value) -> BTreeMap<String, &'a Value> {
    let step = |item: &Value| if field.set { format!("v:{item}") } else { key_step(field, item) };
    list.as_array().into_iter().flatten().rev().map(|item| (step(item), item)).collect()
}

/// Takes the fields in `set` out of `value`; an object that was only a way to them goes as well.
pub(super) fn take_out(structure: &'static Type, value: &mut Value, set: &Fields) {
    let Value::Object(fields) = value else { return };
    for (step, inner) in &set.below {
        let Some((name, field)) = field_of(structure, step) else {
            if let Some(name) = step.strip_prefix("f:") {
                fields.remove(name);
            }
            continue;
        };
        if inner.below.is_empty() {
            fields.remove(name);
            continue;
        }
        let Some(place) = fields.get_mut(name) else { continue };
        match (field.of, place) {
            (Of::One, place) => {
                if let Some(structure) = field.structure() {
                    take_out(structure, place, inner);
                }
            }
            (Of::Map, Value::Object(entries)) => {
                entries.retain(|key, _| !inner.below.contains_key(&format!("f:{key}")));
            }
            (Of::List, Value::Array(items)) if field.set => {
                items.retain(|item| !inner.below.contains_key(&format!("v:{item}")));
            }
            (Of::List, Value::Array(items)) => items.retain_mut(|item| {
                let Some(below) = inner.below.get(&key_step(field, item)) else { return true };
                if let Some(structure) = field.structure() {
                    take_out(structure, item, below);
                }
                !below.own
            }),
            _ => {}
        }
        let is_empty = fields.get(name).is_some_and(|place| match place {
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        });
        if is_empty && inner.own {
            fields.remove(name);
        }
    }
}
