//! Unix socket addresses hold 108 bytes, folders can be deeper: such a socket is reached through its folder's descriptor.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A path of the same socket that fits into an address, valid while the descriptor lives.
pub(crate) fn short(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    // sockaddr_un.sun_path with its final zero.
    if path.as_os_str().len() < 108 {
        return Ok((path.to_path_buf(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fd = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()).join(name);
    Ok((short, Some(fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_folders_work() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let (path, _fd) = short(&deep.join("s")).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert!(deep.join("s").exists());
    }
}
