use crate::decode::Decoded;
use crate::engine::{DeleteOptions, Engine, Patch, Propagation, Target, World, WriteOptions};
use crate::kinds::Kind;
use crate::object;
use crate::store::{SealKey, Store};
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A clock that is moved by hand, and chance that counts.
struct Toy(Mutex<(i64, u64)>);

impl World for Toy {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_225_600 + self.0.lock().unwrap().0, 0).unwrap()
    }

    fn random(&self) -> [u8; 16] {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        let low = state.1.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        [low, state.1.to_be_bytes()].concat().try_into().unwrap()
    }
}

/// Objects, controllers, and somebody who runs pods.
struct Cluster {
    folder: TempDir,
    world: Arc<Toy>,
    engine: Engine,
}

fn target<'a>(plural: &str, name: &'a str) -> Target<'a> {
    Target { kind: super::kind(plural), namespace: "default", name, subresource: "" }
}

impl Cluster {
    fn new() -> Self {
        // In memory: hundreds of writes, each synced.
        let folder = tempfile::Builder::new().tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let world = Arc::new(Toy(Mutex::new((0, 0))));
        let engine = Self::open(&folder, &world);
        engine.bootstrap().unwrap();
        Self { folder, world, engine }
    }

    fn open(folder: &TempDir, world: &Arc<Toy>) -> Engine {
        let key = SealKey::at(&folder.path().join("key")).unwrap();
        let store = Store::open(&folder.path().join("objects.db"), key).unwrap();
        Engine::new(store, Arc::clone(world) as _)
    }

    /// The daemon ends and another one begins.
    fn restart(&mut self) {
        self.engine = Self::open(&self.folder, &self.world);
    }

    fn pass(&self, seconds: i64) {
        self.world.0.lock().unwrap().0 += seconds;
    }

    fn create(&self, plural: &str, value: Value) {
        let body = Decoded { value, duplicates: Vec::new() };
        self.engine.create(target(plural, ""), body, &WriteOptions::default()).unwrap();
    }

    fn patch(&self, plural: &str, name: &str, patch: Value) {
        self.engine.patch(target(plural, name), &Patch::Merge(patch), &WriteOptions::default()).unwrap();
    }

    fn all(&self, plural: &str) -> Vec<Value> {
        self.engine
            .store()
            .list(super::kind(plural), "default")
            .0
            .iter()
            .map(|stored| stored.object.clone())
            .collect()
    }

    fn get(&self, plural: &str, name: &str) -> Value {
        self.engine.get(target(plural, name)).unwrap().object.clone()
    }

    fn control(&self) -> bool {
        self.engine.control().unwrap().0
    }

    /// One pod goes one step: it is placed, becomes ready, or is let go.
    fn run(&self, pod: &Value, good: bool) {
        let name = object::name(pod);
        if object::is_deleted(pod) {
            let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
            self.engine.delete(target("pods", name), &now).unwrap();
        } else if object::text(pod, &["spec", "nodeName"]).is_empty() {
            self.patch("pods", name, json!({"spec": {"nodeName": "here"}}));
        } else if good {
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": self.engine.now()});
            let patch = Patch::Merge(json!({"status": {"phase": "Running", "conditions": [ready]}}));
            let status = Target { subresource: "status", ..target("pods", name) };
            self.engine.patch(status, &patch, &WriteOptions::default()).unwrap();
        }
    }

    /// Everybody works until nothing happens any more. Pods of `bad` images never become ready.
    fn settle(&self) {
        for _ in 0..200 {
            let before = self.engine.store().version();
            self.control();
            for pod in self.all("pods") {
                self.run(&pod, image(&pod) != "bad");
            }
            if self.engine.store().version() == before {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn available(&self) -> usize {
        self.all("pods")
            .iter()
            .filter(|pod| super::replica_set::is_active(pod) && super::replica_set::is_ready(pod))
            .count()
    }
}

fn image(pod: &Value) -> &str {
    object::list(pod, &["spec", "containers"])
        .first()
        .map_or("", |container| object::text(container, &["image"]))
}

fn web(replicas: u32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn new_image(image: &str) -> Value {
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
        assert!(cluster.all("pods").iter().filter(|pod| super::replica_set::is_active(pod)).count() <= 5);
        if let Some(pod) = cluster
            .all("pods")
            .iter()
            .find(|pod| object::is_deleted(pod) || !super::replica_set::is_ready(pod))
        {
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
    let progress = super::condition(&web, "Progressing").unwrap();
    assert_eq!(
        (&progress["status"], &progress["reason"]),
        (&"False".into(), &"ProgressDeadlineExceeded".into())
    );
    cluster.patch("deployments", "web", new_image("one"));
    cluster.settle();
    assert_eq!(cluster.available(), 4);
    let web = cluster.get("deployments", "web");
    assert_eq!(super::condition(&web, "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
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
        if let Some(pod) = cluster
            .all("pods")
            .iter()
            .find(|pod| object::is_deleted(pod) || !super::replica_set::is_ready(pod))
        {
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
    assert_eq!(cluster.all("pods").iter().filter(|pod| super::replica_set::is_active(pod)).count(), 3);
}

#[test]
fn a_namespace_takes_along_what_is_in_it() {
    let cluster = Cluster::new();
    cluster.create("deployments", web(2, "one"));
    cluster.settle();
    let namespace = Target {
        kind: Kind::by_path("", "v1", "namespaces").unwrap(),
        namespace: "",
        name: "default",
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
        let active: Vec<Value> = cluster.all("pods").into_iter().filter(super::replica_set::is_active).collect();
        prop_assert_eq!(active.len(), wanted);
        prop_assert!(active.iter().all(|pod| image(pod) == image_wanted && super::replica_set::is_ready(pod)));
        prop_assert!(!cluster.control());
    }
}
