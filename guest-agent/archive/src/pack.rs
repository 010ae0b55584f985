//! From files to a stream.

use crate::{ArchiveError, INSIDE, MAX_DEPTH, Place, Result, Root, failed, open_inside};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, major, minor, openat, openat2, readlinkat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

impl Root {
    /// Whether something is there, so that a wrong name is told before anything begins.
    ///
    /// # Errors
    /// When it is not, or is no folder although one is meant.
    pub fn check(&self, from: &Place) -> Result<()> {
        self.source(from, false).map(drop)
    }

    fn source(&self, from: &Place, follow: bool) -> Result<OwnedFd> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if from.is_folder {
            flags |= OFlags::DIRECTORY;
        } else if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        open_inside(&self.0, &from.path, flags).map_err(failed("copy", &from.path))
    }

    /// Writes a file or a folder with all that is in it as a tar. Its first entry has the name of what was asked for. With `follow`
    /// a link is taken for what it points to; links below are always copied as links.
    ///
    /// # Errors
    /// When something can't be read or the stream can't be written.
    pub fn pack<W: Write>(&self, from: &Place, follow: bool, out: W) -> Result<W> {
        self.pack_as(from, follow, Path::new(&from.name()), out)
    }

    /// The same under another name, which may be a path.
    ///
    /// # Errors
    /// As [`Self::pack`].
    pub fn pack_as<W: Write>(&self, from: &Place, follow: bool, name: &Path, out: W) -> Result<W> {
        let source = self.source(from, follow)?;
        let mut tar = Builder::new(out);
        add(&mut tar, source, name, 0)?;
        tar.into_inner().map_err(ArchiveError::Stream)
    }
}

fn add<W: Write>(tar: &mut Builder<W>, file: OwnedFd, name: &Path, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(ArchiveError::Bad(format!("{} lies deeper than {MAX_DEPTH} folders", name.display())));
    }
    let stat = fstat(&file).map_err(failed("look at", name))?;
    let mut header = header(&stat);
    let put = |tar: &mut Builder<W>, header: &mut Header| {
        tar.append_data(header, name, io::empty()).map_err(ArchiveError::Stream)
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(EntryType::Directory);
            // With a slash at its end, as other tars have it.
            tar.append_data(&mut header, name.join(""), io::empty()).map_err(ArchiveError::Stream)?;
            add_folder(tar, &file, name, depth)
        }
        FileType::RegularFile => {
            header.set_entry_type(EntryType::Regular);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            header.set_size(size);
            // Only what was seen to be a regular file is opened for reading: opening a device or a pipe does things.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let data = openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(failed("read", name))?;
            // The header has said how long it is; the file may have changed since.
            let data = File::from(data).take(size).chain(io::repeat(0)).take(size);
            tar.append_data(&mut header, name, data).map_err(failed("copy", name))
        }
        FileType::Symlink => {
            let target = readlinkat(&file, "", Vec::new()).map_err(failed("read the link", name))?;
            header.set_entry_type(EntryType::Symlink);
            let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
            tar.append_link(&mut header, name, target).map_err(ArchiveError::Stream)
        }
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            header.set_entry_type(match kind {
                FileType::Fifo => EntryType::Fifo,
                FileType::CharacterDevice => EntryType::Char,
                _ => EntryType::Block,
            });
            let device = header.set_device_major(major(stat.st_rdev));
            device
                .and_then(|()| header.set_device_minor(minor(stat.st_rdev)))
                .map_err(ArchiveError::Stream)?;
            put(tar, &mut header)
        }
        // A socket is nothing without its process.
        _ => Ok(()),
    }
}

fn add_folder<W: Write>(tar: &mut Builder<W>, folder: &impl AsFd, name: &Path, depth: usize) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat2(folder, ".", flags, Mode::empty(), INSIDE).map_err(failed("read", name))?;
    for entry in Dir::read_from(&opened).map_err(failed("read", name))? {
        let entry = entry.map_err(failed("read", name))?;
        let entry = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if entry == "." || entry == ".." {
            continue;
        }
        let below = name.join(&entry);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&opened, &entry, flags, Mode::empty()) {
            Ok(file) => add(tar, file, &below, depth + 1)?,
            // It was there a moment ago: somebody else's right.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("copy", &below)(error)),
        }
    }
    Ok(())
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}
