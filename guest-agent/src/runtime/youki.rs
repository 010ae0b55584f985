//! Containers through youki's libcontainer, in a forked helper.
//!
//! libcontainer blocks, changes its own process (working directory, OOM score, dumpable flag), and keeps descriptors after an error.
//! In PID 1 each of these would hurt: a container could stop the agent by stopping a process that is just joining it. So a
//! helper does the work and dies; the container's process is made as the *agent's* child (`as_sibling`), which reaps it.

use super::launcher::Launcher;
use super::{LONGEST_WORD, Launch, Outcome, Plan, Runtime};
use crate::errors::internal;
use crate::seccomp;
use crate::streams::ProcessEnds;
use crate::sys::process::fork;
use agent_protocol::AgentError;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How the names begin of the links to console sockets that libcontainer leaves in a container's state.
const TERMINAL_LINK: &[u8] = b"tenant-tty-";

/// libcontainer as the agent's runtime.
#[derive(Debug)]
pub struct Youki {
    /// Where libcontainer keeps its state.
    state: PathBuf,
}

impl Youki {
    /// A runtime that keeps its state in this folder, which must exist and be gone after a reboot.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_path_buf() }
    }

    fn launch(
        &self,
        plan: Plan,
        build: impl FnOnce(ContainerBuilder, &Path) -> Result<i32, LibcontainerError>,
    ) -> io::Result<Launch> {
        let (outcome, say_outcome) = pipe_with(PipeFlags::CLOEXEC)?;
        let (verdict, say_verdict) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&outcome, &verdict] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let filter = seccomp::compile(plan.caps.bounding).map_err(io::Error::other)?;
        let mut keep: Vec<_> = match &plan.ends {
            ProcessEnds::Pipes(pipes) => pipes.iter().map(AsRawFd::as_raw_fd).collect(),
            ProcessEnds::Console(console) => vec![console.go.as_raw_fd()],
        };
        keep.extend([say_outcome.as_raw_fd(), say_verdict.as_raw_fd()]);
        let helper = fork(&keep, || {
            let builder = ContainerBuilder::new(plan.container, SyscallType::default());
            let (builder, go) = match plan.ends {
                ProcessEnds::Pipes([stdin, stdout, stderr]) => {
                    (builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr), None)
                }
                ProcessEnds::Console(console) => {
                    (builder.with_console_socket(Some(console.socket)), Some(Rc::new(console.go)))
                }
            };
            let (filter, verdict) = (Rc::new(filter), Rc::new(say_verdict));
            let made = builder
                .with_executor(Launcher { filter, caps: plan.caps, verdict, go })
                .with_root_path(&self.state)
                .and_then(|builder| build(builder, &plan.document));
            let (word, code) = match made {
                Ok(pid) => (Outcome::Made(pid), 0),
                Err(error) => (Outcome::Failed(chain(&error)), 1),
            };
            if let Ok(word) = serde_json::to_vec(&word) {
                let _ = rustix::io::write(&say_outcome, &word);
            }
            code
        })?;
        Ok(Launch { helper, outcome, verdict })
    }
}

/// An error with its causes, which libcontainer's own messages leave out; short enough for the pipe.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    // JSON may need six bytes for one.
    text.chars().take(LONGEST_WORD / 8).collect()
}

impl Runtime for Youki {
    fn create(&self, plan: Plan) -> io::Result<Launch> {
        self.launch(plan, |builder, bundle| {
            let container =
                builder.as_init(bundle).with_systemd(false).with_detach(true).as_sibling(true).build()?;
            container.pid().map(|pid| pid.as_raw()).ok_or(LibcontainerError::NoDirectory)
        })
    }

    fn start(&self, container: &str) -> Result<(), AgentError> {
        let mut container = Container::load(self.state.join(container))
            .map_err(internal("the container's state can't be read"))?;
        container.start().map_err(internal("the container can't be started"))
    }

    fn exec(&self, plan: Plan) -> io::Result<Launch> {
        self.launch(plan, |builder, document| {
            let pid = builder
                .as_tenant()
                .with_process(Some(document))
                .with_detach(true)
                .as_sibling(true)
                .build()?;
            Ok(pid.as_raw())
        })
    }

    fn forget_consoles(&self, container: &str) {
        let folder = fs::read_dir(self.state.join(container));
        for entry in folder.into_iter().flatten().flatten() {
            // The target is gone as soon as the terminal has arrived; another exec may be just connecting through its own.
            if entry.file_name().as_encoded_bytes().starts_with(TERMINAL_LINK) && !entry.path().exists() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn forget(&self, container: &str) {
        // What is left is this folder: the agent itself has removed the cgroup and unmounted the root.
        let _ = fs::remove_dir_all(self.state.join(container));
    }
}
