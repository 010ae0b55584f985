//! Kinds that hold data and have nobody who runs them.

use super::Strategy;
use super::rules::{immutable, one_of, required};
use crate::object;
use crate::status::{Cause, CauseKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Bytes of data in one object (core's `MaxSecretSize`).
const MAX_DATA: usize = 1 << 20;

fn is_data_key(key: &str) -> bool {
    let is_fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (1..=253).contains(&key.len()) && key.bytes().all(is_fine) && key != "." && key != ".."
}

/// `fields`: where data is, and whether it is written in base64 there.
fn validate_data(value: &Value, fields: &[(&str, bool)], causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (field, is_base64) in fields {
        for (key, text) in object::texts(object::object(value, &[field])) {
            // It counts as what it is: three bytes for each four characters.
            let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
            size += if *is_base64 { (text.len() / 4 * 3).saturating_sub(padding) } else { text.len() };
            if !is_data_key(key) {
                let rule = "a key has 1 to 253 letters, digits, '-', '_' and '.'";
                causes.push(Cause::new(
                    CauseKind::Invalid,
                    format!("{field}[{key}]"),
                    format!("{key:?}: {rule}"),
                ));
            }
        }
    }
    if size > MAX_DATA {
        causes.push(Cause::new(
            CauseKind::Invalid,
            fields[0].0,
            format!("{size} bytes of data: at most {MAX_DATA} fit into one object"),
        ));
    }
}

fn validate_immutable(old: &Value, new: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    if old["immutable"] != true {
        return;
    }
    for field in fields.iter().chain(&["immutable"]) {
        if old.get(*field) != new.get(*field) {
            let message = "field is immutable when `immutable` is set";
            causes.push(Cause::new(CauseKind::Forbidden, *field, message));
        }
    }
}

fn validate_base64(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, text) in object::texts(object::object(value, &[field])) {
        if STANDARD.decode(text).is_err() {
            causes.push(Cause::new(CauseKind::Invalid, format!("{field}[{key}]"), "must be base64"));
        }
    }
}

#[derive(Debug)]
pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        validate_data(object, &[("data", false), ("binaryData", true)], causes);
        validate_base64(object, "binaryData", causes);
        for key in object::object(object, &["binaryData"]).keys() {
            if object["data"].get(key).is_some() {
                causes.push(Cause::new(
                    CauseKind::Invalid,
                    format!("data[{key}]"),
                    "is in binaryData as well",
                ));
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
        validate_immutable(old, new, &["data", "binaryData"], causes);
    }
}

#[derive(Debug)]
pub(super) struct Node;

impl Strategy for Node {
    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        let mut seen = BTreeSet::new();
        for (index, taint) in object::list(object, &["spec", "taints"]).iter().enumerate() {
            let place = format!("spec.taints[{index}]");
            let text = |field| object::text(taint, &[field]);
            if !object::is_qualified_name(text("key")) {
                let message = format!("{:?}: must be a label's key", text("key"));
                causes.push(Cause::new(CauseKind::Invalid, format!("{place}.key"), message));
            }
            if !object::is_label_value(text("value")) {
                let message = format!("{:?}: must be a label's value", text("value"));
                causes.push(Cause::new(CauseKind::Invalid, format!("{place}.value"), message));
            }
            required(causes, taint, &["effect"], &format!("{place}.effect"));
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            one_of(causes, taint, &["effect"], &format!("{place}.effect"), &effects);
            if !seen.insert((text("key"), text("effect"))) {
                let message = format!("{}:{}", text("key"), text("effect"));
                causes.push(Cause::new(CauseKind::Duplicate, place, message));
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Secret;

/// Keys that a type of secret must have.
fn required_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    }
}

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        object::default(object, &["type"], "Opaque");
        // Written as text, read as bytes: a convenience for those who write.
        if let Some(Value::Object(texts)) = object::remove(object, &["stringData"]) {
            for (key, text) in texts {
                let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
                *object::entry(object, &["data", &key]) = encoded.into();
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        validate_data(object, &[("data", true)], causes);
        validate_base64(object, "data", causes);
        for key in required_keys(object::text(object, &["type"])) {
            if object["data"].get(*key).is_none() {
                causes.push(Cause::new(
                    CauseKind::Required,
                    format!("data[{key}]"),
                    "a secret of this type has it",
                ));
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
        immutable(causes, old, new, &["type"], "type");
        validate_immutable(old, new, &["data"], causes);
    }
}

/// Namespaces that are always there.
pub const PERMANENT: [&str; 2] = ["default", "kube-system"];

#[derive(Debug)]
pub(super) struct Namespace;

impl Strategy for Namespace {
    fn prepare_create(&self, object: &mut Value) {
        object["spec"] = json!({"finalizers": ["kubernetes"]});
        object["status"] = json!({"phase": "Active"});
    }

    fn default(&self, object: &mut Value) {
        let name = object::name(object).to_owned();
        *object::entry(object, &["metadata", "labels", "kubernetes.io/metadata.name"]) = name.into();
    }

    fn undeletable(&self, object: &Value) -> Option<&'static str> {
        PERMANENT.contains(&object::name(object)).then_some("this namespace may not be deleted")
    }
}

#[derive(Debug)]
pub(super) struct Event;

impl Strategy for Event {
    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        if object.get("involvedObject").is_none() {
            causes.push(Cause::new(CauseKind::Required, "involvedObject", ""));
        }
        one_of(causes, object, &["type"], "type", &["Normal", "Warning"]);
    }
}
