//! Deployments, ReplicaSets, namespaces, garbage.

use super::cluster::{Cluster, NAMESPACE, image, target};
use crate::controllers::{condition, is_active, is_ready, kind};
use crate::decode::Decoded;
use crate::engine::{DeleteOptions, Patch, Propagation, Target, WriteOptions};
use crate::kinds::Kind;
use crate::object;
use serde_json::{Value, json};

pub(super) fn web(replicas: u32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

pub(super) fn new_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

#[test]
fn a_deployment_makes_its_pods_and_says_so() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(3, "one"));
    cluster.settle();
    let pods = cluster.all("pods");
    assert_eq!(pods.len(), 3);
    let set = &cluster.all("replicasets")[0];
    assert!(object::name(set).starts_with("web-") && object::name(&pods[0]).starts_with(object::name(set)));
    assert_eq!(
        set["metadata"]["labels"]["pod-template-hash"],
        pods[0]["metadata"]["labels"]["pod-template-hash"]
    );
    let web = cluster.get("deployments", "web");
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let status = &web["status"];
    assert_eq!(
        (&status["availableReplicas"], &status["updatedReplicas"], &status["observedGeneration"]),
        (&3.into(), &3.into(), &1.into())
    );
    let reasons: Vec<&str> =
        object::list(status, &["conditions"]).iter().map(|one| object::text(one, &["reason"])).collect();
    assert_eq!(reasons, ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
    assert!(!cluster.control(), "at rest nothing is written");
}

#[test]
fn an_update_rolls_with_enough_pods_all_the_time_and_an_undo_takes_the_old_set() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(4, "one"));
    cluster.settle();
    cluster.patch("deployments", "web", new_image("two"));
    for _ in 0..100 {
        cluster.control();
        // 25 % of 4 up and down.
        assert!(cluster.available() >= 3, "{}", cluster.available());
        assert!(cluster.all("pods").iter().filter(|pod| is_active(pod)).count() <= 5);
        if let Some(pod) = cluster.all("pods").iter().find(|pod| object::is_deleted(pod) || !is_ready(pod)) {
            cluster.run(pod, true);
        }
    }
    cluster.settle();
    assert!(cluster.all("pods").iter().all(|pod| image(pod) == "two"));
    cluster.patch("deployments", "web", new_image("one"));
    cluster.settle();
    let sets = cluster.all("replicasets");
    assert_eq!(sets.len(), 2, "the set of the first template is used again");
    assert_eq!(
        cluster.get("deployments", "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "3"
    );
    assert!(
        sets.iter()
            .any(|set| set["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1")
    );
}

#[test]
fn what_is_noted_on_a_deployment_is_there_after_an_undo() {
    let cluster = Cluster::new();
    let mut first = web(1, "one");
    let applied = "kubectl.kubernetes.io/last-applied-configuration";
    first["metadata"]["annotations"] = json!({"owner": "me", applied: "{}"});
    cluster.create("deployments", first);
    cluster.settle();
    cluster.patch("deployments", "web", json!({"metadata": {"annotations": {"team": "x"}}}));
    cluster.settle();
    cluster.patch("deployments", "web", new_image("two"));
    cluster.patch("deployments", "web", json!({"metadata": {"annotations": {"team": "y"}}}));
    cluster.settle();
    let of = |image: &str| {
        let sets = cluster.all("replicasets");
        let is_of = |set: &&Value| set["spec"]["template"]["spec"]["containers"][0]["image"] == image;
        sets.iter().find(is_of).unwrap()["metadata"]["annotations"].clone()
    };
    let revision = "deployment.kubernetes.io/revision";
    assert_eq!(of("one"), json!({"owner": "me", "team": "x", revision: "1"}));
    assert_eq!(of("two"), json!({"owner": "me", "team": "y", revision: "2"}));
    assert!(!cluster.control(), "at rest nothing is written");
}

#[test]
fn each_step_of_a_rollout_is_told() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(2, "one"));
    cluster.settle();
    let set = object::name(&cluster.all("replicasets")[0]).to_owned();
    cluster.patch("deployments", "web", json!({"spec": {"replicas": 3}}));
    cluster.settle();
    cluster.patch("deployments", "web", json!({"spec": {"replicas": 1}}));
    cluster.settle();
    let messages = |about: &str, reason: &str| {
        let events = cluster.all("events").into_iter();
        let is_it = |event: &Value| event["involvedObject"]["name"] == about && event["reason"] == reason;
        let told = events.filter(is_it).map(|event| {
            assert!(event["count"] == 1 && event["type"] == "Normal", "{event}");
            object::text(&event, &["message"]).to_owned()
        });
        told.collect::<std::collections::BTreeSet<_>>()
    };
    let expected = [("down", 3, 1), ("up", 0, 2), ("up", 2, 3)];
    let expected =
        expected.map(|(way, from, to)| format!("Scaled {way} replica set {set} from {from} to {to}"));
    assert_eq!(messages("web", "ScalingReplicaSet"), expected.into());
    assert_eq!(messages(&set, "SuccessfulCreate").len(), 3);
    let deleted = messages(&set, "SuccessfulDelete");
    assert!(
        deleted.len() == 2 && deleted.iter().all(|one| one.starts_with("Deleted pod: web-")),
        "{deleted:?}"
    );
}

