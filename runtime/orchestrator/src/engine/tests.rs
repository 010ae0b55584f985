use super::delete::Deleted;
use super::*;
use crate::decode;
use crate::store::{EventKind, SealKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use std::sync::Mutex;
use tempfile::TempDir;

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
fn what_is_applied_again_unchanged_changes_nothing_whoever_applies_it() {
    let (_folder, engine) = engine();
    let labels = json!({"app": "web"});
    let probe = json!({"httpGet": {"port": 80}});
    let pod = json!({
        "containers": [{"name": "c", "image": "nginx", "livenessProbe": probe,
            "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81, "name": "x"}],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "1000m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "initContainers": [{"name": "i", "image": "nginx", "ports": [{"containerPort": 80}]}],
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}, {"name": "w", "projected": {"sources": [{"configMap": {"name": "m"}}]}}],
    });
    let mut job_pod = pod.clone();
    job_pod["restartPolicy"] = "Never".into();
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let selector = json!({"matchLabels": labels});
    let job = json!({"template": {"spec": job_pod}});
    for (kind, spec) in [
        ("Pod", pod.clone()),
        ("ReplicaSet", json!({"selector": selector, "template": template})),
        ("Deployment", json!({"selector": selector, "template": template})),
        ("Job", job.clone()),
        ("CronJob", json!({"schedule": "* * * * *", "jobTemplate": {"spec": job}})),
    ] {
        let config = json!({"metadata": {"name": "x"}, "spec": spec});
        let apply = |manager: &str| {
            let options = WriteOptions { manager: manager.into(), ..WriteOptions::default() };
            let written = engine.patch(target(kind, "a", "x"), &Patch::Apply(config.clone()), &options);
            written.unwrap_or_else(|error| panic!("{kind} by {manager}: {error}")).object
        };
        let first = apply("one");
        assert_eq!(apply("one").version, first.version, "{kind}");
        assert_eq!(apply("two").object["spec"], first.object["spec"], "{kind}");
        assert_eq!(apply("one").object["spec"], first.object["spec"], "{kind}");
    }
}

fn managers(object: &Value) -> Vec<String> {
    let list = crate::object::list(object, &["metadata", "managedFields"]);
    list.iter()
        .map(|entry| {
            format!("{} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap())
        })
        .collect()
}

fn by(manager: &str) -> WriteOptions {
    WriteOptions { manager: manager.into(), ..WriteOptions::default() }
}

#[test]
fn an_object_goes_from_client_side_to_server_side_apply() {
    let (_folder, engine) = engine();
    let map = target("ConfigMap", "a", "m");
    let config = |labels: Value, value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": labels}, "data": {"k": value}});
    let first = config(json!({"a": "1", "b": "1"}), "old");
    let mut noted = first.clone();
    noted["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": first.to_string()});
    engine.create(map, body(noted), &by("kubectl-client-side-apply")).unwrap();

    let second = Patch::Apply(config(json!({"a": "1"}), "new"));
    let error = engine.patch(map, &second, &by("other")).unwrap_err();
    assert_eq!(error.reason, Reason::Conflict, "only kubectl follows on kubectl");
    let applied = engine.patch(map, &second, &by("kubectl")).unwrap().object;
    assert_eq!(
        (&applied.object["data"]["k"], &applied.object["metadata"]["labels"]["b"]),
        (&"new".into(), &"1".into())
    );

    // As kubectl's csaupgrade does it: what was applied by the client becomes the other's, if nobody has written since.
    let mut list = applied.object["metadata"]["managedFields"].as_array().unwrap().clone();
    let own = list.remove(0);
    assert_eq!(own["manager"], "kubectl-client-side-apply");
    list[0]["fieldsV1"]["f:metadata"]["f:labels"]["f:b"] = json!({});
    let upgrade = |version: u64| {
        let patch = json!([
            {"op": "replace", "path": "/metadata/managedFields", "value": list},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version.to_string()},
        ]);
        engine.patch(map, &Patch::Json(patch), &by("kubectl"))
    };
    assert_eq!(upgrade(1).unwrap_err().reason, Reason::Conflict);
    let upgraded = upgrade(applied.version).unwrap().object;
    assert!(upgraded.version > applied.version);
    assert_eq!(managers(&upgraded.object), ["kubectl Apply"]);
    let applied = engine.patch(map, &second, &by("kubectl")).unwrap().object;
    assert_eq!(applied.object["metadata"]["labels"], json!({"a": "1"}));
}

