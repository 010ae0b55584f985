//! Sockets that clients come to: bound at a path, or inherited.

use crate::api::config::FileSource;
use crate::files::{FileError, inherited};
use crate::sys;
use crate::virtio::io::connect_unix;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// Milliseconds that a VMM waits for its turn: another one has it for one, if it is let run.
const PATIENCE_MS: u32 = 100;

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
        FileSource::Path(path) => bind(path, PATIENCE_MS).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Binds to `path`. A socket left behind by a process that is gone is replaced; one that somebody answers on is not, and nothing else
/// that is there. Never waits but for its [`turn`]: nothing would end it, since signals are taken by the event loop, which may not run yet.
fn bind(path: &Path, patience_ms: u32) -> io::Result<UnixListener> {
    if path.as_os_str().is_empty() {
        // Linux would make up an abstract name (unix(7)), which knows no permissions.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is empty; give one"));
    }
    let _turn = turn(path, patience_ms);
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

/// Keeps other VMMs from the folder of `path` meanwhile: of two that find the same socket left behind, the later one would remove what the
/// earlier one has just bound, and a socket that is bound and does not listen yet looks as if it were left behind. Whoever may open the folder can have its
/// lock, so after a moment it has to go without.
fn turn(path: &Path, patience_ms: u32) -> Option<OwnedFd> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    for _ in 0..patience_ms {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => break,
        }
    }
    None
}

/// Whether `path` itself is one: a regular file refuses connections just as a socket that nobody answers on.
fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;

    #[test]
    fn of_many_that_find_a_socket_left_behind_one_gets_its_place() {
        const MANY: usize = 4;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(MANY);
            let bound: Vec<_> = std::thread::scope(|scope| {
                let one = || {
                    start.wait();
                    // However busy the machine is.
                    bind(&path, 600_000).ok()
                };
                let all: Vec<_> = (0..MANY).map(|_| scope.spawn(one)).collect();
                all.into_iter().filter_map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(bound.len(), 1);
            // And it is the one that is found there.
            let _client = UnixStream::connect(&path).unwrap();
            bound[0].set_nonblocking(true).unwrap();
            bound[0].accept().unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn who_keeps_the_folder_locked_keeps_nobody_from_binding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _held = turn(&path, 1).unwrap();
        assert!(turn(&path, 1).is_none());
        bind(&path, 1).unwrap();
    }
}
