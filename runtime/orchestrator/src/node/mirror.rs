//! Pods that nobody declared (`vial run`, `vial pod create`) as Pods: made when they are there, gone when they are, and otherwise only told of.
//! Who deletes one ends what it shows.

use super::observed::Observed;
use super::status::{self, Around};
use crate::controllers::{Action, Ref, kind};
use crate::engine::Propagation;
use crate::object;
use crate::store::Stored;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use crate::kinds::SHOWS;
/// Where they are shown.
const NAMESPACE: &str = "default";

/// A pod that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Whoever runs it knows it by this.
    pub key: String,
    /// Its name; any text.
    pub name: String,
    /// Its labels; those that are none in Kubernetes are left out.
    pub labels: BTreeMap<String, String>,
    /// `Always`, `OnFailure` or `Never`.
    pub restart: &'static str,
    /// Name (any text), image and arguments of each container.
    pub containers: Vec<(String, String, Vec<String>)>,
    /// What is seen of it; containers by [`dns_label`] of their names.
    pub observed: Observed,
}

/// What a Pod shows, if it is such a one.
pub fn shown(pod: &Value) -> Option<&str> {
    object::at(pod, &["metadata", "annotations", SHOWS]).and_then(Value::as_str)
}

/// A name as Kubernetes has them: what it can't have becomes `-`.
pub fn dns_label(name: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    };
    let text: String = name.chars().take(63).map(plain).collect();
    match text.trim_matches('-') {
        "" => "pod".into(),
        text => text.into(),
    }
}

/// What a look came to.
#[derive(Debug, Default, PartialEq)]
pub struct Shown {
    /// What is to be written.
    pub actions: Vec<Action>,
    /// Keys of those that somebody deleted: they are to be ended and removed.
    pub unwanted: Vec<String>,
}

/// Compares what was found with the Pods that there are.
pub fn plan(found: &[Found], pods: &[Arc<Stored>], node: &str, around: Around<'_>) -> Shown {
    let mut shown_now = Shown::default();
    let known: BTreeMap<&str, &Found> = found.iter().map(|found| (found.key.as_str(), found)).collect();
    let mut names: BTreeSet<String> =
        in_namespace(pods).map(|pod| object::name(&pod.object).to_owned()).collect();
    let mut seen = BTreeSet::new();
    for pod in pods {
        let Some(key) = shown(&pod.object) else { continue };
        let target = Ref::to(kind("pods"), pod);
        match known.get(key).filter(|found| is_of(&pod.object, found)) {
            Some(found) if seen.insert(key) => {
                if object::is_deleted(&pod.object) {
                    shown_now.unwanted.push(key.to_owned());
                }
                shown_now.actions.extend(tell(pod, found, around));
            }
            // It is gone, or has other containers now, which a Pod can't.
            _ => shown_now.actions.push(Action::Delete { target, propagation: Propagation::Background }),
        }
    }
    let shown_already: BTreeSet<&str> = pods.iter().filter_map(|pod| shown(&pod.object)).collect();
    for one in
        found.iter().filter(|one| !shown_already.contains(one.key.as_str()) && !one.containers.is_empty())
    {
        let mut name = dns_label(&one.name);
        if !names.insert(name.clone()) {
            let end: String = one.key.chars().take(8).collect();
            name = dns_label(&format!("{}-{end}", name.chars().take(54).collect::<String>()));
            if !names.insert(name.clone()) {
                continue;
            }
        }
        shown_now.actions.push(Action::Create {
            kind: kind("pods"),
            namespace: NAMESPACE.into(),
            object: make(one, &name, node),
        });
    }
    shown_now
}

fn in_namespace(pods: &[Arc<Stored>]) -> impl Iterator<Item = &Arc<Stored>> {
    pods.iter().filter(|pod| object::namespace(&pod.object) == NAMESPACE)
}

fn names(found: &Found) -> BTreeSet<String> {
    found.containers.iter().map(|(name, ..)| dns_label(name)).collect()
}

