//! What every object's metadata must be.

use super::Kind;
use crate::object;
use crate::status::{Cause, CauseKind};
use serde_json::Value;

/// Bytes of all annotations together (apimachinery's `TotalAnnotationSizeLimitB`).
const MAX_ANNOTATIONS: usize = 256 << 10;

/// What may not become of an object's metadata.
pub fn validate_metadata_update(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    if !object::is_deleted(old) {
        return;
    }
    let had = object::list(old, &["metadata", "finalizers"]);
    let finalizers = object::list(new, &["metadata", "finalizers"]).iter();
    let added: Vec<String> = finalizers.filter(|one| !had.contains(one)).map(|one| one.to_string()).collect();
    if !added.is_empty() {
        let message = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {}",
            added.join(", ")
        );
        causes.push(Cause::new(CauseKind::Forbidden, "metadata.finalizers", message));
    }
}

/// What is wrong with an object's metadata.
pub fn validate_metadata(kind: &Kind, value: &Value, causes: &mut Vec<Cause>) {
    let mut invalid =
        |field: &str, message: String| causes.push(Cause::new(CauseKind::Invalid, field, message));
    let name = object::name(value);
    let is_name = match kind.kind {
        "Namespace" => object::is_dns_label(name),
        _ => object::is_dns_subdomain(name),
    };
    if !is_name {
        let rule = "a name consists of lower case letters, digits, '-' and '.', and begins and ends with a letter or a digit";
        invalid("metadata.name", format!("{name:?}: {rule}"));
    }
    for (field, values_are_labels) in [("labels", true), ("annotations", false)] {
        for (key, text) in object::texts(object::object(value, &["metadata", field])) {
            if !object::is_qualified_name(key) {
                invalid(
                    &format!("metadata.{field}"),
                    format!("{key:?}: a key is [prefix/]name, of letters, digits, '-', '_' and '.'"),
                );
            }
            if values_are_labels && !object::is_label_value(text) {
                invalid(
                    "metadata.labels",
                    format!("{text:?}: a label has at most 63 letters, digits, '-', '_' and '.'"),
                );
            }
        }
    }
    let annotations = object::texts(object::object(value, &["metadata", "annotations"]));
    let size: usize = annotations.iter().map(|(key, text)| key.len() + text.len()).sum();
    if size > MAX_ANNOTATIONS {
        invalid("metadata.annotations", format!("must have at most {MAX_ANNOTATIONS} bytes together"));
    }
    for finalizer in object::list(value, &["metadata", "finalizers"]) {
        if !finalizer.as_str().is_some_and(object::is_qualified_name) {
            invalid("metadata.finalizers", format!("{finalizer}: must be a qualified name"));
        }
    }
    let mut controllers = 0;
    for (index, owner) in object::list(value, &["metadata", "ownerReferences"]).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &[field]).is_empty() {
                invalid(&format!("metadata.ownerReferences[{index}].{field}"), "must not be empty".into());
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        invalid("metadata.ownerReferences", "only one reference can have controller set to true".into());
    }
}
