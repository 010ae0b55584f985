//! Opening paths inside a container's root without being led out of it.
//!
//! The container owns every name below its root, so a link there may point anywhere and a file may be a FIFO that never answers.

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest file that is read from a container: /etc/passwd of a big site fits many times.
const MAX_FILE: u64 = 4 << 20;

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A container's root directory.
#[derive(Debug)]
pub struct Inside {
    root: OwnedFd,
}

impl Inside {
    /// Opens a root by a path that the container does not control.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: openat(rustix::fs::CWD, root, flags, Mode::empty())? })
    }

    /// Reads a regular file of bounded size; an absent one is empty.
    ///
    /// # Errors
    /// When it is something else, too long, or can't be read.
    pub fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        // Without NONBLOCK, opening a FIFO would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat2(&self.root, path, flags, Mode::empty(), INSIDE) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let kind = rustix::fs::FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind != rustix::fs::FileType::RegularFile {
            return Err(io::Error::other(format!("{path} is not a regular file")));
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("{path} is longer than {MAX_FILE} bytes")));
        }
        Ok(bytes)
    }

    /// Makes a directory and those above it (mode 0755, owner root), as Docker does for a working directory.
    ///
    /// # Errors
    /// When something else is in the way.
    pub fn make_directories(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut walked = Path::new("/").to_path_buf();
        let mut parent = openat2(&self.root, "/", flags, Mode::empty(), INSIDE)?;
        for part in path.components() {
            let std::path::Component::Normal(part) = part else { continue };
            walked.push(part);
            let open = || openat2(&self.root, &walked, flags, Mode::empty(), INSIDE);
            parent = match open() {
                Err(rustix::io::Errno::NOENT) => {
                    mkdirat(&parent, OsStr::from_bytes(part.as_bytes()), Mode::from_raw_mode(0o755))?;
                    open()?
                }
                other => other?,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Inside) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        (dir, inside)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, inside) = root();
        symlink("/etc/hosts-of-root", dir.path().join("etc/passwd")).unwrap();
        symlink("../../../../../../etc/hostname", dir.path().join("etc/group")).unwrap();
        std::fs::write(dir.path().join("etc/hosts-of-root"), "inside").unwrap();
        assert_eq!(inside.read("/etc/passwd").unwrap(), b"inside");
        assert_eq!(inside.read("/etc/group").unwrap(), b"", "points out of the root, so it does not exist");
    }

    #[test]
    fn a_fifo_does_not_block() {
        let (dir, inside) = root();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("etc/passwd"), Mode::RUSR).unwrap();
        assert!(inside.read("/etc/passwd").is_err());
    }

    #[test]
    fn directories_are_made_inside() {
        let (dir, inside) = root();
        symlink("/var/data", dir.path().join("work")).unwrap();
        std::fs::create_dir_all(dir.path().join("var/data")).unwrap();
        inside.make_directories(Path::new("/work/a/b")).unwrap();
        assert!(dir.path().join("var/data/a/b").is_dir());
        inside.make_directories(Path::new("/work/../work/a")).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let (dir, inside) = root();
        std::fs::write(dir.path().join("etc/x"), "").unwrap();
        assert!(inside.make_directories(Path::new("/etc/x/y")).is_err());
    }
}
