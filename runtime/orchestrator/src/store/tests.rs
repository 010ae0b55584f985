use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::sync::atomic::AtomicUsize;
use tempfile::TempDir;

fn open(folder: &TempDir) -> Store {
    let key = SealKey::at(&folder.path().join("key")).unwrap();
    Store::open(&folder.path().join("objects.db"), key).unwrap()
}

fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.kind == name).unwrap()
}

fn map(name: &str, value: u32) -> Value {
    json!({"metadata": {"name": name}, "data": {"value": value.to_string()}})
}

fn put(store: &Store, key: &Key, object: Value) -> Arc<Stored> {
    let expected = store.get(key).map(|stored| stored.version);
    store.commit(key, expected, Some(object), Share::Common).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_versions_go_on() {
    let folder = TempDir::new().unwrap();
    let (one, two) = (Key::new(kind("ConfigMap"), "a", "one"), Key::new(kind("Secret"), "a", "two"));
    let store = open(&folder);
    put(&store, &one, map("one", 1));
    put(&store, &two, map("two", 2));
    put(&store, &one, map("one", 3));
    let last = store.commit(&one, Some(3), None, Share::Common).unwrap();
    assert_eq!((last.version, &last.object["metadata"]["resourceVersion"]), (4, &"4".into()));
    drop(store);
    let store = open(&folder);
    assert_eq!(store.version(), 4);
    assert_eq!(store.get(&one), None);
    assert_eq!(store.get(&two).unwrap().object["data"]["value"], "2");
    assert_eq!(put(&store, &one, map("one", 5)).version, 5);
}

#[test]
fn a_file_that_is_mostly_free_becomes_small_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("objects.db");
    let one = Key::new(kind("ConfigMap"), "a", "one");
    put(&open(&folder), &one, map("one", 1));
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE past (b); INSERT INTO past VALUES (zeroblob(20 << 20)); DROP TABLE past")
        .unwrap();
    drop(connection);
    assert!(std::fs::metadata(&path).unwrap().len() > 20 << 20);
    let store = open(&folder);
    store.settle().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    assert_eq!(store.get(&one).unwrap().object["data"]["value"], "1");
    assert_eq!(put(&store, &one, map("one", 2)).version, 2);
}

#[test]
fn secrets_are_not_in_the_file_as_they_are() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    put(&store, &Key::new(kind("Secret"), "a", "s"), json!({"data": {"k": "dGhlLXBhc3N3b3Jk"}}));
    put(&store, &Key::new(kind("ConfigMap"), "a", "c"), json!({"data": {"k": "plain-words"}}));
    drop(store);
    let bytes = std::fs::read(folder.path().join("objects.db")).unwrap();
    let contains = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
    assert!(contains(b"plain-words") && !contains(b"dGhlLXBhc3N3b3Jk"));
    // Another key opens nothing, and says so.
    std::fs::write(folder.path().join("key"), [7; 32]).unwrap();
    let key = SealKey::at(&folder.path().join("key")).unwrap();
    assert!(matches!(
        Store::open(&folder.path().join("objects.db"), key),
        Err(StoreError::Seal(SealError::Open(_)))
    ));
}

#[test]
fn a_write_that_expects_another_version_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let key = Key::new(kind("ConfigMap"), "a", "one");
    assert!(matches!(
        store.commit(&key, Some(1), Some(map("one", 1)), Share::Common),
        Err(CommitError::Stale)
    ));
    put(&store, &key, map("one", 1));
    for expected in [None, Some(0), Some(2)] {
        assert!(matches!(
            store.commit(&key, expected, Some(map("one", 2)), Share::Common),
            Err(CommitError::Stale)
        ));
        assert!(matches!(store.commit(&key, expected, None, Share::Common), Err(CommitError::Stale)));
    }
    assert_eq!(store.version(), 1);
}

