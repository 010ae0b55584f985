//! Where declared objects are kept: a folder of the data folder.

use crate::paths::{Paths, named};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// The folder, which holds the CA too.
pub fn folder(paths: &Paths) -> PathBuf {
    paths.data.join("kubernetes")
}

/// Makes it, closed to others.
pub fn make(paths: &Paths) -> io::Result<()> {
    let folder = folder(paths);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| named(error, "make the folder", &folder))
}

/// The store. That it is there says that somebody has asked for it once.
pub fn objects(paths: &Paths) -> PathBuf {
    folder(paths).join("objects.db")
}

/// The key of sealed secrets.
pub fn seal_key(paths: &Paths) -> PathBuf {
    folder(paths).join("seal.key")
}

/// The Node's name.
pub fn node(paths: &Paths) -> PathBuf {
    folder(paths).join("node")
}

/// The port that kubeconfigs name, in decimal.
pub fn port(paths: &Paths) -> PathBuf {
    folder(paths).join("port")
}
