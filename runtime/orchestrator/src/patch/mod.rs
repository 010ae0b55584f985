//! The four ways in which an object is changed by a part of it.

mod apply;
mod fields;
mod strategic;

pub use apply::{Applied, MAX_MANAGER, Writer, apply, check_managers, track_update};
pub use strategic::strategic;

use crate::status::{ApiError, Reason};
use json_patch::PatchOperation;
use serde_json::Value;

/// Operations of one JSON patch at most; each may copy the object.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the copies and moves of one JSON patch are about at most, together.
const MAX_COPIED: usize = 3 << 20;
/// Levels of an object while it is patched: as deep as JSON may be that is read.
const MAX_DEPTH: usize = 128;

/// RFC 6902.
///
/// # Errors
/// It is no JSON patch, or an operation (a `test` above all) does not fit the object.
pub fn json(object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let unreadable =
        |why: String| ApiError::bad_request(format!("the body is no JSON patch (RFC 6902): {why}"));
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| unreadable(error.to_string()))?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                patch.0.len()
            ),
        ));
    }
    let mut copied = 0;
    for (index, operation) in patch.0.into_iter().enumerate() {
        copied += check(object, &operation)?;
        if copied > MAX_COPIED {
            let message = format!("the JSON patch copies and moves more than {MAX_COPIED} bytes");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
        }
        json_patch::patch(object, &[operation]).map_err(|error| {
            // The library counts within what it is given, which is one.
            let why = format!("operation '/{index}' failed at path '{}': {}", error.path, error.kind);
            ApiError::new(Reason::Invalid, format!("the JSON patch does not fit the object: {why}"))
        })?;
    }
    Ok(())
}

/// How many bytes an operation copies or moves within the object: a few of them could double it again and again.
///
/// # Errors
/// It would make the object deeper than [`MAX_DEPTH`], which whoever walks it relies on.
fn check(object: &Value, operation: &PatchOperation) -> Result<usize, ApiError> {
    let path = operation.path();
    let (value, is_inner) = match operation {
        PatchOperation::Add(add) => (Some(&add.value), false),
        PatchOperation::Replace(replace) => (Some(&replace.value), false),
        PatchOperation::Copy(copy) => (object.pointer(copy.from.as_str()), true),
        PatchOperation::Move(one) => (object.pointer(one.from.as_str()), true),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, false),
    };
    let Some(value) = value else { return Ok(0) };
    if path.count() + depth(value) > MAX_DEPTH {
        return Err(ApiError::new(
            Reason::Invalid,
            format!("the JSON patch makes the object deeper than {MAX_DEPTH} levels"),
        ));
    }
    Ok(if is_inner { value.to_string().len() } else { 0 })
}

fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// RFC 7386.
///
/// # Errors
/// It is no object.
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    if !patch.is_object() {
        return Err(ApiError::bad_request("a merge patch must be a JSON object"));
    }
    json_patch::merge(object, patch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_that_doubles_the_object_again_and_again_is_refused() {
        let operations: Vec<Value> =
            (0..200).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")})).collect();
        let mut object = json!({"a": {}});
        assert!(json(&mut object, &operations.into()).is_err());
        assert!(object.to_string().len() < 4 * MAX_COPIED);
        let wide: Vec<Value> =
            (0..200).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/b{n}")})).collect();
        let mut object = json!({"a": "x".repeat(1 << 20)});
        assert_eq!(json(&mut object, &wide.into()).unwrap_err().reason, Reason::RequestEntityTooLarge);
    }

    #[test]
    fn the_operation_that_fails_is_named() {
        let patch =
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}]);
        let error = json(&mut json!({"a": 1}), &patch).unwrap_err();
        assert!(error.message.contains("operation '/1' failed at path '/a'"), "{error}");
    }

    #[test]
    fn a_patch_that_digs_is_refused() {
        let deeper = |op: &str| {
            let mut object = json!({"a": {}, "b": {}});
            let operations: Vec<Value> = (0..10_000)
                .map(|n| match (op, n % 2) {
                    ("move", 0) => json!({"op": "move", "from": "/a", "path": "/b/a"}),
                    ("move", _) => json!({"op": "move", "from": "/b", "path": "/a"}),
                    _ => json!({"op": "add", "path": "/a".repeat(n + 1), "value": {}}),
                })
                .collect();
            json(&mut object, &operations.into())
        };
        for op in ["move", "add"] {
            assert!(deeper(op).is_err(), "{op}");
        }
    }
}