#[test]
fn a_bad_image_stops_the_rollout_says_so_after_the_deadline_and_the_old_pods_stay() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(4, "one"));
    cluster.settle();
    cluster.patch("deployments", "web", new_image("bad"));
    cluster.settle();
    assert_eq!(cluster.available(), 3);
    cluster.pass(601);
    cluster.settle();
    let web = cluster.get("deployments", "web");
    let progress = condition(&web, "Progressing").unwrap();
    assert_eq!(
        (&progress["status"], &progress["reason"]),
        (&"False".into(), &"ProgressDeadlineExceeded".into())
    );
    cluster.patch("deployments", "web", new_image("one"));
    cluster.settle();
    assert_eq!(cluster.available(), 4);
    let web = cluster.get("deployments", "web");
    assert_eq!(condition(&web, "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
}

#[test]
fn recreate_never_has_pods_of_two_templates() {
    let cluster = Cluster::new();
    let mut value = web(2, "one");
    value["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create("deployments", value);
    cluster.settle();
    cluster.patch("deployments", "web", new_image("two"));
    for _ in 0..40 {
        cluster.control();
        let images: std::collections::BTreeSet<String> =
            cluster.all("pods").iter().map(|pod| image(pod).to_owned()).collect();
        assert!(images.len() <= 1, "{images:?}");
        if let Some(pod) = cluster.all("pods").iter().find(|pod| object::is_deleted(pod) || !is_ready(pod)) {
            cluster.run(pod, true);
        }
    }
    assert!(cluster.available() == 2 && cluster.all("pods").iter().all(|pod| image(pod) == "two"));
}

#[test]
fn a_paused_deployment_rolls_nowhere_and_still_scales() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(2, "one"));
    cluster.settle();
    cluster.patch("deployments", "web", json!({"spec": {"paused": true}}));
    cluster.patch("deployments", "web", new_image("two"));
    cluster.patch("deployments", "web", json!({"spec": {"replicas": 3}}));
    cluster.settle();
    let pods = cluster.all("pods");
    assert!(pods.len() == 3 && pods.iter().all(|pod| image(pod) == "one"));
    cluster.patch("deployments", "web", json!({"spec": {"paused": null}}));
    cluster.settle();
    assert!(cluster.all("pods").iter().all(|pod| image(pod) == "two"));
}

#[test]
fn old_sets_beyond_the_limit_are_forgotten() {
    let cluster = Cluster::new();
    let mut value = web(1, "i0");
    value["spec"]["revisionHistoryLimit"] = 2.into();
    cluster.create("deployments", value);
    for round in 1..6 {
        cluster.settle();
        cluster.patch("deployments", "web", new_image(&format!("i{round}")));
    }
    cluster.settle();
    assert_eq!(cluster.all("replicasets").len(), 3);
}

#[test]
fn what_was_owned_goes_stays_or_is_waited_for_as_asked() {
    for (propagation, stays) in
        [(Propagation::Background, false), (Propagation::Foreground, false), (Propagation::Orphan, true)]
    {
        let cluster = Cluster::new();
        cluster.create("deployments", web(2, "one"));
        cluster.settle();
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        cluster.engine.delete(target("deployments", "web"), &options).unwrap();
        let is_there = cluster.engine.get(target("deployments", "web")).is_ok();
        assert_eq!(is_there, propagation != Propagation::Background);
        cluster.settle();
        assert!(cluster.engine.get(target("deployments", "web")).is_err());
        assert_eq!(
            (cluster.all("replicasets").len(), cluster.all("pods").len()),
            if stays { (1, 2) } else { (0, 0) },
            "{propagation:?}"
        );
    }
}

