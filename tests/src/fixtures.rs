//! Real images, made outside by `tests/fixtures/*` and named by the environment, because inside the emulated host there is no network.

use std::path::PathBuf;

/// The folder with the fixtures that `tools/test` made.
///
/// # Panics
/// When `VIAL_FIXTURES` is not set: the tests were not started through `tools/test`.
pub fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("VIAL_FIXTURES").expect("VIAL_FIXTURES is set by tools/test"))
}

/// A docker-archive or OCI layout of busybox.
pub fn busybox() -> PathBuf {
    folder().join("busybox.tar")
}

/// Debian 12 with python3, in three layers with deletions, opaque folders, hard links across layers and user.* xattrs.
pub fn debian() -> PathBuf {
    folder().join("debian.tar")
}

/// What the lister prints of the tree that umoci unpacks from [`debian`].
pub fn debian_tree() -> PathBuf {
    folder().join("debian.tree")
}

/// The lister of trees.
pub fn lister() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tree.py"))
}

/// A cpio with busybox whose init runs the command line's `script=` as a shell script.
pub fn busybox_initrd() -> PathBuf {
    folder().join("busybox.cpio")
}

/// [`busybox`] as an OCI layout in a folder, whose only name is the tag `layout`.
pub fn busybox_layout() -> PathBuf {
    folder().join("busybox-oci")
}

/// Debian 12 with nginx, an image built by buildah, as an OCI archive.
pub fn nginx() -> PathBuf {
    folder().join("nginx.oci")
}

/// A raw disk with Debian 12 and systemd, on which root logs in without a password. Not to be written to: copy it.
pub fn debian_disk() -> PathBuf {
    folder().join("debian.ext4")
}
