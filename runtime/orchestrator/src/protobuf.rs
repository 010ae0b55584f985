//! Bodies of newer clients: Kubernetes' protobuf, decoded into the JSON that everything here works with. It is never encoded.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` (apimachinery, runtime/serializer/protobuf). Numbers of fields come from the [`schema`](crate::schema).

use crate::schema::{Field, Holds, Of, Type, Wire, WireField, schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

const MAGIC: &[u8] = b"k8s\0";
/// Deeper than any type goes.
const MAX_DEPTH: u32 = 64;

/// Fields that Go keeps without a pointer and so writes even when nobody set them: zero and false mean nothing there. Elsewhere they
/// were said on purpose (`replicas: 0`).
const ZERO_IS_ABSENT: [&str; 29] = [
    "generation",
    "minReadySeconds",
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "hostPort",
    "observedGeneration",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
    "unavailableReplicas",
    "fullyLabeledReplicas",
    "active",
    "succeeded",
    "failed",
    "count",
    "stdin",
    "stdinOnce",
    "tty",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "paused",
    "readOnly",
    "optional",
    "ready",
    "restartCount",
];

/// Why a body can't be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProtobuf {
    /// Not Kubernetes' envelope.
    #[error("the body does not begin as Kubernetes' protobuf does (k8s and a zero byte)")]
    NoEnvelope,
    /// Cut off, or not protobuf.
    #[error("the body is not protobuf, or cut off")]
    Malformed,
    /// A kind that nothing is known of.
    #[error("the body holds a {kind:?} of {api_version:?}, which is not served")]
    UnknownKind {
        /// `v1`, `apps/v1`, …
        api_version: String,
        /// Such as `Service`.
        kind: String,
    },
    /// Text that is none.
    #[error("text in the body is not UTF-8")]
    NotText,
    /// Nested beyond any type.
    #[error("the body is too deep")]
    TooDeep,
    /// Compressed or not protobuf inside.
    #[error("the body's content is encoded as {0:?}, which is not understood")]
    Encoded(String),
}

