//! The writable layer of a container: a sparse ext4 file, copied from a template that was formatted once.
//!
//! Formatting takes tens of milliseconds and a foreign program; copying the few hundred KiB that a fresh file system
//! really holds takes one. The size is a quota: a guest can never fill the host beyond it.

use rustix::fs::SeekFrom;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of a writable layer when nobody says, in bytes.
pub const DEFAULT_SIZE: u64 = 10 << 30;
/// Least size, in bytes: below this mke2fs finds no room for a journal of 8 MiB.
pub const MIN_SIZE: u64 = 20 << 20;
/// Most, in bytes.
pub const MAX_SIZE: u64 = 16 << 40;
/// Goes into the template's name; count it up when the way of formatting changes.
const VERSION: u32 = 1;

/// Why there is no writable layer.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// Outside [`MIN_SIZE`] to [`MAX_SIZE`].
    #[error("a writable layer of {0} bytes is not possible: from 20 MiB to 16 TiB")]
    Size(u64),
    /// mke2fs is not there.
    #[error("mke2fs is not installed, and the writable layer needs it once; install the package e2fsprogs")]
    NoMke2fs,
    /// mke2fs did not like it.
    #[error("mke2fs cannot format the template of the writable layer: {0}")]
    Mke2fs(String),
    /// A file operation.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl UpperError {
    /// Whether the host's disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UpperError {
    let path = path.to_owned();
    move |source| UpperError::File { what, path, source }
}

/// The folder with the templates and the layers.
#[derive(Debug, Clone)]
pub struct Uppers {
    dir: PathBuf,
}

