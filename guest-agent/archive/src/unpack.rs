//! From a stream to files.

use crate::entries::{self, Meta};
use crate::whole::Whole;
use crate::{ArchiveError, FOLDER, Place, Result, Root, Taken, failed, open_inside};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, fstat,
    linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Folders whose times and permissions wait for the end.
const MAX_FOLDERS: usize = 1 << 20;

/// How a stream becomes files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpack {
    /// Its entries go into the destination as they are named, which must be a folder. Otherwise it is one file or folder of
    /// [`Root::pack`], and the destination may be its new name.
    pub stream: bool,
    /// The first folder itself is left out.
    pub contents: bool,
    /// Owners, groups and all permissions are kept. Otherwise files are the caller's, without set-user-ID and set-group-ID.
    pub owners: bool,
    /// Device nodes are made. Otherwise they are left out.
    pub devices: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, folders and links.
    pub made: u64,
    /// Devices that were left out.
    pub left_out: u64,
}

impl Root {
    /// Makes what a tar holds at a destination.
    ///
    /// # Errors
    /// When the destination does not fit, something can't be made, or the stream is bad; what was made until then stays.
    pub fn unpack<R: Read>(&self, to: &Place, how: Unpack, input: R) -> Result<Copied> {
        let mut target: Option<Target> = None;
        if how.stream {
            let folder = self.folder(&to.path).map_err(failed("copy into", &to.path))?;
            target = Some(Target::new(folder, Top::Keep, how));
        }
        entries::read(input, |meta, data| {
            if target.is_none() {
                target = Some(self.target(to, how, meta.kind == EntryType::Directory)?);
            }
            match &mut target {
                Some(target) => target.make(meta, data),
                None => Ok(()),
            }
        })?;
        target.map_or_else(|| Err(ArchiveError::Bad("it is empty".into())), Target::finish)
    }

    /// A copy onto a device or a pipe would put a file in its place: nobody who names `/dev/null` wants that.
    fn check_replaceable(&self, to: &Place) -> Result<()> {
        let there = open_inside(&self.0, &to.path, OFlags::PATH | OFlags::CLOEXEC);
        let stat = there.and_then(fstat).map_err(failed("copy to", &to.path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(()),
            _ => Err(failed("copy to", &to.path)(std::io::Error::other("it is neither a file nor a folder"))),
        }
    }

    /// Where a copied file or folder goes, by the rules of `cp`.
    fn target(&self, to: &Place, how: Unpack, is_folder: bool) -> Result<Target> {
        match self.folder(&to.path) {
            Ok(folder) => {
                let top = if how.contents { Top::LeaveOut } else { Top::Keep };
                return Ok(Target::new(folder, top, how));
            }
            Err(Errno::NOTDIR) if !is_folder && !to.is_folder => self.check_replaceable(to)?,
            Err(Errno::NOENT) if is_folder || !to.is_folder => {}
            Err(error) => return Err(failed("copy to", &to.path)(error)),
        }
        let parent = to.path.parent().unwrap_or(Path::new(""));
        let folder = self.folder(parent).map_err(failed("copy into", parent))?;
        Ok(Target::new(folder, Top::Rename(to.name()), how))
    }
}

/// What becomes of an entry's first name.
#[derive(Debug)]
enum Top {
    Keep,
    LeaveOut,
    Rename(OsString),
}

#[derive(Debug)]
struct Target {
    root: OwnedFd,
    top: Top,
    how: Unpack,
    /// The folder of the last entry, which is mostly the next one's too.
    last: Option<(PathBuf, OwnedFd)>,
    folders: Vec<(PathBuf, Meta)>,
    copied: Copied,
}

impl Target {
    fn new(root: OwnedFd, top: Top, how: Unpack) -> Self {
        Self { root, top, how, last: None, folders: Vec::new(), copied: Copied::default() }
    }

