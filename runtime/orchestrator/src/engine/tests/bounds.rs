use super::*;

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

/// A pod that is stored although it breaks a rule of today, as one from before that rule does.
fn store_as_it_is(engine: &Engine, name: &str, change: impl Fn(&mut Value)) {
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let stored = create(engine, target("Pod", "a", ""), pod).unwrap().object;
    let mut object = stored.object.clone();
    change(&mut object);
    engine
        .store()
        .commit(&target("Pod", "a", name).key(), Some(stored.version), Some(object), Share::Common)
        .unwrap();
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

#[test]
fn what_is_written_in_base64_counts_as_what_it_is() {
    let (_folder, engine) = engine();
    let secret = |name: &str, bytes: usize| {
        let data = base64::engine::general_purpose::STANDARD.encode("a".repeat(bytes));
        create(&engine, target("Secret", "a", ""), json!({"metadata": {"name": name}, "data": {"k": data}}))
    };
    secret("fits", 1 << 20).unwrap();
    let refused = secret("does-not", (1 << 20) + 1).unwrap_err();
    assert!(refused.message.contains("data: Invalid value: 1048577 bytes"), "{}", refused.message);
}

#[test]
fn who_sets_what_can_not_be_had_is_not_told_that_it_would_run_without() {
    let (_folder, engine) = engine();
    let pod = |spec: Value| {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        let body = crate::decode::Decoded {
            value: json!({"metadata": {"generateName": "p"}, "spec": spec}),
            duplicates: Vec::new(),
        };
        engine.create(target("Pod", "a", ""), body, &WriteOptions::default()).unwrap().warnings.join("\n")
    };
    let refused = pod(json!({"hostNetwork": true}));
    assert!(!refused.contains("no effect") && refused.contains("no pod starts with this"), "{refused}");
    assert!(pod(json!({"priority": 7})).contains("has no effect"));
}

#[test]
fn a_full_store_says_so_and_what_is_there_is_still_looked_after() {
    let (_folder, engine) = engine();
    let filler = json!({"metadata": {"name": "filler"}, "data": {"k": "x".repeat(900 << 10)}});
    create(&engine, target("ConfigMap", "a", ""), filler).unwrap();
    let mut set = web(1);
    set["metadata"]["name"] = "set".into();
    create(&engine, target("ReplicaSet", "a", ""), set).unwrap();
    let held = engine.store().all().values().flatten().map(|stored| object::weight(&stored.object)).sum();
    engine.store().set_room(held);
    let refused =
        create(&engine, target("ConfigMap", "a", ""), json!({"metadata": {"name": "more"}})).unwrap_err();
    assert_eq!((refused.reason, refused.reason.code()), (Reason::Crowded, 403));
    assert_eq!(refused.to_status()["reason"], "Forbidden");
    // What has to be there is made all the same: a daemon that could not would never be asked to delete anything.
    engine.bootstrap().unwrap();
    // A set that gets no pods is told why, and nobody tries without a pause.
    while engine.control().unwrap().0 {}
    let events = engine.store().list(target("Event", "", "").kind, "a").0;
    let why =
        |event: &Arc<Stored>| event.object["message"].as_str().unwrap_or_default().contains("no memory");
    assert_eq!(events.iter().filter(|event| why(event)).count(), 1, "{events:?}");
    assert_eq!(events[0].object["reason"], "FailedCreate");
    assert_eq!(engine.store().list(target("Pod", "", "").kind, "a").0.len(), 0);
    // The way out.
    engine.delete(target("ConfigMap", "a", "filler"), &DeleteOptions::default()).unwrap();
    while engine.control().unwrap().0 {}
    assert_eq!(engine.store().list(target("Pod", "", "").kind, "a").0.len(), 1);
}