#[tokio::test]
async fn several_writes_are_one_on_the_disk_and_several_for_who_watches() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let maps = kind("ConfigMap");
    let key = |name: &str| Key::new(maps, "a", name);
    put(&store, &key("old"), map("old", 1));
    put(&store, &key("other"), map("other", 1));
    let change =
        |name: &str, expected, object| Change { key: key(name), expected, object, share: Share::Common };
    let changes = || {
        vec![
            change("new", None, Some(map("new", 1))),
            change("other", Some(7), None),
            change("old", Some(1), None),
            change("none", None, None),
            change("new", None, Some(map("new", 2))),
            change("other", Some(2), Some(map("other", 2))),
        ]
    };
    let versions = |done: Vec<Option<Arc<Stored>>>| -> Vec<Option<u64>> {
        done.into_iter().map(|stored| stored.map(|stored| stored.version)).collect()
    };
    store.0.file.lock().unwrap().limit(Some(1));
    let mut full = changes();
    full.push(change("big", None, Some(json!({"data": "x".repeat(100_000)}))));
    assert!(store.commit_all(full).is_err());
    assert_eq!((store.version(), store.list(maps, "").0.len()), (2, 2));
    store.0.file.lock().unwrap().limit(None);
    let done = versions(store.commit_all(changes()).unwrap());
    assert_eq!(done, [Some(3), None, Some(4), None, None, Some(5)]);
    assert_eq!(versions(store.commit_all(Vec::new()).unwrap()), []);
    let seen = |store: Store| async move {
        let mut watch = store.watch(maps, 2).unwrap();
        for expected in [(3, EventKind::Added), (4, EventKind::Deleted), (5, EventKind::Modified)] {
            let event = watch.next().await.unwrap();
            assert_eq!((event.stored.version, event.kind), expected);
        }
    };
    seen(store.clone()).await;
    drop(store);
    let store = open(&folder);
    assert_eq!((store.version(), store.list(maps, "").0.len()), (5, 2));
    seen(store).await;
}

#[test]
fn lists_are_of_one_kind_and_of_one_namespace_if_asked() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    for (kind_name, namespace, name) in [
        ("ConfigMap", "a", "x"),
        ("ConfigMap", "ab", "y"),
        ("ConfigMap", "b", "z"),
        ("Pod", "a", "x"),
        ("Namespace", "", "a"),
    ] {
        put(&store, &Key::new(kind(kind_name), namespace, name), map(name, 1));
    }
    let names = |kind_name, namespace| {
        let (objects, _) = store.list(kind(kind_name), namespace);
        objects.iter().map(|stored| object::name(&stored.object).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("ConfigMap", ""), ["x", "y", "z"]);
    assert_eq!(names("ConfigMap", "a"), ["x"]);
    assert_eq!(names("Namespace", ""), ["a"]);
    assert_eq!(names("Secret", ""), Vec::<String>::new());
}

#[test]
fn a_file_that_is_none_or_of_a_newer_version_is_refused_with_words() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("objects.db");
    std::fs::write(&path, vec![7; 8192]).unwrap();
    let key = || SealKey::at(&folder.path().join("key")).unwrap();
    assert!(Store::open(&path, key()).is_err());
    std::fs::remove_file(&path).unwrap();
    drop(Store::open(&path, key()).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = Store::open(&path, key()).err().unwrap().to_string();
    assert!(error.contains("newer vial"), "{error}");
}

