//! Jobs.

use super::cluster::{Cluster, image, target};
use crate::controllers::{condition, is_active};
use crate::engine::{DeleteOptions, Propagation};
use crate::object;
use serde_json::{Value, json};

/// A job of this image, its specification with `more`.
pub(super) fn job(name: &str, image: &str, more: Value) -> Value {
    let mut job = json!({"metadata": {"name": name}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}}});
    json_patch::merge(&mut job["spec"], &more);
    job
}

fn reasons(cluster: &Cluster, name: &str) -> Vec<(String, String)> {
    let job = cluster.get("jobs", name);
    let conditions = object::list(&job, &["status", "conditions"]).to_vec();
    let texts =
        |one: &Value| (object::text(one, &["type"]).to_owned(), object::text(one, &["reason"]).to_owned());
    conditions.iter().filter(|one| one["status"] == "True").map(texts).collect()
}

fn is_held(pod: &Value) -> bool {
    !object::list(pod, &["metadata", "finalizers"]).is_empty()
}

#[test]
fn a_job_runs_so_many_pods_so_many_at_a_time_and_says_so() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "good", json!({"completions": 5, "parallelism": 2})));
    let mut most = 0;
    for _ in 0..60 {
        cluster.control();
        most = most.max(cluster.all("pods").iter().filter(|pod| is_active(pod)).count());
        cluster.all("pods").iter().for_each(|pod| cluster.run(pod, true));
    }
    assert_eq!(most, 2);
    let status = cluster.get("jobs", "j")["status"].clone();
    assert_eq!(
        (&status["succeeded"], &status["ready"], &status["uncountedTerminatedPods"]),
        (&5.into(), &0.into(), &json!({}))
    );
    assert!(
        status.get("active").is_none()
            && status.get("failed").is_none()
            && status["completionTime"].is_string()
    );
    let met = |kind: &str| (kind.to_owned(), "CompletionsReached".to_owned());
    assert_eq!(reasons(&cluster, "j"), [met("SuccessCriteriaMet"), met("Complete")]);
    let pods = cluster.all("pods");
    assert!(pods.len() == 5 && !pods.iter().any(is_held), "they stay to be read, and nothing holds them");
    assert!(
        pods.iter()
            .all(|pod| object::name(pod).starts_with("j-") && pod["metadata"]["labels"]["job-name"] == "j")
    );
    assert!(cluster.told("j").contains("SuccessfulCreate") && cluster.told("j").contains("Completed"));
    assert!(!cluster.control(), "at rest nothing is written");
}

#[test]
fn a_pod_that_was_deleted_before_any_node_saw_it_is_replaced_by_who_waits_for_its_end() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "good", json!({"podReplacementPolicy": "Failed"})));
    cluster.control();
    let first = cluster.all("pods").remove(0);
    assert_eq!(object::text(&first, &["spec", "nodeName"]), "");
    let options = DeleteOptions { grace_period: Some(30), ..DeleteOptions::default() };
    cluster.engine.delete(target("pods", object::name(&first)), &options).unwrap();
    for _ in 0..9 {
        cluster.control();
        cluster.pass(20);
    }
    let pods = cluster.all("pods");
    assert!(pods.iter().any(|pod| object::uid(pod) != object::uid(&first) && is_active(pod)), "{pods:?}");
}

#[test]
fn failures_are_tried_again_later_and_later_until_there_were_too_many() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "bad", json!({"backoffLimit": 3})));
    let start = cluster.engine.time();
    let mut ends = Vec::new();
    for _ in 0..4 {
        cluster.settle();
        ends.push((cluster.engine.time() - start).num_seconds());
        if let Some(again) = cluster.engine.control().unwrap().1.again {
            cluster.pass((again - cluster.engine.time()).num_seconds());
        }
    }
    cluster.settle();
    assert_eq!(ends, [0, 10, 30, 70]);
    assert_eq!(cluster.get("jobs", "j")["status"]["failed"], 4);
    let limit = |kind: &str| (kind.to_owned(), "BackoffLimitExceeded".to_owned());
    assert_eq!(reasons(&cluster, "j"), [limit("FailureTarget"), limit("Failed")]);
    assert!(cluster.told("j").contains("BackoffLimitExceeded"));
}

#[test]
fn a_job_that_takes_too_long_ends_with_its_pods() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "hang", json!({"activeDeadlineSeconds": 100, "parallelism": 2})));
    cluster.settle();
    assert_eq!(cluster.get("jobs", "j")["status"]["active"], 2);
    cluster.pass(100);
    cluster.settle();
    assert_eq!(reasons(&cluster, "j")[1], ("Failed".into(), "DeadlineExceeded".into()));
    assert_eq!((cluster.all("pods").len(), &cluster.get("jobs", "j")["status"]["failed"]), (0, &2.into()));
}

#[test]
fn what_is_taken_away_because_it_is_too_much_has_not_failed() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "hang", json!({"completions": 9, "parallelism": 4, "backoffLimit": 0})));
    cluster.settle();
    cluster.patch("jobs", "j", json!({"spec": {"parallelism": 1}}));
    cluster.settle();
    assert_eq!(cluster.all("pods").len(), 1);
    cluster.patch("jobs", "j", json!({"spec": {"suspend": true}}));
    cluster.settle();
    let status = cluster.get("jobs", "j")["status"].clone();
    assert!(
        cluster.all("pods").is_empty() && status.get("startTime").is_none() && status.get("failed").is_none()
    );
    assert_eq!(reasons(&cluster, "j"), [("Suspended".to_owned(), "JobSuspended".to_owned())]);
    cluster.patch("jobs", "j", json!({"spec": {"suspend": false}}));
    cluster.settle();
    assert_eq!((cluster.all("pods").len(), reasons(&cluster, "j").len()), (1, 0));
    assert_eq!(condition(&cluster.get("jobs", "j"), "Suspended").unwrap()["reason"], "JobResumed");
}

