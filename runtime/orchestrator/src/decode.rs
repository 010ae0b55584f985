//! A body becomes a value: JSON with every mistake noticed that Kubernetes notices, YAML likewise, or protobuf.

use crate::kinds::Kind;
use crate::protobuf;
use crate::schema::{Finding, conform, schema};
use crate::status::{ApiError, Reason};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// Largest body that is looked at, in bytes (the API server's limit of a request).
pub const MAX_BODY: usize = 3 << 20;
/// Fields named twice that are told.
const MAX_DUPLICATES: usize = 16;

/// A body.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// What it says; of a field that is there twice, the last.
    pub value: Value,
    /// Paths of fields that are there more than once.
    pub duplicates: Vec<String>,
}

/// Decodes a body of this `Content-Type`; none means JSON, or protobuf by its first bytes.
///
/// # Errors
/// The type is none of these, or the body is not of it, or too big.
pub fn body(content_type: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "application/vnd.kubernetes.protobuf" => object(body),
        "application/yaml" => yaml(body),
        other => {
            let known = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
            let message =
                format!("a body of type {other:?} is not understood: accepted media types are {known}");
            Err(ApiError::new(Reason::UnsupportedMediaType, message))
        }
    }
}

/// Decodes YAML: JSON is a part of it, and is read as such.
///
/// # Errors
/// It is no YAML of one document, or too big.
pub fn yaml(body: &[u8]) -> Result<Decoded, ApiError> {
    check_size(body)?;
    if body.trim_ascii_start().starts_with(b"{")
        && let Ok(decoded) = json(body)
    {
        return Ok(decoded);
    }
    let bad = |why: String| ApiError::bad_request(format!("the body is no YAML: {why}"));
    let text = std::str::from_utf8(body).map_err(|error| bad(error.to_string()))?;
    let (value, duplicates) = crate::yaml::parse(text).map_err(bad)?;
    Ok(Decoded { value, duplicates })
}

/// Decodes the body of an object.
///
/// # Errors
/// It is neither JSON nor Kubernetes' protobuf, or too big.
pub fn object(body: &[u8]) -> Result<Decoded, ApiError> {
    if protobuf::is_protobuf(body) {
        check_size(body)?;
        let value = protobuf::decode(body, type_of)
            .map_err(|error| ApiError::bad_request(format!("the body can't be decoded: {error}")))?;
        return Ok(Decoded { value, duplicates: Vec::new() });
    }
    json(body)
}

/// The structures that bodies may be of: kinds, and what is sent about them.
fn type_of(api_version: &str, kind: &str) -> Option<&'static str> {
    if let Some(kind) = Kind::by_name(api_version, kind) {
        return Some(kind.structure);
    }
    let name = match kind {
        "DeleteOptions" => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        "Scale" => "io.k8s.api.autoscaling.v1.Scale",
        "SelfSubjectReview" => "io.k8s.api.authentication.v1.SelfSubjectReview",
        "SelfSubjectAccessReview" => "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        "SelfSubjectRulesReview" => "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        "Eviction" => "io.k8s.api.policy.v1.Eviction",
        _ => return None,
    };
    schema().types.get_key_value(name).map(|(name, _)| name.as_str())
}

/// Brings what is sent about objects (`DeleteOptions`, `Scale`) into its structure's shape; what that does not know is left out.
///
/// # Errors
/// Something in it is of another type.
pub fn shaped(kind: &str, mut value: Value) -> Result<Value, ApiError> {
    let structure = type_of("", kind).and_then(|name| schema().get(name));
    let structure = structure.ok_or_else(|| ApiError::bad_request(format!("{kind} is not known here")))?;
    match conform(structure, &mut value).wrong.first() {
        None => Ok(value),
        Some(Finding { path, expected }) => {
            let place = if path.is_empty() { "the body" } else { path };
            Err(ApiError::bad_request(format!(
                "this cannot be handled as a {kind}: {place} must be {expected}"
            )))
        }
    }
}

/// Decodes JSON.
///
/// # Errors
/// It is no JSON, or too big.
pub fn json(body: &[u8]) -> Result<Decoded, ApiError> {
    check_size(body)?;
    let found = Found::default();
    let mut decoder = serde_json::Deserializer::from_slice(body);
    let value = Node { found: &found, path: String::new() }
        .deserialize(&mut decoder)
        .and_then(|value| decoder.end().map(|()| value))
        .map_err(|error| ApiError::bad_request(format!("the body is no JSON: {error}")))?;
    Ok(Decoded { value, duplicates: found.duplicates.into_inner() })
}

fn check_size(body: &[u8]) -> Result<(), ApiError> {
    if body.len() <= MAX_BODY {
        return Ok(());
    }
    let message = format!("the body has {} bytes: at most {MAX_BODY} are read", body.len());
    Err(ApiError::new(Reason::RequestEntityTooLarge, message))
}

#[derive(Default)]
struct Found {
    duplicates: RefCell<Vec<String>>,
}

/// A value that notices fields which are there twice. serde_json bounds the depth.
struct Node<'a> {
    found: &'a Found,
    path: String,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON from Go may say 1e3 or 1.0 where a whole number is meant.
        const EXACT: f64 = (1u64 << 53) as f64;
        if value.fract() == 0.0 && value.abs() < EXACT {
            return Ok((value as i64).into());
        }
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items
            .next_element_seed(Node { found: self.found, path: format!("{}[{}]", self.path, list.len()) })?
        {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            let value = fields.next_value_seed(Node { found: self.found, path: path.clone() })?;
            let mut duplicates = self.found.duplicates.borrow_mut();
            if map.insert(name, value).is_some() && duplicates.len() < MAX_DUPLICATES {
                duplicates.push(path);
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_that_are_there_twice_are_named_and_the_last_counts() {
        let decoded = object(br#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": 1e3}"#).unwrap();
        assert_eq!(decoded.value, json!({"a": 1000, "b": [{"c": 2}]}));
        assert_eq!(decoded.duplicates, ["b[0].c", "a"]);
    }

    #[test]
    fn rubbish_depth_and_size_are_refused() {
        for bad in [&b""[..], b"{", b"{} {}", b"nope", &b"[".repeat(100_000), b"\xff"] {
            assert_eq!(object(bad).unwrap_err().reason, Reason::BadRequest);
        }
        assert_eq!(object(&vec![b' '; MAX_BODY + 1]).unwrap_err().reason, Reason::RequestEntityTooLarge);
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_reads(text in r#"[\[\]{}",:a-c0-9.e\\-]{0,40}"#) {
            let plain: Result<Value, _> = serde_json::from_str(&text);
            prop_assert_eq!(json(text.as_bytes()).is_ok(), plain.is_ok());
        }
    }
}
