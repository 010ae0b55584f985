use super::*;

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
