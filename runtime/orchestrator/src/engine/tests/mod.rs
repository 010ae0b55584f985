//! What the verbs do, whoever asks; apart: who manages which field, deletion, and what is too much or breaks a rule.

mod bounds;
mod deletion;
mod managers;

use super::delete::Deleted;
use super::*;
use crate::decode;
use crate::store::{EventKind, SealKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use std::sync::Mutex;
use tempfile::TempDir;

fn by(manager: &str) -> WriteOptions {
    WriteOptions { manager: manager.into(), ..WriteOptions::default() }
}

/// A clock that stands, and chance that counts.
struct Still(Mutex<u8>);

impl World for Still {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_225_600, 0).unwrap()
    }

    fn random(&self) -> [u8; 16] {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        [*count; 16]
    }
}

fn engine() -> (TempDir, Engine) {
    let folder = TempDir::new().unwrap();
    let key = SealKey::at(&folder.path().join("key")).unwrap();
    let store = Store::open(&folder.path().join("objects.db"), key).unwrap();
    let engine = Engine::new(store, Arc::new(Still(Mutex::new(0))));
    create(&engine, target("Namespace", "", ""), json!({"metadata": {"name": "a"}})).unwrap();
    (folder, engine)
}

fn target<'a>(kind: &str, namespace: &'a str, name: &'a str) -> Target<'a> {
    let kind = crate::kinds::KINDS.iter().find(|one| one.kind == kind).unwrap();
    Target { kind, namespace, name, subresource: "" }
}

fn body(value: Value) -> decode::Decoded {
    decode::json(&serde_json::to_vec(&value).unwrap()).unwrap()
}

fn create(engine: &Engine, target: Target<'_>, value: Value) -> Result<Written, ApiError> {
    engine.create(target, body(value), &WriteOptions::default())
}

fn web(replicas: u32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
}

#[test]
fn a_new_object_gets_what_the_server_gives() {
    let (_folder, engine) = engine();
    let written = create(&engine, target("Deployment", "a", ""), web(2)).unwrap();
    let object = &written.object.object;
    assert_eq!((&object["apiVersion"], &object["kind"]), (&"apps/v1".into(), &"Deployment".into()));
    let metadata = &object["metadata"];
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert_eq!(metadata["managedFields"][0]["operation"], "Update");
    assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    let error = create(&engine, target("Deployment", "a", ""), web(2)).unwrap_err();
    assert_eq!(
        (error.reason, error.message.as_str()),
        (Reason::AlreadyExists, "deployments.apps \"web\" already exists")
    );
    let error = create(&engine, target("Deployment", "none", ""), web(2)).unwrap_err();
    assert_eq!((error.reason, error.message.as_str()), (Reason::NotFound, "namespaces \"none\" not found"));
}

