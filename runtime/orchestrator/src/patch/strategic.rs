//! Strategic merge patches: merge patches that know by which field the items of a list are told apart.
//!
//! Directives: `$patch: replace | delete | merge` in an object or a list's item, `$retainKeys`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>` (Kubernetes, "Strategic Merge Patch", sig-api-machinery).

use crate::schema::{Field, Of, Type};
use crate::status::ApiError;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Deeper than the types go; a patch is a client's.
const MAX_DEPTH: usize = 64;

/// Merges `patch` into `object`, which is a `structure`.
///
/// # Errors
/// A directive is unknown or misplaced, an item has no key, or it goes deeper than any type does.
pub fn strategic(
    structure: Option<&'static Type>,
    object: &mut Value,
    patch: &Value,
) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("a strategic merge patch must be a JSON object"));
    };
    merge_object(structure, object, patch, 0)
}

fn bad(what: impl Into<String>) -> ApiError {
    ApiError::bad_request(format!("the strategic merge patch can't be used: {}", what.into()))
}

fn merge_object(
    structure: Option<&'static Type>,
    object: &mut Value,
    patch: &Map<String, Value>,
    depth: usize,
) -> Result<(), ApiError> {
    if depth > MAX_DEPTH {
        return Err(bad("it is too deep"));
    }
    match patch.get("$patch").map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *object = Value::Object(without_directives(patch));
            return Ok(());
        }
        Some(Some("delete")) => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some(_) => return Err(bad("$patch is one of merge, replace, delete")),
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(fields) = object else { return Ok(()) };
    if let Some(retained) = patch.get("$retainKeys") {
        let retained = retained.as_array().ok_or_else(|| bad("$retainKeys is a list of names"))?;
        fields.retain(|name, _| retained.iter().any(|one| one.as_str() == Some(name)));
    }
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().ok_or_else(|| bad("$deleteFromPrimitiveList is a list of values"))?;
            if let Some(Value::Array(items)) = fields.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !name.starts_with('$') {
            merge_field(
                structure.and_then(|structure| structure.fields.get(name)),
                fields,
                name,
                value,
                depth,
            )?;
        }
    }
    // After all else: it orders what is there then.
    for (name, order) in patch {
        if let Some(name) = name.strip_prefix("$setElementOrder/") {
            let field = structure.and_then(|structure| structure.fields.get(name));
            let order = order.as_array().ok_or_else(|| bad("$setElementOrder is a list"))?;
            if let Some(Value::Array(items)) = fields.get_mut(name) {
                set_order(field, items, order);
            }
        } else if name.starts_with('$')
            && !matches!(name.as_str(), "$patch" | "$retainKeys")
            && !name.starts_with("$deleteFromPrimitiveList/")
        {
            return Err(bad(format!("there is no directive {name:?}")));
        }
    }
    Ok(())
}

fn merge_field(
    field: Option<&'static Field>,
    fields: &mut Map<String, Value>,
    name: &str,
    patch: &Value,
    depth: usize,
) -> Result<(), ApiError> {
    match patch {
        Value::Null => {
            fields.remove(name);
        }
        Value::Object(patch) => {
            // The values of a map of structures are merged as such; those of other maps are simple.
            let structure = field.filter(|field| field.of == Of::One).and_then(Field::structure);
            let place = fields.entry(name).or_insert(Value::Null);
            merge_object(structure, place, patch, depth + 1)?;
            if patch.get("$patch").and_then(Value::as_str) == Some("delete") {
                fields.remove(name);
            }
        }
        Value::Array(items) => {
            let key = field.and_then(|field| field.merge.as_deref());
            let place = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(old) = place else {
                *place = Value::Array(items.iter().filter(|item| !is_replace(item)).cloned().collect());
                return Ok(());
            };
            if let Some(key) = key {
                merge_list(field.and_then(Field::structure), key, old, items, depth)?;
            } else if field.is_some_and(|field| field.set) {
                add_to_set(old, items);
            } else {
                *old = items.iter().filter(|item| !is_replace(item)).cloned().collect();
            }
        }
        simple => {
            fields.insert(name.to_owned(), simple.clone());
        }
    }
    Ok(())
}

/// Adds the values that are not there yet.
pub(super) fn add_to_set(set: &mut Vec<Value>, values: &[Value]) {
    let mut known: BTreeSet<String> = set.iter().map(Value::to_string).collect();
    set.extend(values.iter().filter(|value| known.insert(value.to_string())).cloned());
}

/// `{"$patch": "replace"}` as an item: the list becomes the other items.
fn is_replace(item: &Value) -> bool {
    item.get("$patch").and_then(Value::as_str) == Some("replace")
}

fn merge_list(
    structure: Option<&'static Type>,
    key: &str,
    old: &mut Vec<Value>,
    patch: &[Value],
    depth: usize,
) -> Result<(), ApiError> {
    if patch.iter().any(is_replace) {
        old.clear();
    }
    let mut items: Vec<Option<Value>> = std::mem::take(old).into_iter().map(Some).collect();
    // A patch may name as many items as there are: looking through all for each would be a matter of minutes.
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, item) in items.iter().flatten().enumerate() {
        places.entry(item[key].to_string()).or_default().push(place);
    }
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(bad(format!("a list by {key} has an item that is no object")));
        };
        let directive = fields.get("$patch").and_then(Value::as_str);
        let Some(id) = fields.get(key).map(Value::to_string) else {
            match directive {
                Some("replace") => continue,
                _ => {
                    return Err(bad(format!("an item of a list has no {key}, by which they are told apart")));
                }
            }
        };
        match (directive, places.get(&id)) {
            (Some("delete"), _) => {
                places.remove(&id).into_iter().flatten().for_each(|place| items[place] = None);
            }
            (_, Some(found)) => {
                let found = items[found[0]].get_or_insert(Value::Null);
                merge_object(structure, found, fields, depth + 1)?;
            }
            (_, None) => {
                let mut new = Value::Object(Map::new());
                merge_object(structure, &mut new, fields, depth + 1)?;
                places.insert(id, vec![items.len()]);
                items.push(Some(new));
            }
        }
    }
    *old = items.into_iter().flatten().collect();
    Ok(())
}

