//! Where a pod may be: what makes no sense of it in a specification.

use super::rules::{one_of, required};
use crate::object;
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseKind};
use serde_json::Value;

/// Items of a list that are looked at: what is beyond is no pod but a mistake.
const MAX_ITEMS: usize = 4096;
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// What is wrong with `spec`, which is at `prefix` of the object.
pub(super) fn validate(spec: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    for (index, toleration) in object::list(spec, &["tolerations"]).iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{prefix}.tolerations[{index}]");
        let text = |field| object::text(toleration, &[field]);
        one_of(causes, toleration, &["operator"], &format!("{place}.operator"), &["Equal", "Exists", ""]);
        one_of(
            causes,
            toleration,
            &["effect"],
            &format!("{place}.effect"),
            &["", "NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
        if text("key").is_empty() && text("operator") != "Exists" {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.operator"),
                "must be Exists when `key` is empty",
            ));
        }
        if text("operator") == "Exists" && !text("value").is_empty() {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.value"),
                "must be empty when `operator` is 'Exists'",
            ));
        }
        if toleration.get("tolerationSeconds").is_some() && text("effect") != "NoExecute" {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.effect"),
                "must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
    }
    if let Some(selector) = object::at(spec, &["affinity", "nodeAffinity", REQUIRED]) {
        let place = format!("{prefix}.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        required(causes, selector, &["nodeSelectorTerms"], &place);
        for (at, term) in object::list(selector, &["nodeSelectorTerms"]).iter().take(MAX_ITEMS).enumerate() {
            for list in ["matchExpressions", "matchFields"] {
                for (index, one) in object::list(term, &[list]).iter().take(MAX_ITEMS).enumerate() {
                    validate_node_requirement(one, &format!("{place}[{at}].{list}[{index}]"), causes);
                }
            }
        }
    }
    let spread = object::list(spec, &["topologySpreadConstraints"]);
    for (index, one) in spread.iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{prefix}.topologySpreadConstraints[{index}]");
        if object::number(one, &["maxSkew"]).unwrap_or(0) <= 0 {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.maxSkew"),
                "must be greater than zero",
            ));
        }
        required(causes, one, &["topologyKey"], &format!("{place}.topologyKey"));
        required(causes, one, &["whenUnsatisfiable"], &format!("{place}.whenUnsatisfiable"));
        let ways = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(causes, one, &["whenUnsatisfiable"], &format!("{place}.whenUnsatisfiable"), &ways);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (index, term) in
            object::list(spec, &["affinity", kind, REQUIRED]).iter().take(MAX_ITEMS).enumerate()
        {
            let place = format!("{prefix}.affinity.{kind}.{REQUIRED}[{index}]");
            required(causes, term, &["topologyKey"], &format!("{place}.topologyKey"));
            if let Some(Err(why)) = term.get("labelSelector").map(LabelSelector::of_spec) {
                causes.push(Cause::new(CauseKind::Invalid, format!("{place}.labelSelector"), why));
            }
        }
    }
}

fn validate_node_requirement(one: &Value, place: &str, causes: &mut Vec<Cause>) {
    let values = object::list(one, &["values"]);
    let is_number = |value: &Value| value.as_str().is_some_and(|text| text.parse::<i64>().is_ok());
    let why = match object::text(one, &["operator"]) {
        "In" | "NotIn" if values.is_empty() => "must be specified when `operator` is 'In' or 'NotIn'",
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        }
        "Gt" | "Lt" if values.len() != 1 || !is_number(&values[0]) => {
            "must be one whole number when `operator` is 'Gt' or 'Lt'"
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => return,
        other => {
            let message = format!(
                "{other:?}: supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\", \"Gt\", \"Lt\""
            );
            causes.push(Cause::new(CauseKind::NotSupported, format!("{place}.operator"), message));
            return;
        }
    };
    causes.push(Cause::new(CauseKind::Invalid, format!("{place}.values"), why));
}