#[test]
fn a_generated_name_is_another_when_it_is_taken() {
    let (_folder, engine) = engine();
    let pod =
        json!({"metadata": {"generateName": "x-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let names: Vec<String> = (0..3)
        .map(|_| create(&engine, target("Pod", "a", ""), pod.clone()).unwrap())
        .map(|written| object_name(&written.object.object))
        .collect();
    assert!(names.iter().all(|name| name.len() == 7 && name.starts_with("x-")), "{names:?}");
    let error = create(&engine, target("Pod", "a", ""), json!({"spec": {}})).unwrap_err();
    assert_eq!(error.reason, Reason::Invalid);
}

fn object_name(object: &Value) -> String {
    crate::object::name(object).to_owned()
}

#[test]
fn unknown_fields_are_ignored_warned_of_or_refused() {
    let (_folder, engine) = engine();
    let map = json!({"metadata": {"name": "m"}, "data": {}, "frob": 1});
    let write = |validation| {
        let options = WriteOptions { validation, dry_run: true, ..WriteOptions::default() };
        engine.create(target("ConfigMap", "a", ""), body(map.clone()), &options)
    };
    assert_eq!(write(FieldValidation::Ignore).unwrap().warnings, Vec::<String>::new());
    assert_eq!(write(FieldValidation::Warn).unwrap().warnings, ["unknown field \"frob\""]);
    let error = write(FieldValidation::Strict).unwrap_err();
    assert_eq!(error.message, "strict decoding error: unknown field \"frob\"");
    assert!(engine.get(target("ConfigMap", "a", "m")).is_err(), "a dry run stores nothing");
}

#[test]
fn an_update_counts_generations_keeps_the_status_and_needs_the_latest_version() {
    let (_folder, engine) = engine();
    let first = create(&engine, target("Deployment", "a", ""), web(2)).unwrap().object;
    let status = Target { subresource: "status", ..target("Deployment", "a", "web") };
    let with_status = json!({"status": {"replicas": 2}, "spec": {"replicas": 9}});
    let second = engine.patch(status, &Patch::Merge(with_status), &WriteOptions::default()).unwrap().object;
    assert_eq!(
        (&second.object["status"]["replicas"], &second.object["spec"]["replicas"]),
        (&2.into(), &2.into())
    );
    assert_eq!(second.object["metadata"]["generation"], 1);
    let mut stale = first.object.clone();
    stale["spec"]["replicas"] = 3.into();
    let update =
        |value: Value| engine.update(target("Deployment", "a", "web"), body(value), &WriteOptions::default());
    assert_eq!(update(stale.clone()).unwrap_err().reason, Reason::Conflict);
    stale["metadata"]["resourceVersion"] = second.version.to_string().into();
    let third = update(stale).unwrap().object;
    assert_eq!(
        (&third.object["status"]["replicas"], &third.object["metadata"]["generation"]),
        (&2.into(), &2.into())
    );
    let again = update(third.object.clone()).unwrap().object;
    assert_eq!(again.version, third.version, "what changes nothing makes no version");
    let mut other = third.object.clone();
    other["spec"]["selector"]["matchLabels"]["app"] = "else".into();
    let error = update(other).unwrap_err();
    assert!(error.message.contains("spec.selector: Invalid value: field is immutable"), "{error}");
}

#[test]
fn each_kind_of_patch_changes_an_object() {
    let (_folder, engine) = engine();
    create(&engine, target("Deployment", "a", ""), web(1)).unwrap();
    let patch =
        |patch: Patch| engine.patch(target("Deployment", "a", "web"), &patch, &WriteOptions::default());
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}}}});
    let written = patch(Patch::Strategic(image)).unwrap().object;
    assert_eq!(written.object["spec"]["template"]["spec"]["containers"][0]["image"], "nginx:2");
    let written = patch(Patch::Merge(json!({"spec": {"replicas": 4}}))).unwrap().object;
    assert_eq!(written.object["spec"]["replicas"], 4);
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 4}, {"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(patch(Patch::Json(operations.clone())).unwrap().object.object["spec"]["replicas"], 5);
    assert_eq!(patch(Patch::Json(operations)).unwrap_err().reason, Reason::Invalid);
    let mut config = web(5);
    config["metadata"]["labels"] = json!({"x": "y"});
    config["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2".into();
    let written = patch(Patch::Apply(config)).unwrap();
    assert_eq!((written.created, &written.object.object["metadata"]["labels"]["x"]), (false, &"y".into()));
    assert_eq!(
        patch(Patch::Merge(json!({"spec": {"replicas": "many"}}))).unwrap_err().reason,
        Reason::BadRequest
    );
    assert_eq!(patch(Patch::Merge(json!({"spec": {"replicas": -1}}))).unwrap_err().reason, Reason::Invalid);
}

#[test]
fn apply_makes_what_is_not_there() {
    let (_folder, engine) = engine();
    let apply = Patch::Apply(json!({"metadata": {"name": "m"}, "data": {"k": "v"}}));
    let options = WriteOptions { manager: "me".into(), ..WriteOptions::default() };
    let written = engine.patch(target("ConfigMap", "a", "m"), &apply, &options).unwrap();
    assert!(written.created);
    let managed = &written.object.object["metadata"]["managedFields"];
    assert_eq!(managed.as_array().unwrap().len(), 1);
    assert_eq!(managed[0]["fieldsV1"], json!({"f:data": {".": {}, "f:k": {}}}));
    let again = engine.patch(target("ConfigMap", "a", "m"), &apply, &options).unwrap();
    assert_eq!(again.object.version, written.object.version);
}

#[test]
fn a_part_of_what_is_not_there_makes_nothing() {
    let (_folder, engine) = engine();
    let status = Target { subresource: "status", ..target("Deployment", "a", "web") };
    let error = engine.patch(status, &Patch::Apply(web(2)), &by("me")).unwrap_err();
    assert_eq!(
        (error.reason, error.message.as_str()),
        (Reason::NotFound, "deployments.apps \"web\" not found")
    );
    assert!(engine.get(target("Deployment", "a", "web")).is_err());
}

#[test]
fn who_names_an_identity_changes_no_other_object_of_the_name() {
    let (_folder, engine) = engine();
    let map = target("ConfigMap", "a", "m");
    let made =
        create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": "m"}})).unwrap().object;
    let change = |uid: &str| json!({"metadata": {"name": "m", "uid": uid}, "data": {"k": "v"}});
    let patches: [fn(Value) -> Patch; 3] = [Patch::Merge, Patch::Strategic, Patch::Apply];
    for patch in patches {
        let error = engine.patch(map, &patch(change("other")), &by("me")).unwrap_err();
        assert_eq!((error.reason, error.causes[0].field.as_str()), (Reason::Invalid, "metadata.uid"));
    }
    let error = engine.update(map, body(change("other")), &by("me")).unwrap_err();
    let uid = object_uid(&made.object);
    let why = format!("Precondition failed: UID in precondition: other, UID in object meta: {uid}");
    assert!(error.reason == Reason::Conflict && error.message.ends_with(&why), "{error}");
    assert_eq!(engine.get(map).unwrap().version, made.version);
    engine.patch(map, &Patch::Merge(change(&uid)), &by("me")).unwrap();
    engine
        .patch(map, &Patch::Merge(json!({"metadata": {"uid": null}, "data": {"k": "w"}})), &by("me"))
        .unwrap();
    assert_eq!(object_uid(&engine.get(map).unwrap().object), uid);
}

fn object_uid(object: &Value) -> String {
    crate::object::uid(object).to_owned()
}

#[test]
fn lists_come_in_pages_and_by_selectors() {
    let (_folder, engine) = engine();
    for name in ["a", "b", "c"] {
        let object = json!({"metadata": {"name": name, "labels": {"even": (name == "b").to_string()}}});
        create(&engine, target("ConfigMap", "a", ""), object).unwrap();
    }
    let kind = target("ConfigMap", "a", "").kind;
    let names =
        |list: &List| list.objects.iter().map(|stored| object_name(&stored.object)).collect::<Vec<_>>();
    let mut options = ListOptions { limit: 2, ..ListOptions::default() };
    let first = engine.list(kind, &options).unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a".into(), "b".into()], 1));
    options.after = first.next;
    let second = engine.list(kind, &options).unwrap();
    assert_eq!((names(&second), second.next.as_str()), (vec!["c".into()], ""));
    options.after = "rubbish".into();
    assert!(engine.list(kind, &options).is_err());
    let labels = crate::selector::LabelSelector::parse("even=true").unwrap();
    let list = engine.list(kind, &ListOptions { labels, ..ListOptions::default() }).unwrap();
    assert_eq!(names(&list), ["b"]);
}

#[tokio::test]
async fn who_watches_from_any_page_of_a_list_misses_nothing() {
    let (_folder, engine) = engine();
    let make = |name: &str| {
        create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": name}}))
            .unwrap()
            .object
            .version
    };
    let made = ["b", "c", "d", "e", "f"].map(make);
    let kind = target("ConfigMap", "a", "").kind;
    let mut options = ListOptions { limit: 2, ..ListOptions::default() };
    let first = engine.list(kind, &options).unwrap();
    let late = make("a");
    options.after = first.next;
    let second = engine.list(kind, &options).unwrap();
    options.after = second.next;
    let third = engine.list(kind, &options).unwrap();
    assert_eq!((first.version, second.version, third.version), (made[4], made[4], made[4]));
    let mut watcher = engine.watch(kind, third.version, ListOptions::default()).unwrap();
    assert_eq!(watcher.next().await.unwrap().object.version, late);
    // Of a store that this one is not.
    options.after = URL_SAFE_NO_PAD.encode("999/a/b");
    assert_eq!(engine.list(kind, &options).unwrap_err().reason, Reason::Expired);
    for rubbish in ["rubbish", "YS9i", "%"] {
        options.after = rubbish.into();
        assert_eq!(engine.list(kind, &options).unwrap_err().reason, Reason::BadRequest);
    }
}

#[test]
fn a_list_is_of_the_version_that_is_asked_for_or_refused() {
    let (_folder, engine) = engine();
    let kind = target("ConfigMap", "a", "").kind;
    let make = |kind, name: &str| {
        create(&engine, target(kind, "a", ""), json!({"metadata": {"name": name}})).unwrap().object.version
    };
    let (old, new) = (make("ConfigMap", "a"), make("ConfigMap", "b"));
    let newest = make("Secret", "c");
    let at = |at: At| {
        let list = engine.list(kind, &ListOptions { at, ..ListOptions::default() });
        list.map(|list| (list.version, list.objects.len())).map_err(|error| error.reason)
    };
    assert_eq!(at(At::NotOlderThan(old)), Ok((newest, 2)));
    assert_eq!(at(At::Exactly(new)), Ok((new, 2)), "secrets are no matter of this list");
    assert_eq!(at(At::Exactly(old)), Err(Reason::Expired));
    assert_eq!(at(At::NotOlderThan(newest + 1)), Err(Reason::Timeout));
    assert_eq!(at(At::Exactly(newest + 1)), Err(Reason::Timeout));
    let future = ListOptions { at: At::NotOlderThan(99), ..ListOptions::default() };
    let status = engine.list(kind, &future).unwrap_err().to_status();
    assert_eq!(
        (&status["code"], &status["details"]["causes"][0]["reason"]),
        (&504.into(), &"ResourceVersionTooLarge".into())
    );
}

#[tokio::test]
async fn an_object_that_leaves_a_selector_is_deleted_for_who_watches_by_it() {
    let (_folder, engine) = engine();
    let kind = target("ConfigMap", "a", "").kind;
    let labels = crate::selector::LabelSelector::parse("x=1").unwrap();
    let options = ListOptions { labels, namespace: "a".into(), ..ListOptions::default() };
    let mut watcher = engine.watch(kind, engine.store().version(), options).unwrap();
    let label = |value: Value| {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"x": value}}}));
        engine.patch(target("ConfigMap", "a", "m"), &patch, &WriteOptions::default()).unwrap();
    };
    create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": "m"}})).unwrap();
    label("1".into());
    label("2".into());
    label("1".into());
    engine.delete(target("ConfigMap", "a", "m"), &DeleteOptions::default()).unwrap();
    for expected in [EventKind::Added, EventKind::Deleted, EventKind::Added, EventKind::Deleted] {
        assert_eq!(watcher.next().await.unwrap().kind, expected);
    }
    let future = engine.store().version() + 1;
    assert_eq!(engine.watch(kind, future, ListOptions::default()).err().unwrap().reason, Reason::Expired);
}