/// Whether a body is in the envelope.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Decodes a body; `type_of` names the structure of an API version and a kind.
///
/// # Errors
/// It is malformed, or of a kind that is not known.
pub fn decode(
    body: &[u8],
    type_of: impl Fn(&str, &str) -> Option<&'static str>,
) -> Result<Value, BadProtobuf> {
    let body = body.strip_prefix(MAGIC).ok_or(BadProtobuf::NoEnvelope)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(body) {
        match field? {
            (1, Payload::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Payload::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Payload::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(bytes)) => raw = bytes,
            (3 | 4, Payload::Bytes(bytes))
                if !bytes.is_empty() && bytes != b"application/vnd.kubernetes.protobuf" =>
            {
                return Err(BadProtobuf::Encoded(text(bytes)?));
            }
            _ => {}
        }
    }
    let structure = type_of(&api_version, &kind).and_then(|name| schema().get(name));
    let Some(structure) = structure else { return Err(BadProtobuf::UnknownKind { api_version, kind }) };
    let mut object = message(structure, raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn message(structure: &'static Type, bytes: &[u8], depth: u32) -> Result<Map<String, Value>, BadProtobuf> {
    let mut object = Map::new();
    fields(structure, &structure.wire, bytes, depth, &mut object)?;
    Ok(object)
}

fn fields(
    structure: &'static Type,
    wire: &'static Wire,
    bytes: &[u8],
    depth: u32,
    object: &mut Map<String, Value>,
) -> Result<(), BadProtobuf> {
    if depth > MAX_DEPTH {
        return Err(BadProtobuf::TooDeep);
    }
    for field in Fields(bytes) {
        let (number, payload) = field?;
        match (wire.get(&number.to_string()), payload) {
            (Some(WireField::Inline(inner)), Payload::Bytes(bytes)) => {
                fields(structure, inner, bytes, depth + 1, object)?
            }
            (Some(WireField::Field(name)), payload) => {
                let field = structure.fields.get(name).ok_or(BadProtobuf::Malformed)?;
                put(object, name, field, payload, depth)?;
            }
            // A field of a newer version, or a number where a message belongs: nobody here would know what to do with it.
            _ => {}
        }
    }
    Ok(())
}

fn put(
    object: &mut Map<String, Value>,
    name: &str,
    field: &'static Field,
    payload: Payload<'_>,
    depth: u32,
) -> Result<(), BadProtobuf> {
    match field.of {
        Of::One => {
            let value = one(field, payload, depth)?;
            let is_zero = value == json!(0) || value == json!(false);
            if value != json!("") && !value.is_null() && !(is_zero && ZERO_IS_ABSENT.contains(&name)) {
                object.insert(name.to_owned(), value);
            }
        }
        Of::List => {
            let value = one(field, payload, depth)?;
            if let Value::Array(items) = object.entry(name).or_insert_with(|| json!([])) {
                items.push(value);
            }
        }
        Of::Map => {
            let Payload::Bytes(entry) = payload else { return Err(BadProtobuf::Malformed) };
            let (mut key, mut value) = (String::new(), None);
            for part in Fields(entry) {
                match part? {
                    (1, Payload::Bytes(bytes)) => key = text(bytes)?,
                    (2, payload) => value = Some(one(field, payload, depth)?),
                    _ => {}
                }
            }
            if let Value::Object(entries) = object.entry(name).or_insert_with(|| json!({})) {
                entries.insert(key, value.unwrap_or_else(|| json!("")));
            }
        }
    }
    Ok(())
}

fn one(field: &'static Field, payload: Payload<'_>, depth: u32) -> Result<Value, BadProtobuf> {
    Ok(match (field.holds, payload) {
        (Holds::String, Payload::Bytes(bytes)) => match field.format.as_deref() {
            Some("byte") => STANDARD.encode(bytes).into(),
            Some("date-time") => time(bytes, SecondsFormat::Secs)?,
            Some("micro-time") => time(bytes, SecondsFormat::Micros)?,
            _ => text(bytes)?.into(),
        },
        (Holds::Boolean, Payload::Number(number)) => (number != 0).into(),
        (Holds::Integer, Payload::Number(number)) => number.cast_signed().into(),
        (Holds::Number, Payload::Number(number)) => f64::from_bits(number).into(),
        (Holds::Quantity, Payload::Bytes(bytes)) => first_text(bytes, 1)?.into(),
        (Holds::IntOrString, Payload::Bytes(bytes)) => {
            let (mut is_text, mut number, mut words) = (false, 0, String::new());
            for part in Fields(bytes) {
                match part? {
                    (1, Payload::Number(kind)) => is_text = kind == 1,
                    (2, Payload::Number(value)) => number = value.cast_signed(),
                    (3, Payload::Bytes(bytes)) => words = text(bytes)?,
                    _ => {}
                }
            }
            if is_text { words.into() } else { number.into() }
        }
        (Holds::Any, Payload::Bytes(bytes)) => {
            let inner = Fields(bytes).find_map(|part| match part {
                Ok((1, Payload::Bytes(json))) => Some(json),
                _ => None,
            });
            serde_json::from_slice(inner.unwrap_or_default()).unwrap_or(Value::Null)
        }
        (Holds::Object, Payload::Bytes(bytes)) => {
            let structure = field.structure().ok_or(BadProtobuf::Malformed)?;
            message(structure, bytes, depth + 1)?.into()
        }
        _ => return Err(BadProtobuf::Malformed),
    })
}

/// `meta/v1.Time` or `MicroTime`: seconds and nanoseconds. The empty message is no time.
fn time(bytes: &[u8], precision: SecondsFormat) -> Result<Value, BadProtobuf> {
    let (mut seconds, mut nanos) = (None, 0);
    for part in Fields(bytes) {
        match part? {
            (1, Payload::Number(number)) => seconds = Some(number.cast_signed()),
            (2, Payload::Number(number)) => nanos = u32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let time =
        DateTime::<Utc>::from_timestamp(seconds, nanos.min(999_999_999)).ok_or(BadProtobuf::Malformed)?;
    let precision = if nanos == 0 { precision } else { SecondsFormat::Micros };
    Ok(time.to_rfc3339_opts(precision, true).into())
}

fn first_text(bytes: &[u8], wanted: u32) -> Result<String, BadProtobuf> {
    for part in Fields(bytes) {
        if let (number, Payload::Bytes(bytes)) = part?
            && number == wanted
        {
            return text(bytes);
        }
    }
    Ok(String::new())
}

fn text(bytes: &[u8]) -> Result<String, BadProtobuf> {
    String::from_utf8(bytes.to_vec()).map_err(|_| BadProtobuf::NotText)
}

/// What a field of a message carries.
enum Payload<'a> {
    /// A varint, or a fixed number.
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, one after the other (protobuf's "Encoding"); after an error there is no more.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            // The tenth byte has one bit to give.
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<(u32, Payload<'a>)> {
        let tag = self.varint()?;
        let payload = match tag & 7 {
            0 => Payload::Number(self.varint()?),
            1 => Payload::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Payload::Bytes(self.take(len)?)
            }
            5 => Payload::Number(u32::from_le_bytes(self.take(4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((u32::try_from(tag >> 3).ok()?, payload))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Payload<'a>), BadProtobuf>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(BadProtobuf::Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
        assert!(bytes.len() < 128);
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes_field(1, api_version.as_bytes()), bytes_field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes_field(1, &meta), bytes_field(2, raw)].concat()
    }

    fn type_of(_: &str, kind: &str) -> Option<&'static str> {
        match kind {
            "ConfigMap" => Some("io.k8s.api.core.v1.ConfigMap"),
            "Secret" => Some("io.k8s.api.core.v1.Secret"),
            "Deployment" => Some("io.k8s.api.apps.v1.Deployment"),
            _ => None,
        }
    }

    #[test]
    fn a_config_map_as_kubectl_sends_it() {
        let meta = [bytes_field(1, b"a"), bytes_field(3, b""), bytes_field(8, &[])].concat();
        let entry = [bytes_field(1, b"key"), bytes_field(2, b"value")].concat();
        let body = envelope("v1", "ConfigMap", &[bytes_field(1, &meta), bytes_field(2, &entry)].concat());
        assert!(is_protobuf(&body));
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "value"}});
        assert_eq!(decode(&body, type_of), Ok(expected));
    }

    #[test]
    fn numbers_times_bytes_and_inline_messages_become_json() {
        let secret = [bytes_field(1, b"k"), bytes_field(2, &[0, 255])].concat();
        let body = envelope("v1", "Secret", &bytes_field(2, &secret));
        assert_eq!(decode(&body, type_of).unwrap()["data"], json!({"k": "AP8="}));
        // spec (2): replicas 0 (1), template (3): metadata (1): creationTimestamp (8), spec (2): volumes (1): inline source (2): emptyDir (2).
        let created = bytes_field(8, &[8, 1]);
        let volume = [bytes_field(1, b"v"), bytes_field(2, &bytes_field(2, &[]))].concat();
        let template = [bytes_field(1, &created), bytes_field(2, &bytes_field(1, &volume))].concat();
        let body = envelope(
            "apps/v1",
            "Deployment",
            &bytes_field(2, &[&[8, 0][..], &bytes_field(3, &template)].concat()),
        );
        let expected = json!({"replicas": 0, "template": {"metadata": {"creationTimestamp": "1970-01-01T00:00:01Z"},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}});
        assert_eq!(decode(&body, type_of).unwrap()["spec"], expected);
    }

    #[test]
    fn what_is_no_body_is_refused() {
        assert_eq!(decode(b"{}", type_of), Err(BadProtobuf::NoEnvelope));
        assert_eq!(decode(b"k8s\0\xff", type_of), Err(BadProtobuf::Malformed));
        assert!(matches!(
            decode(&envelope("v1", "Service", b""), type_of),
            Err(BadProtobuf::UnknownKind { .. })
        ));
        let body = envelope("v1", "ConfigMap", &bytes_field(1, &bytes_field(1, &[0xff])));
        assert_eq!(decode(&body, type_of), Err(BadProtobuf::NotText));
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(raw in proptest::collection::vec(any::<u8>(), 0..120), kind in "ConfigMap|Secret|Deployment") {
            let _ = decode(&envelope("v1", &kind, &raw), type_of);
            let _ = decode(&raw, type_of);
        }
    }
}
