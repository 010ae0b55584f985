use super::*;
use vial_api::{CreateContainer, LogOptions, RestartPolicy, State};
use vial_sandbox::PodId;

/// A container that is starting.
pub fn new_record(name: &str) -> Record {
    Record {
        id: ContainerId::random().unwrap(),
        pod: PodId::random().unwrap(),
        pod_name: None,
        slot: None,
        name: name.into(),
        image: "busybox".into(),
        image_id: "sha256:1".into(),
        args: vec!["sh".into(), "-c".into(), "a\nb".into()],
        spec: serde_json::json!({ "process": { "args": ["sh"] } }),
        request: CreateContainer {
            image: "busybox".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            restart: RestartPolicy::OnFailure { max_retries: 3 },
            log: LogOptions { max_size: 1 << 20, max_file: 2 },
            ..CreateContainer::default()
        },
        stop_signal: 15,
        memory: 1 << 28,
        milli_cpus: 1000,
        stdin: true,
        auto_remove: false,
        state: State::Starting,
        exit: None,
        created_ms: 5,
        started_ms: None,
        finished_ms: None,
        boot: Some("b1".into()),
        stopped: false,
        restarts: 0,
        backoff_ms: 0,
        base: Position::default(),
        network: None,
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
    let pods: i64 =
        store.lock().connection.query_row("SELECT count(*) FROM pods", [], |row| row.get(0)).unwrap();
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
    let pods: i64 =
        store.lock().connection.query_row("SELECT count(*) FROM pods", [], |row| row.get(0)).unwrap();
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
fn a_container_is_started_again_and_removed_only_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("vial.db")).unwrap();
    let record = Record { state: State::Created, ..new_record("web") };
    let id = &record.id;
    store.insert(&record).unwrap();
    let base = Position { stdout: 7, stderr: 1 };
    let start = NewStart { boot: "b2".into(), restarts: 2, backoff_ms: 400, base, unless_stopped: false };
    assert!(!store.set_running(id, 6).unwrap(), "only what is starting can run");
    store.set_stopped(id, true).unwrap();
    assert!(
        !store.set_starting(id, &NewStart { unless_stopped: true, ..start.clone() }).unwrap(),
        "a person said no"
    );
    assert!(store.set_starting(id, &start).unwrap());
    assert!(!store.set_starting(id, &start).unwrap(), "only one starts it");
    assert!(!store.set_removing(id).unwrap(), "what starts is not removed");
    assert!(store.set_running(id, 6).unwrap());
    assert!(!store.set_removing(id).unwrap(), "what runs is not removed");
    assert!(store.set_exited(id, &exit(3), 7).unwrap());
    let known = store.get(id).unwrap().unwrap();
    assert_eq!(
        (known.boot.as_deref(), known.stopped, known.restarts, known.base),
        (Some("b2"), false, 2, base)
    );
    assert!(store.set_starting(id, &NewStart::default()).unwrap());
    assert_eq!(store.get(id).unwrap().unwrap().exit, Some(exit(3)), "the last end stays until it runs again");
    assert!(store.set_running(id, 8).unwrap());
    assert_eq!(store.get(id).unwrap().unwrap().exit, None);
    assert!(store.set_exited(id, &exit(0), 9).unwrap(), "each start has an end of its own");
    assert!(store.set_removing(id).unwrap());
    store.set_dead(id).unwrap();
    assert!(store.set_removing(id).unwrap(), "a removal that failed is tried again");
}

#[test]
fn names_change_and_stay_unique() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("vial.db")).unwrap();
    let (one, two) = (new_record("one"), new_record("two"));
    store.insert(&one).unwrap();
    store.insert(&two).unwrap();
    assert!(matches!(store.rename(&one.id, "two"), Err(StoreError::NameInUse(name)) if name == "two"));
    store.rename(&one.id, "three").unwrap();
    assert_eq!(store.get(&one.id).unwrap().unwrap().name, "three");
}

/// What the first version wrote is read by this one; a start that was under way then counts as one still.
#[test]
fn a_store_of_the_first_version_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vial.db");
    let (id, pod) = (ContainerId::random().unwrap(), PodId::random().unwrap());
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    old.execute_batch(&format!(
        "PRAGMA user_version = 1; INSERT INTO pods VALUES ('{pod}', 'vm', 1);
         INSERT INTO containers VALUES ('{id}', '{pod}', 'web', 'busybox', 'sha256:1', '[\"sh\"]', '{{}}', 15, 1, 1000, 1, 0, 'created',
            NULL, 5, NULL, NULL)"
    ))
    .unwrap();
    drop(old);
    let store = Store::open(&path).unwrap();
    let known = store.get(&id).unwrap().unwrap();
    assert_eq!(
        (known.state, known.request.image.as_str(), known.request.stdin),
        (State::Starting, "busybox", true)
    );
    assert_eq!(store.image_in_use("sha256:1").unwrap(), Some("web".into()));
}

