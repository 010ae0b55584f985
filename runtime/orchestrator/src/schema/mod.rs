//! What Kubernetes' types look like: their fields, what a field may hold, by which key lists merge, the numbers on the wire.
//!
//! `schema/kubernetes.json` is generated (`schema/generate`); nothing about a field is written by hand anywhere else.

mod check;

pub use check::{Finding, Findings, conform};

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// All types that the served kinds are made of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// Of Kubernetes, such as `v1_33`.
    pub version: String,
    /// By their names in OpenAPI, such as `io.k8s.api.core.v1.Pod`.
    pub types: BTreeMap<String, Type>,
}

impl Schema {
    /// Major and minor number of the Kubernetes that the types are of.
    pub fn release(&self) -> (&str, &str) {
        self.version.trim_start_matches('v').split_once('_').unwrap_or(("1", "0"))
    }
}

/// A structure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Type {
    /// For people (`kubectl explain`).
    pub description: String,
    /// Server-side apply owns it as a whole (x-kubernetes-map-type: atomic).
    #[serde(default)]
    pub atomic: bool,
    /// By their names in JSON.
    pub fields: BTreeMap<String, Field>,
    /// Numbers in protobuf; absent: the type never comes that way.
    #[serde(default)]
    pub wire: Wire,
}

/// Field numbers of a message.
pub type Wire = BTreeMap<String, WireField>;

/// What a number of a message stands for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum WireField {
    /// A field of that name.
    Field(String),
    /// A message whose fields JSON has here, not a level below.
    Inline(Wire),
}

/// A field of a structure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// What it holds, or what its list or map holds.
    #[serde(rename = "type")]
    pub holds: Holds,
    /// One, a list, a map.
    #[serde(default)]
    pub of: Of,
    /// As in OpenAPI: `int32`, `int64`, `double`, `byte`, `date-time`; and `micro-time`, which OpenAPI does not tell from `date-time`.
    pub format: Option<String>,
    /// Name of the structure, for [`Holds::Object`].
    #[serde(rename = "ref")]
    pub of_type: Option<String>,
    /// Must be there.
    #[serde(default)]
    pub required: bool,
    /// By which field a strategic merge tells the items of this list apart; absent: it replaces the list.
    pub merge: Option<String>,
    /// The same for server-side apply.
    #[serde(default)]
    pub keys: Vec<String>,
    /// What stands for it when it is left out and tells items of a list apart.
    pub default: Option<Value>,
    /// A list of simple values, each at most once.
    #[serde(default)]
    pub set: bool,
    /// For people.
    pub description: String,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// Text.
    String,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// A resource quantity, such as `500m`: text, or a number.
    Quantity,
    /// A number or text.
    IntOrString,
    /// Any JSON.
    Any,
    /// A structure.
    Object,
}

/// How many a field holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// One value.
    #[default]
    One,
    /// An array.
    List,
    /// An object with any keys.
    Map,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../schema/kubernetes.json"))
        .expect("the generated description is read by a test")
});

/// The description.
pub fn schema() -> &'static Schema {
    &SCHEMA
}

impl Schema {
    /// The structure of that name.
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.types.get(name)
    }
}

impl Field {
    /// The structure that it, its list or its map holds.
    pub fn structure(&self) -> Option<&'static Type> {
        self.of_type.as_deref().and_then(|name| schema().get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_merge_key_and_number_leads_somewhere() {
        fn wire_is_known(structure: &Type, wire: &Wire) -> bool {
            wire.iter().all(|(number, field)| {
                number.parse::<u32>().is_ok()
                    && match field {
                        WireField::Field(name) => structure.fields.contains_key(name),
                        WireField::Inline(inner) => wire_is_known(structure, inner),
                    }
            })
        }
        for (name, structure) in &schema().types {
            assert!(wire_is_known(structure, &structure.wire), "{name}");
            for (field_name, field) in &structure.fields {
                let place = format!("{name}.{field_name}");
                assert_eq!(field.holds == Holds::Object, field.structure().is_some(), "{place}");
                for key in field.keys.iter().chain(&field.merge) {
                    let item =
                        field.structure().unwrap_or_else(|| panic!("{place} merges by a field of nothing"));
                    assert!(item.fields.contains_key(key), "{place} has no {key}");
                }
            }
        }
    }
}
