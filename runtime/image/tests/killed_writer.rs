//! A writer that is killed at each of its steps leaves a store that the next one opens clean.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use vial_image::{ImageStore, ImportConfig, LoadSource};

const STORE: &str = "VIAL_TEST_STORE";
const ARCHIVE: &str = "VIAL_TEST_ARCHIVE";

/// Not a test by itself: the process that the test below starts and kills. It says each step and waits for a
/// byte before it goes on, so that it is killed exactly there.
#[test]
fn writer_process() {
    let (Some(store), Some(archive)) = (std::env::var_os(STORE), std::env::var_os(ARCHIVE)) else { return };
    let step = |name: &str| {
        println!("step {name}");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).unwrap();
    };
    let store = ImageStore::open(store).unwrap();
    step("opened");
    store
        .load(LoadSource::Reader(Box::new(File::open(archive).unwrap())), &mut |p| step(&format!("{p:?}")))
        .unwrap();
    step("loaded");
    store.remove("new", &|_| false, false).unwrap();
    step("removed");
}

/// Lets the writer take `steps` steps; returns it waiting at the next one, or `None` when it ended before.
fn writer_after(steps: usize, store: &Path, archive: &Path) -> Option<Child> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture"])
        .envs([(STORE, store), (ARCHIVE, archive)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut answers = child.stdin.take().unwrap();
    let mut next_step = || lines.any(|line| line.starts_with("step"));
    let waits = (0..steps).all(|_| next_step() && answers.write_all(b"\n").is_ok()) && next_step();
    if !waits {
        child.wait().unwrap();
        return None;
    }
    // Its standard input stays open until it is dead: the end of it would be an answer.
    child.stdin = Some(answers);
    Some(child)
}

fn tar(dir: &Path, members: &[(&str, &[u8])]) -> Vec<u8> {
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    for (name, content) in members {
        fs::write(tree.join(name), content).unwrap();
    }
    let names = members.iter().map(|(name, _)| name);
    let output = Command::new("tar").arg("-c").arg("-C").arg(&tree).args(names).output().unwrap();
    assert!(output.status.success());
    fs::remove_dir_all(&tree).unwrap();
    output.stdout
}

fn archive(dir: &Path) -> std::path::PathBuf {
    let layers = [tar(dir, &[("a", &[1; 3 << 20])]), tar(dir, &[("b", b"small")])];
    let ids: Vec<String> = layers.iter().map(|layer| vial_image::Digest::of(layer).to_string()).collect();
    let architecture = vial_image::archive::host_architecture();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let manifest = serde_json::json!([{ "Config": "c", "RepoTags": ["new"], "Layers": ["0", "1"] }]);
    let bytes = tar(
        dir,
        &[
            ("manifest.json", manifest.to_string().as_bytes()),
            ("c", config.to_string().as_bytes()),
            ("0", &layers[0]),
            ("1", &layers[1]),
        ],
    );
    let path = dir.join("archive.tar");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_kill_at_any_step_leaves_a_clean_store() {
    if std::env::var_os(STORE).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let base = tar(dir.path(), &[("base", b"stays")]);
    let mut killed = 0;
    for steps in 0.. {
        let path = dir.path().join(format!("store-{steps}"));
        let store = ImageStore::open(&path).unwrap();
        store.import(&base[..], "base", ImportConfig::default()).unwrap();
        let Some(mut writer) = writer_after(steps, &path, &archive) else { break };
        writer.kill().unwrap();
        writer.wait().unwrap();
        killed += 1;

        let store = ImageStore::open(&path).unwrap();
        assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0, "after {steps} steps");
        let images = store.list().unwrap();
        for image in &images {
            store.resolve(&image.id.to_string()).unwrap();
        }
        assert_eq!(store.resolve("base").unwrap().names, ["base:latest"]);
        // The new image is whole or not there; what remains belongs to an image.
        let layers: usize =
            images.iter().map(|image| store.resolve(&image.id.to_string()).unwrap().layers.len()).sum();
        // A layer file and a frame each.
        assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 2 * layers, "after {steps} steps");
        assert_eq!(fs::read_dir(path.join("merged")).unwrap().count(), images.len(), "after {steps} steps");
        // And the next writer can do the whole work.
        store.load(LoadSource::Path(archive.clone()), &mut |_| {}).unwrap();
        assert_eq!(store.resolve("new").unwrap().disk.len(), 3);
    }
    assert!(killed > 8, "the writer has more steps than {killed}");
}
