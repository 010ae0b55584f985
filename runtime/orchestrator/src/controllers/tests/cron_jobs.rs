//! CronJobs. The world begins on 1 January 2026 at 00:00 UTC, a Thursday.

use super::cluster::Cluster;
use crate::controllers::kind;
use crate::decode::Decoded;
use crate::engine::{Target, WriteOptions};
use crate::object;
use serde_json::{Value, json};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 1 January 2026 in minutes since 1970.
const START: i64 = 1_767_225_600 / 60;

fn cron(image: &str, more: Value) -> Value {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}});
    let mut cron = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "0 * * * *",
        "jobTemplate": {"metadata": {"labels": {"from": "tick"}}, "spec": {"template": template}}}});
    json_patch::merge(&mut cron["spec"], &more);
    cron
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.all("jobs").iter().map(|job| object::name(job).to_owned()).collect()
}

fn name(hour: i64) -> String {
    format!("tick-{}", START + hour * 60)
}

#[test]
fn a_job_is_made_every_hour_and_the_last_three_are_kept() {
    let cluster = Cluster::new();
    cluster.create("cronjobs", cron("good", json!({})));
    cluster.settle();
    assert!(names(&cluster).is_empty());
    let again = cluster.engine.control().unwrap().1.again.unwrap();
    assert_eq!((again - cluster.engine.time()).num_seconds(), HOUR);
    for _ in 0..5 {
        cluster.pass(HOUR);
        cluster.settle();
    }
    assert_eq!(names(&cluster), [name(3), name(4), name(5)]);
    let first = cluster.get("jobs", &name(3));
    assert_eq!(first["metadata"]["labels"]["from"], "tick");
    assert_eq!(
        first["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-01-01T03:00:00Z"
    );
    let status = cluster.get("cronjobs", "tick")["status"].clone();
    assert_eq!(
        (&status["lastScheduleTime"], &status["lastSuccessfulTime"]),
        (&"2026-01-01T05:00:00Z".into(), &"2026-01-01T05:00:00Z".into())
    );
    assert!(status.get("active").is_none());
    let told = cluster.told("tick");
    assert!(
        told.contains("SuccessfulCreate")
            && told.contains("SawCompletedJob")
            && told.contains("SuccessfulDelete"),
        "{told:?}"
    );
    assert!(!cluster.control());
}

#[test]
fn of_what_was_missed_only_the_last_is_made_up_for_if_it_is_not_too_late() {
    let cluster = Cluster::new();
    cluster.create("cronjobs", cron("good", json!({})));
    cluster.settle();
    cluster.pass(10 * DAY + MINUTE);
    cluster.settle();
    assert_eq!(names(&cluster), [name(240)]);
    assert!(cluster.told("tick").contains("TooManyMissedTimes"));
    cluster.patch("cronjobs", "tick", json!({"spec": {"startingDeadlineSeconds": 30}}));
    cluster.pass(HOUR);
    cluster.settle();
    assert_eq!(names(&cluster).len(), 1, "a minute is too late");
    assert!(cluster.told("tick").contains("MissSchedule"));
    cluster.pass(59 * MINUTE + 20);
    cluster.settle();
    assert_eq!(names(&cluster), [name(240), name(242)]);
}

#[test]
fn a_job_that_still_runs_is_joined_waited_for_or_replaced() {
    for (policy, expected) in
        [("Allow", vec![name(1), name(2)]), ("Forbid", vec![name(1)]), ("Replace", vec![name(2)])]
    {
        let cluster = Cluster::new();
        cluster.create("cronjobs", cron("hang", json!({"concurrencyPolicy": policy})));
        cluster.settle();
        for _ in 0..2 {
            cluster.pass(HOUR);
            cluster.settle();
        }
        assert_eq!(names(&cluster), expected, "{policy}");
        let active = object::list(&cluster.get("cronjobs", "tick"), &["status", "active"]).len();
        assert_eq!(active, expected.len());
        assert_eq!(cluster.told("tick").contains("JobAlreadyActive"), policy == "Forbid");
        if policy == "Forbid" {
            cluster.all("pods").iter().for_each(|pod| cluster.end(pod, 0));
            cluster.settle();
            assert!(names(&cluster).contains(&name(2)), "its turn comes when the other has ended");
        }
    }
}

#[test]
fn a_job_made_of_one_by_hand_is_no_run_of_it() {
    for policy in ["Forbid", "Replace"] {
        let cluster = Cluster::new();
        cluster.create("cronjobs", cron("hang", json!({"concurrencyPolicy": policy})));
        let parent = cluster.get("cronjobs", "tick");
        // As kubectl create job --from writes it.
        let mut job = parent["spec"]["jobTemplate"].clone();
        job["metadata"] = json!({"name": "by-hand", "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick",
                "uid": parent["metadata"]["uid"], "controller": true}]});
        cluster.create("jobs", job);
        cluster.settle();
        assert!(cluster.get("cronjobs", "tick")["status"].get("active").is_none());
        cluster.pass(HOUR);
        cluster.settle();
        assert_eq!(names(&cluster), ["by-hand".to_owned(), name(1)], "{policy}");
    }
}

