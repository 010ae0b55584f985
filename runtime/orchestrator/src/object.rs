//! Objects as JSON values, and what every one of them has: `metadata`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A value by itself.
const VALUE: usize = size_of::<Value>();
/// What an allocation costs beside its bytes.
const ALLOCATED: usize = 16;
/// A node of a map has room for eleven entries, whatever is in it; when it is split half of them stay.
const NODE: usize = 11 * (size_of::<String>() + VALUE) + ALLOCATED;
const FILLED: usize = 8;

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// The object at `path`, or an empty one.
pub fn object<'a>(value: &'a Value, path: &[&str]) -> &'a Map<String, Value> {
    at(value, path).and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// The value at `path`.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| value.get(step))
}

/// The text at `path`, or none.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at `path`.
pub fn number(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The array at `path`, or an empty one.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The value at `path`, made on the way there if need be; what is no object on the way becomes one.
pub fn entry<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(value, |value, step| {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        &mut value[*step]
    })
}

/// Sets `path` to `default` if nothing is there.
pub fn default(value: &mut Value, path: &[&str], default: impl Into<Value>) {
    let place = entry(value, path);
    if place.is_null() {
        *place = default.into();
    }
}

/// Takes out what is at `path`.
pub fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, way) = path.split_last()?;
    let parent = way.iter().try_fold(value, |value, step| value.get_mut(*step))?;
    parent.as_object_mut()?.remove(*last)
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

/// `metadata.namespace`; empty when it has none.
pub fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

/// `metadata.labels`.
pub fn labels(value: &Value) -> BTreeMap<&str, &str> {
    texts(object(value, &["metadata", "labels"]))
}

/// Whether it is on its way out.
pub fn is_deleted(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some()
}

/// About how many bytes of memory a value takes, without its own 32: many times its JSON where it is made of small maps.
pub fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => ALLOCATED + text.len(),
        Value::Array(list) => ALLOCATED + list.iter().map(|value| VALUE + weight(value)).sum::<usize>(),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| ALLOCATED + key.len() + weight(value)).sum::<usize>();
            map.len().div_ceil(FILLED) * NODE + entries
        }
    }
}

/// The entries of a map of texts.
pub fn texts(map: &Map<String, Value>) -> BTreeMap<&str, &str> {
    map.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
}

/// Whether it is a DNS label (RFC 1123): 1 to 63 of a–z, 0–9 and `-`, not at the ends.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether it is a DNS subdomain (RFC 1123): labels joined by dots, 253 at most. Labels may be longer here than in the DNS.
pub fn is_dns_subdomain(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether it may be a key of a label or an annotation: `[prefix/]name`.
pub fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether it may be the value of a label: empty, or up to 63 of letters, digits, `-`, `_`, `.`, letters or digits at the ends.
pub fn is_label_value(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.iter().copied().all(inner)
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_made_on_the_way() {
        let mut value = json!({"a": 3});
        default(&mut value, &["a", "b"], 1);
        default(&mut value, &["a", "b"], 2);
        default(&mut value, &["c"], "x");
        assert_eq!(value, json!({"a": {"b": 1}, "c": "x"}));
        assert_eq!(remove(&mut value, &["a", "b"]), Some(json!(1)));
        assert_eq!(remove(&mut value, &["a", "b", "c"]), None);
    }

    #[test]
    fn names_are_told_from_others() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert!(is_dns_label(good) && is_dns_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.", ".a", "a..b", "ä"] {
            assert!(!is_dns_label(bad) && !is_dns_subdomain(bad), "{bad}");
        }
        assert!(is_dns_subdomain("a.b-c.d") && !is_dns_label("a.b"));
        assert!(is_qualified_name("app.kubernetes.io/name") && is_qualified_name("A_b.c"));
        assert!(!is_qualified_name("/a") && !is_qualified_name("a/") && !is_qualified_name("a/b/c"));
        assert!(
            is_label_value("")
                && is_label_value("a_B.c-1")
                && !is_label_value("a-")
                && !is_label_value(&"a".repeat(64))
        );
    }
}
