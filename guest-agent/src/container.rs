//! What the agent knows of a container and of the processes it has made in it.

use crate::cgroup::Cgroup;
use crate::errors::invalid;
use crate::rootfs::Mounted;
use crate::runtime::Verdict;
use crate::streams::Streams;
use agent_protocol::{AgentError, ErrorKind, ExitStatus};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::sync::Notify;

/// Longest id of a container or an exec.
const ID_MAX: usize = 64;

/// Checks an id, which becomes part of paths: 1 to 64 of `[A-Za-z0-9_.-]`, beginning with a letter or a digit.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`].
pub fn check_id(id: &str) -> Result<(), AgentError> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && id.len() <= ID_MAX {
        return Ok(());
    }
    Err(invalid(format!(
        "{id:?} is no id: 1 to {ID_MAX} of A-Z a-z 0-9 _ . -, beginning with a letter or a digit"
    )))
}

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Being made.
    Making,
    /// It stands and waits for its start.
    Created,
    /// Told to start; whether its command can run is not known yet.
    Starting,
    /// Its command runs.
    Running,
    /// Its end is known to the host, or the host was told that it never ran.
    Over,
}

/// A container's own process or an exec.
#[derive(Debug)]
pub struct Process {
    /// Its streams.
    pub streams: Streams,
    /// How far it has come.
    pub stage: Cell<Stage>,
    /// Its id as the agent sees it; 0 before it stands.
    pub pid: Cell<i32>,
    /// What will say whether its command runs.
    pub verdict: RefCell<Option<Verdict>>,
    /// How it ended.
    pub exit: Cell<Option<ExitStatus>>,
    /// Its exit was acknowledged by the host.
    pub noted: Cell<bool>,
    /// Woken when `exit` is set or `stage` changes.
    pub news: Notify,
    /// OOM kills of the container before this process.
    pub oom_before: Cell<u64>,
}

impl Process {
    /// A process in the making.
    pub fn new(streams: Streams) -> Rc<Self> {
        Rc::new(Self {
            streams,
            stage: Cell::new(Stage::Making),
            pid: Cell::new(0),
            verdict: RefCell::new(None),
            exit: Cell::new(None),
            noted: Cell::new(false),
            news: Notify::new(),
            oom_before: Cell::new(0),
        })
    }

    /// Notes how far it has come.
    pub fn reach(&self, stage: Stage) {
        self.stage.set(stage);
        self.news.notify_waiters();
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        while self.exit.get().is_none() {
            self.news.notified().await;
        }
    }

    /// Waits until it is known whether its command could run; gives the stage.
    pub async fn decided(&self) -> Stage {
        while self.stage.get() == Stage::Starting {
            self.news.notified().await;
        }
        self.stage.get()
    }

    /// Whether nothing of it is of interest any more: ended, noted by the host, all output safe.
    pub fn is_forgettable(&self) -> bool {
        self.stage.get() == Stage::Over && self.noted.get() && self.streams.is_done()
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its folder under /run: spec, mounts.
    pub base: PathBuf,
    /// Its root file system.
    pub root: RefCell<Mounted>,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its own process.
    pub process: Rc<Process>,
    /// Execs that are not forgotten.
    pub execs: RefCell<BTreeMap<String, Rc<Process>>>,
    /// A delete is under way.
    pub deleting: Cell<bool>,
    /// OOM kills that the host was told of.
    pub oom_told: Cell<u64>,
}

impl Container {
    /// The process that a request means.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn process(&self, exec: Option<&str>) -> Result<Rc<Process>, AgentError> {
        let Some(id) = exec else { return Ok(Rc::clone(&self.process)) };
        self.execs
            .borrow()
            .get(id)
            .cloned()
            .ok_or_else(|| AgentError::new(ErrorKind::NotFound, format!("no exec {id:?} in the container")))
    }

    /// Where a container's things live.
    pub fn base(id: &str) -> PathBuf {
        Path::new("/run/vial/containers").join(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_can_not_leave_their_folder() {
        for good in ["a", "0", "web-1.x_y", &"a".repeat(64)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "ä", "a,b", "a\0", &"a".repeat(65)] {
            assert_eq!(check_id(bad).unwrap_err().kind, ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
