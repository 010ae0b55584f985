//! What a file has to be that a guest finds as a disk or as memory: looked at in one place, whichever way it comes.

use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

/// Why a file is none.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// A pipe, a folder, a socket, a character device.
    #[error("is neither a regular file nor a block device")]
    Kind,
    /// For writing alone, or for nothing (O_PATH).
    #[error("is not open for reading: open it so")]
    NotReadable,
    /// The guest may write and the descriptor can't.
    #[error("is not open for reading and writing: open it so, or make it read only for the guest")]
    NotWritable,
    /// Linux puts every write at the end of the file, wherever it was meant for.
    #[error("is open for appending, and what the guest writes would go to its end: open it without O_APPEND")]
    Appending,
    /// A call failed.
    #[error("can't be looked at: {0}")]
    Io(#[from] io::Error),
}

/// Whether it is read at offsets: a regular file or a block device.
pub fn has_offsets(file: &File) -> io::Result<bool> {
    file.metadata().map(|data| data.is_file() || data.file_type().is_block_device())
}

/// Whether a guest can read it, and write it if it may: what an inherited descriptor can do is told by nothing but its flags.
///
/// # Errors
/// See [`Unfit`].
pub fn check(file: &File, read_only: bool) -> Result<(), Unfit> {
    if !has_offsets(file)? {
        return Err(Unfit::Kind);
    }
    let flags = rustix::fs::fcntl_getfl(file).map_err(io::Error::from)?;
    match flags & OFlags::ACCMODE {
        _ if flags.contains(OFlags::PATH) => Err(Unfit::NotReadable),
        OFlags::WRONLY => Err(if read_only { Unfit::NotReadable } else { Unfit::NotWritable }),
        OFlags::RDONLY if !read_only => Err(Unfit::NotWritable),
        _ => Ok(()),
    }
}

/// The same for what is written by calls and not mapped: they have to reach the places that they name.
///
/// # Errors
/// See [`Unfit`].
pub fn check_disk(file: &File, read_only: bool) -> Result<(), Unfit> {
    check(file, read_only)?;
    let appending = rustix::fs::fcntl_getfl(file).map_err(io::Error::from)?.contains(OFlags::APPEND);
    if appending && !read_only { Err(Unfit::Appending) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_guest_s_file_is_open_for_what_the_guest_may_do() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = |set: &dyn Fn(&mut OpenOptions) -> &mut OpenOptions| {
            set(&mut OpenOptions::new()).open(&path).unwrap()
        };
        let what = |file: &File, read_only| check_disk(file, read_only).map_err(|error| format!("{error:?}"));
        for (file, writable, readable) in [
            (open(&|o| o.read(true).write(true)), Ok(()), Ok(())),
            (open(&|o| o.read(true)), Err("NotWritable"), Ok(())),
            (open(&|o| o.write(true)), Err("NotWritable"), Err("NotReadable")),
            (open(&|o| o.read(true).append(true)), Err("Appending"), Ok(())),
            (open(&|o| o.read(true).custom_flags(libc::O_PATH)), Err("NotReadable"), Err("NotReadable")),
            (File::open("/").unwrap(), Err("Kind"), Err("Kind")),
            (File::open("/dev/zero").unwrap(), Err("Kind"), Err("Kind")),
        ] {
            assert_eq!(what(&file, false), writable.map_err(str::to_owned));
            assert_eq!(what(&file, true), readable.map_err(str::to_owned));
        }
        // A mapping knows no end.
        check(&open(&|o| o.read(true).append(true)), false).unwrap();
    }
}