#[tokio::test]
async fn who_watches_sees_each_write_once_and_in_order_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let (one, other) = (Key::new(kind("ConfigMap"), "a", "one"), Key::new(kind("Secret"), "a", "two"));
    put(&store, &one, map("one", 1));
    let mut early = store.watch(kind("ConfigMap"), 0).unwrap();
    let mut late = store.watch(kind("ConfigMap"), 1).unwrap();
    let writer = store.clone();
    let writes = tokio::spawn(async move {
        put(&writer, &other, map("two", 1));
        put(&writer, &one, map("one", 2));
        writer.commit(&one, Some(3), None, Share::Common).unwrap();
    });
    let expected = [(1, EventKind::Added), (3, EventKind::Modified), (4, EventKind::Deleted)];
    for (version, what) in expected {
        let event = early.next().await.unwrap();
        assert_eq!((event.stored.version, event.kind), (version, what));
    }
    assert_eq!(late.next().await.unwrap().stored.version, 3);
    writes.await.unwrap();
    drop((early, late, store));
    let store = open(&folder);
    let mut again = store.watch(kind("ConfigMap"), 1).unwrap();
    let event = again.next().await.unwrap();
    assert_eq!((event.stored.version, event.previous.as_ref().map(|stored| stored.version)), (3, Some(1)));
}

#[tokio::test]
async fn who_is_too_far_behind_has_to_list_again() {
    let mut log = Log::new(0);
    let key = Key::new(kind("ConfigMap"), "a", "one");
    for version in 1..=events::KEPT as u64 + 5 {
        let stored = Arc::new(Stored { object: Value::Null, version });
        log.push(Event::new(key.clone(), EventKind::Modified, stored, None));
    }
    assert!(!log.reaches(4) && log.reaches(5));
    assert!(log.after(4, key.kind, 1).is_none());
    assert_eq!(log.after(5, key.kind, 2).unwrap().1, 7);
    let none = kind("Secret").index();
    assert_eq!(log.after(5, none, 2).unwrap(), (vec![], events::KEPT as u64 + 5));
}

#[test]
fn one_large_object_drives_nobody_out() {
    let mut log = Log::new(0);
    let mut push = |kind_name: &str, version: u64, object: Value| {
        let stored = Arc::new(Stored { object, version });
        log.push(Event::new(Key::new(kind(kind_name), "a", "one"), EventKind::Modified, stored, None));
    };
    for version in 1..=900 {
        push("Secret", version, json!({"data": "x".repeat(1 << 10)}));
    }
    push("ConfigMap", 901, "x".repeat(events::KEPT_BYTES).into());
    push("Secret", 902, json!({}));
    assert!(log.reaches(0));
}

#[test]
fn large_objects_written_again_and_again_take_bounded_room_in_memory_and_in_the_file() {
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let store = open(&folder);
    let (kind, large) = (kind("ConfigMap"), 1 << 20);
    let key = Key::new(kind, "a", "one");
    for number in 0..150 {
        put(
            &store,
            &key,
            json!({"metadata": {"name": "one"}, "data": {"n": number.to_string(), "x": "x".repeat(large)}}),
        );
    }
    let kept = (events::NEWEST_BYTES / large) as u64;
    let is_kept = |store: &Store| {
        assert_eq!(store.watch(kind, 150 - kept).err(), Some(Expired(150 - kept)));
        assert!(store.watch(kind, 150 - kept + 2).is_ok());
    };
    is_kept(&store);
    let (on_disk, bound) =
        (std::fs::metadata(folder.path().join("objects.db")).unwrap().len(), events::NEWEST_BYTES as u64);
    assert!(on_disk < bound * 3 / 2, "{on_disk} bytes");
    drop(store);
    is_kept(&open(&folder));
}