#[test]
fn a_run_for_which_there_is_no_room_is_made_later() {
    let cluster = Cluster::new();
    cluster
        .create("configmaps", json!({"metadata": {"name": "filler"}, "data": {"k": "x".repeat(900 << 10)}}));
    cluster.create("cronjobs", cron("hang", json!({})));
    cluster.settle();
    let store = cluster.engine.store();
    let held = store.all().values().flatten().map(|stored| object::weight(&stored.object)).sum();
    store.set_room(held);
    cluster.pass(HOUR);
    cluster.settle();
    assert!(names(&cluster).is_empty());
    assert!(cluster.told("tick").contains("FailedCreate"));
    store.set_room(usize::MAX);
    cluster.settle();
    assert_eq!(names(&cluster), [name(1)]);
    assert_eq!(cluster.get("cronjobs", "tick")["status"]["lastScheduleTime"], "2026-01-01T01:00:00Z");
}

#[test]
fn a_suspended_one_makes_nothing_and_failed_ones_are_kept_apart() {
    let cluster = Cluster::new();
    cluster.create(
        "cronjobs",
        cron("bad", json!({"suspend": true, "jobTemplate": {"spec": {"backoffLimit": 0}}})),
    );
    cluster.pass(HOUR);
    cluster.settle();
    assert!(names(&cluster).is_empty());
    cluster.patch("cronjobs", "tick", json!({"spec": {"suspend": false}}));
    for _ in 0..3 {
        cluster.settle();
        cluster.pass(HOUR);
    }
    cluster.settle();
    assert_eq!(names(&cluster), [name(4)], "one that failed is kept");
}

#[test]
fn a_clock_that_jumps_repeats_nothing_and_stops_nothing() {
    let cluster = Cluster::new();
    cluster.create("cronjobs", cron("good", json!({"successfulJobsHistoryLimit": 0})));
    cluster.pass(5 * HOUR);
    cluster.settle();
    let last = |cluster: &Cluster| {
        cluster.get("cronjobs", "tick")["status"]["lastScheduleTime"].as_str().unwrap().to_owned()
    };
    assert_eq!(last(&cluster), "2026-01-01T05:00:00Z");
    cluster.pass(-3 * HOUR);
    cluster.settle();
    cluster.pass(2 * HOUR);
    cluster.settle();
    assert_eq!(last(&cluster), "2026-01-01T05:00:00Z", "at four for the second time");
    // A year ahead for a moment, and back.
    cluster.pass(365 * DAY);
    cluster.settle();
    assert_eq!(last(&cluster), "2027-01-01T04:00:00Z");
    cluster.pass(-365 * DAY + 2 * HOUR);
    cluster.settle();
    cluster.pass(HOUR);
    cluster.settle();
    assert_eq!(last(&cluster), "2026-01-01T07:00:00Z");
}

#[test]
fn a_schedule_or_a_zone_that_there_is_not_is_refused() {
    let cluster = Cluster::new();
    for (more, field) in
        [(json!({"schedule": "often"}), "spec.schedule"), (json!({"timeZone": "Mars/Base"}), "spec.timeZone")]
    {
        let body = Decoded { value: cron("good", more), duplicates: Vec::new() };
        let target = Target {
            kind: kind("cronjobs"),
            namespace: super::cluster::NAMESPACE,
            name: "",
            subresource: "",
        };
        let error = cluster.engine.create(target, body, &WriteOptions::default()).unwrap_err();
        assert_eq!(error.causes.iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>(), [field]);
    }
}
