//! Bodies of the Kubernetes API: JSON, protobuf, patches.

use serde_json::{Value, json};
use vial_orchestrator::kinds::{KINDS, Kind};
use vial_orchestrator::patch::{self, Writer};
use vial_orchestrator::schema::conform;
use vial_orchestrator::selector::{FieldSelector, LabelSelector};
use vial_orchestrator::{decode, table};

/// A body, as an object of every kind that it claims to be.
pub fn body(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (LabelSelector::parse(text), FieldSelector::parse(text, &["metadata.name", "a"]));
    }
    for decoded in [decode::object(bytes), decode::yaml(bytes)].into_iter().flatten() {
        as_every_kind(&decoded);
    }
}

fn as_every_kind(decoded: &decode::Decoded) {
    for kind in &KINDS {
        let mut value = decoded.value.clone();
        let findings = conform(kind.structure(), &mut value);
        if !findings.wrong.is_empty() || !value.is_object() {
            continue;
        }
        // In shape, it stays in shape.
        let again = conform(kind.structure(), &mut value.clone());
        assert!(again.unknown.is_empty() && again.wrong.is_empty());
        kind.strategy.default(&mut value);
        kind.strategy.validate(&value, &mut Vec::new());
        kind.strategy.prepare_create(&mut value);
        let again = conform(kind.structure(), &mut value.clone());
        assert!(
            again.unknown.is_empty() && again.wrong.is_empty(),
            "{}: defaults are no fields of it: {again:?}",
            kind.kind
        );
        table::table(
            kind,
            &[&value],
            json!({}),
            "v1",
            table::Include::Metadata,
            chrono::DateTime::UNIX_EPOCH,
        );
    }
}

/// Two lines: an object and a patch of it, taken as each kind of patch.
pub fn patches(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(object), Some(change)) = (lines.next(), lines.next()) else { return };
    let (Ok(object), Ok(change)) = (decode::json(object), decode::json(change)) else { return };
    let structure = Kind::by_path("apps", "v1", "deployments").unwrap().structure();
    let _ = patch::json(&mut object.value.clone(), &change.value);
    let _ = patch::merge(&mut object.value.clone(), &change.value);
    let _ = patch::strategic(Some(structure), &mut object.value.clone(), &change.value);
    let writer = |manager| Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" };
    let shaped = |mut value: Value| {
        let findings = conform(structure, &mut value);
        (findings.wrong.is_empty() && value.is_object()).then_some(value)
    };
    let (Some(mut live), Some(config)) = (shaped(object.value), shaped(change.value)) else { return };
    let before = live.clone();
    patch::track_update(structure, None, &mut live, writer("one"));
    if let Ok(applied) = patch::apply(structure, &live, &config, writer("two"), true, |_| {}) {
        // Applied again it changes nothing.
        let again = patch::apply(structure, &applied.0, &config, writer("two"), true, |_| {}).unwrap();
        assert_eq!(again, applied);
    }
    let mut same = live.clone();
    patch::track_update(structure, Some(&live), &mut same, writer("three"));
    assert_eq!(same, live, "who changes nothing owns nothing: {before}");
}
