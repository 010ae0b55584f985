//! Making VM processes: a single-threaded helper, forked before this program has threads, that clones each VM.
//!
//! The helper lives in a tree of its own with nothing in it and holds no descriptor but its socket, so what it clones
//! starts out with nothing; a new mount namespace costs it one mount instead of the host's dozens. The program and its
//! helper talk over a SOCK_SEQPACKET pair. When the program ends, the helper ends too and the VMs live on, except those
//! that are tied to it. docs/launcher.md tells the rest.

mod child;
mod helper;
mod jail;
mod wire;

use crate::{Error, sys};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

pub use wire::Isolation;
pub(crate) use wire::{Order, Tie};

/// The program's end of its launcher. Clones share one helper.
#[derive(Debug, Clone)]
pub struct Launcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: Mutex<OwnedFd>,
    isolation: Isolation,
}

/// The descriptors that go with an [`Order`].
#[derive(Debug)]
pub(crate) struct Cargo<'a> {
    /// The static program.
    pub exec: BorrowedFd<'a>,
    /// The empty file that gets the process record.
    pub record: BorrowedFd<'a>,
    /// Standard error of the program.
    pub stderr: BorrowedFd<'a>,
    /// The cgroup's folder.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The folder that holds the VM's folder, when the VM is tied to us.
    pub folder: Option<BorrowedFd<'a>>,
    /// What the program gets from number 3 on.
    pub table: Vec<BorrowedFd<'a>>,
}

impl Launcher {
    /// Forks the helper. Must be the first thing that `main` does.
    ///
    /// # Errors
    /// [`Error::LauncherTooLate`] when this process has more than one thread; [`Error::System`] when the helper can't be made.
    pub fn start() -> Result<Self, Error> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| Error::System { what: "make the launcher's socket", source: e.into() })?;
        match sys::fork_single_threaded() {
            Ok(None) => {
                drop(ours);
                helper::run(theirs)
            }
            Ok(Some(_)) => {}
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                return Err(Error::LauncherTooLate(sys::thread_count().unwrap_or(0)));
            }
            Err(e) => return Err(Error::system("fork the launcher")(e)),
        }
        drop(theirs);
        let (isolation, _) = wire::receive(ours.as_fd())
            .map_err(Error::system("start the launcher"))?
            .ok_or(Error::LauncherGone)?;
        Ok(Self(Arc::new(Inner { socket: Mutex::new(ours), isolation })))
    }

    /// How far this launcher can take its VMs apart from the host.
    pub fn isolation(&self) -> &Isolation {
        &self.0.isolation
    }

    /// Has a process made and returns its pidfd. Blocks for the few milliseconds that it takes.
    pub(crate) fn launch(&self, order: &Order, cargo: &Cargo<'_>) -> Result<OwnedFd, Error> {
        let mut fds = vec![cargo.exec, cargo.record, cargo.stderr];
        fds.extend(cargo.cgroup);
        fds.extend(cargo.folder);
        fds.extend(&cargo.table);
        let socket = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |e: io::Error| match e.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => Error::LauncherGone,
            _ => Error::System { what: "talk to the launcher", source: e },
        };
        wire::send(socket.as_fd(), order, &fds).map_err(gone)?;
        let (answer, mut fds) = wire::receive(socket.as_fd()).map_err(gone)?.ok_or(Error::LauncherGone)?;
        match (answer, fds.pop()) {
            (wire::Answer::Started, Some(pidfd)) => Ok(pidfd),
            (wire::Answer::Failed { stage, errno }, _) => {
                Err(Error::Launch { stage, source: io::Error::from_raw_os_error(errno) })
            }
            (wire::Answer::Started, None) => Err(Error::LauncherGone),
        }
    }
}
