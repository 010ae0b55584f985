//! Files that appear whole or not at all, and the writers' lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Makes a folder that only its owner can enter.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("making the folder", path))
}

/// Names in a folder that are valid UTF-8; ours all are.
pub fn list_dir(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("listing", path))? {
        let entry = entry.map_err(Error::io("listing", path))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Removes all files of a folder.
pub fn empty_dir(path: &Path) -> Result<()> {
    for name in list_dir(path)? {
        remove(&path.join(name))?;
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Makes renames in a folder last.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("syncing the folder", path))
}

/// Name of the writers' lock.
const WRITERS: &str = "lock";

fn lock_file(dir: &Path, name: &str) -> Result<(File, PathBuf)> {
    let path = dir.join(name);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io("opening the lock", &path))?;
    Ok((file, path))
}

/// Waits until no one else writes. Dropping the file, or dying, lets the next one in.
pub fn lock(dir: &Path) -> Result<File> {
    let (file, path) = lock_file(dir, WRITERS)?;
    file.lock().map_err(Error::io("locking", &path))?;
    Ok(file)
}

/// The lock, unless someone else writes.
pub fn try_lock(dir: &Path) -> Result<Option<File>> {
    try_alone(dir, WRITERS)
}

/// Waits until nobody holds this lock alone, then holds it with others.
pub fn share(dir: &Path, name: &str) -> Result<File> {
    let (file, path) = lock_file(dir, name)?;
    file.lock_shared().map_err(Error::io("locking", &path))?;
    Ok(file)
}

/// This lock, unless anybody else holds it.
pub fn try_alone(dir: &Path, name: &str) -> Result<Option<File>> {
    let (file, path) = lock_file(dir, name)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::io("locking", &path)(error)),
    }
}

/// A file in the making; removed when dropped before [`NewFile::commit`].
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: Option<PathBuf>,
}

impl NewFile {
    /// Makes an empty file in the store's `tmp`.
    pub fn create(tmp: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = tmp.join(format!("{}-{number}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("creating", &path))?;
        Ok(NewFile { file, path: Some(path) })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its path while it is in the making.
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Makes the content last and gives the file its name.
    pub fn commit(mut self, target: &Path) -> Result<File> {
        let path = self.path().to_owned();
        self.file.sync_all().map_err(Error::io("syncing", &path))?;
        fs::rename(&path, target).map_err(Error::io("renaming", target))?;
        self.path = None;
        target.parent().map_or(Ok(()), sync_dir)?;
        self.file.try_clone().map_err(Error::io("keeping open", target))
    }

    /// The content without a name: gone when the last descriptor is.
    pub fn unlink(mut self) -> Result<File> {
        let path = self.path().to_owned();
        remove(&path)?;
        self.path = None;
        self.file.try_clone().map_err(Error::io("keeping open", &path))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What can't be removed now is swept at the next open.
            let _ = fs::remove_file(path);
        }
    }
}

/// Replaces a small file as a whole.
pub fn replace(tmp: &Path, target: &Path, content: &[u8]) -> Result<()> {
    let new = NewFile::create(tmp)?;
    let mut file = new.file();
    file.write_all(content).map_err(Error::io("writing", target))?;
    new.commit(target).map(drop)
}
