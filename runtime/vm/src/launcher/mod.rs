//! Making VM processes: a single-threaded helper, forked before this program has threads, that clones each VM.
//!
//! The helper lives in a tree of its own with nothing in it and holds no descriptor but its socket, so what it clones
//! starts out with nothing; a new mount namespace costs it one mount instead of the host's dozens. The program and its
//! helper talk over a SOCK_SEQPACKET pair. When the program ends, the helper ends too and the VMs live on, except those
//! that are tied to it. A helper that is gone is replaced at the next launch, by a program that knows how.
//! docs/launcher.md tells the rest.

mod child;
mod helper;
mod jail;
mod remote;
mod wire;

use crate::{Error, sys};
use remote::Remote;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use wire::Isolation;
pub(crate) use wire::{Made, Order, Tie};

/// The program's end of its launcher. Clones share one helper.
#[derive(Debug, Clone)]
pub struct Launcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    remote: Mutex<Remote>,
    /// The words that make this program a helper of [`Launcher::serve`].
    successor: Option<&'static [&'static str]>,
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
        Self::start_with(None)
    }

    /// The same for a program that lives long: should the helper be killed, the next launch executes the program's own file again
    /// with these arguments, and that must call [`Launcher::serve`] before it does anything else.
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub fn start_replaceable(successor: &'static [&'static str]) -> Result<Self, Error> {
        Self::start_with(Some(successor))
    }

    fn start_with(successor: Option<&'static [&'static str]>) -> Result<Self, Error> {
        let remote = Remote::fork()?;
        Ok(Self(Arc::new(Inner { remote: Mutex::new(remote), successor })))
    }

    /// Lives as the helper of the program that executed this one, whose socket is standard input. Needs a process with one thread.
    pub fn serve() -> ! {
        match rustix::io::dup(io::stdin()) {
            Ok(socket) => helper::run(socket),
            Err(_) => sys::exit_now(1),
        }
    }

    fn remote(&self) -> MutexGuard<'_, Remote> {
        self.0.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this launcher can take its VMs apart from the host.
    pub fn isolation(&self) -> Isolation {
        self.remote().isolation.clone()
    }

    /// Process id of the helper.
    pub fn helper_pid(&self) -> i32 {
        self.remote().pid()
    }

    /// Has a process made and returns its pidfd, and when it was made. Blocks for the few milliseconds that it takes.
    pub(crate) fn launch(&self, order: &Order, cargo: &Cargo<'_>) -> Result<(OwnedFd, Made), Error> {
        let mut fds = vec![cargo.exec, cargo.record, cargo.stderr];
        fds.extend(cargo.cgroup);
        fds.extend(cargo.folder);
        fds.extend(&cargo.table);
        let mut remote = self.remote();
        if let Some(words) = self.0.successor
            && remote.is_gone()
        {
            tracing::warn!(pid = remote.pid(), "the launcher was killed; it gets a successor");
            remote.replace(words)?;
            tracing::info!(pid = remote.pid(), isolation = ?remote.isolation, "a new launcher is ready");
        }
        // From here on nobody knows whether a helper that dies had made the process: the caller undoes it, and no second is made.
        let (answer, mut fds) = remote.ask(order, &fds)?;
        match (answer, fds.pop()) {
            (wire::Answer::Started(made), Some(pidfd)) => Ok((pidfd, made)),
            (wire::Answer::Failed { stage, errno }, _) => {
                Err(Error::Launch { stage, source: io::Error::from_raw_os_error(errno) })
            }
            (wire::Answer::Started(_), None) => Err(Error::LauncherGone),
        }
    }
}
