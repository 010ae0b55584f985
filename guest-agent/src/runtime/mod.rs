//! What the agent needs of a container runtime, so that the one behind it can be replaced.

mod launcher;
mod youki;

pub use youki::Youki;

use crate::reaper::{Ended, Reaper};
use crate::spec::FinalCaps;
use crate::streams::ProcessEnds;
use crate::sys::watch::watch;
use agent_protocol::{AgentError, ErrorKind};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Everything about a process that is to be made in a container.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub container: String,
    /// Create: the folder with `config.json`. Exec: the file with the OCI process.
    pub document: PathBuf,
    /// The process's standard streams, or where its terminal is to be sent.
    pub ends: ProcessEnds,
    /// What its command may do.
    pub caps: FinalCaps,
}

/// A process in the making.
#[derive(Debug)]
pub struct Launch {
    /// Process id of the helper that does the work; it ends when the process stands.
    pub helper: i32,
    /// The helper's last word: an [`Outcome`].
    pub outcome: OwnedFd,
    /// From the process itself: an [`AgentError`] when its command can't run, nothing when it runs.
    pub verdict: OwnedFd,
}

/// How a launch went.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The process stands; its id as the agent sees it.
    Made(i32),
    /// Why it does not.
    Failed(String),
}

/// Makes containers and processes in them.
pub trait Runtime {
    /// Begins to make a container whose first process waits for [`Runtime::start`].
    ///
    /// # Errors
    /// When not even a helper can be started.
    fn create(&self, plan: Plan) -> io::Result<Launch>;

    /// Lets a made container's first process run its command.
    ///
    /// # Errors
    /// When the container is not in that state.
    fn start(&self, container: &str) -> Result<(), AgentError>;

    /// Begins to run one more process in a running container.
    ///
    /// # Errors
    /// As [`Runtime::create`].
    fn exec(&self, plan: Plan) -> io::Result<Launch>;

    /// Forgets what was needed to hand over the terminals that have arrived.
    fn forget_consoles(&self, container: &str);

    /// Forgets a container whose processes are all dead.
    fn forget(&self, container: &str);
}

/// The most that a helper or a process says; below PIPE_BUF, so that one write never blocks and is never torn.
const LONGEST_WORD: usize = 4000;

/// The command's own word on whether it runs.
#[derive(Debug)]
pub struct Verdict(OwnedFd);

impl Launch {
    /// Waits until the process stands; gives its id, and what will say whether its command runs.
    ///
    /// # Errors
    /// What kept it from standing: the command's own reason where there is one.
    pub async fn made(self, reaper: &Reaper) -> Result<(i32, Verdict), AgentError> {
        let ended = reaper.ended(self.helper).await;
        let mut word = Vec::new();
        // The helper wrote before it ended, so a read can't have to wait.
        let _ = File::from(self.outcome).take(LONGEST_WORD as u64).read_to_end(&mut word);
        match serde_json::from_slice(&word) {
            Ok(Outcome::Made(pid)) => Ok((pid, Verdict(self.verdict))),
            Ok(Outcome::Failed(reason)) => Err(said(&self.verdict).unwrap_or_else(|| failed(reason))),
            Err(_) => Err(failed(format!("the runtime's helper ended without a word ({})", describe(ended)))),
        }
    }
}

fn failed(reason: String) -> AgentError {
    AgentError::new(ErrorKind::Internal, format!("the container runtime failed: {reason}"))
}

fn describe(ended: Ended) -> String {
    match ended.signal {
        Some(signal) => format!("signal {signal}"),
        None => format!("status {}", ended.code),
    }
}

impl Verdict {
    /// Waits until the command runs.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn running(self) -> Result<(), AgentError> {
        let wait = async || -> io::Result<OwnedFd> {
            let fd = watch(self.0)?;
            // Readable means either a word or, when the command took over and the descriptor closed, the end.
            let _ = fd.readable().await?;
            Ok(fd.into_inner())
        };
        match wait().await {
            Ok(fd) => said(&fd).map_or(Ok(()), Err),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// What a process has said on its (non-blocking) verdict pipe so far.
fn said(verdict: &OwnedFd) -> Option<AgentError> {
    let mut word = [0; LONGEST_WORD];
    let n = rustix::io::read(verdict, &mut word).ok()?;
    // An honest launcher writes one error at once; a hostile command can't write here, its descriptor is closed on exec.
    serde_json::from_slice(&word[..n]).ok()
}