#[test]
fn a_store_from_the_future_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vial.db");
    Store::open(&path).unwrap().lock().connection.execute_batch("PRAGMA user_version = 99").unwrap();
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
        (&|| store.insert(&record).unwrap(), Some(State::Starting)),
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

fn full_at(store: &Store, pages: u32) {
    store.lock().connection.pragma_update(None, "max_page_count", pages).unwrap();
}

/// A store that has no room for a new page, beside the reserve and the file for what can't be noted.
fn full_store(dir: &Path, records: &[&Record]) -> Store {
    let paths = crate::paths::Paths { data: dir.into(), run: dir.into() };
    let store = Store::open(&dir.join("vial.db")).unwrap();
    let store = store.with_room(Reserve::of(&paths), dir.join("unnoted"));
    for record in records {
        store.insert(record).unwrap();
        store.set_running(&record.id, 6).unwrap();
    }
    full_at(&store, 1);
    store
}

/// One whose reason needs pages of its own.
fn long_exit(code: i32) -> Exit {
    Exit { code, reason: Some("x".repeat(50_000)), ..Exit::default() }
}

#[test]
fn an_end_takes_the_reserve_when_there_is_no_other_room() {
    let dir = tempfile::tempdir().unwrap();
    let record = new_record("web");
    let store = full_store(dir.path(), &[&record]);
    let reserve = dir.path().join("reserve");
    assert!(reserve.exists(), "what was noted before has made it");
    assert!(store.set_exited(&record.id, &long_exit(3), 7).unwrap());
    assert!(!reserve.exists(), "it was given back to the disk");
    // A change that can be refused does not take it.
    full_at(&store, 100_000);
    store.set_stopped(&record.id, true).unwrap();
    assert!(reserve.exists(), "and is kept again");
    full_at(&store, 1);
    let big = Record { spec: "x".repeat(50_000).into(), ..new_record("big") };
    assert!(store.insert(&big).is_err_and(|error| error.is_no_space()));
    assert!(reserve.exists());
}

#[tokio::test]
async fn an_end_without_any_room_is_told_and_noted_with_what_comes_next() {
    let dir = tempfile::tempdir().unwrap();
    let (web, db) = (new_record("web"), new_record("db"));
    let store = full_store(dir.path(), &[&web, &db]);
    store.set_exited(&web.id, &long_exit(137), 7).unwrap();
    store.set_stopped(&web.id, true).unwrap();
    let told = |store: &Store| {
        let known = store.get(&web.id).unwrap().unwrap();
        (known.state, known.exit.map(|exit| exit.code), known.finished_ms, known.stopped)
    };
    let ended = (State::Exited, Some(137), Some(7), true);
    assert_eq!(told(&store), ended);
    assert_eq!(store.list().unwrap().iter().filter(|one| one.state == State::Exited).count(), 1);
    assert!(store.set_removing(&web.id).is_err_and(|error| error.is_no_space()), "not as if it ran");
    assert!(store.set_exited(&web.id, &exit(0), 8).is_ok());
    assert_eq!(told(&store), ended, "the first end counts");

    // A daemon that was killed meanwhile leaves it to the next one, on whose disk there is room.
    drop(store);
    assert!(dir.path().join("unnoted").exists());
    let paths = crate::paths::Paths { data: dir.path().into(), run: dir.path().into() };
    let store = Store::open(&dir.path().join("vial.db")).unwrap();
    assert_eq!(store.get(&web.id).unwrap().unwrap().state, State::Running);
    let store = store.with_room(Reserve::of(&paths), dir.path().join("unnoted"));
    assert_eq!(told(&store), ended);
    store.all_noted().await;
    assert!(!dir.path().join("unnoted").exists());
    drop(store);
    assert_eq!(told(&Store::open(&dir.path().join("vial.db")).unwrap()), ended);
}

#[test]
fn a_pod_without_any_room_is_told_as_stopped_too() {
    let dir = tempfile::tempdir().unwrap();
    let pod = pods::PodRecord {
        id: PodId::random().unwrap(),
        name: "two".into(),
        request: vial_api::CreatePod::default(),
        state: vial_api::PodState::Stopped,
        reason: None,
        created_ms: 4,
        started_ms: None,
        boot: None,
        network: None,
    };
    let store = full_store(dir.path(), &[]);
    full_at(&store, 100_000);
    store.insert_pod(&pod).unwrap();
    store.set_pod_starting(&pod.id, "b").unwrap();
    full_at(&store, 1);
    let reason = "y".repeat(50_000);
    store.set_pod_stopped(&pod.id, Some(&reason)).unwrap();
    assert_eq!(store.pod(&pod.id).unwrap().unwrap().reason.as_deref(), Some(&*reason));
    assert!(dir.path().join("unnoted").exists());
    full_at(&store, 100_000);
    assert_eq!(store.pods().unwrap()[0].state, vial_api::PodState::Stopped);
    assert!(!dir.path().join("unnoted").exists(), "whoever looks writes it, once there is room");
}
