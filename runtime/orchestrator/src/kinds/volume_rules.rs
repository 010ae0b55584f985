//! Pods: what makes no sense of their volumes.

use super::rules::{dns_label, one_of, required};
use crate::object;
use crate::quantity::Quantity;
use crate::status::{Cause, CauseKind};
use serde_json::Value;
use std::collections::BTreeSet;

/// Items of a list that are looked at: what is beyond is no pod but a mistake.
const MAX_ITEMS: usize = 4096;

/// What is wrong with the volumes of `spec`, which is at `prefix` of the object; their names.
pub(super) fn validate<'a>(spec: &'a Value, prefix: &str, causes: &mut Vec<Cause>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (index, volume) in object::list(spec, &["volumes"]).iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{prefix}.volumes[{index}]");
        let name = object::text(volume, &["name"]);
        dns_label(causes, name, &format!("{place}.name"));
        if !names.insert(name) {
            causes.push(Cause::new(CauseKind::Duplicate, format!("{place}.name"), format!("{name:?}")));
        }
        let sources = volume.as_object().map_or(0, |volume| volume.len().saturating_sub(1));
        match sources {
            0 => causes.push(Cause::new(CauseKind::Required, &place, "must specify a volume type")),
            1 => {}
            _ => causes.push(Cause::new(
                CauseKind::Forbidden,
                &place,
                "may not specify more than 1 volume type",
            )),
        }
        if volume.get("configMap").is_some() {
            required(causes, volume, &["configMap", "name"], &format!("{place}.configMap.name"));
        }
        if volume.get("secret").is_some() {
            required(causes, volume, &["secret", "secretName"], &format!("{place}.secret.secretName"));
        }
        validate_empty(volume, &place, causes);
        validate_files(volume, &place, causes);
        mode(causes, volume, &["projected", "defaultMode"], &format!("{place}.projected.defaultMode"));
        let projected = object::list(volume, &["projected", "sources"]);
        for (index, source) in projected.iter().take(MAX_ITEMS).enumerate() {
            validate_files(source, &format!("{place}.projected.sources[{index}]"), causes);
        }
    }
    names
}

/// Files of a volume stay in it, and what may be done with them is a file's.
fn validate_files(source: &Value, place: &str, causes: &mut Vec<Cause>) {
    for kind in ["configMap", "secret", "downwardAPI"] {
        mode(causes, source, &[kind, "defaultMode"], &format!("{place}.{kind}.defaultMode"));
        for (index, item) in object::list(source, &[kind, "items"]).iter().take(MAX_ITEMS).enumerate() {
            let place = format!("{place}.{kind}.items[{index}]");
            mode(causes, item, &["mode"], &format!("{place}.mode"));
            let place = format!("{place}.path");
            let path = object::text(item, &["path"]);
            required(causes, item, &["path"], &place);
            if path.starts_with('/') || path.split('/').any(|step| step == "..") {
                let message = format!("{path:?}: must be a relative path without '..'");
                causes.push(Cause::new(CauseKind::Invalid, place, message));
            }
        }
    }
}

fn validate_empty(volume: &Value, place: &str, causes: &mut Vec<Cause>) {
    let Some(empty) = volume.get("emptyDir") else { return };
    one_of(causes, empty, &["medium"], &format!("{place}.emptyDir.medium"), &["", "Memory"]);
    if empty.get("sizeLimit").and_then(Quantity::of).is_some_and(Quantity::is_negative) {
        let message = "SizeLimit field must be a valid resource quantity";
        causes.push(Cause::new(CauseKind::Forbidden, format!("{place}.emptyDir.sizeLimit"), message));
    }
}

/// Must be the permissions of a file, if they are there.
fn mode(causes: &mut Vec<Cause>, value: &Value, path: &[&str], field: &str) {
    if let Some(found) = object::number(value, path).filter(|found| !(0..=0o777).contains(found)) {
        let message = format!("{found}: must be a number between 0 and 0777 (octal), both inclusive");
        causes.push(Cause::new(CauseKind::Invalid, field, message));
    }
}