fn is_of(pod: &Value, found: &Found) -> bool {
    let containers = object::list(pod, &["spec", "containers"]).iter();
    containers.map(|container| object::text(container, &["name"]).to_owned()).collect::<BTreeSet<_>>()
        == names(found)
}

fn make(found: &Found, name: &str, node: &str) -> Value {
    let is_label =
        |(key, value): &(&String, &String)| object::is_qualified_name(key) && object::is_label_value(value);
    let labels: BTreeMap<&String, &String> = found.labels.iter().filter(is_label).collect();
    let mut once = BTreeSet::new();
    let containers: Vec<Value> = found
        .containers
        .iter()
        .filter(|(name, ..)| once.insert(dns_label(name)))
        .map(|(name, image, args)| json!({"name": dns_label(name), "image": image.trim(), "args": args, "imagePullPolicy": "Never"}))
        .collect();
    json!({"metadata": {"name": name, "labels": labels, "annotations": {SHOWS: found.key}},
        "spec": {"nodeName": node, "restartPolicy": found.restart, "terminationGracePeriodSeconds": 10, "containers": containers}})
}

fn tell(pod: &Stored, found: &Found, around: Around<'_>) -> Option<Action> {
    let mut value = pod.object.clone();
    // Unlike a declared one it may go on after it was over.
    object::remove(&mut value, &["status", "phase"]);
    status::write(pod, status::status(&value, &found.observed, around))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::observed::{Attempt, State};
    use chrono::DateTime;
    use proptest::prelude::*;

    fn found(name: &str) -> Found {
        let container = dns_label(name);
        let state = State::Running { since: DateTime::UNIX_EPOCH };
        let attempt = Attempt {
            id: "c".into(),
            number: 0,
            failures: 0,
            image: "x".into(),
            image_id: "y".into(),
            state,
            active: true,
            sandbox: None,
        };
        let observed = Observed { containers: [(container, vec![attempt])].into(), ..Observed::default() };
        let labels = [("a".to_owned(), "1".to_owned()), ("no label".to_owned(), "x".to_owned())].into();
        let containers = vec![(name.to_owned(), "busybox".to_owned(), vec!["true".to_owned()])];
        Found {
            key: "0123456789abcdef".into(),
            name: name.into(),
            labels,
            restart: "Never",
            containers,
            observed,
        }
    }

    fn look(found: &[Found], pods: &[Arc<Stored>]) -> Shown {
        plan(found, pods, "box", Around { host_ip: "192.0.2.1", now: DateTime::UNIX_EPOCH })
    }

    fn stored(object: Value) -> Arc<Stored> {
        Arc::new(Stored { object, version: 1 })
    }

    #[test]
    fn what_runs_is_shown_told_and_gone_again() {
        let run = [found("Brave_fox")];
        let shown = look(&run, &[]);
        let [Action::Create { object, .. }] = &shown.actions[..] else { panic!("{shown:?}") };
        assert_eq!((object::name(object), object::labels(object).len()), ("brave-fox", 1));
        let mut pod = object.clone();
        pod["metadata"]["namespace"] = "default".into();
        let told = look(&run, &[stored(pod.clone())]);
        let [Action::Merge { patch, .. }] = &told.actions[..] else { panic!("{told:?}") };
        assert_eq!(patch["status"]["phase"], "Running");
        pod["status"] = patch["status"].clone();
        assert_eq!(look(&run, &[stored(pod.clone())]), Shown::default());
        assert!(matches!(look(&[], &[stored(pod.clone())]).actions[..], [Action::Delete { .. }]));
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(look(&run, &[stored(pod)]).unwanted, ["0123456789abcdef"]);
        let other = stored(json!({"metadata": {"name": "brave-fox", "namespace": "default"}}));
        let [Action::Create { object, .. }] = &look(&run, &[other]).actions[..] else { panic!() };
        assert_eq!(object::name(object), "brave-fox-01234567");
    }

    proptest! {
        #[test]
        fn any_name_becomes_one(name in any::<String>()) {
            let label = dns_label(&name);
            prop_assert!(object::is_dns_label(&label), "{}", label);
        }
    }
}