#[test]
fn pods_are_adopted_released_and_replaced() {
    let cluster = Cluster::new();
    let pod = json!({"metadata": {"name": "mine", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}});
    cluster.create("pods", pod);
    let mut set = web(2, "one");
    set["spec"].as_object_mut().unwrap().remove("strategy");
    cluster.create("replicasets", set);
    cluster.settle();
    assert_eq!(cluster.all("pods").len(), 2);
    assert_eq!(cluster.get("pods", "mine")["metadata"]["ownerReferences"][0]["name"], "web");
    cluster.patch("pods", "mine", json!({"metadata": {"labels": {"app": "other"}}}));
    cluster.settle();
    assert_eq!(cluster.all("pods").len(), 3);
    assert_eq!(object::list(&cluster.get("pods", "mine"), &["metadata", "ownerReferences"]).len(), 0);
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    let name = cluster
        .all("pods")
        .iter()
        .map(|pod| object::name(pod).to_owned())
        .find(|name| name != "mine")
        .unwrap();
    let status = Target { subresource: "status", ..target("pods", &name) };
    cluster.engine.patch(status, &failed, &WriteOptions::default()).unwrap();
    cluster.control();
    assert_eq!(cluster.all("pods").iter().filter(|pod| is_active(pod)).count(), 3);
}

#[test]
fn a_namespace_takes_along_what_is_in_it() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(2, "one"));
    cluster.settle();
    let namespace = Target {
        kind: Kind::by_path("", "v1", "namespaces").unwrap(),
        namespace: "",
        name: NAMESPACE,
        subresource: "",
    };
    cluster.engine.delete(namespace, &DeleteOptions::default()).unwrap();
    cluster.settle();
    assert!(cluster.engine.get(namespace).is_err());
    assert_eq!(
        (cluster.all("pods").len(), cluster.all("deployments").len(), cluster.all("serviceaccounts").len()),
        (0, 0, 0)
    );
}

#[test]
fn a_namespace_is_not_let_go_by_a_plain_write_and_what_is_in_none_goes() {
    let cluster = Cluster::new();
    cluster.create(
        "pods",
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "one"}]}}),
    );
    cluster.settle();
    let namespace = Target { kind: kind("namespaces"), namespace: "", name: NAMESPACE, subresource: "" };
    let finalize = Target { subresource: "finalize", ..namespace };
    let body = |value: Value| Decoded { value, duplicates: Vec::new() };
    let plain = json!({"metadata": {"name": NAMESPACE}});
    let options = WriteOptions::default();
    cluster.engine.update(namespace, body(plain.clone()), &options).unwrap();
    let none = Patch::Merge(json!({"spec": {"finalizers": null}}));
    cluster.engine.patch(namespace, &none, &options).unwrap();
    let get = || cluster.engine.get(namespace).unwrap().object.clone();
    assert_eq!(get()["spec"]["finalizers"], json!(["kubernetes"]));
    for wrong in
        [json!(3), json!([]), json!({"metadata": {"name": "other"}}), json!({"metadata": {"uid": "u"}})]
    {
        assert!(cluster.engine.update(finalize, body(wrong.clone()), &options).is_err(), "{wrong}");
    }
    // Somebody lets it go by force: what is in it does not stay.
    cluster.engine.update(finalize, body(plain), &options).unwrap();
    cluster.engine.delete(namespace, &DeleteOptions::default()).unwrap();
    assert!(cluster.engine.get(namespace).is_err() && !cluster.all("pods").is_empty());
    cluster.settle();
    assert!(cluster.all("pods").is_empty() && cluster.all("serviceaccounts").is_empty());
}

#[test]
fn who_owns_each_other_does_not_wait_for_each_other() {
    let cluster = Cluster::new();
    for name in ["a", "b", "itself"] {
        cluster.create("configmaps", json!({"metadata": {"name": name}}));
    }
    for (owned, by) in [("a", "b"), ("b", "a"), ("itself", "itself")] {
        let uid = cluster.get("configmaps", by)["metadata"]["uid"].clone();
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": by, "uid": uid, "blockOwnerDeletion": true});
        cluster.patch("configmaps", owned, json!({"metadata": {"ownerReferences": [owner]}}));
    }
    let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
    for name in ["a", "itself"] {
        cluster.engine.delete(target("configmaps", name), &foreground).unwrap();
    }
    cluster.settle();
    assert!(cluster.all("configmaps").is_empty());
}

