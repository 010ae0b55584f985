//! Whatever happens in between, it ends as declared.

use super::cluster::{Cluster, image, target};
use super::jobs::job;
use super::workloads::{new_image, web};
use crate::controllers::{is_active, is_over, is_ready};
use crate::engine::{DeleteOptions, Patch, Target, WriteOptions};
use crate::object;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Step {
    Control,
    RunPod(usize),
    FailPod(usize),
    DeletePod(usize),
    Scale(u32),
    Image(u8),
    Restart,
    Pass(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Control),
        6 => (0..8usize).prop_map(Step::RunPod),
        1 => (0..8usize).prop_map(Step::FailPod),
        1 => (0..8usize).prop_map(Step::DeletePod),
        1 => (0..5u32).prop_map(Step::Scale),
        1 => (0..3u8).prop_map(Step::Image),
        1 => Just(Step::Restart),
        1 => (0..700i64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_happens_in_between_it_ends_as_declared(steps in steps()) {
        let mut cluster = Cluster::new();
        cluster.create("deployments", web(2, "i0"));
        for step in steps {
            let pods = cluster.all("pods");
            let pick = |index: usize| (!pods.is_empty()).then(|| pods[index % pods.len()].clone());
            match step {
                Step::Control => drop(cluster.control()),
                Step::RunPod(index) => pick(index).iter().for_each(|pod| cluster.run(pod, true)),
                Step::FailPod(index) => pick(index).iter().for_each(|pod| {
                    let status = Target { subresource: "status", ..target("pods", object::name(pod)) };
                    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
                    cluster.engine.patch(status, &failed, &WriteOptions::default()).unwrap();
                }),
                Step::DeletePod(index) => pick(index).iter().for_each(|pod| {
                    cluster.engine.delete(target("pods", object::name(pod)), &DeleteOptions::default()).unwrap();
                }),
                Step::Scale(replicas) => cluster.patch("deployments", "web", json!({"spec": {"replicas": replicas}})),
                Step::Image(image) => cluster.patch("deployments", "web", new_image(&format!("i{image}"))),
                Step::Restart => cluster.restart(),
                Step::Pass(seconds) => cluster.pass(seconds),
            }
        }
        cluster.settle();
        let web = cluster.get("deployments", "web");
        let (wanted, image_wanted) = (object::number(&web, &["spec", "replicas"]).unwrap() as usize, image(&web["spec"]["template"]).to_owned());
        let active: Vec<Value> = cluster.all("pods").into_iter().filter(is_active).collect();
        prop_assert_eq!(active.len(), wanted);
        prop_assert!(active.iter().all(|pod| image(pod) == image_wanted && is_ready(pod)));
        prop_assert!(!cluster.control());
    }
}

#[derive(Debug, Clone)]
enum Turn {
    Control,
    Run(usize, bool),
    DeletePod(usize, bool),
    Parallelism(u32),
    Suspend(bool),
    Restart,
    Pass(i64),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        6 => Just(Turn::Control),
        6 => (0..8usize, prop::bool::weighted(0.8)).prop_map(|(index, good)| Turn::Run(index, good)),
        1 => (0..8usize, any::<bool>()).prop_map(|(index, at_once)| Turn::DeletePod(index, at_once)),
        1 => (0..4u32).prop_map(Turn::Parallelism),
        1 => any::<bool>().prop_map(Turn::Suspend),
        1 => Just(Turn::Restart),
        1 => (0..200i64).prop_map(Turn::Pass),
    ];
    proptest::collection::vec(turn, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Every success is counted once, so no more pods succeed than were asked for, whatever is lost in between.
    #[test]
    fn a_job_ends_with_each_success_counted_once(turns in turns(), is_indexed in any::<bool>()) {
        let mut cluster = Cluster::new();
        let mode = if is_indexed { "Indexed" } else { "NonIndexed" };
        let spec = json!({"completions": 5, "parallelism": 2, "backoffLimit": 1000, "completionMode": mode});
        cluster.create("jobs", job("j", "good", spec));
        let mut succeeded = BTreeSet::new();
        let mut see = |cluster: &Cluster| {
            let pods = cluster.all("pods");
            let good = pods.iter().filter(|pod| pod["status"]["phase"] == "Succeeded");
            succeeded.extend(good.map(|pod| object::uid(pod).to_owned()));
        };
        for turn in turns {
            let pods: Vec<Value> = cluster.all("pods").into_iter().filter(|pod| !is_over(pod)).collect();
            let pick = |index: usize| (!pods.is_empty()).then(|| pods[index % pods.len()].clone());
            match turn {
                Turn::Control => drop(cluster.control()),
                Turn::Run(index, good) => pick(index).iter().for_each(|pod| cluster.run(pod, good)),
                Turn::DeletePod(index, at_once) => pick(index).iter().for_each(|pod| {
                    let grace_period = at_once.then_some(0);
                    let options = DeleteOptions { grace_period, ..DeleteOptions::default() };
                    cluster.engine.delete(target("pods", object::name(pod)), &options).unwrap();
                }),
                Turn::Parallelism(parallelism) => cluster.patch("jobs", "j", json!({"spec": {"parallelism": parallelism}})),
                Turn::Suspend(suspend) => cluster.patch("jobs", "j", json!({"spec": {"suspend": suspend}})),
                Turn::Restart => cluster.restart(),
                Turn::Pass(seconds) => cluster.pass(seconds),
            }
            see(&cluster);
        }
        cluster.patch("jobs", "j", json!({"spec": {"parallelism": 2, "suspend": false}}));
        for _ in 0..30 {
            cluster.settle();
            see(&cluster);
            cluster.pass(360);
        }
        cluster.settle();
        see(&cluster);
        let status = cluster.get("jobs", "j")["status"].clone();
        prop_assert_eq!(&status["succeeded"], &json!(5), "{}", status);
        prop_assert!(object::text(&status, &["completionTime"]).starts_with("20"));
        prop_assert_eq!(succeeded.len(), 5, "one ran twice");
        prop_assert!(!cluster.control());
        let held = cluster.all("pods").iter().filter(|pod| !object::list(pod, &["metadata", "finalizers"]).is_empty()).count();
        prop_assert_eq!(held, 0);
    }
}