#[test]
fn objects_take_no_more_memory_than_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| Key::new(kind("ConfigMap"), "a", name);
    let object = |kib: usize| Some(json!({"metadata": {"name": "x"}, "data": {"k": "x".repeat(kib << 10)}}));
    let store = open(&folder);
    store.set_room(1 << 20);
    let mut version = store.commit(&key("one"), None, object(500), Share::Common).unwrap().version;
    store.commit(&key("two"), None, object(500), Share::Common).unwrap();
    let full = store.commit(&key("three"), None, object(100), Share::Common);
    assert!(matches!(full, Err(CommitError::Store(StoreError::Crowded { held: 0, room: 1 }))), "{full:?}");
    assert!(store.is_crowded());
    // The server can tell what becomes of what is there, up to a bound; a client can't make it more.
    assert!(store.commit(&key("one"), Some(version), object(600), Share::Common).is_err());
    version = store.commit(&key("one"), Some(version), object(600), Share::Reserve).unwrap().version;
    assert!(store.commit(&key("one"), Some(version), object(700), Share::Reserve).is_err());
    assert_eq!(store.get(&key("one")).unwrap().version, version);
    // It can always be made less, also by who finds more than there may be.
    drop(store);
    let store = open(&folder);
    store.set_room(100 << 10);
    version = store.commit(&key("one"), Some(version), object(400), Share::Common).unwrap().version;
    let leaving = |kib| {
        let mut leaving = object(kib).unwrap();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        Some(leaving)
    };
    // What begins to go may take a little more for that; what is on its way may not.
    version = store.commit(&key("one"), Some(version), leaving(400), Share::Common).unwrap().version;
    assert!(store.commit(&key("one"), Some(version), leaving(500), Share::Common).is_err());
    store.commit(&key("one"), Some(version), None, Share::Common).unwrap();
    let two = store.get(&key("two")).unwrap().version;
    store.commit(&key("two"), Some(two), None, Share::Common).unwrap();
    store.commit(&key("three"), None, object(90), Share::Common).unwrap();
}

#[test]
fn what_objects_take_is_known_however_often_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let is_right = |store: &Store| {
        let memory = store.memory();
        assert_eq!(
            memory.held,
            memory.objects.values().map(|stored| object::weight(&stored.object)).sum::<usize>()
        );
    };
    // Nine fields: a version makes them one more, and that a node more of the map.
    let fields = (0..8).map(|number| (format!("f{number}"), json!("x"))).collect::<serde_json::Map<_, _>>();
    let made = |text: &str| {
        let mut metadata = fields.clone();
        metadata.insert("name".into(), json!("x"));
        Some(json!({"metadata": metadata, "data": {"k": text}}))
    };
    let keys = ["one", "two"].map(|name| Key::new(kind("ConfigMap"), "a", name));
    for number in 0..30 {
        let key = &keys[number % 2];
        let there = store.get(key).map(|stored| stored.version);
        let object = if number % 5 == 4 && there.is_some() { None } else { made(&"x".repeat(number)) };
        store.commit(key, there, object, Share::Common).unwrap();
        is_right(&store);
    }
    drop(store);
    is_right(&open(&folder));
}

