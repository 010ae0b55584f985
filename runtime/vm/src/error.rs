//! What can go wrong with a VM, in words for people.

use crate::agent::AgentCallError;
use crate::exit::VmExit;
use crate::id::VmId;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something with a VM failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder operation failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as an infinitive.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A system call that concerns no file failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, as an infinitive.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The launcher was started too late.
    #[error("the launcher must be forked before the first thread, but {0} threads run")]
    LauncherTooLate(usize),
    /// The helper process that makes VM processes is gone.
    #[error(
        "the launcher process died while it started the VM, so nothing of that VM is kept; try again (running VMs are unharmed)"
    )]
    LauncherGone,
    /// The helper could not make the VM process.
    #[error("cannot start the VM process: {stage}: {source}")]
    Launch {
        /// Where it failed.
        stage: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Not a VM id.
    #[error(
        "{0:?} is not a VM name: 1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or a digit"
    )]
    BadId(String),
    /// There is a VM of that name.
    #[error("a VM named {0} exists already; remove it or choose another name")]
    Exists(VmId),
    /// There is no VM of that name.
    #[error("there is no VM named {0}")]
    NotFound(VmId),
    /// It must have ended first.
    #[error("VM {0} is still running; stop it first")]
    Running(VmId),
    /// The description of the VM makes no sense.
    #[error("the VM cannot be made so: {0}")]
    Spec(String),
    /// Another VM has the disk, and it or this one may write.
    #[error(
        "the disk {path} is in use by another VM{}, and two machines on one disk destroy what is on it; end that one \
         (vial vm ls shows it), use a copy of the disk, or give it read-only to both",
        if *.read_only { " that may write to it" } else { "" },
        path = path.display()
    )]
    DiskInUse {
        /// The disk.
        path: PathBuf,
        /// Whether this VM would only read.
        read_only: bool,
    },
    /// The VM would have the disk more than once, and once of them writable.
    #[error(
        "the disk {path} is given twice, maybe by another path, and not read-only both times; give it once, or a copy",
        path = path.display()
    )]
    DiskTwice {
        /// The disk.
        path: PathBuf,
    },
    /// This VM is not to be treated so.
    #[error("{0}")]
    Refused(String),
    /// An installed part is missing.
    #[error("{what} is missing at {path}; run the build, or set VIAL_LIB_DIR to the folder that has it", path = path.display())]
    PartMissing {
        /// Which part.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The VM ended while something was expected of it.
    #[error("VM {id} ended: {exit}")]
    Ended {
        /// Which VM.
        id: VmId,
        /// How.
        exit: Box<VmExit>,
    },
    /// Time ran out.
    #[error(
        "{what} did not come within {within:?}: the guest hangs, or this machine is overloaded (what the guest wrote last, if anything, is in the daemon's log)"
    )]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        within: Duration,
    },
    /// The VMM's control socket said no, or nonsense.
    #[error("the VM process refused: {0}")]
    Control(String),
    /// Nothing listens on that port of the guest.
    #[error("cannot connect to port {port} of the guest: {reason}")]
    Connect {
        /// The vsock port.
        port: u32,
        /// Why.
        reason: String,
    },
    /// The agent broke the protocol before the control connection existed.
    #[error("the agent in the guest misbehaved: {0}")]
    BadAgent(String),
    /// A call to the agent failed.
    #[error(transparent)]
    Agent(#[from] AgentCallError),
    /// A stream of the agent failed.
    #[error(transparent)]
    Stream(#[from] crate::agent::StreamError),
}

impl Error {
    /// Whether it says only that nothing was heard of the agent in time.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Agent(AgentCallError::Silent(_)))
    }

    /// A closure for `map_err` on a file operation.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::File { what, path, source }
    }

    /// A closure for `map_err` on another system call.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
