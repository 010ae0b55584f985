use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::import::ImportConfig;
use crate::testing::{Head, Tar, config, docker_archive, gzip, simple};

fn store() -> (TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    (dir, store)
}

fn load(store: &ImageStore, archive: Vec<u8>) -> Result<Vec<LoadedImage>> {
    store.load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |_| {})
}

/// Every file of the store, without the lock and the names.
fn files_of(store: &ImageStore) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in [store.images(), store.layers(), store.merged(), store.tmp()] {
        found.extend(files::list_dir(&dir).unwrap().into_iter().map(|name| dir.join(name)));
    }
    found.sort();
    found
}

const NEVER: &dyn Fn(&ImageId) -> bool = &|_| false;

#[test]
fn an_image_is_found_by_name_and_id_and_gone_when_removed() {
    let (_dir, store) = store();
    let loaded = load(&store, docker_archive("busybox", &[simple(b"1"), simple(b"2")])).unwrap();
    assert_eq!(loaded[0].names, ["busybox:latest"]);
    let image = store.resolve("docker.io/library/busybox").unwrap();
    assert_eq!(image.id, loaded[0].id);
    // The first layer's only file is covered by the second: its data is not part of the disk.
    assert_eq!(image.disk.len(), 2);
    assert_eq!(store.resolve(&image.id.hex()[..12]).unwrap().id, image.id);
    assert_eq!(store.list().unwrap()[0].names, ["busybox:latest"]);
    let report = store.remove("busybox", NEVER, false).unwrap();
    assert_eq!((report.untagged, report.deleted), (vec!["busybox:latest".to_owned()], vec![image.id]));
    assert_eq!(files_of(&store), Vec::<PathBuf>::new());
    assert!(matches!(store.resolve("busybox"), Err(Error::NotFound(_))));
}

#[test]
fn a_name_moves_to_the_newer_image_and_the_older_stays_without() {
    let (_dir, store) = store();
    let old = load(&store, docker_archive("a", &[simple(b"1")])).unwrap()[0].id;
    let new = load(&store, docker_archive("a", &[simple(b"2")])).unwrap()[0].id;
    assert_eq!(store.resolve("a").unwrap().id, new);
    assert_eq!(store.resolve(&old.to_string()).unwrap().names, Vec::<String>::new());
}

#[test]
fn an_image_in_use_is_not_deleted() {
    let (_dir, store) = store();
    let id = load(&store, docker_archive("a", &[simple(b"1")])).unwrap()[0].id;
    let used: &dyn Fn(&ImageId) -> bool = &|used| *used == id;
    assert!(matches!(store.remove("a", used, false), Err(Error::InUse { .. })));
    assert_eq!(store.resolve("a").unwrap().id, id);
    let report = store.remove("a", used, true).unwrap();
    assert_eq!(report.deleted, []);
    assert!(store.resolve(&id.to_string()).is_ok());
}

#[test]
fn layers_are_shared_and_kept_while_anyone_needs_them() {
    let (_dir, store) = store();
    load(&store, docker_archive("a", &[simple(b"1")])).unwrap();
    let reused = RefCell::new(Vec::new());
    let archive = docker_archive("b", &[simple(b"1"), simple(b"2")]);
    store
        .load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |progress| {
            if let Progress::LayerDone { reused: was, .. } = progress {
                reused.borrow_mut().push(was);
            }
        })
        .unwrap();
    assert_eq!(*reused.borrow(), [true, false]);
    store.remove("a", NEVER, false).unwrap();
    assert!(store.resolve("b").is_ok());
    let damaged = reader_of(&store, "b");
    assert!(damaged.lookup(b"bin/sh").is_some());
}

fn reader_of(store: &ImageStore, name: &str) -> crate::tree::Tree {
    let disk = &store.resolve(name).unwrap().disk;
    crate::erofs::reader::read(&File::open(&disk[0]).unwrap()).unwrap().tree
}

#[test]
fn an_import_is_an_image_of_one_layer() {
    let (_dir, store) = store();
    let changes = ImportConfig::parse(&["CMD [\"/bin/sh\"]"]).unwrap();
    let loaded = store.import(Cursor::new(gzip(&simple(b"1"))), "root:v1", changes).unwrap();
    let image = store.resolve("root:v1").unwrap();
    assert_eq!(image.id, loaded.id);
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_deref(), Some(&["/bin/sh".to_owned()][..]));
    assert!(store.import(Cursor::new(simple(b"1")), "Not a name", ImportConfig::default()).is_err());
}