#[test]
fn objects_of_many_small_parts_are_not_remembered_as_if_they_were_small() {
    let mut log = Log::new(1);
    let key = Key::new(kind("ConfigMap"), "a", "one");
    log.push(Event::new(
        key.clone(),
        EventKind::Added,
        Arc::new(Stored { object: Value::Null, version: 1 }),
        None,
    ));
    // A megabyte of JSON, a hundred in memory.
    let small = json!({"a": {"b": 1}});
    let object = json!({"parts": vec![small; 70_000]});
    let weight = object::weight(&object);
    assert!(weight > 80 << 20, "{weight}");
    for version in 2..5 {
        let stored = Arc::new(Stored { object: object.clone(), version });
        log.push(Event::new(key.clone(), EventKind::Modified, stored, None));
        assert!(log.reaches(version - 1) && !log.reaches(version - 2));
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.stored.version == other.stored.version
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_store_equals_its_model_whenever_it_is_opened_again(
        steps in proptest::collection::vec((0..4u8, 0..3u8, any::<bool>(), 0..10u8), 1..40)
    ) {
        let folder = TempDir::new().unwrap();
        let mut store = open(&folder);
        let mut model: BTreeMap<Key, (Value, u64)> = BTreeMap::new();
        let mut version = 0;
        for (name, namespace, remove, reopen) in steps {
            let key = Key::new(kind("ConfigMap"), &format!("n{namespace}"), &format!("o{name}"));
            let expected = model.get(&key).map(|(_, version)| *version);
            let object = (!remove).then(|| map("x", version as u32));
            if let Ok(stored) = store.commit(&key, expected, object.clone(), Share::Common) {
                version += 1;
                prop_assert_eq!(stored.version, version);
                match object {
                    Some(_) => model.insert(key, (stored.object.clone(), version)),
                    None => model.remove(&key),
                };
            } else {
                prop_assert!(remove && expected.is_none());
            }
            if reopen == 0 {
                drop(store);
                store = open(&folder);
            }
            prop_assert_eq!(store.version(), version);
            let (objects, _) = store.list(kind("ConfigMap"), "");
            let found: Vec<_> = objects.iter().map(|stored| (stored.object.clone(), stored.version)).collect();
            prop_assert_eq!(found, model.values().cloned().collect::<Vec<_>>());
        }
    }
}

/// A store with some of everything, closed; its file.
fn closed(folder: &TempDir) -> std::path::PathBuf {
    let store = open(folder);
    for number in 0..40u32 {
        let name = format!("n{}", number % 25);
        put(&store, &Key::new(kind("ConfigMap"), "a", &name), map(&name, number));
        put(&store, &Key::new(kind("Secret"), "b", &name), map(&name, number));
    }
    store.commit(&Key::new(kind("ConfigMap"), "a", "n3"), Some(57), None, Share::Common).unwrap();
    folder.path().join("objects.db")
}

fn contents(store: &Store) -> Vec<Arc<Stored>> {
    KINDS.iter().flat_map(|kind| store.list(kind, "").0).collect()
}

#[test]
fn a_full_disk_refuses_writes_keeps_what_is_there_and_takes_them_again_when_there_is_room() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let key = Key::new(kind("ConfigMap"), "a", "one");
    put(&store, &key, map("one", 1));
    store.0.file.lock().unwrap().limit(Some(16));
    let big = || json!({"metadata": {"name": "big"}, "data": {"value": "x".repeat(100_000)}});
    let error =
        store.commit(&Key::new(kind("ConfigMap"), "a", "big"), None, Some(big()), Share::Common).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!((store.version(), contents(&store).len()), (1, 1));
    store.0.file.lock().unwrap().limit(None);
    assert_eq!(put(&store, &Key::new(kind("ConfigMap"), "a", "big"), big()).version, 2);
    drop(store);
    assert_eq!(contents(&open(&folder)).len(), 2);
}

