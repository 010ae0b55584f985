//! Which fields mean something here. One table for the answer's warnings, the events, and `docs/kubernetes-support.md`.
//!
//! A field that is not in the [`table`] is not supported: whoever makes it work adds it there.

mod table;

use super::Kind;
use crate::object;
use crate::schema::{Of, Type};
use serde_json::Value;
use table::{HARMLESS, IDLE, SUPPORTED};

/// Fields that are named in one answer.
const MAX_FINDINGS: usize = 32;

/// Fields of an object's specification that are set and have no effect, as paths: `spec.template.spec.affinity`. Not those that say no more than
/// what is so anyway. The object is in its kind's shape.
pub fn unsupported(kind: &'static Kind, value: &Value) -> Vec<String> {
    let mut walk = Walk { path: String::new(), found: Vec::new() };
    for (name, field) in &kind.structure().fields {
        // The server's own parts.
        if matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            continue;
        }
        if let Some(value) = value.get(name) {
            walk.field(kind.structure, name, field, value);
        }
    }
    walk.found
}

/// Those that `old` has not.
pub fn newly_unsupported(kind: &'static Kind, old: Option<&Value>, new: &Value) -> Vec<String> {
    // Most writes are of a status.
    let is_same = |old: &&Value| {
        let spec = |object: &Value| object::at(object, &["spec"]).cloned();
        kind.has_status() && spec(old) == spec(new)
    };
    if old.as_ref().is_some_and(is_same) {
        return Vec::new();
    }
    let known = old.map(|old| unsupported(kind, old)).unwrap_or_default();
    unsupported(kind, new).into_iter().filter(|path| !known.contains(path)).collect()
}

/// The last part of a structure's name: `PodSpec`.
fn short(structure: &str) -> &str {
    structure.rsplit('.').next().unwrap_or(structure)
}

/// Whether a field of a structure has an effect.
fn is_supported(structure: &str, field: &str) -> bool {
    let fields =
        SUPPORTED.iter().find(|(name, _)| *name == short(structure)).map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace().any(|one| one == field)
}

/// Keys of a field that have no effect.
fn idle(structure: &str, field: &str) -> impl Iterator<Item = &'static str> {
    IDLE.iter().filter(move |(of, name, _)| *of == short(structure) && *name == field).map(|(_, _, key)| *key)
}

/// Whether a value says only what is so anyway.
fn is_harmless(structure: &str, field: &str, value: &Value) -> bool {
    let is_named = HARMLESS.iter().any(|(of, name, harmless)| {
        *of == short(structure)
            && *name == field
            && (value == harmless || serde_json::from_str::<Value>(harmless).is_ok_and(|one| one == *value))
    });
    is_named || is_nothing(value)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
    }
}

struct Walk {
    path: String,
    found: Vec<String>,
}

impl Walk {
    fn field(&mut self, of: &str, name: &str, field: &'static crate::schema::Field, value: &Value) {
        let len = self.path.len();
        if len > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        if !is_supported(of, name) {
            if !is_harmless(of, name, value) && self.found.len() < MAX_FINDINGS {
                self.found.push(self.path.clone());
            }
        } else if let Value::Object(items) = value
            && let Some(key) = idle(of, name).find(|key| items.contains_key(*key))
        {
            if self.found.len() < MAX_FINDINGS {
                self.found.push(format!("{}[{key}]", self.path));
            }
        } else if let (Some(structure), Some(of)) = (field.structure(), field.of_type.as_deref()) {
            match (field.of, value) {
                (Of::List, Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.inside(&format!("[{index}]"), of, structure, item);
                    }
                }
                (Of::Map, Value::Object(items)) => {
                    for (key, item) in items {
                        self.inside(&format!("[{key}]"), of, structure, item);
                    }
                }
                (_, value) => self.inside("", of, structure, value),
            }
        }
        self.path.truncate(len);
    }

    fn inside(&mut self, step: &str, of: &str, structure: &'static Type, value: &Value) {
        let len = self.path.len();
        self.path.push_str(step);
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                if let Some(field) = structure.fields.get(name) {
                    self.field(of, name, field, value);
                }
            }
        }
        self.path.truncate(len);
    }
}

#[cfg(test)]
mod tests;