    /// An entry's path below the destination; empty for what is left out.
    fn placed(&self, path: &[OsString]) -> PathBuf {
        let rest = path.iter().skip(1);
        match &self.top {
            Top::Keep => path.iter().collect(),
            Top::LeaveOut => rest.collect(),
            Top::Rename(name) => [name].into_iter().chain(rest).collect(),
        }
    }

    /// Opens the folder of an entry; those that are missing are made.
    fn parent(&mut self, path: &Path) -> Result<&OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            let folder = match open_inside(&self.root, parent, FOLDER) {
                Ok(folder) => folder,
                Err(Errno::NOENT) => self.make_folders(parent)?,
                Err(error) => return Err(failed("open", parent)(error)),
            };
            self.last = Some((parent.to_path_buf(), folder));
        }
        match &self.last {
            Some((_, folder)) => Ok(folder),
            None => Err(ArchiveError::Bad("no folder".into())),
        }
    }

    fn make_folders(&self, path: &Path) -> Result<OwnedFd> {
        let mut walked = PathBuf::new();
        let mut folder = open_inside(&self.root, &walked, FOLDER).map_err(failed("open", path))?;
        for part in path {
            walked.push(part);
            folder = match open_inside(&self.root, &walked, FOLDER) {
                Err(Errno::NOENT) => {
                    mkdirat(&folder, part, Mode::from_raw_mode(0o755)).map_err(failed("make", &walked))?;
                    open_inside(&self.root, &walked, FOLDER).map_err(failed("open", &walked))?
                }
                other => other.map_err(failed("open", &walked))?,
            };
        }
        Ok(folder)
    }

    fn make(&mut self, meta: Meta, data: &mut impl Read) -> Result<()> {
        let path = self.placed(&meta.path);
        let Some(name) = path.file_name().map(OsStr::to_owned) else { return Ok(()) };
        let how = self.how;
        let linked = match meta.kind {
            EntryType::Link => Some(self.placed(&entries::parts(meta.link.as_os_str().as_encoded_bytes())?)),
            _ => None,
        };
        if let Some(linked) = linked {
            let name_there = linked.file_name().map(OsStr::to_owned);
            let name_there = name_there.ok_or_else(|| ArchiveError::Bad("a link to nothing".into()))?;
            // A descriptor of its own: the link's folder may be another one.
            let there = open_inside(&self.root, linked.parent().unwrap_or(Path::new("")), FOLDER)
                .map_err(failed("link to", &linked))?;
            let parent = self.parent(&path)?;
            make_room(parent, &name, &path)?;
            linkat(&there, &name_there, parent, &name, AtFlags::empty()).map_err(failed("link", &path))?;
            self.copied.made += 1;
            return Ok(());
        }
        let parent = self.parent(&path)?;
        match meta.kind {
            EntryType::Directory => {
                make_folder(parent, &name, &path)?;
                if self.folders.len() >= MAX_FOLDERS {
                    return Err(ArchiveError::Bad(format!("it has more than {MAX_FOLDERS} folders")));
                }
                self.folders.push((path, meta));
            }
            EntryType::Regular | EntryType::Continuous => {
                refuse_folder(parent, &name, &path)?;
                let mut file = Whole::begin(parent).map_err(failed("make", &path))?;
                let copied = std::io::copy(data, &mut file.file).map_err(failed("write", &path))?;
                if copied != meta.size {
                    // The library takes the end of its input for the end of the file.
                    return Err(ArchiveError::Stream(std::io::ErrorKind::UnexpectedEof.into()));
                }
                if how.owners {
                    fchown(&file.file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
                        .map_err(failed("give its owner to", &path))?;
                }
                // After the owner, whose change takes set-user-ID away.
                fchmod(&file.file, permissions(&meta, how))
                    .map_err(failed("set the permissions of", &path))?;
                rustix::fs::futimens(&file.file, &times(&meta)).map_err(failed("set the time of", &path))?;
                file.finish(parent, &name).map_err(failed("make", &path))?;
            }
            EntryType::Symlink => {
                make_room(parent, &name, &path)?;
                symlinkat(&meta.link, parent, &name).map_err(failed("make", &path))?;
                own(parent, &name, &path, &meta, how)?;
            }
            EntryType::Fifo => {
                make_room(parent, &name, &path)?;
                node(parent, &name, &path, &meta, how, FileType::Fifo)?;
            }
            EntryType::Char | EntryType::Block if how.devices => {
                make_room(parent, &name, &path)?;
                let kind = match meta.kind {
                    EntryType::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                node(parent, &name, &path, &meta, how, kind)?;
            }
            _ => {
                self.copied.left_out += 1;
                return Ok(());
            }
        }
        self.copied.made += 1;
        Ok(())
    }

    /// Times and permissions of folders come last: what is put into one changes the former and may be kept out by the latter.
    fn finish(self) -> Result<Copied> {
        for (path, meta) in self.folders.iter().rev() {
            let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
                continue;
            };
            // Gone or replaced meanwhile is somebody else's right.
            let Ok(parent) = open_inside(&self.root, parent, FOLDER) else { continue };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(folder) = openat(&parent, name, flags, Mode::empty()) else { continue };
            if self.how.owners {
                fchown(&folder, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
                    .map_err(failed("give its owner to", path))?;
            }
            fchmod(&folder, permissions(meta, self.how)).map_err(failed("set the permissions of", path))?;
            rustix::fs::futimens(&folder, &times(meta)).map_err(failed("set the time of", path))?;
        }
        Ok(self.copied)
    }
}

/// Removes what has the name, unless it is a folder.
fn make_room(parent: impl AsFd, name: &OsStr, path: &Path) -> Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(ArchiveError::Taken { path: path.display().to_string(), by: Taken::Folder }),
        Err(error) => Err(failed("replace", path)(error)),
    }
}