#[test]
fn clients_may_write_the_managers_and_have_them_forgotten() {
    let (_folder, engine) = engine();
    let map = target("ConfigMap", "a", "m");
    engine.create(map, body(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})), &by("one")).unwrap();
    let patch = |change: Value| engine.patch(map, &Patch::Merge(change), &by("two"));
    let with = |list: Value| patch(json!({"metadata": {"managedFields": list}}));
    let before = engine.get(map).unwrap();
    assert_eq!(patch(json!({"data": {"k": "v"}})).unwrap().object.version, before.version);
    for (list, field) in [
        (json!([{"manager": "x", "operation": "Frob", "fieldsType": "FieldsV1"}]), "operation"),
        (json!([{"manager": "x", "operation": "Update", "fieldsType": "FieldsV2"}]), "fieldsType"),
        (
            json!([{"manager": "x", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": 3}]),
            "fieldsV1",
        ),
        (json!([{"manager": "x".repeat(129), "operation": "Update", "fieldsType": "FieldsV1"}]), "manager"),
    ] {
        let error = with(list).unwrap_err();
        assert_eq!(
            (error.reason, &error.causes[0].field),
            (Reason::Invalid, &format!("metadata.managedFields[0].{field}"))
        );
    }
    for none in [json!([{}]), json!([])] {
        let forgotten = with(none).unwrap().object;
        assert_eq!(managers(&forgotten.object), Vec::<String>::new());
        let entry = json!({"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}});
        let written = with(json!([entry])).unwrap().object;
        assert_eq!(written.object["metadata"]["managedFields"], json!([entry]));
    }
    // Whoever does not know of managers loses none, and what is changed with them counts.
    let mut plain = engine.get(map).unwrap().object.clone();
    crate::object::remove(&mut plain, &["metadata", "managedFields"]);
    plain["data"]["k"] = "w".into();
    let written = engine.update(map, body(plain), &by("three")).unwrap().object;
    assert_eq!(managers(&written.object), ["three Update"]);
    let changed = patch(json!({"metadata": {"managedFields": [{}]}, "data": {"l": "v"}})).unwrap().object;
    assert_eq!(managers(&changed.object), ["two Update"]);
}

#[test]
fn a_deletion_waits_for_finalizers_and_for_whoever_runs_a_pod() {
    let (_folder, engine) = engine();
    let delete = |kind, name, options: &DeleteOptions| engine.delete(target(kind, "a", name), options);
    create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": "m"}})).unwrap();
    assert!(matches!(delete("ConfigMap", "m", &DeleteOptions::default()), Ok(Deleted::Gone(_))));
    create(
        &engine,
        target("ConfigMap", "a", ""),
        json!({"metadata": {"name": "f", "finalizers": ["x.io/y"]}}),
    )
    .unwrap();
    assert!(matches!(delete("ConfigMap", "f", &DeleteOptions::default()), Ok(Deleted::Going(_))));
    let change = |finalizers: Value| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        engine.patch(target("ConfigMap", "a", "f"), &patch, &WriteOptions::default())
    };
    let error = change(json!(["x.io/y", "x.io/new"])).unwrap_err();
    assert_eq!((error.reason, error.causes[0].field.as_str()), (Reason::Invalid, "metadata.finalizers"));
    assert!(error.message.ends_with("found new finalizers \"x.io/new\""), "{error}");
    change(json!(["x.io/y"])).unwrap();
    let lift = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    engine.patch(target("ConfigMap", "a", "f"), &lift, &WriteOptions::default()).unwrap();
    assert!(engine.get(target("ConfigMap", "a", "f")).is_err());

    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "here", "containers": [{"name": "c", "image": "i"}]}});
    create(&engine, target("Pod", "a", ""), pod.clone()).unwrap();
    let Ok(Deleted::Going(going)) = delete("Pod", "p", &DeleteOptions::default()) else {
        panic!("it is placed")
    };
    assert_eq!(going.object["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(going.object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    let faster = DeleteOptions { grace_period: Some(5), ..DeleteOptions::default() };
    let Ok(Deleted::Going(going)) = delete("Pod", "p", &faster) else { panic!("it still runs") };
    assert_eq!(going.object["metadata"]["deletionGracePeriodSeconds"], 5);
    let now = DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() };
    assert!(matches!(delete("Pod", "p", &now), Ok(Deleted::Gone(_))));
    let other = DeleteOptions { uid: Some("else".into()), ..DeleteOptions::default() };
    create(&engine, target("Pod", "a", ""), pod).unwrap();
    assert_eq!(delete("Pod", "p", &other).unwrap_err().reason, Reason::Conflict);
}

#[test]
fn a_deletion_that_is_only_tried_answers_as_a_real_one() {
    let (_folder, engine) = engine();
    create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": "m"}})).unwrap();
    let delete = |dry_run| {
        let options = DeleteOptions { dry_run, ..DeleteOptions::default() };
        match engine.delete(target("ConfigMap", "a", "m"), &options).unwrap() {
            Deleted::Gone(stored) => crate::object::uid(&stored.object).to_owned(),
            Deleted::Going(_) => panic!("nothing holds it"),
        }
    };
    let tried = delete(true);
    assert!(!tried.is_empty());
    assert_eq!(delete(false), tried);
}

#[test]
fn a_list_is_deleted_as_its_objects_are_one_by_one() {
    let (_folder, engine) = engine();
    let maps = target("ConfigMap", "a", "").kind;
    for number in 0..250 {
        let finalizers = if number % 50 == 0 { json!(["x.io/y"]) } else { json!([]) };
        let map = json!({"metadata": {"name": format!("m{number}"), "finalizers": finalizers}});
        create(&engine, target("ConfigMap", "a", ""), map).unwrap();
    }
    let list = || engine.list(maps, &ListOptions::default()).unwrap().objects;
    let before = list();
    // Between the list and the deletion one is changed and one goes.
    let change = Patch::Merge(json!({"data": {"k": "v"}}));
    engine.patch(target("ConfigMap", "a", "m7"), &change, &WriteOptions::default()).unwrap();
    engine.delete(target("ConfigMap", "a", "m8"), &DeleteOptions::default()).unwrap();
    let version = engine.store().version();
    let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    engine.delete_all(maps, &before, &dry).unwrap();
    assert_eq!((engine.store().version(), list().len()), (version, 249));
    engine.delete_all(maps, &before, &DeleteOptions::default()).unwrap();
    let left: Vec<String> = list().iter().map(|stored| object_name(&stored.object)).collect();
    assert_eq!(left, ["m0", "m100", "m150", "m200", "m50"]);
    assert!(list().iter().all(|stored| crate::object::is_deleted(&stored.object)));
    assert_eq!(engine.store().version(), version + 249, "each has a version of its own");
    let version = engine.store().version();
    engine.delete_all(maps, &list(), &DeleteOptions::default()).unwrap();
    assert_eq!(engine.store().version(), version, "they wait already");

    engine.bootstrap().unwrap();
    let namespaces = target("Namespace", "", "").kind;
    let all = engine.list(namespaces, &ListOptions::default()).unwrap().objects;
    let error = engine.delete_all(namespaces, &all, &DeleteOptions::default()).unwrap_err();
    assert_eq!(error.reason, Reason::Forbidden);
    assert!(
        crate::object::is_deleted(&engine.get(target("Namespace", "", "a")).unwrap().object),
        "it comes before"
    );
}

#[test]
fn a_grace_period_beyond_all_calendars_is_one_all_the_same() {
    let (_folder, engine) = engine();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "here", "terminationGracePeriodSeconds": i64::MAX,
        "containers": [{"name": "c", "image": "i"}]}});
    create(&engine, target("Pod", "a", ""), pod).unwrap();
    let Ok(Deleted::Going(going)) = engine.delete(target("Pod", "a", "p"), &DeleteOptions::default()) else {
        panic!("it is placed")
    };
    assert_eq!(going.object["metadata"]["deletionGracePeriodSeconds"], i64::MAX);
}

