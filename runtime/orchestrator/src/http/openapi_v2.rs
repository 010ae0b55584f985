//! OpenAPI v2 in protobuf (gnostic's `openapi.v2.Document`), for kubectl before 1.27: all that it looks up there is whether a kind
//! knows a dry run, which is a parameter of its PATCH. It validates nothing by an empty list of definitions.

use crate::kinds::KINDS;

/// The media type.
pub(super) const TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document.
pub(super) fn document() -> Vec<u8> {
    let info = [field(1, b"Vial"), field(2, b"v1")].concat();
    let mut paths = Vec::new();
    for kind in &KINDS {
        let base = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let namespace = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("{base}{namespace}/{}/{{name}}", kind.plural);
        let own = format!("group: {:?}\nkind: {:?}\nversion: {:?}\n", kind.group, kind.kind, kind.version);
        // Paths.path = NamedPathItem { name, value = PathItem { patch } }
        let item = field(8, &operation(&["dryRun", "fieldManager", "fieldValidation", "force"], &own));
        paths.extend(field(2, &[field(1, path.as_bytes()), field(2, &item)].concat()));
    }
    [field(1, b"2.0"), field(2, &info), field(8, &paths), field(9, b"")].concat()
}

/// Operation { parameters, vendor_extension }
fn operation(parameters: &[&str], own_kind: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in parameters {
        // ParametersItem.parameter = Parameter.non_body_parameter = NonBodyParameter.query_parameter_sub_schema
        let query = [field(2, b"query"), field(4, name.as_bytes())].concat();
        bytes.extend(field(8, &field(1, &field(2, &field(3, &query)))));
    }
    // NamedAny { name, value = Any { yaml } }
    let value = field(2, own_kind.as_bytes());
    bytes.extend(field(13, &[field(1, b"x-kubernetes-group-version-kind"), field(2, &value)].concat()));
    bytes
}

/// A field of bytes (protobuf's "Encoding", LEN).
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len >= 0x80 {
        encoded.push(len as u8 | 0x80);
        len >>= 7;
    }
    encoded.push(len as u8);
    encoded.extend(bytes);
    encoded
}
