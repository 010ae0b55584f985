//! Nodes that drive out, and nodes that are not there.

use super::cluster::{Cluster, target};
use crate::controllers::kind;
use crate::decode::Decoded;
use crate::engine::{DeleteOptions, Patch, Target, WriteOptions};
use crate::object;
use serde_json::{Value, json};

const NODE: Target<'_> =
    Target { kind: &crate::kinds::KINDS[3], namespace: "", name: "here", subresource: "" };

fn cluster(pods: &[(&str, Value)]) -> Cluster {
    let cluster = Cluster::new();
    assert_eq!(NODE.kind, kind("nodes"));
    let node = Decoded { value: json!({"metadata": {"name": "here"}}), duplicates: Vec::new() };
    cluster.engine.create(Target { name: "", ..NODE }, node, &WriteOptions::default()).unwrap();
    for (name, tolerations) in pods {
        let spec = json!({"containers": [{"name": "c", "image": "good"}], "tolerations": tolerations});
        cluster.create("pods", json!({"metadata": {"name": name}, "spec": spec}));
    }
    cluster.settle();
    cluster
}

fn taint(cluster: &Cluster, effect: &str) {
    let patch = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    cluster.engine.patch(NODE, &Patch::Merge(patch), &WriteOptions::default()).unwrap();
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.all("pods").iter().map(|pod| object::name(pod).to_owned()).collect()
}

#[test]
fn who_tolerates_a_taint_for_a_while_goes_after_it_and_who_does_not_at_once() {
    let tolerates = |more: Value| {
        let mut one = json!({"key": "k", "operator": "Exists", "effect": "NoExecute"});
        json_patch::merge(&mut one, &more);
        json!([one])
    };
    let cluster = cluster(&[
        ("always", tolerates(json!({}))),
        ("never", json!([])),
        ("while", tolerates(json!({"tolerationSeconds": 60}))),
    ]);
    taint(&cluster, "NoExecute");
    cluster.settle();
    assert_eq!(names(&cluster), ["always", "while"]);
    assert!(cluster.told("never").contains("TaintManagerEviction"));
    let again = cluster.engine.control().unwrap().1.again.unwrap();
    assert_eq!((again - cluster.engine.time()).num_seconds(), 60);
    cluster.pass(59);
    cluster.settle();
    assert_eq!(names(&cluster), ["always", "while"]);
    cluster.pass(1);
    cluster.settle();
    assert_eq!(names(&cluster), ["always"]);
}

#[test]
fn a_taint_that_only_keeps_away_drives_nobody_out() {
    let cluster = cluster(&[("never", json!([]))]);
    taint(&cluster, "NoSchedule");
    cluster.settle();
    assert_eq!(names(&cluster), ["never"]);
}

#[test]
fn a_deleted_pod_waits_for_its_node_and_not_for_one_that_is_not_there() {
    let pod = |name: &str, node: &str| {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "good"}]});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let cluster = cluster(&[]);
    for (name, node) in [("ours", "here"), ("theirs", "elsewhere"), ("declared", "elsewhere")] {
        cluster.create("pods", pod(name, node));
    }
    for name in ["ours", "theirs"] {
        cluster.engine.delete(target("pods", name), &DeleteOptions::default()).unwrap();
    }
    while cluster.control() {}
    assert_eq!(names(&cluster), ["declared", "ours"]);
}
