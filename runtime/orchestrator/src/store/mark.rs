//! The high-water mark: the newest version that was answered, in a file beside the store.
//!
//! It is written after each commit without waiting for the disk, so it costs nothing, survives the process's end whatever the end is, and is
//! at most some seconds behind after a loss of power. It is never ahead, so a store that ends before it has lost something.

use super::StoreError;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) struct Mark(File);

impl Mark {
    /// `objects.db-mark`: goes where `objects.db*` goes.
    pub(super) fn path(store: &Path) -> PathBuf {
        let mut name = store.as_os_str().to_owned();
        name.push("-mark");
        name.into()
    }

    /// The mark of the store at `store`; nothing if it was never opened.
    pub(super) fn read(store: &Path) -> Result<Option<i64>, StoreError> {
        let path = Self::path(store);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
                let damaged = || StoreError::Damaged(format!("{} holds no number", path.display()));
                number.map(Some).ok_or_else(damaged)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Beside { path: path.display().to_string(), source }),
        }
    }

    /// Opens the mark, or makes it, and has it durable at `version`. One that is there needs no room, which a full disk has not.
    pub(super) fn open(store: &Path, version: i64) -> Result<Self, StoreError> {
        let path = Self::path(store);
        let open = || -> io::Result<File> {
            match OpenOptions::new().write(true).open(&path) {
                Ok(file) => {
                    file.write_all_at(line(version).as_bytes(), 0)?;
                    file.sync_data()?;
                    return Ok(file);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let mut name = path.clone().into_os_string();
            name.push(".new");
            let new = PathBuf::from(name);
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(line(version).as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(file)
        };
        open().map(Self).map_err(|source| StoreError::Beside { path: path.display().to_string(), source })
    }

    /// `version` is durable. That the mark could not be moved is no failure of that write: it is only further behind.
    pub(super) fn raise(&self, version: i64) {
        let _ = self.0.write_all_at(line(version).as_bytes(), 0);
    }
}

/// Of one length always: it is written over the one before.
fn line(version: i64) -> String {
    format!("{version:020}\n")
}
