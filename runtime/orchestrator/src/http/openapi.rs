//! OpenAPI as kubectl needs it: schemas of the served kinds, and the operations by which it finds out what the server validates.

use crate::kinds::{KINDS, Kind};
use crate::schema::{Field, Holds, Of, Type, schema};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// `/openapi/v3`
pub(super) fn index() -> Value {
    let mut paths = Map::new();
    for kind in &KINDS {
        let path = path_of(kind.group, kind.version);
        // The hash lets clients keep what they have; the schema changes with the program only.
        let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3/{…}`
pub(super) fn document(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> =
        KINDS.iter().filter(|kind| kind.group == group && kind.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let (mut paths, mut wanted) = (Map::new(), BTreeSet::new());
    for kind in &kinds {
        collect(kind.structure, &mut wanted);
        let base = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{}{base}/{}", path_of(group, version), kind.plural);
        paths.insert(format!("{collection}/{{name}}"), json!({
            "patch": operation(kind, "patch"), "put": operation(kind, "put"), "get": operation(kind, "get"), "delete": operation(kind, "delete"),
        }));
        paths.insert(collection, json!({"post": operation(kind, "post"), "get": operation(kind, "list")}));
    }
    let mut schemas: Map<String, Value> =
        wanted.iter().filter_map(|name| Some((name.clone(), structure(schema().get(name)?)))).collect();
    for kind in &kinds {
        let own = json!([{"group": group, "kind": kind.kind, "version": version}]);
        schemas[kind.structure]["x-kubernetes-group-version-kind"] = own;
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Vial", "version": schema().version.replacen('_', ".", 1)},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

fn operation(kind: &Kind, verb: &str) -> Value {
    let action = if verb == "list" { "list" } else { verb };
    let mut operation = json!({
        "operationId": format!("{action}{}{}", kind.version, kind.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.kind, "version": kind.version},
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(kind.structure)}}}},
    });
    if matches!(verb, "post" | "put" | "patch") {
        let parameter = |name: &str| json!({"in": "query", "name": name, "schema": {"type": "string", "uniqueItems": true}});
        operation["parameters"] =
            json!([parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")]);
    }
    operation
}

fn collect(name: &str, wanted: &mut BTreeSet<String>) {
    if !wanted.insert(name.to_owned()) {
        return;
    }
    for field in schema().get(name).into_iter().flat_map(|structure| structure.fields.values()) {
        if let Some(inner) = &field.of_type {
            collect(inner, wanted);
        }
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn structure(structure: &Type) -> Value {
    let properties: Map<String, Value> =
        structure.fields.iter().map(|(name, field)| (name.clone(), property(field))).collect();
    let required: Vec<&String> =
        structure.fields.iter().filter(|(_, field)| field.required).map(|(name, _)| name).collect();
    let mut value = json!({"type": "object", "description": structure.description, "properties": properties});
    if !required.is_empty() {
        value["required"] = json!(required);
    }
    if structure.atomic {
        value["x-kubernetes-map-type"] = "atomic".into();
    }
    value
}

fn property(field: &Field) -> Value {
    let one = match field.holds {
        Holds::String => json!({"type": "string"}),
        Holds::Boolean => json!({"type": "boolean"}),
        Holds::Integer => json!({"type": "integer"}),
        Holds::Number => json!({"type": "number"}),
        Holds::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Holds::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Holds::Any => json!({}),
        Holds::Object => {
            json!({"allOf": [reference(field.of_type.as_deref().unwrap_or_default())], "default": {}})
        }
    };
    let mut one = one;
    if let Some(format) = &field.format {
        one["format"] = if format == "micro-time" { "date-time" } else { format }.into();
    }
    let mut value = match field.of {
        Of::One => one,
        Of::List => json!({"type": "array", "items": one}),
        Of::Map => json!({"type": "object", "additionalProperties": one}),
    };
    if let Some(default) = &field.default {
        value["default"] = default.clone();
    }
    value["description"] = field.description.clone().into();
    if !field.keys.is_empty() {
        value["x-kubernetes-list-type"] = "map".into();
        value["x-kubernetes-list-map-keys"] = json!(field.keys);
        value["x-kubernetes-patch-strategy"] = "merge".into();
    }
    if let Some(key) = &field.merge {
        value["x-kubernetes-patch-merge-key"] = key.clone().into();
    }
    if field.set {
        value["x-kubernetes-list-type"] = "set".into();
        value["x-kubernetes-patch-strategy"] = "merge".into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_names_only_what_it_has() {
        for path in index()["paths"].as_object().unwrap().keys() {
            let parts: Vec<&str> = path.split('/').collect();
            let (group, version) = if parts[0] == "api" { ("", parts[1]) } else { (parts[1], parts[2]) };
            let document = document(group, version).unwrap();
            let text = document.to_string();
            for reference in text.split("#/components/schemas/").skip(1) {
                let name = reference.split('"').next().unwrap();
                assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {name}");
            }
        }
        assert_eq!(document("none", "v1"), None);
    }
}