#[test]
fn on_a_full_disk_room_is_made_for_what_frees_some_and_for_nothing_else() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    store.set_way_out(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    });
    let key = |name| Key::new(kind("ConfigMap"), "a", name);
    let big = |name: &str| json!({"metadata": {"name": name}, "data": {"value": "x".repeat(100_000)}});
    let there = put(&store, &key("there"), big("there")).version;
    store.0.file.lock().unwrap().limit(Some(1));
    assert!(store.commit(&key("more"), None, Some(big("more")), Share::Reserve).is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // That it is gone is told to those who watch, which takes room.
    assert!(store.commit(&key("there"), Some(there), None, Share::Common).is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_file_that_is_none_or_is_cut_is_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let path = closed(&folder);
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let key = SealKey::at(&folder.path().join("key")).unwrap();
        Store::open(&path, key).map(|store| contents(&store).len()).map_err(|error| error.to_string())
    };
    for bytes in [
        &b"this is no database at all, but it is long enough"[..],
        &[0xff; 5000],
        &good[..good.len() / 2],
        &good[..4096 * 3 + 7],
    ] {
        let error = refused(bytes).unwrap_err();
        assert!(error.contains("damaged") && error.contains("move it away"), "{error}");
    }
    for nothing in ["-mark", "-wal"] {
        let error = refused(b"").unwrap_err();
        assert!(error.contains("empty or gone"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let key = SealKey::at(&folder.path().join("key")).unwrap();
        assert!(Store::open(&path, key).err().unwrap().to_string().contains("empty or gone"));
        // Each of the two is reason enough.
        std::fs::write(beside(&path, "-wal"), [1; 100]).unwrap();
        let _ = std::fs::remove_file(beside(&path, nothing));
    }
    // A process that died while it made its store has an empty file and none beside it.
    assert_eq!(refused(b""), Ok(0));
}

fn beside(path: &std::path::Path, end: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A store whose process was killed: everything since the beginning is in the log. Its folder, its file, and where each write ends in the log.
fn killed() -> (TempDir, std::path::PathBuf, Vec<u64>) {
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let store = open(&folder);
    let path = folder.path().join("objects.db");
    let ends = (0..12u32).map(|number| {
        let name = format!("n{}", number % 7);
        put(&store, &Key::new(kind("ConfigMap"), "a", &name), map(&name, number));
        std::fs::metadata(beside(&path, "-wal")).unwrap().len()
    });
    let ends = ends.collect();
    // What is open is not what a killed process leaves, the copy is.
    let copy = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    for name in ["objects.db", "objects.db-wal", "objects.db-mark", "key"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let path = copy.path().join("objects.db");
    (copy, path, ends)
}

fn reopened(folder: &TempDir) -> Result<(u64, Vec<Arc<Stored>>), String> {
    let key = SealKey::at(&folder.path().join("key")).unwrap();
    let store = Store::open(&folder.path().join("objects.db"), key);
    store.map(|store| (store.version(), contents(&store))).map_err(|error| error.to_string())
}

#[test]
fn a_log_that_is_cut_is_refused_and_stays_as_it_is() {
    let (folder, path, ends) = killed();
    let wal = beside(&path, "-wal");
    let good = std::fs::read(&wal).unwrap();
    for cut in [0, 1, 32, 60, 5000, 30_000, ends[5], ends[10], ends[10] + 9, good.len() as u64 - 1] {
        std::fs::write(&wal, &good[..cut as usize]).unwrap();
        let error = reopened(&folder).unwrap_err();
        assert!(error.contains("damaged"), "cut at {cut}: {error}");
        assert!(std::fs::read(&wal).unwrap_or_default() == good[..cut as usize], "cut at {cut}");
    }
    std::fs::write(&wal, &good).unwrap();
    let (version, objects) = reopened(&folder).unwrap();
    assert_eq!((version, objects.len()), (12, 7));
}

#[test]
fn a_write_that_a_loss_of_power_cut_short_was_never_made() {
    let (folder, path, ends) = killed();
    let wal = beside(&path, "-wal");
    let good = std::fs::read(&wal).unwrap();
    let (start, page) = (ends[10] as usize, 4096 + 24);
    assert!(good.len() - start >= 2 * page, "the last write has several frames");
    let db = std::fs::read(&path).unwrap();
    // The last write was not answered yet, and any part of it may be on the disk: none, the first, only the last, some torn.
    let mut holes = good.clone();
    holes[start..start + page].fill(0);
    let mut torn = good.clone();
    torn[start + page / 2..start + page].fill(0);
    for left in [&good[..start], &good[..start + page], &good[..start + page + 100], &holes[..], &torn[..]] {
        for name in ["-shm", "-wal"] {
            let _ = std::fs::remove_file(beside(&path, name));
        }
        std::fs::write(&path, &db).unwrap();
        std::fs::write(&wal, left).unwrap();
        std::fs::write(beside(&path, "-mark"), format!("{:020}\n", 11)).unwrap();
        assert_eq!(reopened(&folder).map(|(version, _)| version), Ok(11));
    }
}

#[test]
fn two_losses_of_power_one_after_the_other_are_no_damage() {
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let log_of = |folder: &TempDir| folder.path().join("objects.db-wal");
    let key = Key::new(kind("ConfigMap"), "a", "one");
    // A write that is lost while it happens: the beginning of it in the log is torn, the rest of it is whole.
    let lose = |from: &TempDir, object: Value| {
        let store = open(from);
        put(&store, &key, map("one", 1));
        let start = std::fs::metadata(log_of(from)).unwrap().len() as usize;
        put(&store, &key, object);
        let copy = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        for name in ["objects.db", "objects.db-wal", "key"] {
            std::fs::copy(from.path().join(name), copy.path().join(name)).unwrap();
        }
        let mut log = std::fs::read(log_of(&copy)).unwrap();
        // Where the log was begun anew, its file keeps its length.
        let start = if start < log.len() { start } else { 32 + 2 * (4096 + 24) };
        log[start + 100] ^= 1;
        std::fs::write(log_of(&copy), log).unwrap();
        let answered = store.version() - 1;
        std::fs::write(copy.path().join("objects.db-mark"), format!("{answered:020}\n")).unwrap();
        (copy, answered)
    };
    let (folder, _) = lose(&folder, json!({"metadata": {"name": "one"}, "data": {"x": "x".repeat(200_000)}}));
    let (folder, answered) = lose(&folder, map("one", 2));
    assert_eq!(reopened(&folder).map(|(version, _)| version), Ok(answered));
}

#[test]
fn a_store_that_is_settled_has_nothing_in_its_log() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    put(&store, &Key::new(kind("ConfigMap"), "a", "one"), map("one", 1));
    store.settle().unwrap();
    assert_eq!(std::fs::metadata(folder.path().join("objects.db-wal")).unwrap().len(), 0);
    put(&store, &Key::new(kind("ConfigMap"), "a", "one"), map("one", 2));
}

#[test]
fn an_old_copy_is_refused_beside_the_mark_and_taken_without_it() {
    let folder = TempDir::new().unwrap();
    let key = Key::new(kind("ConfigMap"), "a", "one");
    put(&open(&folder), &key, map("one", 1));
    let path = folder.path().join("objects.db");
    let old = std::fs::read(&path).unwrap();
    put(&open(&folder), &key, map("one", 2));
    std::fs::write(&path, old).unwrap();
    let error = reopened(&folder).unwrap_err();
    assert!(error.contains("ends with version 1, and 2 was answered"), "{error}");
    std::fs::remove_file(beside(&path, "-mark")).unwrap();
    assert_eq!(reopened(&folder).unwrap().0, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Bits that changed on the disk are told or mean nothing; never is an object another than was written.
    #[test]
    fn flipped_bits_are_noticed(flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..4), seed in 0..4u8) {
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let path = closed(&folder);
        let before = contents(&open(&folder));
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, bit) in flips {
            // Most of a page is empty: half of the flips go where something is.
            let mut at = place.index(bytes.len());
            while seed % 2 == 0 && bytes[at] == 0 {
                at = (at + 1) % bytes.len();
            }
            bytes[at] ^= 1 << bit;
        }
        std::fs::write(&path, bytes).unwrap();
        let key = SealKey::at(&folder.path().join("key")).unwrap();
        if let Ok(store) = Store::open(&path, key) {
            prop_assert_eq!(contents(&store), before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The same for the log that a killed process leaves, with the mark and, but for the last write, without it.
    #[test]
    fn flipped_bits_in_the_log_are_noticed(place in any::<prop::sample::Index>(), bit in 0..8u8, has_mark in any::<bool>()) {
        let (folder, path, ends) = killed();
        let wal = beside(&path, "-wal");
        let mut bytes = std::fs::read(&wal).unwrap();
        // Two whole writes behind the broken one are what tells without the mark.
        let end = if has_mark { bytes.len() } else { ends[8] as usize };
        bytes[place.index(end)] ^= 1 << bit;
        std::fs::write(&wal, bytes).unwrap();
        if !has_mark {
            std::fs::remove_file(beside(&path, "-mark")).unwrap();
        }
        let found = reopened(&folder);
        prop_assert!(found.as_ref().is_err_and(|error| error.contains("damaged")), "{:?}", found.map(|found| found.0));
    }
}