impl Uppers {
    /// Opens the folder, makes it when it is not there, and sweeps what a killed predecessor was writing.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self, UpperError> {
        fs::create_dir_all(dir).map_err(file("make the folder", dir))?;
        for entry in fs::read_dir(dir).map_err(file("read", dir))? {
            let path = entry.map_err(file("read", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The file of a container.
    pub fn path(&self, container: &str) -> PathBuf {
        self.dir.join(format!("{container}.ext4"))
    }

    /// The template of this size, formatted if it is not there yet. Two callers at once do the work twice and agree.
    ///
    /// # Errors
    /// When the size is not possible, mke2fs is missing or fails, or the disk is full.
    pub fn template(&self, size: u64) -> Result<PathBuf, UpperError> {
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
            return Err(UpperError::Size(size));
        }
        let size = size.next_multiple_of(4096);
        let path = self.dir.join(format!("template-v{VERSION}-{size}.img"));
        if path.exists() {
            return Ok(path);
        }
        let unique = format!("{}-{:?}.tmp", std::process::id(), std::thread::current().id());
        let temp = self.dir.join(unique.replace(['(', ')'], ""));
        let made = format(&temp, size).and_then(|()| {
            fs::rename(&temp, &path).map_err(file("rename", &temp))?;
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file("sync", &self.dir))
        });
        if made.is_err() {
            // The error of the making counts; what is left is swept at the next start.
            let _ = fs::remove_file(&temp);
        }
        made.map(|()| path)
    }

    /// Makes a container's file. It holds nothing that must outlive a power cut yet, so it is not synced; see
    /// [`Self::sync`].
    ///
    /// # Errors
    /// As [`Self::template`]; when the file is there already; when the disk is full.
    pub fn create(&self, container: &str, size: u64) -> Result<PathBuf, UpperError> {
        let template = self.template(size)?;
        let path = self.path(container);
        let made = copy_sparse(&template, &path);
        if made.is_err() {
            // The error of the making counts.
            let _ = fs::remove_file(&path);
        }
        made.map(|()| path)
    }

    /// The file of a container that was started once.
    ///
    /// # Errors
    /// When it is not there.
    pub fn existing(&self, container: &str) -> Result<PathBuf, UpperError> {
        let path = self.path(container);
        fs::metadata(&path).map_err(file("find the writable layer", &path))?;
        Ok(path)
    }

    /// Makes a container's file last over a power cut: from then on the guest's journal keeps it whole.
    ///
    /// # Errors
    /// When it can't be written out.
    pub fn sync(&self, container: &str) -> Result<(), UpperError> {
        let path = self.path(container);
        File::open(&path).and_then(|file| file.sync_all()).map_err(file("sync", &path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file("sync", &self.dir))
    }

    /// Removes a container's file; a missing one is fine.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, container: &str) -> Result<(), UpperError> {
        let path = self.path(container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Names of the containers that have a file here.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<String>, UpperError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(file("read", &self.dir))? {
            let name = entry.map_err(file("read", &self.dir))?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".ext4")) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

fn format(path: &Path, size: u64) -> Result<(), UpperError> {
    let template =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(file("make", path))?;
    template.set_len(size).map_err(file("size", path))?;
    // All inode tables and the journal count as zeroed (a fresh sparse file is), or the guest's kernel would zero them in the
    // background and blow the file up. One place for all bitmaps and no copies of the superblock keep the copy small. A
    // reserve for root makes no sense in a quota.
    let run = |options: &str| {
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=8", "-L", "vial-upper"])
            .args(["-O", "sparse_super2,^resize_inode,uninit_bg,flex_bg", "-E", options])
            .arg(path)
            .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
            .output()
    };
    let shared = "nodiscard,num_backup_sb=0,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0";
    let mut output = run(&format!("{shared},assume_storage_prezeroed=1"));
    if output.as_ref().is_ok_and(|output| !output.status.success()) {
        // e2fsprogs before 1.46.6 does not know the word; it then writes the zeros, which stay in the template.
        output = run(shared);
    }
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(UpperError::NoMke2fs),
        Err(error) => return Err(file("run mke2fs on", path)(error)),
        Ok(output) if !output.status.success() => {
            return Err(UpperError::Mke2fs(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(_) => {}
    }
    template.sync_all().map_err(file("sync", path))
}

/// Copies a file without filling its holes.
fn copy_sparse(from: &Path, to: &Path) -> Result<(), UpperError> {
    let source = File::open(from).map_err(file("open", from))?;
    let mut target =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(file("make", to))?;
    let length = source.metadata().map_err(file("look at", from))?.len();
    target.set_len(length).map_err(file("size", to))?;
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(file("read", from)(error.into())),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start))
            .map_err(|error| file("read", from)(error.into()))?;
        let mut position = start;
        while position < end {
            // The buffer's length bounds it.
            let want = (end - position).min(buffer.len() as u64) as usize;
            source.read_exact_at(&mut buffer[..want], position).map_err(file("read", from))?;
            target.write_all_at(&buffer[..want], position).map_err(file("write", to))?;
            position += want as u64;
        }
        at = end;
    }
    target.flush().map_err(file("write", to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_layer_is_a_small_copy_of_a_big_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let uppers = Uppers::open(dir.path()).unwrap();
        let path = uppers.create("c1", DEFAULT_SIZE).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), DEFAULT_SIZE);
        assert!(meta.blocks() * 512 < 2 << 20, "{} bytes are allocated", meta.blocks() * 512);
        let check = Command::new("/usr/sbin/e2fsck").args(["-fn"]).arg(&path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

        assert_eq!(uppers.list().unwrap(), ["c1"]);
        assert!(uppers.create("c1", DEFAULT_SIZE).is_err(), "a second one would share the first one's data");
        uppers.remove("c1").unwrap();
        uppers.remove("c1").unwrap();
        assert!(uppers.list().unwrap().is_empty());
    }

    #[test]
    fn copies_keep_holes_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let source = File::create(&from).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(b"begin", 0).unwrap();
        source.write_all_at(b"middle", (31 << 20) + 7).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    }

    #[test]
    fn a_killed_formatting_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("123-ThreadId1.tmp"), b"half").unwrap();
        Uppers::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn sizes_have_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let uppers = Uppers::open(dir.path()).unwrap();
        assert!(matches!(uppers.create("c", 1), Err(UpperError::Size(1))));
        assert!(uppers.sync("c").is_err(), "there is none");
        assert!(matches!(uppers.create("c", u64::MAX), Err(UpperError::Size(_))));
    }
}