#[test]
fn an_object_of_too_many_parts_is_refused() {
    let (_folder, engine) = engine();
    let pod = |variables: usize| {
        let env: Vec<Value> = (0..variables).map(|number| json!({"name": format!("V{number}")})).collect();
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "env": env}]}})
    };
    let error = create(&engine, target("Pod", "a", ""), pod(40_000)).unwrap_err();
    assert_eq!(error.reason, Reason::RequestEntityTooLarge);
    create(&engine, target("Pod", "a", ""), pod(1000)).unwrap();
}

#[test]
fn nothing_is_made_in_a_namespace_that_goes() {
    let (_folder, engine) = engine();
    assert!(matches!(
        engine.delete(target("Namespace", "", "a"), &DeleteOptions::default()),
        Ok(Deleted::Going(_))
    ));
    assert_eq!(engine.get(target("Namespace", "", "a")).unwrap().object["status"]["phase"], "Terminating");
    let error =
        create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": "m"}})).unwrap_err();
    assert_eq!(error.reason, Reason::Forbidden);
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
fn a_deletion_that_is_not_understood_deletes_nothing() {
    for wrong in [
        json!({"dryRun": ["all"]}),
        json!({"dryRun": "All"}),
        json!({"orphanDependents": "maybe"}),
        json!({"gracePeriodSeconds": "soon"}),
        json!({"propagationPolicy": 1}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}),
    ] {
        assert!(DeleteOptions::of(&wrong).is_err(), "{wrong}");
    }
    let good = json!({"apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["All"]});
    assert!(DeleteOptions::of(&good).unwrap().dry_run);
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

#[test]
fn whatever_is_noted_as_last_applied_an_apply_goes_on() {
    let (_folder, engine) = engine();
    engine.bootstrap().unwrap();
    create(&engine, target("Deployment", "default", ""), web(1)).unwrap();
    let options = WriteOptions { manager: "kubectl".into(), force: true, ..WriteOptions::default() };
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"}}});
    for text in [
        "",
        "{",
        "1",
        "\"x\"",
        "[]",
        "null",
        "{\"spec\": \"x\"}",
        "{\"spec\": {\"template\": []}}",
        "{\"spec\": {\"template\": {\"spec\": {\"containers\": [1, null, {\"env\": [3]}]}}}}",
        "{\"metadata\": {\"labels\": 5}}",
    ] {
        let note =
            json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": text}}});
        let place = target("Deployment", "default", "web");
        engine.patch(place, &Patch::Merge(note), &WriteOptions::default()).unwrap();
        engine
            .patch(place, &Patch::Apply(config.clone()), &options)
            .unwrap_or_else(|e| panic!("{text}: {e:?}"));
    }
}

/// A pod that is stored although it breaks a rule of today, as one from before that rule does.
fn store_as_it_is(engine: &Engine, name: &str, change: impl Fn(&mut Value)) {
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let stored = create(engine, target("Pod", "a", ""), pod).unwrap().object;
    let mut object = stored.object.clone();
    change(&mut object);
    engine.store().commit(&target("Pod", "a", name).key(), Some(stored.version), Some(object)).unwrap();
}

#[test]
fn what_is_stored_and_breaks_a_rule_can_still_be_placed_told_of_and_deleted() {
    let (_folder, engine) = engine();
    store_as_it_is(&engine, "old", |pod| {
        pod["metadata"]["managedFields"][0]["manager"] = "a\tb".into();
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "none", "mountPath": "a:b"}]);
    });
    let old = target("Pod", "a", "old");
    let patch = |patch: Value, subresource| {
        engine.patch(Target { subresource, ..old }, &Patch::Merge(patch), &WriteOptions::default())
    };
    patch(json!({"spec": {"nodeName": "box"}}), "").unwrap();
    patch(json!({"status": {"phase": "Running"}}), "status").unwrap();
    let more = json!({"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "more", "mountPath": "b:c"}]}]}});
    assert_eq!(patch(more, "").unwrap_err().reason, Reason::Invalid, "no new mistakes");
    let options = DeleteOptions { grace_period: Some(5), ..DeleteOptions::default() };
    engine.delete(old, &options).unwrap();
}

#[test]
fn the_server_adds_what_it_must_to_what_a_client_made_as_large_as_may_be() {
    let (_folder, engine) = engine();
    store_as_it_is(&engine, "large", |pod| {
        pod["spec"]["containers"][0]["env"] = vec![json!({"name": "A", "value": "x"}); 20_000].into();
        let room = (32 << 20) - crate::object::weight(pod);
        pod["metadata"]["annotations"] = json!({"a": "x".repeat(room - 800)});
    });
    let large = target("Pod", "a", "large");
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"b": "y".repeat(2000)}}}));
    let refused = engine.patch(large, &patch, &WriteOptions::default()).unwrap_err();
    assert_eq!(refused.reason, Reason::RequestEntityTooLarge, "a client may not");
    let own = WriteOptions { own: true, ..WriteOptions::default() };
    engine
        .patch(large, &Patch::Merge(json!({"spec": {"nodeName": "a-node-with-a-name".repeat(9)}})), &own)
        .unwrap();
}
