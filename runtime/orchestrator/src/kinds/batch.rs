//! Jobs and CronJobs.

use super::rules::{immutable, in_range, one_of, required};
use super::{Strategy, pod, workload};
use crate::object;
use crate::schedule::{BadSchedule, Schedule};
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseKind};
use serde_json::{Value, json};

/// Longest name of a CronJob: its jobs' names are 11 characters longer, and are label values.
const MAX_CRON_JOB_NAME: usize = 52;

/// Indexes of an Indexed job: its status names those that are done.
const MAX_INDEXES: i64 = 100_000;
/// Rules of a failure policy, and exit codes of a rule (batch's).
const MAX_RULES: usize = 20;
const MAX_CODES: usize = 255;

#[derive(Debug)]
pub(super) struct Job;

fn default_job_spec(job: &mut Value) {
    let spec = object::entry(job, &["spec"]);
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        object::default(spec, &["completions"], 1);
    }
    object::default(spec, &["parallelism"], 1);
    object::default(spec, &["backoffLimit"], 6);
    let replacement = if spec.get("podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    object::default(spec, &["podReplacementPolicy"], replacement);
    object::default(spec, &["completionMode"], "NonIndexed");
    object::default(spec, &["suspend"], false);
    pod::default_template(object::entry(spec, &["template"]));
}

fn validate_job_spec(job: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    for field in ["completions", "parallelism", "backoffLimit", "ttlSecondsAfterFinished"] {
        in_range(causes, job, &["spec", field], &format!("{prefix}.{field}"), 0..=i64::MAX);
    }
    in_range(
        causes,
        job,
        &["spec", "activeDeadlineSeconds"],
        &format!("{prefix}.activeDeadlineSeconds"),
        0..=i64::MAX,
    );
    one_of(
        causes,
        job,
        &["spec", "completionMode"],
        &format!("{prefix}.completionMode"),
        &["NonIndexed", "Indexed"],
    );
    if object::text(job, &["spec", "completionMode"]) == "Indexed" {
        required(causes, job, &["spec", "completions"], &format!("{prefix}.completions"));
        for field in ["completions", "parallelism"] {
            in_range(causes, job, &["spec", field], &format!("{prefix}.{field}"), 0..=MAX_INDEXES);
        }
    }
    one_of(
        causes,
        job,
        &["spec", "podReplacementPolicy"],
        &format!("{prefix}.podReplacementPolicy"),
        &["TerminatingOrFailed", "Failed"],
    );
    validate_failure_policy(job, prefix, causes);
}

