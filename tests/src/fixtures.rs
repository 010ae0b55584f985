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