#[test]
fn pods_that_are_ready_stay_available_when_the_clock_is_set_back() {
    let cluster = Cluster::new();
    cluster.pass(100_000);
    let mut value = web(2, "one");
    value["spec"]["minReadySeconds"] = 10.into();
    cluster.create("deployments", value);
    cluster.settle();
    let available = || cluster.get("deployments", "web")["status"].get("availableReplicas").cloned();
    assert_eq!(available(), None);
    cluster.pass(10);
    cluster.settle();
    assert_eq!(available(), Some(2.into()));
    cluster.pass(-50_000);
    cluster.settle();
    assert_eq!(available(), Some(2.into()));
}

#[test]
fn a_pause_in_the_middle_of_a_rollout_keeps_both_sets_as_they_are() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(8, "one"));
    cluster.settle();
    cluster.patch("deployments", "web", new_image("bad"));
    cluster.settle();
    let sizes = || {
        let sets = cluster.all("replicasets");
        sets.iter().map(|set| object::number(set, &["spec", "replicas"]).unwrap()).collect::<Vec<_>>()
    };
    let before = sizes();
    assert_eq!(before.iter().sum::<i64>(), 10, "25 % more than eight");
    cluster.patch("deployments", "web", json!({"spec": {"paused": true}}));
    cluster.settle();
    assert_eq!(sizes(), before);
    cluster.patch("deployments", "web", json!({"spec": {"replicas": 2}}));
    cluster.settle();
    assert_eq!(sizes().iter().sum::<i64>(), 3, "and is followed when the whole becomes another");
}

#[test]
fn a_deployment_takes_the_set_that_an_earlier_one_left() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(1, "one"));
    cluster.settle();
    let orphans = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
    cluster.engine.delete(target("deployments", "web"), &orphans).unwrap();
    cluster.settle();
    assert_eq!(cluster.all("replicasets").len(), 1);
    cluster.create("deployments", web(3, "one"));
    cluster.settle();
    assert_eq!((cluster.all("replicasets").len(), cluster.all("pods").len()), (1, 3));
    assert_eq!(cluster.get("deployments", "web")["status"]["availableReplicas"], 3);
}

#[test]
fn a_name_that_somebody_else_has_is_not_waited_for() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(1, "one"));
    cluster.settle();
    let name = object::name(&cluster.all("replicasets")[0]).to_owned();
    let now = DeleteOptions::default();
    cluster.engine.delete(target("deployments", "web"), &now).unwrap();
    cluster.settle();
    let mut other = web(0, "other");
    other["metadata"]["name"] = name.as_str().into();
    for labels in [&["spec", "selector", "matchLabels"][..], &["spec", "template", "metadata", "labels"]] {
        *object::entry(&mut other, labels) = json!({"app": "other"});
    }
    cluster.create("replicasets", other);
    cluster.create("deployments", web(2, "one"));
    cluster.settle();
    assert_eq!(cluster.get("deployments", "web")["status"]["availableReplicas"], 2);
}

#[test]
fn what_has_another_owner_outlives_one_that_goes_in_the_foreground() {
    let cluster = Cluster::new();
    let map = |name: &str| json!({"metadata": {"name": name}});
    let owner = |name: &str| {
        let made = cluster.get("configmaps", name);
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": object::uid(&made), "blockOwnerDeletion": true})
    };
    cluster.create("configmaps", map("one"));
    cluster.create("configmaps", map("two"));
    let mut shared = map("shared");
    shared["metadata"]["ownerReferences"] = json!([owner("one"), owner("two")]);
    cluster.create("configmaps", shared);
    let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
    cluster.engine.delete(target("configmaps", "one"), &foreground).unwrap();
    cluster.settle();
    let shared = cluster.get("configmaps", "shared");
    assert_eq!(object::list(&shared, &["metadata", "ownerReferences"]).len(), 1);
    assert!(cluster.all("configmaps").iter().all(|map| object::name(map) != "one"));
    cluster.engine.delete(target("configmaps", "two"), &foreground).unwrap();
    cluster.settle();
    assert!(cluster.all("configmaps").is_empty());
}
