//! The helper as its program sees it: a process and the socket to it.

use super::helper;
use super::wire::{self, Answer, Isolation, Order};
use crate::process::wait_readable;
use crate::{Error, sys};
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Name of a successor's process, as the fork's name for itself.
const NAME: &str = "vial-launcher";

/// A helper.
#[derive(Debug)]
pub struct Remote {
    socket: OwnedFd,
    /// A child of ours that is not waited for before it is replaced, so the id stays its.
    pid: Pid,
    /// What it could set up.
    pub isolation: Isolation,
}

impl Remote {
    /// Forks this process, which must have one thread.
    pub fn fork() -> Result<Self, Error> {
        let (ours, theirs) = pair()?;
        let pid = match sys::fork_single_threaded() {
            Ok(None) => {
                drop(ours);
                helper::run(theirs)
            }
            Ok(Some(pid)) => pid,
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                return Err(Error::LauncherTooLate(sys::thread_count().unwrap_or(0)));
            }
            Err(e) => return Err(Error::system("fork the launcher")(e)),
        };
        drop(theirs);
        Self::greet(ours, pid)
    }

    /// Executes this program's file, which may have been replaced or deleted since, to be a helper: with threads, a fork alone
    /// can't be trusted to do more than that.
    fn execute(words: &[&str]) -> Result<Self, Error> {
        let (ours, theirs) = pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).args(words).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(Error::system("execute the launcher"))?;
        // The command holds a copy of the helper's end: while it does, the helper's end is never seen.
        drop(command);
        // Ids of processes are positive and fit.
        Self::greet(ours, child.id().cast_signed())
    }

    fn greet(socket: OwnedFd, pid: i32) -> Result<Self, Error> {
        let pid = Pid::from_raw(pid).ok_or(Error::LauncherGone)?;
        let greeting = wire::receive(socket.as_fd()).map_err(Error::system("start the launcher"));
        match greeting {
            Ok(Some((isolation, _))) => Ok(Self { socket, pid, isolation }),
            other => {
                bury(pid);
                Err(other.err().unwrap_or(Error::LauncherGone))
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it is gone. Between orders it says nothing, so what can be read is the end.
    pub fn is_gone(&self) -> bool {
        wait_readable(&self.socket, PollFlags::IN, Some(0)).unwrap_or(true)
    }

    /// Puts a new helper in its place.
    pub fn replace(&mut self, words: &[&str]) -> Result<(), Error> {
        let new = Self::execute(words)?;
        bury(self.pid);
        *self = new;
        Ok(())
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let gone = |e: io::Error| match e.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => Error::LauncherGone,
            _ => Error::System { what: "talk to the launcher", source: e },
        };
        wire::send(self.socket.as_fd(), order, fds).map_err(gone)?;
        wire::receive(self.socket.as_fd()).map_err(gone)?.ok_or(Error::LauncherGone)
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::System { what: "make the launcher's socket", source: e.into() })
}

/// Leaves no zombie, and nothing that closed its socket and lives.
fn bury(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    let _ = waitpid(Some(pid), WaitOptions::empty());
}
