use super::*;

fn new_record(name: &str) -> Record {
    Record {
        id: ContainerId::random().unwrap(),
        pod: PodId::random().unwrap(),
        name: name.into(),
        image: "busybox".into(),
        image_id: "sha256:1".into(),
        args: vec!["sh".into(), "-c".into(), "a\nb".into()],
        spec: serde_json::json!({ "process": { "args": ["sh"] } }),
        stop_signal: 15,
        memory: 1 << 28,
        milli_cpus: 1000,
        stdin: true,
        auto_remove: false,
        state: State::Created,
        exit: None,
        created_ms: 5,
        started_ms: None,
        finished_ms: None,
    }
}

fn exit(code: i32) -> Exit {
    Exit { code, ..Exit::default() }
}

#[test]
fn a_life_is_remembered_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vial.db");
    let record = new_record("web");
    Store::open(&path).unwrap().insert(&record).unwrap();
    assert_eq!(Store::open(&path).unwrap().get(&record.id).unwrap(), Some(record.clone()));
    assert!(Store::open(&path).unwrap().set_running(&record.id, 6).unwrap());
    assert!(Store::open(&path).unwrap().set_exited(&record.id, &exit(3), 7).unwrap());
    let store = Store::open(&path).unwrap();
    let known = store.get(&record.id).unwrap().unwrap();
    assert_eq!(
        (known.state, known.exit, known.started_ms, known.finished_ms),
        (State::Exited, Some(exit(3)), Some(6), Some(7))
    );
    assert_eq!(store.image_in_use("sha256:1").unwrap(), Some("web".into()));
    assert!(store.set_removing(&record.id).unwrap());
    assert!(!store.set_removing(&record.id).unwrap(), "only one removes");
    store.delete(&record.id).unwrap();
    assert!(store.list().unwrap().is_empty());
    let pods: i64 = store.lock().query_row("SELECT count(*) FROM pods", [], |row| row.get(0)).unwrap();
    assert_eq!(pods, 0);
}

#[test]
fn a_name_is_taken_until_its_container_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("vial.db")).unwrap();
    let (first, second) = (new_record("web"), new_record("web"));
    store.insert(&first).unwrap();
    assert!(matches!(store.insert(&second), Err(StoreError::NameInUse(name)) if name == "web"));
    assert_eq!(store.list().unwrap().len(), 1);
    let pods: i64 = store.lock().query_row("SELECT count(*) FROM pods", [], |row| row.get(0)).unwrap();
    assert_eq!(pods, 1, "the refused one's pod is not there either");
    store.delete(&first.id).unwrap();
    store.insert(&second).unwrap();
}

#[test]
fn states_only_go_forward() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("vial.db")).unwrap();
    let record = new_record("web");
    store.insert(&record).unwrap();
    store.set_exited(&record.id, &exit(125), 6).unwrap();
    assert!(!store.set_running(&record.id, 7).unwrap());
    assert!(!store.set_exited(&record.id, &exit(0), 8).unwrap());
    assert_eq!(store.get(&record.id).unwrap().unwrap().exit, Some(exit(125)));
}

#[test]
fn a_store_from_the_future_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vial.db");
    Store::open(&path).unwrap().lock().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
}

/// The daemon is killed after any number of writes (a copy of the files as they lie there is what its successor finds): the store opens, and holds
/// exactly the state after the last whole step.
#[test]
fn killed_between_writes_it_is_between_steps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vial.db");
    let store = Store::open(&path).unwrap();
    let record = new_record("web");
    let steps: [(&dyn Fn(), Option<State>); 5] = [
        (&|| store.insert(&record).unwrap(), Some(State::Created)),
        (&|| assert!(store.set_running(&record.id, 6).unwrap()), Some(State::Running)),
        (&|| assert!(store.set_exited(&record.id, &exit(0), 7).unwrap()), Some(State::Exited)),
        (&|| assert!(store.set_removing(&record.id).unwrap()), Some(State::Removing)),
        (&|| store.delete(&record.id).unwrap(), None),
    ];
    for (number, (step, expected)) in steps.iter().enumerate() {
        step();
        let copy = dir.path().join(format!("copy{number}"));
        std::fs::create_dir(&copy).unwrap();
        for name in ["vial.db", "vial.db-wal"] {
            std::fs::copy(dir.path().join(name), copy.join(name)).unwrap();
        }
        let found = Store::open(&copy.join("vial.db")).unwrap().get(&record.id).unwrap();
        assert_eq!(found.map(|record| record.state), *expected);
    }
}
