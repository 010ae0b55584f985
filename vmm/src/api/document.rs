//! Documents from outside.

use serde::Serialize;
use serde::de::{DeserializeOwned, Error};
use serde_json::Value;

/// Understands a document. What is an object has to be written as one: serde would take a list of its fields in their order as well, or an
/// empty list for one that needs none.
///
/// # Errors
/// It is no JSON, or of another shape.
pub fn parse<T: DeserializeOwned + Serialize>(text: &[u8]) -> serde_json::Result<T> {
    let document = serde_json::from_slice(text)?;
    // Most documents have no list anywhere.
    if text.contains(&b'[') {
        let (given, meant) = (serde_json::from_slice(text)?, serde_json::to_value(&document)?);
        if let Some(place) = list_for_object(&given, &meant) {
            let place = if place.is_empty() { "the document".into() } else { format!("`{place}`") };
            return Err(Error::custom(format!("{place} is a list, expected an object")));
        }
    }
    Ok(document)
}

/// Where `given` has a list for what is an object in `meant`, which was read from it: fields and numbers on the way there.
fn list_for_object(given: &Value, meant: &Value) -> Option<String> {
    let below = |name: &dyn std::fmt::Display, given, meant| {
        let rest = list_for_object(given, meant)?;
        Some(if rest.is_empty() { name.to_string() } else { format!("{name}.{rest}") })
    };
    match (given, meant) {
        (Value::Array(_), Value::Object(_)) => Some(String::new()),
        (Value::Array(given), Value::Array(meant)) => given
            .iter()
            .zip(meant)
            .enumerate()
            .find_map(|(index, (given, meant))| below(&index, given, meant)),
        (Value::Object(given), Value::Object(meant)) => {
            given.iter().find_map(|(name, given)| below(name, given, meant.get(name)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::config::{Drive, VmConfig};

    fn refusal<T: DeserializeOwned + Serialize>(text: &str) -> String {
        parse::<T>(text.as_bytes()).err().expect("an object is missing").to_string()
    }

    #[test]
    fn an_object_is_written_as_one() {
        let limit = r#"{"drive_id":"a","rate_limiter":{"ops":[1,null,2]}}"#;
        assert_eq!(refusal::<Drive>(limit), "`rate_limiter.ops` is a list, expected an object");
        assert_eq!(
            refusal::<Drive>(r#"{"drive_id":"a","rate_limiter":[]}"#),
            "`rate_limiter` is a list, expected an object"
        );
        let config = r#"{"boot-source":{"kernel_image_path":"k"},"pmem":[{"id":"a","path_on_host":"p","rate_limiter":[]}]}"#;
        assert_eq!(refusal::<VmConfig>(config), "`pmem.0.rate_limiter` is a list, expected an object");
        assert_eq!(
            refusal::<crate::api::config::RateLimiter>("[]"),
            "the document is a list, expected an object"
        );
        let fine = r#"{"drive_id":"a","is_read_only":true,"concat":["[","b"],"rate_limiter":{}}"#;
        assert_eq!(parse::<Drive>(fine.as_bytes()).unwrap().concat.len(), 2);
    }
}
