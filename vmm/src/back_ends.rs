//! Connections to vhost-user back ends, before the filters.

use crate::api::config::FileSource;
use crate::files::{FileError, inherited, name_of};
use crate::virtio::io::connect_unix;
use crate::virtio::vhost_user;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects to a vhost-user back end, or takes over a connection: the filters of pods know no `connect`.
pub(crate) fn connect(what: &str, source: &FileSource) -> Result<UnixStream, FileError> {
    let connected = match source {
        FileSource::Fd { fd } => Ok(UnixStream::from(OwnedFd::from(inherited(what, *fd)?))),
        // Without waiting: signals are taken by the event loop, which does not run yet.
        FileSource::Path(path) => dial(path),
    };
    let failed =
        |source_error| FileError::BackEnd { what: what.into(), name: name_of(source), source: source_error };
    let stream = connected.map_err(failed)?;
    vhost_user::prepare(&stream).map_err(failed)?;
    Ok(stream)
}

/// A connection to whoever listens at a path, which never waits for him. It does not block.
///
/// # Errors
/// What socket(2) and connect(2) say; that he is busy, if his queue is full; ENAMETOOLONG.
pub fn dial(path: &Path) -> io::Result<UnixStream> {
    connect_unix(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(error.kind(), "it is busy: more wait for it already than it lets wait")
        }
        _ => error,
    })
}

/// Looks whether there is a socket, without connecting: back ends such as virtiofsd end with their first connection.
pub(crate) fn check(what: &str, source: &FileSource) -> Result<(), FileError> {
    let FileSource::Path(path) = source else { return Ok(()) };
    let found = std::fs::metadata(path).and_then(|metadata| match metadata.file_type().is_socket() {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
    });
    found.map_err(|error| FileError::BackEnd { what: what.into(), name: name_of(source), source: error })
}
