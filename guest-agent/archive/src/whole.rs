//! A file that gets its name when it is whole: whatever ends the copy in the middle leaves the file that was there before, or none.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Names that may be somebody else's before it is given up.
const ATTEMPTS: u32 = 64;

/// A file that is being written.
#[derive(Debug)]
pub struct Whole {
    /// Its data goes here.
    pub file: File,
    /// Where it has no name yet: none. Otherwise a name of its own beside the one that it will get.
    named: Option<(OwnedFd, OsString)>,
}

impl Whole {
    /// Begins one in a folder. Without a name, so that it goes even with a process that is killed; on a file system that can't do that
    /// (overlayfs of old, NFS) with one.
    pub fn begin(folder: impl AsFd) -> Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        match openat(&folder, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(Self { file: file.into(), named: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                Self::named(folder, flags, mode)
            }
            Err(error) => Err(error),
        }
    }

    fn named(folder: impl AsFd, flags: OFlags, mode: Mode) -> Result<Self, Errno> {
        let folder = openat(&folder, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (file, name) = with_free_name(|name| openat(&folder, name, flags, mode))?;
        Ok(Self { file: file.into(), named: Some((folder, name)) })
    }

    /// It is whole: gives it its name in the folder, in place of a file or link that has it.
    pub fn finish(mut self, folder: impl AsFd, name: &OsStr) -> Result<(), Errno> {
        if let Some((own, temporary)) = &self.named {
            renameat(own, temporary, &folder, name)?;
            self.named = None;
            return Ok(());
        }
        let nameless = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |name: &OsStr| linkat(CWD, &nameless, &folder, name, AtFlags::SYMLINK_FOLLOW);
        match link(name) {
            // A link does not replace; a rename does, at once.
            Err(Errno::EXIST) => {
                let ((), temporary) = with_free_name(link)?;
                renameat(&folder, &temporary, &folder, name).inspect_err(|_| {
                    let _ = unlinkat(&folder, &temporary, AtFlags::empty());
                })
            }
            linked => linked,
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some((folder, name)) = &self.named {
            // Of a copy that failed, whose error counts.
            let _ = unlinkat(folder, name, AtFlags::empty());
        }
    }
}

/// Tries names until one is nobody's.
fn with_free_name<T>(mut make: impl FnMut(&OsStr) -> Result<T, Errno>) -> Result<(T, OsString), Errno> {
    for attempt in 0..ATTEMPTS {
        let name =
            OsString::from(format!(".vial-cp-{}-{attempt}", rustix::process::getpid().as_raw_nonzero()));
        match make(&name) {
            Err(Errno::EXIST) => {}
            made => return made.map(|made| (made, name)),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &std::path::Path) -> Vec<OsString> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn only_what_is_whole_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let kinds: [&dyn Fn() -> Whole; 2] = [&|| Whole::begin(&folder).unwrap(), &|| {
            Whole::named(&folder, flags, Mode::from_raw_mode(0o600)).unwrap()
        }];
        for begin in kinds {
            std::fs::write(dir.path().join("x"), "old").unwrap();
            let mut given_up = begin();
            given_up.file.write_all(b"half").unwrap();
            drop(given_up);
            assert_eq!(names(dir.path()), ["x"]);
            for text in ["one", "two"] {
                let mut whole = begin();
                whole.file.write_all(text.as_bytes()).unwrap();
                whole.finish(&folder, OsStr::new("x")).unwrap();
                assert_eq!(std::fs::read_to_string(dir.path().join("x")).unwrap(), text);
            }
            let new = begin();
            new.finish(&folder, OsStr::new("y")).unwrap();
            assert_eq!(names(dir.path()).len(), 2);
            std::fs::remove_file(dir.path().join("y")).unwrap();
        }
    }
}
