//! Server-side apply: an object is merged with what one manager wants, and it is remembered who wanted what (`metadata.managedFields`).

use super::fields::{self, Fields};
use super::strategic::add_to_set;
use crate::object;
use crate::schema::{Field, Of, Type, conform};
use crate::status::{ApiError, Cause, CauseKind, Reason};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Managers that one object remembers at most; the oldest that only updated it are put together.
const MAX_MANAGERS: usize = 64;
/// Bytes of a manager's name.
pub const MAX_MANAGER: usize = 128;
/// Where `kubectl apply` without `--server-side` notes what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What belongs to nobody.
const SYSTEM: [&[&str]; 10] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "generateName"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "managedFields"],
];

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager`, or the first word of the client's User-Agent.
    pub manager: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}

struct Entry {
    manager: String,
    is_apply: bool,
    api_version: String,
    subresource: String,
    time: Value,
    fields: Fields,
}

impl Entry {
    fn read(value: &Value) -> Self {
        Self {
            manager: object::text(value, &["manager"]).into(),
            is_apply: object::text(value, &["operation"]) == "Apply",
            api_version: object::text(value, &["apiVersion"]).into(),
            subresource: object::text(value, &["subresource"]).into(),
            time: value["time"].clone(),
            fields: Fields::from_json(&value["fieldsV1"]),
        }
    }

    fn write(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": if self.is_apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if !self.time.is_null() {
            entry["time"] = self.time.clone();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.clone().into();
        }
        entry
    }

    fn is_by(&self, writer: &Writer<'_>, is_apply: bool) -> bool {
        self.manager == writer.manager && self.is_apply == is_apply && self.subresource == writer.subresource
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    object::list(object, &["metadata", "managedFields"]).iter().map(Entry::read).collect()
}

/// What is wrong with the list of managers that an object came with.
pub fn check_managers(object: &Value, causes: &mut Vec<Cause>) {
    let list = object::list(object, &["metadata", "managedFields"]);
    if is_reset(list) {
        return;
    }
    for (index, entry) in list.iter().enumerate() {
        let manager = object::text(entry, &["manager"]);
        let rules = [
            (
                "operation",
                matches!(object::text(entry, &["operation"]), "Apply" | "Update"),
                "must be `Apply` or `Update`",
            ),
            ("fieldsType", object::text(entry, &["fieldsType"]) == "FieldsV1", "must be `FieldsV1`"),
            ("fieldsV1", entry.get("fieldsV1").is_none_or(Value::is_object), "must be an object"),
            (
                "manager",
                manager.len() <= MAX_MANAGER && !manager.contains(char::is_control),
                "must have at most 128 bytes, and no control characters",
            ),
        ];
        for (field, _, rule) in rules.iter().filter(|(_, holds, _)| !holds) {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("metadata.managedFields[{index}].{field}"),
                *rule,
            ));
        }
    }
}

/// `[{}]` is how clients ask for the managers to be forgotten: who sends none may only not know them.
fn is_reset(list: &[Value]) -> bool {
    matches!(list, [only] if only.as_object().is_some_and(Map::is_empty))
}

fn remember(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    while entries.len() > MAX_MANAGERS {
        let Some(first) = entries.iter().position(|entry| !entry.is_apply) else { break };
        let oldest = entries.remove(first);
        match entries.iter_mut().find(|entry| !entry.is_apply) {
            Some(next) => {
                next.fields.add(&oldest.fields);
                next.manager = "ancient-changes".into();
            }
            None => break,
        }
    }
    let list: Vec<Value> = entries.iter().map(Entry::write).collect();
    object::remove(object, &["metadata", "managedFields"]);
    if !list.is_empty() {
        *object::entry(object, &["metadata", "managedFields"]) = list.into();
    }
}

fn owned(structure: &'static Type, value: &Value) -> Fields {
    SYSTEM.iter().fold(Fields::of(structure, value), |set, path| set.without(path))
}

/// Notes that `writer` changed `old` (nothing: it made the object) to `new` by other means than apply. It may have changed the list of
/// managers itself: that is how an object goes from client-side to server-side apply.
pub fn track_update(structure: &'static Type, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let api_version = object::text(new, &["apiVersion"]).to_owned();
    let mut managers = match object::at(new, &["metadata", "managedFields"]) {
        Some(Value::Array(list)) if list.is_empty() || is_reset(list) => Vec::new(),
        Some(_) => entries(new),
        None => entries(old.unwrap_or(&Value::Null)),
    };
    let (changed, gone) = Fields::changed(structure, old.unwrap_or(&Value::Null), new);
    let changed = SYSTEM.iter().fold(changed, |set, path| set.without(path));
    if changed.is_empty() && gone.is_empty() {
        return remember(new, managers);
    }
    for entry in &mut managers {
        entry.fields.remove(&gone);
        if !entry.is_by(&writer, false) {
            entry.fields.remove(&changed.leaves());
        }
    }
    match managers.iter_mut().find(|entry| entry.is_by(&writer, false)) {
        Some(entry) => {
            entry.fields.add(&changed);
            entry.time = writer.now.into();
        }
        None => managers.push(Entry {
            manager: writer.manager.into(),
            is_apply: false,
            api_version,
            subresource: writer.subresource.into(),
            time: writer.now.into(),
            fields: changed,
        }),
    }
    remember(new, managers);
}

/// What apply makes of an object.
#[derive(Debug, PartialEq)]
pub struct Applied(pub Value);

/// Merges `config`, all that `writer` wants of the object, into `live`; what it wanted before and does not want any more goes, unless
/// others want it too. `complete` fills in what a client may leave out, as it was with what is live: leaving it out contests nothing.
///
/// # Errors
/// Others manage fields that `config` sets to other values, and `force` does not take them over.
pub fn apply(
    structure: &'static Type,
    live: &Value,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
    complete: impl Fn(&mut Value),
) -> Result<Applied, ApiError> {
    let mut managers = entries(live);
    let wanted = owned(structure, config);
    let mut merged = live.clone();
    merge(structure, &mut merged, config);
    let mut completed = merged.clone();
    complete(&mut completed);
    let (changed, _) = Fields::changed(structure, live, &completed);
    let contested = changed.leaves();
    let own =
        if writer.manager == "kubectl" { client_side(structure, live, &complete) } else { Fields::default() };
    let mut causes = Vec::new();
    for entry in managers.iter_mut().filter(|entry| !entry.is_by(&writer, true)) {
        let contested = entry.fields.common(&contested).leaves();
        let mut conflict = contested.clone();
        conflict.remove(&own);
        if force || conflict.is_empty() {
            entry.fields.remove(&contested);
        } else {
            let by = format!("conflict with {:?}", entry.manager);
            causes.extend(
                conflict.paths().into_iter().map(|path| Cause::new(CauseKind::Invalid, path, by.clone())),
            );
        }
    }
    if !causes.is_empty() {
        let what: Vec<_> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
        let plural = if causes.len() == 1 { "conflict" } else { "conflicts" };
        let message = format!("Apply failed with {} {plural}: {}", causes.len(), what.join(", "));
        return Err(ApiError { causes, ..ApiError::new(Reason::Conflict, message) });
    }
    let before =
        managers.iter().position(|entry| entry.is_by(&writer, true)).map(|index| managers.remove(index));
    if let Some(before) = before {
        let mut gone = before.fields;
        gone.remove(&wanted);
        for entry in &managers {
            gone.remove(&entry.fields);
        }
        fields::take_out(structure, &mut merged, &gone);
    }
    managers.push(Entry {
        manager: writer.manager.into(),
        is_apply: true,
        api_version: object::text(config, &["apiVersion"]).into(),
        subresource: writer.subresource.into(),
        time: writer.now.into(),
        fields: wanted,
    });
    remember(&mut merged, managers);
    Ok(Applied(merged))
}

/// What kubectl applied by itself and nobody has changed since: it may go on from there on the server's side.
fn client_side(structure: &'static Type, live: &Value, complete: impl Fn(&mut Value)) -> Fields {
    let text = object::text(live, &["metadata", "annotations", LAST_APPLIED]);
    // An annotation like any other: whoever may change the object may have written anything there.
    let Ok(mut config) = serde_json::from_str(text) else { return Fields::default() };
    if !conform(structure, &mut config).wrong.is_empty() {
        return Fields::default();
    }
    let mut merged = live.clone();
    merge(structure, &mut merged, &config);
    complete(&mut merged);
    let (changed, _) = Fields::changed(structure, live, &merged);
    let mut set = owned(structure, &config).leaves();
    set.remove(&changed.leaves());
    set
}

fn merge(structure: &'static Type, live: &mut Value, config: &Value) {
    let Value::Object(config) = config else { return };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let Value::Object(fields) = live else { return };
    for (name, wanted) in config {
        let place = fields.entry(name).or_insert(Value::Null);
        match structure.fields.get(name) {
            Some(field) => merge_field(field, place, wanted),
            None => *place = wanted.clone(),
        }
    }
}

fn merge_field(field: &'static Field, live: &mut Value, wanted: &Value) {
    let structure = field.structure().filter(|structure| !structure.atomic);
    match (field.of, live, wanted) {
        (Of::One, live, wanted @ Value::Object(_)) if structure.is_some() => {
            structure.into_iter().for_each(|structure| merge(structure, live, wanted));
        }
        (Of::Map, Value::Object(live), Value::Object(wanted)) => {
            live.extend(wanted.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        (Of::List, Value::Array(live), Value::Array(wanted)) if !field.keys.is_empty() => {
            let mut places: BTreeMap<String, usize> = live
                .iter()
                .enumerate()
                .rev()
                .map(|(place, item)| (fields::key_step(field, item), place))
                .collect();
            for item in wanted {
                match (places.get(&fields::key_step(field, item)), structure) {
                    (Some(place), Some(structure)) => merge(structure, &mut live[*place], item),
                    (Some(place), None) => live[*place] = item.clone(),
                    (None, _) => {
                        places.insert(fields::key_step(field, item), live.len());
                        live.push(item.clone());
                    }
                }
            }
        }
        (Of::List, Value::Array(live), Value::Array(wanted)) if field.set => {
            add_to_set(live, wanted);
        }
        (_, live, wanted) => *live = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;

    fn structure() -> &'static Type {
        schema().get("io.k8s.api.apps.v1.Deployment").unwrap()
    }

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" }
    }

    fn deployment(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
    }

    fn applied(live: &Value, config: Value, manager: &str) -> Result<Value, ApiError> {
        apply(structure(), live, &config, writer(manager), false, |_| {}).map(|applied| applied.0)
    }

    #[test]
    fn what_a_manager_wants_no_more_goes_and_what_others_set_stays() {
        let one = json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}});
        let live = applied(&json!({}), deployment(one), "me").unwrap();
        let mut live = live;
        let old = live.clone();
        live["spec"]["minReadySeconds"] = 5.into();
        track_update(structure(), Some(&old), &mut live, writer("other"));
        let two = json!({"template": {"spec": {"containers": [{"name": "b", "image": "2"}]}}});
        let live = applied(&live, deployment(two), "me").unwrap();
        let expected = json!({"minReadySeconds": 5, "template": {"spec": {"containers": [{"name": "b", "image": "2"}]}}});
        assert_eq!(live["spec"], expected);
        let managers: Vec<_> =
            entries(&live).into_iter().map(|entry| (entry.manager, entry.is_apply)).collect();
        assert_eq!(managers, [("other".to_owned(), false), ("me".to_owned(), true)]);
    }

    #[test]
    fn a_field_of_another_manager_is_a_conflict_unless_it_is_equal_or_forced() {
        let live = applied(&json!({}), deployment(json!({"replicas": 3})), "one").unwrap();
        let error = applied(&live, deployment(json!({"replicas": 4})), "two").unwrap_err();
        assert_eq!(error.reason, Reason::Conflict);
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
        let shared = applied(&live, deployment(json!({"replicas": 3})), "two").unwrap();
        assert_eq!(entries(&shared).len(), 2);
        let config = deployment(json!({"replicas": 4}));
        let forced = apply(structure(), &live, &config, writer("two"), true, |_| {}).unwrap().0;
        assert_eq!(forced["spec"]["replicas"], 4);
        assert_eq!(entries(&forced).iter().map(|entry| entry.manager.as_str()).collect::<Vec<_>>(), ["two"]);
    }

    #[test]
    fn a_field_that_two_want_stays_when_one_leaves_it() {
        let live = applied(&json!({}), deployment(json!({"replicas": 3})), "one").unwrap();
        let live = applied(&live, deployment(json!({"replicas": 3})), "two").unwrap();
        let live = applied(&live, deployment(json!({})), "one").unwrap();
        assert_eq!(live["spec"]["replicas"], 3);
        let live = applied(&live, deployment(json!({})), "two").unwrap();
        assert_eq!(live["spec"].get("replicas"), None);
    }

    #[test]
    fn an_update_takes_over_only_what_it_changes() {
        let live =
            applied(&json!({}), deployment(json!({"replicas": 3, "minReadySeconds": 1})), "one").unwrap();
        let mut new = live.clone();
        new["spec"]["replicas"] = 5.into();
        track_update(structure(), Some(&live), &mut new, writer("scaler"));
        let config = deployment(json!({"replicas": 3, "minReadySeconds": 2}));
        let error = applied(&new, config, "one").unwrap_err();
        assert_eq!(error.causes.len(), 1, "{error}");
        assert_eq!(error.causes[0].field, ".spec.replicas");
    }

    #[test]
    fn a_key_that_looks_like_a_step_is_a_key() {
        let labels = |text: &str| json!({"metadata": {"name": "web", "labels": {"f:f:a": text}}});
        let mut new = labels("2");
        track_update(structure(), Some(&labels("1")), &mut new, writer("one"));
        let expected = json!({"f:metadata": {"f:labels": {"f:f:f:a": {}}}});
        assert_eq!(new["metadata"]["managedFields"][0]["fieldsV1"], expected);
    }

    #[test]
    fn lists_of_a_body_full_of_items_are_a_matter_of_a_moment() {
        let list = |count: usize| -> Value {
            let env: Vec<Value> = (0..count).map(|n| json!({"name": format!("V{n}")})).collect();
            deployment(json!({"template": {"spec": {"containers": [{"name": "c", "env": env}]}}}))
        };
        let live = applied(&json!({}), list(40_000), "one").unwrap();
        let mut new = applied(&live, list(39_999), "one").unwrap();
        assert_eq!(new["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().len(), 39_999);
        track_update(structure(), Some(&live), &mut new, writer("two"));
        crate::patch::strategic(Some(structure()), &mut new, &list(40_000)).unwrap();
        assert_eq!(new["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().len(), 40_000);
    }

    #[test]
    fn managed_fields_are_written_as_others_read_them() {
        let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"}, "finalizers": ["x"]},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [
                {"name": "c", "args": ["1"], "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}});
        let live = applied(&json!({}), config, "me").unwrap();
        let entry = &live["metadata"]["managedFields"][0];
        assert_eq!(entry["operation"], "Apply");
        let expected = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {".": {}, "v:\"x\"": {}}},
            "f:spec": {"f:selector": {}, "f:template": {"f:spec": {"f:containers": {".": {}, "k:{\"name\":\"c\"}": {
                ".": {}, "f:name": {}, "f:args": {}, "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                    ".": {}, "f:containerPort": {}, "f:protocol": {}}}}}}}},
        });
        assert_eq!(entry["fieldsV1"], expected);
        assert_eq!(Fields::from_json(&expected).to_json(), expected);
    }
}