#[test]
fn an_archive_is_taken_compressed_as_a_file_and_as_a_folder() {
    let (dir, store) = store();
    let archive = docker_archive("a", &[simple(b"1")]);
    let id = load(&store, archive.clone()).unwrap()[0].id;
    let path = dir.path().join("archive");
    for bytes in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(store.load(LoadSource::Path(path.clone()), &mut |_| {}).unwrap()[0].id, id);
    }
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let status =
        std::process::Command::new("tar").arg("-xf").arg(&path).arg("--zstd").arg("-C").arg(&folder).status();
    if status.is_ok_and(|status| status.success()) {
        assert_eq!(store.load(LoadSource::Path(folder), &mut |_| {}).unwrap()[0].id, id);
    }
}

fn oci_layout(dir: &Path, layer: &[u8], tweak: impl Fn(&mut serde_json::Value)) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        serde_json::json!({ "digest": digest, "size": bytes.len() })
    };
    let typed = |mut descriptor: serde_json::Value, name: &str| {
        descriptor["mediaType"] = format!("application/vnd.oci.image.{name}").into();
        descriptor
    };
    let (config, _) = config(&[Digest::of(layer)]);
    let mut manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": typed(put(config.as_bytes()), "config.v1+json"),
        "layers": [typed(put(&gzip(layer)), "layer.v1.tar+gzip")],
    });
    tweak(&mut manifest);
    let mut descriptor = typed(put(manifest.to_string().as_bytes()), "manifest.v1+json");
    descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "v7" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn an_oci_layout_with_a_bare_tag_is_named_after_its_folder() {
    let (dir, store) = store();
    let layout = dir.path().join("mine");
    oci_layout(&layout, &simple(b"1"), |_| {});
    let loaded = store.load(LoadSource::Path(layout), &mut |_| {}).unwrap();
    assert_eq!(loaded[0].names, ["mine:v7"]);
}

