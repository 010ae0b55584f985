//! What needs more than a toolchain: a full disk, which only root can make, and another implementation's judgement.
//!
//! `tools/test` runs these (`cargo test -p vial-image --test as_root -- --ignored`), after it has installed erofs-utils and
//! made the Debian image. That an image mounts as the right tree is seen in a pod (`tests/e2e/image_tree.rs`): the kernel
//! there has to know images of several devices in one file, and the host's need not.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use vial_image::{Error, ImageStore, ImportConfig, LoadSource};

fn run(program: &str, arguments: &[&Path]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A mount that goes when the test does.
struct Mount(PathBuf);

impl Mount {
    fn new(options: &[&str], source: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let status = Command::new("mount").args(options).arg(source).arg(at).status().unwrap();
        assert!(status.success(), "mount {options:?} {source:?}");
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn fixtures() -> PathBuf {
    let cache = || {
        let home = std::env::var_os("HOME").unwrap();
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from)
    };
    std::env::var_os("VIAL_FIXTURES").map_or_else(|| cache().join("vial/fixtures"), PathBuf::from)
}

#[test]
#[ignore = "needs fsck.erofs and the Debian fixture: tools/test has both"]
fn fsck_accepts_the_layers_and_the_merged_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    store.load(LoadSource::Path(fixtures().join("debian.tar")), &mut |_| {}).unwrap();
    let image = store.resolve("debian:vial").unwrap();
    let extract = Path::new("--extract");
    let mut checked = 0;
    for layer in fs::read_dir(dir.path().join("layers")).unwrap() {
        let path = layer.unwrap().path();
        // Beside each lies its frame, which is no image.
        if path.extension().is_some_and(|extension| extension == "erofs") {
            run("fsck.erofs", &[extract, &path]);
            checked += 1;
        }
    }
    assert_eq!(checked, image.layers.len());
    let devices: Vec<PathBuf> =
        image.disk[1..].iter().map(|path| PathBuf::from(format!("--device={}", path.display()))).collect();
    let mut arguments: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
    arguments.extend([extract, &image.disk[0]]);
    run("fsck.erofs", &arguments);
}

#[test]
#[ignore = "needs root, to mount a small file system: tools/test runs it"]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for megabytes in [66, 80, 96] {
        let size = format!("size={megabytes}m");
        let mount = Mount::new(&["-t", "tmpfs", "-o", &size], Path::new("none"), &dir.path().join("small"));
        let store = ImageStore::open(mount.0.join("store")).unwrap();
        // One file of 256 MiB that is not zero.
        let mut header = [0u8; 512];
        header[0] = b'f';
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(b"02000000000\0");
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let tar = header.chain(io::repeat(1).take((256 << 20) + 1024));
        let error = store.import(tar, "big", ImportConfig::default()).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        for folder in ["tmp", "layers", "merged", "images"] {
            assert_eq!(fs::read_dir(mount.0.join("store").join(folder)).unwrap().count(), 0, "{folder}");
        }
    }
}
