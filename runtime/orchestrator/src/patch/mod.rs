//! The four ways in which an object is changed by a part of it.

mod apply;
mod fields;
mod strategic;

pub use apply::{Applied, Writer, apply, track_update};
pub use strategic::strategic;

use crate::status::{ApiError, Reason};
use serde_json::Value;

/// Operations of one JSON patch at most; each may copy the object.
const MAX_OPERATIONS: usize = 10_000;

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
    json_patch::patch(object, &patch).map_err(|error| {
        ApiError::new(Reason::Invalid, format!("the JSON patch does not fit the object: {error}"))
    })
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
