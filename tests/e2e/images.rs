//! Images by every way in.

use std::path::{Path, PathBuf};
use std::process::Command;
use vial_tests::fixtures;
use vial_tests::host::{Vial, path};

#[track_caller]
fn tar(args: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").args(args).output().expect("tar can be run");
    assert!(output.status.success(), "tar {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn an_oci_layout_is_loaded_from_its_folder_and_from_standard_input() {
    let vial = Vial::new();
    let folder = fixtures::busybox_layout();
    let loaded = vial.run(["load", "-i", path(&folder)]).ok();
    // Its only name is a tag.
    assert_eq!(loaded, "Loaded image: busybox-oci:layout\n");
    assert_eq!(
        vial.run(["run", "--rm", "busybox-oci:layout", "echo", "from a folder"]).ok(),
        "from a folder\n"
    );
    let id = vial.run(["images", "-q"]).ok();
    vial.run(["rmi", "busybox-oci:layout"]).ok();
    assert_eq!(vial.run(["images", "-q"]).ok(), "");
    // A stream has no name that could help the tag out: the image has its id only.
    vial.run_with(["load", "-i", "-"], &tar(&["-C", path(&folder), "-cf", "-", "."])).ok();
    assert_eq!(vial.run(["images", "-q"]).ok(), id);
    assert_eq!(vial.run(["run", "--rm", id.trim(), "echo", "from a stream"]).ok(), "from a stream\n");
    vial.leaves_nothing();
}

/// The layer of the busybox archive: a whole root file system.
fn root_tar(scratch: &Path) -> PathBuf {
    tar(&[
        "-C",
        path(scratch),
        "--strip-components=1",
        "-xf",
        path(&fixtures::busybox()),
        "--wildcards",
        "*/layer.tar",
    ]);
    scratch.join("layer.tar")
}

#[test]
fn an_import_runs_as_its_changes_say() {
    let vial = Vial::new();
    let scratch = tempfile::tempdir_in(vial.data()).expect("a folder");
    let root = root_tar(scratch.path());
    let changes = [
        "CMD [\"sh\", \"-c\", \"echo $COLOUR; pwd; id -u; id -g\"]",
        "ENV COLOUR=green",
        "WORKDIR /tmp",
        "USER 7:8",
    ];
    let mut args = vec!["import"];
    args.extend(changes.iter().flat_map(|change| ["--change", change]));
    args.extend([path(&root), "made:by-hand"]);
    vial.run(args).ok();
    assert_eq!(vial.run(["run", "--rm", "made:by-hand"]).ok(), "green\n/tmp\n7\n8\n");
    vial.run(["import", "--change", "RUN rm -rf /", path(&root), "other"]).fails(1, "RUN rm -rf /");
    vial.run(["import", "--change", "WORKDIR tmp", path(&root), "other"]).fails(1, "absolute");
    assert_eq!(vial.run(["images", "-q"]).ok().lines().count(), 1);
    drop(scratch);
    vial.leaves_nothing();
}

#[test]
fn what_is_saved_others_read_and_the_same_image_comes_back() {
    let vial = Vial::with_busybox();
    let scratch = tempfile::tempdir_in(vial.data()).expect("a folder");
    let archive = scratch.path().join("saved.tar");
    let id = vial.run(["inspect", "-f", "{{.Id}}", "busybox"]).ok();
    vial.run(["save", "-o", path(&archive), "busybox"]).ok();
    let skopeo = |args: &[&str]| {
        let output = Command::new("skopeo").args(args).output().expect("skopeo can be run");
        vial_tests::host::Ran::from(output).ok()
    };
    for form in ["docker-archive", "oci-archive"] {
        let source = format!("{form}:{}", path(&archive));
        let config = skopeo(&["inspect", "--config", "--raw", &source]);
        let digest = Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum", "sh", &config]).output();
        let digest = String::from_utf8(digest.expect("sh can be run").stdout).expect("it is text");
        assert_eq!(id.trim(), format!("sha256:{}", digest.split(' ').next().unwrap_or_default()), "{form}");
        // Every layer is read, and its digest checked.
        let copy = format!("docker-archive:{}:copied:{form}", path(&scratch.path().join(form)));
        skopeo(&["copy", "-q", "--insecure-policy", &source, &copy]);
    }
    vial.run(["rmi", "busybox"]).ok();
    vial.run(["load", "-q", "-i", path(&archive)]).ok();
    assert_eq!(vial.run(["inspect", "-f", "{{.Id}}", "busybox"]).ok(), id);
    vial.run(["load", "-q", "-i", path(&scratch.path().join("oci-archive"))]).ok();
    assert_eq!(vial.run(["inspect", "-f", "{{.Id}}", "copied:oci-archive"]).ok(), id);
    assert_eq!(vial.run(["run", "--rm", "busybox", "echo", "back"]).ok(), "back\n");
    drop(scratch);
    vial.leaves_nothing();
}
