//! Holds a value against a type: takes out what the type has not, and says so.

use super::{Field, Holds, Of, Type};
use crate::quantity::Quantity;
use chrono::DateTime;
use serde_json::Value;

/// Deeper than any type of Kubernetes goes; `JSON` fields are the only ones that could.
const MAX_DEPTH: usize = 64;
/// No answer names more than these: a body may be megabytes of mistakes.
const MAX_FINDINGS: usize = 64;

/// Something in a value that its type has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, as Kubernetes writes it: `spec.containers[0].image`.
    pub path: String,
    /// What is expected there.
    pub expected: String,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Fields that there are not. They are gone from the value.
    pub unknown: Vec<String>,
    /// Values of another type. The object can't be used.
    pub wrong: Vec<Finding>,
}

/// Brings `value` into the shape of `structure`: unknown fields and nulls are taken out.
pub fn conform(structure: &'static Type, value: &mut Value) -> Findings {
    let mut walk = Walk { path: String::new(), findings: Findings::default() };
    walk.structure(structure, value, 0);
    walk.findings
}

struct Walk {
    path: String,
    findings: Findings,
}

impl Walk {
    fn structure(&mut self, structure: &'static Type, value: &mut Value, depth: usize) {
        let Value::Object(fields) = value else { return self.wrong("an object") };
        if depth > MAX_DEPTH {
            return self.wrong("less depth");
        }
        fields.retain(|name, value| {
            let Some(field) = structure.fields.get(name) else {
                self.at(&format!(".{name}"), |walk| walk.unknown());
                return false;
            };
            // In Kubernetes' JSON null and nothing are the same.
            if value.is_null() {
                return false;
            }
            self.at(&format!(".{name}"), |walk| walk.field(field, value, depth));
            true
        });
    }

    fn field(&mut self, field: &'static Field, value: &mut Value, depth: usize) {
        match (field.of, value) {
            (Of::One, value) => self.one(field, value, depth),
            (Of::List, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.at(&format!("[{index}]"), |walk| walk.one(field, item, depth));
                }
            }
            (Of::Map, Value::Object(items)) => {
                for (key, item) in items.iter_mut() {
                    self.at(&format!("[{key}]"), |walk| walk.one(field, item, depth));
                }
            }
            (Of::List, _) => self.wrong("an array"),
            (Of::Map, _) => self.wrong("an object"),
        }
    }

    fn one(&mut self, field: &'static Field, value: &mut Value, depth: usize) {
        let is_int32 =
            |number: &i64| field.format.as_deref() != Some("int32") || i32::try_from(*number).is_ok();
        match (field.holds, &value) {
            (Holds::Object, _) => {
                let structure = field.structure().expect("a test follows every reference");
                self.structure(structure, value, depth + 1);
            }
            (Holds::String, Value::String(text)) => match field.format.as_deref() {
                Some("date-time") if !is_time(text, false) => {
                    self.wrong("a time such as 2006-01-02T15:04:05Z")
                }
                Some("micro-time") if !is_time(text, true) => {
                    self.wrong("a time such as 2006-01-02T15:04:05.000000Z")
                }
                _ => {}
            },
            (Holds::Any, _)
            | (Holds::Boolean, Value::Bool(_))
            | (Holds::Number | Holds::Quantity, Value::Number(_)) => {}
            (Holds::Integer | Holds::IntOrString, Value::Number(number))
                if number.as_i64().is_some_and(|n| is_int32(&n)) => {}
            (Holds::IntOrString, Value::String(_)) => {}
            (Holds::Quantity, Value::String(text)) if text.parse::<Quantity>().is_ok() => {}
            (holds, _) => self.wrong(match holds {
                Holds::String => "a string",
                Holds::Boolean => "true or false",
                Holds::Integer => "a whole number in range",
                Holds::Number => "a number",
                Holds::Quantity => "a quantity such as 500m or 64Mi",
                _ => "a whole number or a string",
            }),
        }
    }

    fn at(&mut self, step: &str, then: impl FnOnce(&mut Self)) {
        let len = self.path.len();
        self.path.push_str(if len == 0 { step.trim_start_matches('.') } else { step });
        then(self);
        self.path.truncate(len);
    }

    fn unknown(&mut self) {
        if self.findings.unknown.len() < MAX_FINDINGS {
            self.findings.unknown.push(self.path.clone());
        }
    }

    fn wrong(&mut self, expected: &str) {
        if self.findings.wrong.len() < MAX_FINDINGS {
            self.findings.wrong.push(Finding { path: self.path.clone(), expected: expected.to_owned() });
        }
    }
}