/// Puts items into the order that the patch names; those that it does not name stay behind the one that they came after.
fn set_order(field: Option<&'static Field>, items: &mut Vec<Value>, order: &[Value]) {
    let key = field.and_then(|field| field.merge.as_deref());
    let id = |item: &Value| match key {
        Some(key) => item[key].to_string(),
        None => item.to_string(),
    };
    let ranks: BTreeMap<String, usize> =
        order.iter().enumerate().rev().map(|(rank, one)| (id(one), rank)).collect();
    let rank = |item: &Value| ranks.get(&id(item)).copied();
    let mut last = 0;
    let mut ranked: Vec<((usize, bool), Value)> = std::mem::take(items)
        .into_iter()
        .map(|item| match rank(&item) {
            Some(rank) => {
                last = rank;
                ((rank, false), item)
            }
            None => ((last, true), item),
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    *items = ranked.into_iter().map(|(_, item)| item).collect();
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(name, _)| !name.starts_with('$'))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(mut object: Value, patch: Value) -> Value {
        strategic(schema().get("io.k8s.api.apps.v1.Deployment"), &mut object, &patch).unwrap();
        object
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": items}}}})
    }

    #[test]
    fn containers_merge_by_name() {
        let old =
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "args": ["x", "y"]}]));
        let new = patched(
            old.clone(),
            containers(json!([{"name": "b", "image": "2", "args": ["z"]}, {"name": "c"}])),
        );
        let expected =
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2", "args": ["z"]}, {"name": "c"}]);
        assert_eq!(new, containers(expected));
        let new = patched(old.clone(), containers(json!([{"name": "a", "$patch": "delete"}])));
        assert_eq!(new["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
        let new = patched(old, containers(json!([{"$patch": "replace"}, {"name": "d"}])));
        assert_eq!(new, containers(json!([{"name": "d"}])));
    }

    #[test]
    fn ports_of_one_number_and_environment_merge_by_their_own_keys() {
        let old = containers(
            json!([{"name": "a", "env": [{"name": "X", "value": "1"}], "ports": [{"containerPort": 80}]}]),
        );
        let patch = containers(
            json!([{"name": "a", "env": [{"name": "Y"}], "ports": [{"containerPort": 80, "name": "web"}]}]),
        );
        let expected = json!([{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y"}],
            "ports": [{"containerPort": 80, "name": "web"}]}]);
        assert_eq!(patched(old, patch), containers(expected));
    }

    #[test]
    fn the_order_is_set_as_kubectl_apply_asks() {
        let old = containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]));
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "b", "$patch": "delete"}]}}}});
        assert_eq!(patched(old, patch), containers(json!([{"name": "c"}, {"name": "a"}])));
    }

    #[test]
    fn null_removes_and_objects_are_replaced_or_retained_when_asked() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let new = patched(old.clone(), json!({"metadata": {"labels": {"a": null, "c": "3"}}}));
        assert_eq!(new["metadata"]["labels"], json!({"b": "2", "c": "3"}));
        let new = patched(
            old.clone(),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        );
        assert_eq!(new["spec"]["strategy"], json!({"type": "Recreate"}));
        let new = patched(old, json!({"metadata": {"labels": {"$patch": "replace", "z": "1"}}}));
        assert_eq!(new["metadata"]["labels"], json!({"z": "1"}));
    }

    #[test]
    fn sets_of_simple_values_grow_and_shrink() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch =
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}});
        assert_eq!(patched(old, patch)["metadata"]["finalizers"], json!(["b", "c"]));
    }

    #[test]
    fn mistakes_are_refused() {
        for patch in [
            json!([]),
            json!({"$patch": "explode"}),
            json!({"$frob": 1}),
            containers(json!([{"image": "x"}])),
            containers(json!(["x"])),
        ] {
            let mut object = json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}});
            assert!(
                strategic(schema().get("io.k8s.api.apps.v1.Deployment"), &mut object, &patch).is_err(),
                "{patch}"
            );
        }
        let deep = (0..1000).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(strategic(None, &mut json!({}), &deep).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = prop_oneof![
                Just("name".to_owned()),
                Just("spec".to_owned()),
                Just("containers".to_owned()),
                Just("template".to_owned()),
                Just("$patch".to_owned()),
                Just("$setElementOrder/containers".to_owned()),
                Just("$retainKeys".to_owned()),
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_patch_of_any_object_ends_and_a_merge_patch_twice_is_once(mut object in value(), patch in value()) {
            let structure = schema().get("io.k8s.api.apps.v1.Deployment");
            if strategic(structure, &mut object, &patch).is_ok() {
                let once = object.clone();
                strategic(structure, &mut object, &patch).unwrap();
                prop_assert_eq!(once, object);
            }
        }
    }
}
