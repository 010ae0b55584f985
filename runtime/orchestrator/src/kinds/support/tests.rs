use super::*;
use crate::kinds::KINDS;
use crate::schema::schema;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

fn structure_named(name: &str) -> Option<&'static Type> {
    schema().types.iter().find(|(full, _)| short(full) == name).map(|(_, structure)| structure)
}

/// All structures that a kind is made of.
fn reachable(from: &str, found: &mut BTreeSet<&'static str>) {
    let Some((name, structure)) = schema().types.get_key_value(from) else { return };
    if found.insert(name) {
        structure
            .fields
            .values()
            .filter_map(|field| field.of_type.as_deref())
            .for_each(|next| reachable(next, found));
    }
}

#[test]
fn every_entry_of_the_table_is_in_the_schema_once() {
    let mut seen = BTreeSet::new();
    for (name, fields) in SUPPORTED {
        assert!(seen.insert(name), "{name} is there twice");
        let structure = structure_named(name).unwrap_or_else(|| panic!("there is no {name}"));
        for field in fields.split_ascii_whitespace() {
            assert!(structure.fields.contains_key(field), "{name} has no {field}");
        }
    }
    for (name, field, _) in HARMLESS.iter().chain(IDLE) {
        assert!(
            structure_named(name).is_some_and(|structure| structure.fields.contains_key(*field)),
            "{name}.{field}"
        );
    }
}

#[test]
fn what_is_set_and_has_no_effect_is_named_where_it_is() {
    let kind = Kind::by_path("batch", "v1", "jobs").unwrap();
    let pod = json!({"schedulerName": "default-scheduler", "hostNetwork": false, "affinity": {"podAffinity": {}},
        "priorityClassName": "high", "runtimeClassName": "x", "containers": [{"name": "a", "volumeDevices": [{"name": "d", "devicePath": "/d"}],
        "resources": {"limits": {"cpu": "1", "ephemeral-storage": "1Ki"}}}]});
    let job = json!({"metadata": {"name": "j", "selfLink": "x"}, "status": {"failedIndexes": "1"},
        "spec": {"completions": 1, "maxFailedIndexes": 3, "template": {"spec": pod}}});
    let found = unsupported(kind, &job);
    let expected = [
        "spec.maxFailedIndexes",
        "spec.template.spec.containers[0].resources.limits[ephemeral-storage]",
        "spec.template.spec.containers[0].volumeDevices",
        "spec.template.spec.priorityClassName",
        "spec.template.spec.runtimeClassName",
    ];
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, BTreeSet::from(expected));
    assert!(newly_unsupported(kind, Some(&job), &job).is_empty());
    let mut more = job.clone();
    more["spec"]["backoffLimitPerIndex"] = 2.into();
    assert_eq!(newly_unsupported(kind, Some(&job), &more), ["spec.backoffLimitPerIndex"]);
}

fn page() -> String {
    let mut kinds_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in &KINDS {
        let mut found = BTreeSet::new();
        reachable(kind.structure, &mut found);
        found.into_iter().for_each(|structure| kinds_of.entry(structure).or_default().push(kind.kind));
    }
    let mut page = String::from(
        "# Fields of Kubernetes' kinds\n\n\
         Generated from the schema of Kubernetes 1.33 and `runtime/orchestrator/src/kinds/support/table.rs`, which the server itself goes by: a field that is\n\
         set and not supported gives the client a `Warning` and the object an Event. `VIAL_WRITE_DOCS=1 cargo test -p vial-orchestrator --lib support` writes this page,\n\
         without the variable the test compares it. Fields below one that is not supported have no effect either, whatever their structure's line says.\n\n\
         | structure | of | supported | not supported |\n|---|---|---|---|\n",
    );
    for (structure, kinds) in kinds_of {
        let fields = &schema().types[structure].fields;
        let list = |wanted: bool| {
            let names = fields.keys().filter(|name| is_supported(structure, name) == wanted);
            let keys = fields.keys().filter(|_| !wanted);
            let idle = keys.flat_map(|name| idle(structure, name).map(move |key| format!("`{name}[{key}]`")));
            names.map(|name| format!("`{name}`")).chain(idle).collect::<Vec<_>>().join(", ")
        };
        let kinds = if kinds.len() == KINDS.len() { "all".into() } else { kinds.join(", ") };
        let _ = writeln!(page, "| {} | {kinds} | {} | {} |", short(structure), list(true), list(false));
    }
    page
}

#[test]
fn the_page_says_what_the_table_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubernetes-support.md");
    if std::env::var_os("VIAL_WRITE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page(),
        "docs/kubernetes-support.md is not what the table says: VIAL_WRITE_DOCS=1 writes it"
    );
}
