//! The files of an archive by name: members of a tar, or files below a folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::ArchiveError;
use crate::digest::Digest;
use crate::layer::path;
use crate::limits;
use crate::tar::{EntryKind, Reader, Section};

/// Links from member to member (old `docker save` shares layers so) are followed this often.
const MAX_LINKS: usize = 8;

#[derive(Debug)]
enum Member {
    File { offset: u64, length: u64 },
    Link(String),
}

/// The files of an archive by name.
#[derive(Debug)]
pub struct Members(Place);

#[derive(Debug)]
enum Place {
    Folder(OwnedFd),
    Tar { file: Arc<File>, members: HashMap<String, Member> },
}

impl Members {
    /// The files below a folder. Nothing outside it is ever opened, whatever symlinks it has.
    pub fn folder(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Members(Place::Folder(rustix::fs::open(path, flags, Mode::empty())?)))
    }

    /// The members of an uncompressed tar; reads its headers only.
    pub fn tar(file: Arc<File>) -> Result<Self, ArchiveError> {
        let length = file.metadata().map_err(|e| ArchiveError::Io("the archive".into(), e))?.len();
        let mut reader = Reader::new(Section::new(file.clone(), 0, length));
        let mut members = HashMap::new();
        while let Some(entry) = reader.next_entry()? {
            let shown = || String::from_utf8_lossy(&entry.path).into_owned();
            let bad = || ArchiveError::BadMember(shown());
            let name = path::normalise(&entry.path).map_err(|_| bad())?;
            let Ok(name) = String::from_utf8(name) else { return Err(bad()) };
            let member = match entry.kind {
                EntryKind::File if entry.sparse.is_none() => {
                    Member::File { offset: entry.offset, length: entry.size }
                }
                EntryKind::Symlink(target) => Member::Link(relative(&name, &target).ok_or_else(bad)?),
                EntryKind::Hardlink(target) => Member::Link(relative("", &target).ok_or_else(bad)?),
                EntryKind::Directory => continue,
                _ => return Err(bad()),
            };
            members.insert(name, member);
            if members.len() > limits::MAX_ARCHIVE_MEMBERS {
                return Err(ArchiveError::TooMany("members", limits::MAX_ARCHIVE_MEMBERS));
            }
        }
        Ok(Members(Place::Tar { file, members }))
    }

    /// Whether there is such a member.
    pub fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Place::Folder(_) => self.open(name).is_ok(),
            Place::Tar { members, .. } => members.contains_key(name),
        }
    }

    /// The bytes of a member.
    pub fn open(&self, name: &str) -> Result<Section, ArchiveError> {
        let bad = || ArchiveError::BadMember(name.to_owned());
        let path = path::normalise(name.as_bytes()).map_err(|_| bad())?;
        let path = String::from_utf8(path).map_err(|_| bad())?;
        match &self.0 {
            Place::Folder(folder) => {
                // Not blocking, so that a named pipe can't hold us; BENEATH, so that no symlink leads out.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = rustix::fs::openat2(folder, path.as_str(), flags, Mode::empty(), resolve)
                    .map(File::from)
                    .map_err(|error| match error {
                        rustix::io::Errno::NOENT => ArchiveError::Missing(name.to_owned()),
                        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => bad(),
                        other => ArchiveError::Io(name.to_owned(), other.into()),
                    })?;
                let metadata = file.metadata().map_err(|e| ArchiveError::Io(name.to_owned(), e))?;
                if !metadata.is_file() {
                    return Err(bad());
                }
                Ok(Section::new(Arc::new(file), 0, metadata.len()))
            }
            Place::Tar { file, members } => {
                let mut at = path.as_str();
                for _ in 0..=MAX_LINKS {
                    match members.get(at) {
                        None => return Err(ArchiveError::Missing(name.to_owned())),
                        Some(Member::Link(target)) => at = target,
                        Some(&Member::File { offset, length }) => {
                            return Ok(Section::new(file.clone(), offset, length));
                        }
                    }
                }
                Err(bad())
            }
        }
    }

    /// A manifest, index or configuration as a whole.
    pub fn small(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut section = self.open(name)?;
        if section.remaining() > limits::MAX_JSON {
            return Err(ArchiveError::TooLong(name.to_owned(), section.remaining()));
        }
        let expected = section.remaining();
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).map_err(|e| ArchiveError::Io(name.to_owned(), e))?;
        if bytes.len() as u64 != expected {
            return Err(ArchiveError::Mismatch(name.to_owned(), "length"));
        }
        Ok(bytes)
    }

    /// A small blob whose digest is known.
    pub fn small_blob(&self, name: &str, digest: Digest) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.small(name)?;
        if Digest::of(&bytes) != digest {
            return Err(ArchiveError::Mismatch(name.to_owned(), "digest"));
        }
        Ok(bytes)
    }
}

/// A link's target as a member's name: relative to the directory of `from`, never above the root.
fn relative(from: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn links_between_members_stay_inside() {
        assert_eq!(relative("a/layer.tar", b"../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(relative("a/layer.tar", b"x.tar").as_deref(), Some("a/x.tar"));
        assert_eq!(relative("a/layer.tar", b"../../etc/passwd"), None);
    }
}