#[test]
fn each_index_has_a_pod_that_knows_it_and_succeeds_once() {
    let cluster = Cluster::new();
    let indexed = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"});
    cluster.create("jobs", job("j", "good", indexed));
    cluster.control();
    let mut pods = cluster.all("pods");
    let index = |pod: &Value| {
        object::text(pod, &["metadata", "labels", "batch.kubernetes.io/job-completion-index"]).to_owned()
    };
    pods.sort_by_key(|pod| index(pod));
    for (number, pod) in pods.iter().enumerate() {
        assert_eq!(
            (index(pod), object::text(pod, &["spec", "hostname"])),
            (number.to_string(), format!("j-{number}").as_str())
        );
        assert!(object::name(pod).starts_with(&format!("j-{number}-")));
        let variable = &pod["spec"]["containers"][0]["env"][0];
        assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
        let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
        assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], path);
    }
    cluster.end(&pods[0], 0);
    cluster.end(&pods[1], 1);
    cluster.end(&pods[2], 0);
    for _ in 0..5 {
        cluster.control();
    }
    assert_eq!(cluster.get("jobs", "j")["status"]["completedIndexes"], "0,2");
    cluster.wait(5);
    let status = cluster.get("jobs", "j")["status"].clone();
    assert_eq!(
        (&status["completedIndexes"], &status["succeeded"], &status["failed"]),
        (&"0-3".into(), &4.into(), &1.into())
    );
    assert_eq!(cluster.all("pods").iter().filter(|pod| index(pod) == "1").count(), 2);
}

#[test]
fn a_success_counts_even_if_its_pod_is_taken_away_at_once() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "good", json!({"completions": 2, "parallelism": 1})));
    cluster.control();
    let first = cluster.all("pods").remove(0);
    cluster.end(&first, 0);
    let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
    cluster.engine.delete(target("pods", object::name(&first)), &now).unwrap();
    assert_eq!(cluster.all("pods").len(), 1, "it is held until it is counted");
    cluster.wait(5);
    assert_eq!(cluster.get("jobs", "j")["status"]["succeeded"], 2);
    assert_eq!(cluster.all("pods").len(), 1);
}

#[test]
fn a_rule_about_an_exit_code_ends_a_job_or_lets_a_failure_pass() {
    let cluster = Cluster::new();
    let rules = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [43]}}]);
    cluster
        .create("jobs", job("j", "hang", json!({"podFailurePolicy": {"rules": rules}, "backoffLimit": 0})));
    cluster.settle();
    cluster.end(&cluster.all("pods")[0], 43);
    cluster.wait(3);
    let pods: Vec<Value> = cluster.all("pods").into_iter().filter(is_active).collect();
    assert_eq!((pods.len(), cluster.get("jobs", "j")["status"].get("failed")), (1, None));
    cluster.end(&pods[0], 42);
    cluster.settle();
    assert_eq!(reasons(&cluster, "j")[1], ("Failed".into(), "PodFailurePolicy".into()));
    let message = condition(&cluster.get("jobs", "j"), "Failed").unwrap()["message"].to_string();
    assert!(message.contains("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

#[test]
fn a_job_that_is_over_goes_when_its_time_has_come_and_takes_its_pods_along() {
    let cluster = Cluster::new();
    cluster.create("jobs", job("j", "good", json!({"ttlSecondsAfterFinished": 60})));
    cluster.settle();
    cluster.pass(59);
    cluster.settle();
    assert_eq!(cluster.all("jobs").len(), 1);
    cluster.pass(1);
    cluster.settle();
    assert_eq!((cluster.all("jobs").len(), cluster.all("pods").len()), (0, 0));
}

#[test]
fn a_job_that_is_deleted_leaves_nothing_or_what_it_was_told_to() {
    for (propagation, left) in
        [(Propagation::Background, 0), (Propagation::Foreground, 0), (Propagation::Orphan, 2)]
    {
        let cluster = Cluster::new();
        cluster.create("jobs", job("j", "hang", json!({"parallelism": 2})));
        cluster.settle();
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        cluster.engine.delete(target("jobs", "j"), &options).unwrap();
        cluster.settle();
        let pods = cluster.all("pods");
        assert_eq!((cluster.all("jobs").len(), pods.len()), (0, left), "{propagation:?}");
        assert!(!pods.iter().any(is_held) && pods.iter().all(|pod| image(pod) == "hang"));
    }
}

#[test]
fn what_breaks_a_rule_is_told_once_and_holds_nobody_else_up() {
    let cluster = Cluster::new();
    let mut bad = job("bad", "good", json!({}));
    bad["spec"]["template"]["metadata"] = json!({"labels": {"a": "no label!"}});
    cluster.create("jobs", bad);
    cluster.create("jobs", job("later", "good", json!({})));
    cluster.settle();
    assert!(cluster.told("bad").contains("FailedCreate"));
    assert_eq!(reasons(&cluster, "later")[1].0, "Complete");
    assert!(!cluster.control(), "a complaint that is written again and again would never let it rest");
}