/// RFC 3339 as Go reads it, and with it every client: stricter than chrono, and with six digits of a second for a `MicroTime`.
fn is_time(text: &str, has_micros: bool) -> bool {
    let digits = text.get(19..).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
    let digits = digits.bytes().take_while(u8::is_ascii_digit).count();
    let shape = text.as_bytes();
    DateTime::parse_from_rfc3339(text).is_ok()
        && shape.get(10) == Some(&b'T')
        // Go knows no leap seconds.
        && shape.get(17) != Some(&b'6')
        && !text.ends_with('z')
        && (!has_micros || digits == 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use serde_json::json;

    fn pod(mut value: Value) -> (Value, Findings) {
        let findings = conform(schema().get("io.k8s.api.core.v1.Pod").unwrap(), &mut value);
        (value, findings)
    }

    #[test]
    fn a_good_pod_has_no_findings() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "c", "image": "busybox",
                "resources": {"limits": {"cpu": "500m", "memory": 1024}},
                "livenessProbe": {"httpGet": {"port": "web"}}, "ports": [{"containerPort": 80}]}]},
        });
        assert_eq!(pod(value.clone()), (value, Findings::default()));
    }

    #[test]
    fn unknown_fields_go_and_are_named_with_their_path() {
        let (value, findings) = pod(json!({
            "spec": {"containers": [{"name": "c", "imagee": "x", "command": null}], "frob": {"a": 1}}
        }));
        assert_eq!(findings.unknown, ["spec.containers[0].imagee", "spec.frob"]);
        assert_eq!(value, json!({"spec": {"containers": [{"name": "c"}]}}));
    }

    #[test]
    fn values_of_another_type_are_named_with_what_is_expected() {
        for (value, path, expected) in [
            (json!([]), "", "an object"),
            (json!({"spec": {"containers": {}}}), "spec.containers", "an array"),
            (json!({"spec": {"containers": [3]}}), "spec.containers[0]", "an object"),
            (json!({"metadata": {"labels": {"a": 1}}}), "metadata.labels[a]", "a string"),
            (
                json!({"spec": {"terminationGracePeriodSeconds": "30"}}),
                "spec.terminationGracePeriodSeconds",
                "a whole number in range",
            ),
            (json!({"spec": {"priority": 3_000_000_000i64}}), "spec.priority", "a whole number in range"),
            (
                json!({"spec": {"overhead": {"cpu": "much"}}}),
                "spec.overhead[cpu]",
                "a quantity such as 500m or 64Mi",
            ),
        ] {
            let expected = Finding { path: path.into(), expected: expected.into() };
            assert_eq!(pod(value).1.wrong, [expected]);
        }
    }

    #[test]
    fn times_are_those_that_clients_can_read() {
        let is_wrong = |field: &str, text: &str| {
            let mut event = json!({ field: text });
            !conform(schema().get("io.k8s.api.core.v1.Event").unwrap(), &mut event).wrong.is_empty()
        };
        for text in
            ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+01:00", "2026-01-02T03:04:05.123456-23:59"]
        {
            assert!(!is_wrong("lastTimestamp", text), "{text}");
        }
        for text in [
            "yesterday",
            "",
            "2026-01-02",
            "2026-01-02 03:04:05Z",
            "2026-01-02t03:04:05Z",
            "2026-01-02T03:04:05z",
            "2026-01-02T03:04:60Z",
            "2026-13-02T03:04:05Z",
            "2026-02-30T03:04:05Z",
            "2026-01-02T03:04:05",
            "+12026-01-02T03:04:05Z",
            " 2026-01-02T03:04:05Z",
        ] {
            assert!(is_wrong("lastTimestamp", text) && is_wrong("eventTime", text), "{text}");
        }
        assert!(!is_wrong("eventTime", "2026-01-02T03:04:05.000000Z"));
        assert!(
            is_wrong("eventTime", "2026-01-02T03:04:05Z")
                && is_wrong("eventTime", "2026-01-02T03:04:05.123Z")
        );
        let (_, findings) = pod(json!({"status": {"startTime": "yesterday"}}));
        assert_eq!(findings.wrong[0].path, "status.startTime");
    }
}