/// Rules about exit codes mean nothing where containers are started again (batch's `validatePodFailurePolicy`).
fn validate_failure_policy(job: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    let Some(policy) = object::at(job, &["spec", "podFailurePolicy"]) else { return };
    if object::text(job, &["spec", "template", "spec", "restartPolicy"]) != "Never" {
        let message = "only \"Never\" is supported when podFailurePolicy is specified";
        causes.push(Cause::new(CauseKind::Invalid, format!("{prefix}.template.spec.restartPolicy"), message));
    }
    if object::text(job, &["spec", "podReplacementPolicy"]) == "TerminatingOrFailed" {
        let message = "only \"Failed\" is supported when podFailurePolicy is specified";
        causes.push(Cause::new(CauseKind::Invalid, format!("{prefix}.podReplacementPolicy"), message));
    }
    let rules = object::list(policy, &["rules"]);
    let place = format!("{prefix}.podFailurePolicy.rules");
    if rules.len() > MAX_RULES {
        causes.push(Cause::new(CauseKind::Invalid, &place, format!("must have at most {MAX_RULES} items")));
    }
    for (index, rule) in rules.iter().take(MAX_RULES).enumerate() {
        let place = format!("{place}[{index}]");
        // FailIndex belongs to backoffLimitPerIndex, which is not supported.
        one_of(causes, rule, &["action"], &format!("{place}.action"), &["FailJob", "Ignore", "Count"]);
        let codes = object::at(rule, &["onExitCodes"]);
        let conditions = object::list(rule, &["onPodConditions"]);
        if codes.is_some() != conditions.is_empty() {
            let message = "specifying one of onExitCodes and onPodConditions is required";
            causes.push(Cause::new(CauseKind::Invalid, &place, message));
        }
        let Some(codes) = codes else { continue };
        one_of(causes, codes, &["operator"], &format!("{place}.onExitCodes.operator"), &["In", "NotIn"]);
        let values = object::list(codes, &["values"]);
        let is_zero_in = object::text(codes, &["operator"]) == "In" && values.contains(&0.into());
        if values.is_empty() || values.len() > MAX_CODES || is_zero_in {
            let message = format!("must have 1 to {MAX_CODES} exit codes, and not 0 for the In operator");
            causes.push(Cause::new(CauseKind::Invalid, format!("{place}.onExitCodes.values"), message));
        }
    }
}

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        object::default(object, &["spec"], json!({}));
        default_job_spec(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object::remove(object, &["status"]);
        if object::at(object, &["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
            return;
        }
        // Pods of two jobs of one name, one after the other, must not be taken for each other's.
        let (uid, name) = (object::uid(object).to_owned(), object::name(object).to_owned());
        *object::entry(object, &["spec", "selector"]) =
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        let labels = object::entry(object, &["spec", "template", "metadata", "labels"]);
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            *object::entry(labels, &[key]) = value.clone().into();
        }
    }

    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        if !object::is_label_value(object::name(object)) {
            let message = "a job's name is a label of its pods: it must be no more than 63 characters";
            causes.push(Cause::new(CauseKind::Invalid, "metadata.name", message));
        }
        validate_job_spec(object, "spec", causes);
        let template = object::at(object, &["spec", "template"]).unwrap_or(&Value::Null);
        let policy = object::text(template, &["spec", "restartPolicy"]);
        if policy == "Always" || policy.is_empty() {
            let message = "\"Always\": supported values: \"OnFailure\", \"Never\"";
            causes.push(Cause::new(CauseKind::NotSupported, "spec.template.spec.restartPolicy", message));
        }
        if let Ok(Some(selector)) = LabelSelector::of_spec(&object["spec"]["selector"])
            && !selector.matches(&object::labels(template))
        {
            let message = "`selector` does not match template `labels`";
            causes.push(Cause::new(CauseKind::Invalid, "spec.template.metadata.labels", message));
        }
        workload::validate_template(object, &["OnFailure", "Never", "Always"], causes);
    }

    fn validate_update(&self, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
        immutable(causes, old, new, &["spec", "selector"], "spec.selector");
        immutable(causes, old, new, &["spec", "template"], "spec.template");
        immutable(causes, old, new, &["spec", "completionMode"], "spec.completionMode");
        let is_indexed = object::text(new, &["spec", "completionMode"]) == "Indexed";
        let number = |job: &Value, field: &str| object::number(job, &["spec", field]);
        let completions = number(new, "completions");
        if !is_indexed {
            immutable(causes, old, new, &["spec", "completions"], "spec.completions");
        } else if completions != number(old, "completions") && completions != number(new, "parallelism") {
            // An Indexed one is elastic, as long as all its indexes run at a time (batch's `validateCompletions`).
            let message = "can only be modified in tandem with spec.parallelism";
            causes.push(Cause::new(CauseKind::Invalid, "spec.completions", message));
        }
    }
}

#[derive(Debug)]
pub(super) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        object::default(object, &["spec", "concurrencyPolicy"], "Allow");
        object::default(object, &["spec", "suspend"], false);
        object::default(object, &["spec", "successfulJobsHistoryLimit"], 3);
        object::default(object, &["spec", "failedJobsHistoryLimit"], 1);
        pod::default_template(object::entry(object, &["spec", "jobTemplate", "spec", "template"]));
    }

    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        if object::name(object).len() > MAX_CRON_JOB_NAME {
            let message = format!("must be no more than {MAX_CRON_JOB_NAME} characters");
            causes.push(Cause::new(CauseKind::Invalid, "metadata.name", message));
        }
        required(causes, object, &["spec", "schedule"], "spec.schedule");
        let text = |field: &str| object::text(object, &["spec", field]);
        match Schedule::parse(text("schedule"), text("timeZone")) {
            _ if text("schedule").is_empty() => {}
            Ok(_) => {}
            Err(error @ BadSchedule::Form(_)) => {
                causes.push(Cause::new(CauseKind::Invalid, "spec.schedule", error.to_string()));
            }
            Err(error @ BadSchedule::Zone(_)) => {
                causes.push(Cause::new(CauseKind::Invalid, "spec.timeZone", error.to_string()));
            }
        }
        one_of(
            causes,
            object,
            &["spec", "concurrencyPolicy"],
            "spec.concurrencyPolicy",
            &["Allow", "Forbid", "Replace"],
        );
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            in_range(causes, object, &["spec", field], &format!("spec.{field}"), 0..=i64::MAX);
        }
        let job = object::at(object, &["spec", "jobTemplate"]).unwrap_or(&Value::Null);
        validate_job_spec(job, "spec.jobTemplate.spec", causes);
        let policy = object::text(job, &["spec", "template", "spec", "restartPolicy"]);
        if policy == "Always" {
            let message = "\"Always\": supported values: \"OnFailure\", \"Never\"";
            causes.push(Cause::new(
                CauseKind::NotSupported,
                "spec.jobTemplate.spec.template.spec.restartPolicy",
                message,
            ));
        }
        let template = object::at(job, &["spec", "template"]).unwrap_or(&Value::Null);
        super::pod_rules::validate_spec(template, "spec.jobTemplate.spec.template.spec", causes);
    }
}
