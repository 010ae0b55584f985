//! Sockets that clients come to: bound at a path, or inherited.

use crate::api::config::FileSource;
use crate::files::{FileError, inherited};
use crate::sys;
use crate::virtio::io::connect_unix;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A listening socket that does not wait.
pub fn listener(what: &str, source: &FileSource) -> Result<UnixListener, FileError> {
    let failed = |source| FileError::Listen { what: what.into(), source };
    let listener = match source {
        FileSource::Fd { fd } => {
            let socket = OwnedFd::from(inherited(what, *fd)?);
            if !sys::listens(&socket) {
                let message = format!("descriptor {fd} is no Unix socket that listens; give one that does");
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, message)));
            }
            UnixListener::from(socket)
        }
        FileSource::Path(path) => bind(path).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Binds to `path`. A socket left behind by a process that is gone is replaced; one that somebody answers on is not, and nothing else
/// that is there. Never waits: nothing would end it, since signals are taken by the event loop, which may not run yet.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().is_empty() {
        // Linux would make up an abstract name (unix(7)), which knows no permissions.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is empty; give one"));
    }
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !is_socket(path) => {
            let message = format!("{path:?} is there and no socket, so it stays; give another path");
            Err(io::Error::new(error.kind(), message))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match connect_unix(path) {
            Err(answer) if answer.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            Err(answer) if answer.kind() == io::ErrorKind::PermissionDenied => Err(error),
            // A listener whose queue is full is somebody too.
            _ => {
                let message = format!("another process listens at {path:?}; end it, or give another path");
                Err(io::Error::new(error.kind(), message))
            }
        },
        result => result,
    }
}

/// Whether `path` itself is one: a regular file refuses connections just as a socket that nobody answers on.
fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}
