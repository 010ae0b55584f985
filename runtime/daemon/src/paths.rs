//! Where the daemon keeps things.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The daemon's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What outlives a reboot: images, store, logs, writable layers. `$VIAL_DATA_DIR`, else `/var/lib/vial`.
    pub data: PathBuf,
    /// What does not: socket, lock, VM folders. `$VIAL_RUN_DIR`, else `/run/vial`.
    pub run: PathBuf,
}

impl Paths {
    /// From the environment.
    pub fn from_env() -> Self {
        let var = |name: &str, default: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map_or_else(|| default.into(), PathBuf::from)
        };
        Self { data: var("VIAL_DATA_DIR", "/var/lib/vial"), run: var("VIAL_RUN_DIR", "/run/vial") }
    }

    /// Makes the folders, closed to others.
    ///
    /// # Errors
    /// When that is not possible; the text names the folder.
    pub fn make(&self) -> io::Result<()> {
        for dir in [&self.data, &self.run, &self.logs()] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|error| named(error, "make the folder", dir))?;
        }
        for dir in [&self.data, &self.run] {
            // The VMMs run as users of their own and get descriptors, never paths.
            let mut mode = std::fs::metadata(dir)?.permissions();
            mode.set_mode(0o700);
            std::fs::set_permissions(dir, mode).map_err(|error| named(error, "close to others", dir))?;
        }
        Ok(())
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("vial.sock")
    }

    /// Held by the daemon as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.run.join("daemon.lock")
    }

    /// Held by a command line while it looks for a daemon and starts one.
    pub fn start_lock(&self) -> PathBuf {
        self.run.join("start.lock")
    }

    /// Where a detached daemon's standard error goes.
    pub fn daemon_log(&self) -> PathBuf {
        self.run.join("daemon.log")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.data.join("vial.db")
    }

    /// What has happened and could not be written to the store: not on its disk.
    pub fn unnoted(&self) -> PathBuf {
        self.run.join("unnoted")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// The writable layers.
    pub fn uppers(&self) -> PathBuf {
        self.data.join("upper")
    }

    /// The containers' logs, a folder each.
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    /// One container's log.
    pub fn log(&self, container: &str) -> PathBuf {
        self.logs().join(container)
    }
}

/// An error whose text says what was tried on what.
pub(crate) fn named(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}