/// A file's data would be written for nothing.
fn refuse_folder(parent: impl AsFd, name: &OsStr, path: &Path) -> Result<()> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(ArchiveError::Taken { path: path.display().to_string(), by: Taken::Folder })
        }
        _ => Ok(()),
    }
}

/// Makes a folder, or takes the one that is there. What is none stays: a link to a folder is how many systems hold together (`/lib64` of one
/// whose /usr is merged), and a folder in its place would take all that is behind it away.
fn make_folder(parent: impl AsFd, name: &OsStr, path: &Path) -> Result<()> {
    match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => {}
        other => return other.map_err(failed("make", path)),
    }
    let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", path))?;
    let by = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(()),
        FileType::Symlink => Taken::Link,
        _ => Taken::File,
    };
    Err(ArchiveError::Taken { path: path.display().to_string(), by })
}

fn node(
    parent: impl AsFd,
    name: &OsStr,
    path: &Path,
    meta: &Meta,
    how: Unpack,
    kind: FileType,
) -> Result<()> {
    let device = makedev(meta.device.0, meta.device.1);
    let mode = permissions(meta, how);
    mknodat(&parent, name, kind, mode, device).map_err(failed("make", path))?;
    own(&parent, name, path, meta, how)?;
    // The caller's umask took something away. Nobody can have put a link in its place that leads anywhere but inside.
    match chmodat(&parent, name, mode, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(failed("set the permissions of", path)(error)),
    }
}

fn own(parent: impl AsFd, name: &OsStr, path: &Path, meta: &Meta, how: Unpack) -> Result<()> {
    if how.owners {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("give its owner to", path))?;
    }
    utimensat(&parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the time of", path))
}

fn permissions(meta: &Meta, how: Unpack) -> Mode {
    // Files of strangers that become the caller's must not run as the caller.
    Mode::from_raw_mode(if how.owners { meta.mode } else { meta.mode & 0o1777 })
}

fn times(meta: &Meta) -> Timestamps {
    let at = Timespec { tv_sec: i64::try_from(meta.mtime).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}
