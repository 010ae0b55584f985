//! Deployments and ReplicaSets: a template and how many of it.

use super::rules::{immutable, in_range, one_of};
use super::{Strategy, pod, pod_rules};
use crate::object;
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseKind};
use serde_json::{Value, json};

/// The selector must be there, be one, and mean the template's own pods.
pub(super) fn validate_selector(object: &Value, causes: &mut Vec<Cause>) {
    let invalid = |message: String| Cause::new(CauseKind::Invalid, "spec.selector", message);
    match LabelSelector::of_spec(object::at(object, &["spec", "selector"]).unwrap_or(&Value::Null)) {
        Err(why) => causes.push(invalid(why)),
        Ok(None) => causes.push(Cause::new(CauseKind::Required, "spec.selector", "")),
        Ok(Some(selector)) if selector.is_empty() => {
            causes.push(invalid("empty selector is invalid: it would mean every pod".into()));
        }
        Ok(Some(selector)) => {
            let template = object::at(object, &["spec", "template"]).unwrap_or(&Value::Null);
            if !selector.matches(&object::labels(template)) {
                let message = "`selector` does not match template `labels`";
                causes.push(Cause::new(CauseKind::Invalid, "spec.template.metadata.labels", message));
            }
        }
    }
}

pub(super) fn validate_template(object: &Value, policies: &[&str], causes: &mut Vec<Cause>) {
    let template = object::at(object, &["spec", "template"]).unwrap_or(&Value::Null);
    if object::at(template, &["metadata", "annotations", pod::SHOWS]).is_some() {
        let field = format!("spec.template.metadata.annotations[{}]", pod::SHOWS);
        causes.push(Cause::new(CauseKind::Forbidden, field, "is written by the server only"));
    }
    pod_rules::validate_spec(template, "spec.template.spec", causes);
    one_of(causes, template, &["spec", "restartPolicy"], "spec.template.spec.restartPolicy", policies);
}

#[derive(Debug)]
pub(super) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        object::default(object, &["spec", "replicas"], 1);
        object::default(object, &["spec", "revisionHistoryLimit"], 10);
        object::default(object, &["spec", "progressDeadlineSeconds"], 600);
        object::default(object, &["spec", "strategy", "type"], "RollingUpdate");
        if object::text(object, &["spec", "strategy", "type"]) == "RollingUpdate" {
            object::default(object, &["spec", "strategy", "rollingUpdate", "maxSurge"], "25%");
            object::default(object, &["spec", "strategy", "rollingUpdate", "maxUnavailable"], "25%");
        }
        pod::default_template(object::entry(object, &["spec", "template"]));
    }

    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        in_range(causes, object, &["spec", "replicas"], "spec.replicas", 0..=i64::MAX);
        in_range(causes, object, &["spec", "minReadySeconds"], "spec.minReadySeconds", 0..=i64::MAX);
        in_range(
            causes,
            object,
            &["spec", "revisionHistoryLimit"],
            "spec.revisionHistoryLimit",
            0..=i64::MAX,
        );
        in_range(
            causes,
            object,
            &["spec", "progressDeadlineSeconds"],
            "spec.progressDeadlineSeconds",
            1..=i64::MAX,
        );
        one_of(
            causes,
            object,
            &["spec", "strategy", "type"],
            "spec.strategy.type",
            &["RollingUpdate", "Recreate"],
        );
        let rolling = object::at(object, &["spec", "strategy", "rollingUpdate"]);
        if object::text(object, &["spec", "strategy", "type"]) == "Recreate" && rolling.is_some() {
            let message = "may not be specified when strategy `type` is 'Recreate'";
            causes.push(Cause::new(CauseKind::Forbidden, "spec.strategy.rollingUpdate", message));
        }
        for field in ["maxSurge", "maxUnavailable"] {
            let value = rolling.map_or(&Value::Null, |rolling| &rolling[field]);
            if !value.is_null() && scaled(value, 100, true).is_none() {
                let message =
                    format!("{value}: must be a whole number of pods or a percentage such as \"25%\"");
                causes.push(Cause::new(
                    CauseKind::Invalid,
                    format!("spec.strategy.rollingUpdate.{field}"),
                    message,
                ));
            }
        }
        let is_zero =
            |field: &str| rolling.is_some_and(|rolling| scaled(&rolling[field], 100, true) == Some(0));
        if is_zero("maxSurge") && is_zero("maxUnavailable") {
            causes.push(Cause::new(
                CauseKind::Invalid,
                "spec.strategy.rollingUpdate.maxUnavailable",
                "may not be 0 when `maxSurge` is 0",
            ));
        }
        validate_selector(object, causes);
        validate_template(object, &["Always"], causes);
    }

    fn validate_update(&self, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
        immutable(causes, old, new, &["spec", "selector"], "spec.selector");
    }
}

#[derive(Debug)]
pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        object::default(object, &["spec", "replicas"], 1);
        pod::default_template(object::entry(object, &["spec", "template"]));
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"replicas": 0});
    }

    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        in_range(causes, object, &["spec", "replicas"], "spec.replicas", 0..=i64::MAX);
        in_range(causes, object, &["spec", "minReadySeconds"], "spec.minReadySeconds", 0..=i64::MAX);
        validate_selector(object, causes);
        validate_template(object, &["Always"], causes);
    }

    fn validate_update(&self, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
        immutable(causes, old, new, &["spec", "selector"], "spec.selector");
    }
}

/// A number of pods, or a percentage of `total`, rounded up or down.
pub fn scaled(value: &Value, total: i64, up: bool) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().filter(|number| *number >= 0),
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent.checked_mul(total).filter(|product| *product >= 0)?;
            Some(if up { (product + 99) / 100 } else { product / 100 })
        }
        _ => None,
    }
}
