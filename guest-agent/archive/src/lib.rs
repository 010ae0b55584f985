//! Files below a folder as a tar stream and back, for both ends of `vial cp`.
//!
//! It must never know of containers, connections or command lines: a folder, a path in it, and bytes. **Neither the files nor the
//! stream are trusted**: others may swap names for links while it works, and a stream may name anything. So every name is resolved by
//! the kernel with the folder as its root (openat2, RESOLVE_IN_ROOT), and the last step is always taken on a descriptor of the
//! parent, without following.
#![forbid(unsafe_code)]

mod entries;
mod pack;
mod unpack;
mod whole;

pub use unpack::{Copied, Unpack};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Folders within folders that are followed.
const MAX_DEPTH: usize = 512;

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder can't replace what is none, nor the other way round: Docker refuses both too.
    #[error("cannot overwrite {path}: {by}; what was copied before stays")]
    Taken {
        /// The name, below the destination.
        path: String,
        /// What is there.
        by: Taken,
    },
    /// The stream ended early or can't be written.
    #[error("the stream of files broke: {0}")]
    Stream(#[source] io::Error),
    /// What the stream says makes no sense or is not allowed.
    #[error("the stream of files can't be used: {0}")]
    Bad(String),
}

/// What stands where something of another kind is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A folder, for a file or a link.
    Folder,
    /// A symbolic link, for a folder.
    Link,
    /// Anything else, for a folder.
    File,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Folder => "it is a folder, and what is copied is none",
            Self::Link => {
                "it is a symbolic link, and what is copied is a folder; copy to what it points to instead"
            }
            Self::File => "it is no folder, and what is copied is one",
        })
    }
}

/// The result of a copy.
pub type Result<T> = std::result::Result<T, ArchiveError>;

fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> ArchiveError {
    let path = path.display().to_string();
    move |error| ArchiveError::File { what, path, source: error.into() }
}

/// A folder that nothing leads out of.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens it by a path that only trusted people control.
    ///
    /// # Errors
    /// When it is no folder.
    pub fn open(path: &Path) -> Result<Self> {
        openat(CWD, path, FOLDER, Mode::empty()).map(Self).map_err(failed("open", path))
    }

    /// The descriptor, for a process that is about to close all others.
    pub fn as_raw_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.0)
    }

    fn folder(&self, path: &Path) -> std::result::Result<OwnedFd, Errno> {
        open_inside(&self.0, path, FOLDER)
    }
}

fn open_inside(root: impl AsFd, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    // An empty path is an error of its own; here it is the root.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // Another process's renames can make the kernel unsure whether `..` left the root; it says so, and once more is enough.
    let mut tries = 16;
    loop {
        match openat2(&root, path, flags, Mode::empty(), INSIDE) {
            Err(Errno::AGAIN) if tries > 0 => tries -= 1,
            other => return other,
        }
    }
}

/// What a person wrote as source or destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path without what follows.
    pub path: PathBuf,
    /// It ends with `/` or `/.`: a folder is meant.
    pub is_folder: bool,
    /// It ends with `/.`: what is in the folder, without the folder.
    pub is_contents: bool,
}

impl Place {
    /// Reads it.
    pub fn parse(text: &OsStr) -> Self {
        let bytes = text.as_bytes();
        let is_contents = bytes == b"." || bytes.ends_with(b"/.");
        let is_folder = is_contents || bytes.ends_with(b"/");
        let path = match is_contents {
            true => &bytes[..bytes.len() - 1],
            false => bytes,
        };
        let path = PathBuf::from(OsStr::from_bytes(path));
        // The root has no name of its own.
        let is_contents = is_contents || path.file_name().is_none();
        Self { path, is_folder, is_contents }
    }

    /// Its last name.
    pub fn name(&self) -> OsString {
        self.path.file_name().unwrap_or(OsStr::new("files")).to_owned()
    }
}

#[cfg(test)]
mod tests;
