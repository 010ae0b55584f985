//! A small world for controllers: a clock that is moved by hand, and a kubelet that takes one step when it is told.

use crate::controllers::{is_active, is_over, is_ready, kind};
use crate::decode::Decoded;
use crate::engine::{DeleteOptions, Engine, Patch, Target, World, WriteOptions};
use crate::object;
use crate::store::{SealKey, Store};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A clock that is moved by hand, and chance that counts.
pub(super) struct Toy(Mutex<(i64, u64)>);

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

/// Where everything is; unlike `default` it can be deleted.
pub(super) const NAMESPACE: &str = "test";

/// Objects, controllers, and somebody who runs pods.
pub(super) struct Cluster {
    folder: TempDir,
    world: Arc<Toy>,
    pub(super) engine: Engine,
}

pub(super) fn target<'a>(plural: &str, name: &'a str) -> Target<'a> {
    Target { kind: kind(plural), namespace: NAMESPACE, name, subresource: "" }
}

impl Cluster {
    pub(super) fn new() -> Self {
        // In memory: hundreds of writes, each synced.
        let folder = tempfile::Builder::new().tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let world = Arc::new(Toy(Mutex::new((0, 0))));
        let engine = Self::open(&folder, &world);
        engine.bootstrap().unwrap();
        let namespace = Decoded { value: json!({"metadata": {"name": NAMESPACE}}), duplicates: Vec::new() };
        let place = Target { kind: kind("namespaces"), namespace: "", name: "", subresource: "" };
        engine.create(place, namespace, &WriteOptions::default()).unwrap();
        Self { folder, world, engine }
    }

    pub(super) fn open(folder: &TempDir, world: &Arc<Toy>) -> Engine {
        let key = SealKey::at(&folder.path().join("key")).unwrap();
        let store = Store::open(&folder.path().join("objects.db"), key).unwrap();
        Engine::new(store, Arc::clone(world) as _)
    }

    /// The daemon ends and another one begins.
    pub(super) fn restart(&mut self) {
        self.engine = Self::open(&self.folder, &self.world);
    }

    pub(super) fn pass(&self, seconds: i64) {
        self.world.0.lock().unwrap().0 += seconds;
    }

    pub(super) fn create(&self, plural: &str, value: Value) {
        let body = Decoded { value, duplicates: Vec::new() };
        self.engine.create(target(plural, ""), body, &WriteOptions::default()).unwrap();
    }

    pub(super) fn patch(&self, plural: &str, name: &str, patch: Value) {
        self.engine.patch(target(plural, name), &Patch::Merge(patch), &WriteOptions::default()).unwrap();
    }

    pub(super) fn all(&self, plural: &str) -> Vec<Value> {
        self.engine
            .store()
            .list(kind(plural), NAMESPACE)
            .0
            .iter()
            .map(|stored| stored.object.clone())
            .collect()
    }

    pub(super) fn get(&self, plural: &str, name: &str) -> Value {
        self.engine.get(target(plural, name)).unwrap().object.clone()
    }

    pub(super) fn control(&self) -> bool {
        self.engine.control().unwrap().0
    }

    fn status(&self, pod: &Value, status: Value) {
        let place = Target { subresource: "status", ..target("pods", object::name(pod)) };
        let patch = Patch::Merge(json!({"status": status}));
        self.engine.patch(place, &patch, &WriteOptions::default()).unwrap();
    }

    /// A pod ends like this.
    pub(super) fn end(&self, pod: &Value, code: i64) {
        let name = object::text(pod, &["spec", "containers"]);
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let state = json!({"terminated": {"exitCode": code, "finishedAt": self.engine.now()}});
        let container = json!({"name": if name.is_empty() { "c" } else { name }, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        self.status(pod, json!({"phase": phase, "conditions": null, "containerStatuses": [container]}));
    }

    /// One pod goes one step: it is placed, becomes ready, ends, or is let go. Images of jobs: `bad` fails, `hang` goes on.
    pub(super) fn run(&self, pod: &Value, good: bool) {
        let name = object::name(pod);
        let ends = object::text(pod, &["spec", "restartPolicy"]) != "Always";
        if object::is_deleted(pod) {
            if !is_over(pod) {
                self.status(pod, json!({"phase": "Failed"}));
            }
            let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
            self.engine.delete(target("pods", name), &now).unwrap();
        } else if is_over(pod) {
        } else if object::text(pod, &["spec", "nodeName"]).is_empty() {
            self.patch("pods", name, json!({"spec": {"nodeName": "here"}}));
        } else if object::text(pod, &["status", "phase"]) != "Running" || !is_ready(pod) {
            if good || ends {
                let ready =
                    json!({"type": "Ready", "status": "True", "lastTransitionTime": self.engine.now()});
                self.status(pod, json!({"phase": "Running", "conditions": [ready]}));
            }
        } else if ends && image(pod) != "hang" {
            self.end(pod, i64::from(!good));
        }
    }

    /// Everybody works until nothing happens any more. Pods of `bad` images never become ready.
    pub(super) fn settle(&self) {
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

    /// Time goes on to whenever a controller wants to look again, so often, or until none wants to.
    pub(super) fn wait(&self, times: usize) {
        for _ in 0..times {
            self.settle();
            let Some(at) = self.engine.control().unwrap().1.again else { return };
            self.pass((at - self.engine.time()).num_seconds().max(1));
        }
        self.settle();
    }

    /// Reasons of the events about an object of this name.
    pub(super) fn told(&self, name: &str) -> std::collections::BTreeSet<String> {
        let events = self.all("events").into_iter();
        let about = events.filter(|event| object::text(event, &["involvedObject", "name"]) == name);
        about.map(|event| object::text(&event, &["reason"]).to_owned()).collect()
    }

    pub(super) fn available(&self) -> usize {
        self.all("pods").iter().filter(|pod| is_active(pod) && is_ready(pod)).count()
    }
}

pub(super) fn image(pod: &Value) -> &str {
    object::list(pod, &["spec", "containers"])
        .first()
        .map_or("", |container| object::text(container, &["image"]))
}