#[test]
fn what_is_the_servers_can_not_be_written_or_deleted() {
    let (_folder, engine) = engine();
    engine.bootstrap().unwrap();
    let forged = json!({"metadata": {"name": "p", "annotations": {"vial.dev/pod": "x"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let error = create(&engine, target("Pod", "default", ""), forged.clone()).unwrap_err();
    assert!(error.message.contains("vial.dev/pod"), "{error:?}");
    let mut deployment = web(1);
    deployment["spec"]["template"]["metadata"]["annotations"] = forged["metadata"]["annotations"].clone();
    assert!(create(&engine, target("Deployment", "default", ""), deployment).is_err());
    let mut pod = forged;
    pod["metadata"]["annotations"] = json!({});
    create(&engine, target("Pod", "default", ""), pod).unwrap();
    let change = Patch::Merge(json!({"metadata": {"annotations": {"vial.dev/pod": "x"}}}));
    assert!(engine.patch(target("Pod", "default", "p"), &change, &WriteOptions::default()).is_err());
    let error = engine.delete(target("Namespace", "", "default"), &DeleteOptions::default()).unwrap_err();
    assert_eq!(error.reason, Reason::Forbidden);
}

#[test]
fn a_pod_that_makes_no_sense_is_refused_where_it_makes_none() {
    let (_folder, engine) = engine();
    engine.bootstrap().unwrap();
    for (field, spec) in [
        ("hostname", json!({"hostname": "Bad_Host"})),
        ("nodeName", json!({"nodeName": "Bad Name"})),
        ("nodeSelector", json!({"nodeSelector": {"a b": "x"}})),
        ("hostAliases[0].ip", json!({"hostAliases": [{"ip": "nonsense"}]})),
        (
            "ports[0].name",
            json!({"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 1, "name": "Bad_Name"}]}]}),
        ),
        (
            "runAsUser",
            json!({"containers": [{"name": "c", "image": "x", "securityContext": {"runAsUser": -1}}]}),
        ),
        ("tolerations[0].operator", json!({"tolerations": [{"key": "k", "operator": "Maybe"}]})),
        ("fsGroup", json!({"securityContext": {"fsGroup": -1}})),
    ] {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
        json_patch::merge(&mut pod["spec"], &spec);
        let error = create(&engine, target("Pod", "default", ""), pod).unwrap_err();
        assert!(error.causes.iter().any(|cause| cause.field.ends_with(field)), "{field}: {error:?}");
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"activeDeadlineSeconds": 9, "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "image": "x"}]}});
    create(&engine, target("Pod", "default", ""), pod).unwrap();
    for change in [json!({"spec": {"tolerations": []}}), json!({"spec": {"activeDeadlineSeconds": 10}})] {
        let change = Patch::Merge(change);
        assert!(engine.patch(target("Pod", "default", "p"), &change, &WriteOptions::default()).is_err());
    }
}

#[test]
fn a_pod_that_is_held_back_says_so_and_nothing_more_holds_it() {
    let (_folder, engine) = engine();
    let pod = |node: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "schedulingGates": [{"name": "x.io/a"}, {"name": "x.io/b"}],
        "containers": [{"name": "c", "image": "x"}]}})
    };
    let error = create(&engine, target("Pod", "a", ""), pod("box")).unwrap_err();
    assert_eq!(error.causes[0].field, "spec.nodeName");
    let made = create(&engine, target("Pod", "a", ""), pod("")).unwrap().object;
    let told = &made.object["status"]["conditions"][0];
    assert_eq!(
        (&told["type"], &told["status"], &told["reason"]),
        (&"PodScheduled".into(), &"False".into(), &"SchedulingGated".into())
    );
    assert_eq!(told["lastTransitionTime"], made.object["metadata"]["creationTimestamp"]);
    let gates = |names: &[&str]| {
        let gates: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        let patch = Patch::Merge(json!({"spec": {"schedulingGates": gates}}));
        engine.patch(target("Pod", "a", "p"), &patch, &WriteOptions::default())
    };
    gates(&["x.io/b"]).unwrap();
    let error = gates(&["x.io/b", "x.io/c"]).unwrap_err();
    assert_eq!(error.causes[0].field, "spec.schedulingGates");
    gates(&[]).unwrap();
    assert!(gates(&["x.io/b"]).is_err());
}

#[test]
fn an_indexed_job_grows_only_with_its_parallelism() {
    let (_folder, engine) = engine();
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}});
    create(&engine, target("Job", "a", ""), json!({"metadata": {"name": "j"}, "spec": spec})).unwrap();
    let change =
        |spec: Value| engine.patch(target("Job", "a", "j"), &Patch::Merge(json!({"spec": spec})), &by("me"));
    for alone in [json!({"completions": 3}), json!({"completions": 3, "parallelism": 4})] {
        assert_eq!(change(alone).unwrap_err().causes[0].field, "spec.completions");
    }
    change(json!({"completions": 3, "parallelism": 3})).unwrap();
    change(json!({"parallelism": 1})).unwrap();
}
