use super::*;

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
