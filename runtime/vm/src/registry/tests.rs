use super::*;
use crate::spec::Limits;
use proptest::prelude::*;

fn meta(id: &VmId, owner: &str, uid: u32, maker: ProcessRecord) -> Meta {
    Meta {
        id: id.clone(),
        owner: owner.into(),
        labels: BTreeMap::new(),
        created_unix_ms: 0,
        created_mono_us: 0,
        cpus: 1,
        memory_mib: 128,
        kernel: "/k".into(),
        agent: false,
        uid: Some(uid),
        cgroup: None,
        limits: Limits::default(),
        unenforced: vec![],
        maker,
    }
}

fn dead() -> ProcessRecord {
    ProcessRecord { pid: 1, start_time: u64::MAX, boot_id: "of another time".into() }
}

#[tokio::test]
async fn sweeps_the_dead_of_one_owner_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    let me = ProcessRecord::current().unwrap();
    for (name, owner, maker) in [
        ("dead", "a", dead()),
        ("other", "b", dead()),
        ("starting", "a", me.clone()),
        ("running", "a", dead()),
    ] {
        let id = name.parse().unwrap();
        registry.create(&id, |uid| meta(&id, owner, uid, maker)).unwrap();
    }
    let running = registry.dir(&"running".parse().unwrap());
    std::fs::write(running.process(), serde_json::to_vec(&me).unwrap()).unwrap();
    // A maker that died between making the folder and writing its notes.
    std::fs::create_dir(registry.folder().join("torn")).unwrap();
    let state = |name: &str| registry.info(&name.parse().unwrap()).map(|i| i.state);
    assert_eq!(state("starting").unwrap(), VmState::Starting);
    assert_eq!(state("running").unwrap(), VmState::Running);
    assert!(matches!(state("torn"), Err(Error::NotFound(_))));
    let swept = registry.sweep("a").await.unwrap();
    assert_eq!(swept.iter().map(VmId::as_str).collect::<Vec<_>>(), ["dead", "torn"]);
    let left: Vec<_> = registry.list().unwrap().into_iter().map(|i| i.id.as_str().to_owned()).collect();
    assert_eq!(left, ["other", "running", "starting"]);
    assert!(matches!(registry.remove(&"running".parse().unwrap()).await, Err(Error::Running(_))));
    assert!(matches!(registry.remove(&"nobody".parse().unwrap()).await, Err(Error::NotFound(_))));
}

#[test]
fn every_vm_has_ids_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    let mut seen = HashSet::new();
    for n in 0..50 {
        let id = format!("vm{n}").parse().unwrap();
        let (_, meta) = registry.create(&id, |uid| meta(&id, "a", uid, dead())).unwrap();
        let uid = meta.uid.unwrap();
        assert!((UID_BASE..UID_BASE + UID_COUNT).contains(&uid) && seen.insert(uid));
    }
    let id = "vm0".parse().unwrap();
    assert!(matches!(registry.create(&id, |uid| meta(&id, "a", uid, dead())), Err(Error::Exists(_))));
}

proptest! {
    #[test]
    fn a_free_uid_is_never_taken(name in "[a-z]{1,8}", steps in 0u32..20) {
        let id: VmId = name.parse().unwrap();
        let mut taken = HashSet::new();
        for _ in 0..steps {
            prop_assert!(taken.insert(free_uid(&id, &taken)));
        }
    }

    #[test]
    fn states_follow_from_facts(recorded: bool, alive: bool, maker: bool, line in ".{0,60}") {
        let status = || Status::parse(line.as_bytes());
        let found = state(recorded, alive, || maker, status);
        // A VM is running only when its recorded process lives; nothing that a file says changes that.
        prop_assert_eq!(matches!(found, VmState::Running), recorded && alive);
        prop_assert_eq!(matches!(found, VmState::Starting), !recorded && maker);
        if let VmState::Ended(exit) = found {
            prop_assert!(!exit.reason.is_clean(), "rubbish is no clean end");
        }
    }

    #[test]
    fn rubbish_in_a_folder_is_no_panic(files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 3)) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let vm = registry.folder().join("x");
        std::fs::create_dir(&vm).unwrap();
        for (name, bytes) in ["meta.json", "process.json", "status.jsonl"].iter().zip(files) {
            std::fs::write(vm.join(name), bytes).unwrap();
        }
        prop_assert!(registry.list().unwrap().is_empty());
    }
}
