//! Jobs and CronJobs.

use super::rules::{immutable, in_range, one_of, required};
use super::{Strategy, pod, workload};
use crate::object;
use crate::selector::LabelSelector;
use crate::status::{Cause, CauseKind};
use serde_json::{Value, json};

/// Longest name of a CronJob: its jobs' names are 11 characters longer, and are label values.
const MAX_CRON_JOB_NAME: usize = 52;

#[derive(Debug)]
pub(super) struct Job;

fn default_job_spec(job: &mut Value) {
    let spec = object::entry(job, &["spec"]);
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        object::default(spec, &["completions"], 1);
    }
    object::default(spec, &["parallelism"], 1);
    object::default(spec, &["backoffLimit"], 6);
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
        if !is_indexed {
            immutable(causes, old, new, &["spec", "completions"], "spec.completions");
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