#[test]
fn broken_oci_layouts_are_refused_and_leave_nothing() {
    let other = Digest::of(b"other");
    type Tweak<'a> = &'a dyn Fn(&mut serde_json::Value);
    let tweaks: [(&str, Tweak<'_>); 5] = [
        ("media type", &|m| m["layers"][0]["mediaType"] = "text/plain".into()),
        ("has no", &|m| m["layers"][0]["digest"] = other.to_string().into()),
        ("size", &|m| m["layers"][0]["size"] = 1.into()),
        ("unusable digest", &|m| m["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into()),
        ("0 layers", &|m| m["layers"] = serde_json::json!([])),
    ];
    for (reason, tweak) in tweaks {
        let (dir, store) = store();
        oci_layout(&dir.path().join("x"), &simple(b"1"), tweak);
        let error = store.load(LoadSource::Path(dir.path().join("x")), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert_eq!(files_of(&store), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_link_out_of_a_folder_is_not_followed() {
    let (dir, store) = store();
    let outside = dir.path().join("outside.json");
    std::fs::write(&outside, "[]").unwrap();
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink("../outside.json", folder.join("manifest.json")).unwrap();
    assert!(store.load(LoadSource::Path(folder), &mut |_| {}).is_err());
}

#[test]
fn broken_archives_are_refused_by_image_and_layer_and_leave_nothing() {
    let good = simple(b"1");
    let bad_layer = Tar::default().file("../x", b"").end();
    let mut wrong_digest = docker_archive("a", std::slice::from_ref(&good));
    let at = wrong_digest.windows(6).rposition(|w| w == b"bin/sh").unwrap() + 512;
    wrong_digest[at] ^= 1;
    let truncated = docker_archive("a", std::slice::from_ref(&good))[..3000].to_vec();
    let many = vec![Tar::default().file("a", b"").end(); 128];
    let missing_target = Tar::default().hardlink("a", "gone").end();
    for (archive, reason) in [
        (docker_archive("a", &[good.clone(), bad_layer]), "image a:latest: layer 2 of 2"),
        (wrong_digest, "its diff_id is sha256:"),
        (truncated, "truncated"),
        (docker_archive("a", &many), "more than 127"),
        (docker_archive("a", &[missing_target]), "in no layer below"),
        (Tar::default().file("x", b"").end(), "neither a docker-archive"),
        (Tar::default().file("manifest.json", b"[{").end(), "not valid"),
        (
            Tar::default().file("manifest.json", b"[{\"Config\":\"../../etc/passwd\"}]").end(),
            "not a regular file inside",
        ),
        (
            Tar::default()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("manifest.json", b"[{\"Config\":\"a\"}]")
                .end(),
            "not a regular file",
        ),
        (
            Tar::default()
                .head(&Head { name: b"manifest.json", size: 5 << 20, ..Head::default() })
                .bytes(&vec![b' '; 5 << 20])
                .end(),
            "more than 4194304",
        ),
        (b"rubbish".repeat(1000), "not a tar header"),
        (Vec::new(), "truncated"),
        (gzip(&docker_archive("a", std::slice::from_ref(&good)))[..100].to_vec(), "decompressed"),
    ] {
        let (_dir, store) = store();
        let error = load(&store, archive).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert_eq!(files_of(&store), Vec::<PathBuf>::new(), "{reason}");
    }
}

#[test]
fn what_a_killed_writer_left_is_swept_at_the_next_open() {
    let (_dir, store) = store();
    let id = load(&store, docker_archive("a", &[simple(b"1")])).unwrap()[0].id;
    let before = files_of(&store);
    std::fs::write(store.tmp().join("1-0"), b"half").unwrap();
    std::fs::write(store.layer_path(Digest::of(b"orphan"), 1), b"x").unwrap();
    std::fs::write(store.merged().join("orphan"), b"x").unwrap();
    let mut names = store.names().unwrap();
    names.insert("ghost".parse().unwrap(), Digest::of(b"ghost"));
    store.write_names(&names).unwrap();
    let store = ImageStore::open(store.dir()).unwrap();
    assert_eq!(files_of(&store), before);
    assert_eq!(store.resolve("a").unwrap().id, id);
    assert!(matches!(store.resolve("ghost"), Err(Error::NotFound(_))));
}

#[test]
fn an_open_store_does_not_sweep_under_a_writer() {
    let (_dir, store) = store();
    let _writer = files::lock(store.dir()).unwrap();
    let half = store.tmp().join("half");
    std::fs::write(&half, b"x").unwrap();
    ImageStore::open(store.dir()).unwrap();
    assert!(half.exists());
}

#[test]
fn a_damaged_layer_file_is_named() {
    let (_dir, store) = store();
    load(&store, docker_archive("a", &[simple(b"1")])).unwrap();
    let layer = store.layer_path(Digest::of(&simple(b"1")), layer_format());
    File::options().write(true).open(&layer).unwrap().set_len(4096).unwrap();
    let error = load(&store, docker_archive("b", &[simple(b"1"), simple(b"2")])).unwrap_err();
    assert!(matches!(&error, Error::DamagedLayer { path, .. } if *path == layer), "{error}");
}

fn layer_format() -> u32 {
    crate::layer::FORMAT_VERSION
}

/// A step that both the store and the model take.
#[derive(Debug, Clone)]
enum Step {
    Load { name: usize, content: Vec<u8> },
    RemoveName { name: usize },
    Reopen,
}

const NAMES: [&str; 3] = ["a:latest", "b:v1", "c.io/d:x"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..NAMES.len(), prop::collection::vec(0u8..3, 1..3)).prop_map(|(name, content)| Step::Load { name, content }),
        2 => (0..NAMES.len()).prop_map(|name| Step::RemoveName { name }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_store_is_a_map_of_names_and_a_set_of_images(steps in prop::collection::vec(step(), 1..12)) {
        let (_dir, mut store) = store();
        let (mut names, mut images) = (BTreeMap::<usize, ImageId>::new(), BTreeMap::<ImageId, Vec<Vec<u8>>>::new());
        for step in steps {
            match step {
                Step::Load { name, content } => {
                    let layers: Vec<Vec<u8>> = content.iter().map(|&byte| simple(&[byte])).collect();
                    let id = load(&store, docker_archive(NAMES[name], &layers)).unwrap()[0].id;
                    names.insert(name, id);
                    images.insert(id, layers);
                }
                Step::RemoveName { name } => {
                    let result = store.remove(NAMES[name], NEVER, false);
                    prop_assert_eq!(result.is_ok(), names.contains_key(&name));
                    if let Some(id) = names.remove(&name)
                        && !names.values().any(|&other| other == id)
                    {
                        images.remove(&id);
                    }
                }
                Step::Reopen => store = ImageStore::open(store.dir()).unwrap(),
            }
            let listed: BTreeSet<ImageId> = store.list().unwrap().iter().map(|image| image.id).collect();
            prop_assert_eq!(listed, images.keys().copied().collect::<BTreeSet<_>>());
            let seen: BTreeMap<usize, ImageId> =
                (0..NAMES.len()).filter_map(|i| Some((i, store.resolve(NAMES[i]).ok()?.id))).collect();
            prop_assert_eq!(&seen, &names);
            let layers: BTreeSet<Digest> = images.values().flatten().map(|layer| Digest::of(layer)).collect();
            // A layer file and a frame each.
            prop_assert_eq!(files::list_dir(&store.layers()).unwrap().len(), 2 * layers.len());
        }
    }
}

#[test]
fn a_named_pipe_without_a_writer_is_refused_and_holds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    let error = store.load(LoadSource::Path(pipe), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::NeitherFileNorFolder(_)), "{error}");
}

#[test]
fn a_source_that_stalls_does_not_keep_others_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        let (begun, begin) = std::sync::mpsc::channel();
        scope.spawn(|| {
            let mut begun = Some(begun);
            let result = store.load(LoadSource::Reader(Box::new(reader)), &mut |_| {
                // The first bytes are in, so the load is under way; only the first report counts.
                begun.take().map(|begun| begun.send(()));
            });
            assert!(result.is_err(), "what came is no archive");
        });
        std::io::Write::write_all(&mut writer, &[0; 1 << 20]).unwrap();
        begin.recv().unwrap();
        store.load(LoadSource::Reader(Box::new(&include_bytes!("tests.rs")[..])), &mut |_| {}).unwrap_err();
        drop(writer);
    });
}

#[test]
fn an_import_that_stalls_does_not_keep_others_from_the_store() {
    let (_dir, store) = store();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let (tar, half) = (simple(&[7; 4096]), 1024);
    std::thread::scope(|scope| {
        let (begun, begin) = std::sync::mpsc::channel();
        let importing = scope.spawn(|| {
            let told = std::cell::Cell::new(Some(begun));
            let told_reader = TellingReader { inner: &mut reader, told };
            store.import(told_reader, "slow", ImportConfig::default())
        });
        std::io::Write::write_all(&mut writer, &tar[..half]).unwrap();
        begin.recv().unwrap();
        load(&store, docker_archive("quick", &[simple(b"1")])).unwrap();
        store.remove("quick", NEVER, false).unwrap();
        std::io::Write::write_all(&mut writer, &tar[half..]).unwrap();
        drop(writer);
        importing.join().unwrap().unwrap();
    });
    // Neither the load nor the removal took anything of it for rubbish.
    assert_eq!(store.resolve("slow").unwrap().disk.len(), 2);
}

/// Says when it is first read.
struct TellingReader<'a> {
    inner: &'a mut std::io::PipeReader,
    told: std::cell::Cell<Option<std::sync::mpsc::Sender<()>>>,
}

impl std::io::Read for TellingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(told) = self.told.take() {
            told.send(()).unwrap();
        }
        self.inner.read(buffer)
    }
}

#[test]
fn names_that_are_none_are_told() {
    let (_dir, store) = store();
    let archive = docker_archive("Not A Name\u{1b}[2J", &[simple(b"1")]);
    let mut warnings = Vec::new();
    let loaded = store
        .load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |progress| {
            if let Progress::Warning(text) = progress {
                warnings.push(text);
            }
        })
        .unwrap();
    assert_eq!(loaded[0].names, Vec::<String>::new());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("Not A Name") && !warnings[0].contains('\u{1b}'), "{warnings:?}");
}
