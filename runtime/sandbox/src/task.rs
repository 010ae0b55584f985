//! A task: a container that runs in a sandbox, and what can be asked of it.

use crate::desk::TaskExit;
use crate::error::PodError;
use crate::ids::{ContainerId, random_hex};
use crate::sandbox::{PATIENCE, Sandbox, too_old};
use agent_protocol::{
    Exec, ExitStatus, FEATURE_ARCHIVE_NAMES, GetArchive, PutArchive, Request, Response, StreamKind,
};
use serde_json::value::to_raw_value;
use tokio::sync::oneshot;
use vial_vm::{AgentCallError, OutputStream, StdinStream, StreamError, Vm};

/// Attempts to connect a stream again without a byte in between, before it is given up.
pub(crate) const STREAM_ATTEMPTS: u32 = 3;

/// A container that runs. Clones are the same one; dropping them changes nothing for it.
#[derive(Debug, Clone)]
pub struct Task {
    pub(crate) sandbox: Sandbox,
    container: ContainerId,
}

/// What a task's supervisor needs: its end, and its output where that was opened already.
#[derive(Debug)]
pub struct Connections {
    pub(crate) exit: oneshot::Receiver<TaskExit>,
    pub(crate) stdout: Option<OutputStream>,
    pub(crate) stderr: Option<OutputStream>,
}

impl Connections {
    pub(crate) fn to(exit: oneshot::Receiver<TaskExit>) -> Self {
        Self { exit, stdout: None, stderr: None }
    }
}

impl Task {
    pub(crate) fn new(sandbox: Sandbox, container: ContainerId) -> Self {
        Self { sandbox, container }
    }

    /// The container.
    pub fn container(&self) -> &ContainerId {
        &self.container
    }

    /// Where it runs.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn vm(&self) -> &Vm {
        self.sandbox.vm()
    }

    /// Sends the container's first process a signal.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn signal(&self, signal: i32) -> Result<(), PodError> {
        let container = self.container.as_str().to_owned();
        self.sandbox.ask(Request::Signal { container, exec: None, signal }).await.map(drop)
    }

    /// Ends one more process, whatever it does.
    ///
    /// # Errors
    /// When it has ended, or the agent can't be spoken to.
    pub async fn kill_exec(&self, exec: &str) -> Result<(), PodError> {
        let (container, exec) = (self.container.as_str().to_owned(), Some(exec.to_owned()));
        self.sandbox.ask(Request::Signal { container, exec, signal: crate::signals::SIGKILL }).await.map(drop)
    }

    /// Gives the container's terminal, or an exec's, another size.
    ///
    /// # Errors
    /// When there is no such terminal (any more), or the agent can't be spoken to.
    pub async fn resize(&self, exec: Option<&str>, cols: u16, rows: u16) -> Result<(), PodError> {
        let (container, exec) = (self.container.as_str().to_owned(), exec.map(str::to_owned));
        self.sandbox.ask(Request::Resize { container, exec, cols, rows }).await.map(drop)
    }

    /// What the container uses now.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn stats(&self) -> Result<agent_protocol::Stats, PodError> {
        let container = self.container.as_str().to_owned();
        match self.sandbox.ask(Request::Stats { container }).await? {
            Response::Stats(stats) => Ok(stats),
            _ => Err(wrong_answer()),
        }
    }

    /// What runs in the container.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn processes(&self) -> Result<Vec<agent_protocol::ProcessInfo>, PodError> {
        let container = self.container.as_str().to_owned();
        match self.sandbox.ask(Request::Processes { container }).await? {
            Response::Processes(processes) => Ok(processes),
            _ => Err(wrong_answer()),
        }
    }

    /// What the kernel killed last in it for want of memory, in words, if that was told to this daemon.
    pub fn last_oom(&self) -> Option<String> {
        self.sandbox.desk().victim(self.container.as_str()).map(crate::oom::sentence)
    }

    /// Opens the container's standard input; its `taken` says where to go on.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn stdin(&self) -> Result<StdinStream, PodError> {
        Ok(self.vm().stdin(self.container.as_str(), None, PATIENCE).await?)
    }

    /// Puts a payload into the standard input of the container, or of an exec in it; an empty one is its end. A connection that is
    /// lost is made again: a process that waits for input that was given up would wait for ever.
    ///
    /// # Errors
    /// When the agent refuses (the process has ended), or no connection holds.
    pub async fn put_stdin(
        &self,
        stdin: &mut StdinStream,
        exec: Option<&str>,
        payload: &[u8],
    ) -> Result<(), PodError> {
        let begin = stdin.accepted();
        let mut attempts = 0;
        loop {
            let taken = stdin.taken();
            // Never more than the payload, which fits.
            let rest = &payload[(stdin.accepted() - begin) as usize..];
            let passed = if payload.is_empty() { stdin.finish().await } else { stdin.write(rest).await };
            let lost = match passed {
                Err(error @ StreamError::Lost(_)) => error,
                other => return Ok(other.map_err(vial_vm::Error::from)?),
            };
            attempts = if stdin.taken() > taken { 0 } else { attempts + 1 };
            tracing::warn!(container = self.container().short(), error = %lost, attempts, "standard input is connected again");
            if attempts >= STREAM_ATTEMPTS {
                return Err(vial_vm::Error::from(lost).into());
            }
            let container = self.container.as_str();
            self.vm().resume_stdin(stdin, container, exec, PATIENCE).await?;
        }
    }

    /// The next bytes of an exec's output; none at its end. A connection that is lost is made again: a process whose output nobody
    /// takes would wait for ever.
    ///
    /// # Errors
    /// When the agent refuses (the container has ended), or no connection holds.
    pub async fn exec_output(
        &self,
        output: &mut OutputStream,
        exec: &str,
        kind: StreamKind,
    ) -> Result<Option<Vec<u8>>, PodError> {
        let mut attempts = 0;
        loop {
            let lost = match output.next().await {
                Err(error @ StreamError::Lost(_)) => error,
                other => return Ok(other.map_err(vial_vm::Error::from)?),
            };
            attempts += 1;
            if attempts > STREAM_ATTEMPTS {
                return Err(vial_vm::Error::from(lost).into());
            }
            let container = self.container.as_str();
            // When the VM is gone this says so at once.
            *output = self.vm().output(container, Some(exec), kind, output.offset(), PATIENCE).await?;
            tracing::warn!(container = self.container().short(), error = %lost, "an exec's output was connected again");
        }
    }

    /// Runs one more process.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn exec(&self, process: &serde_json::Value, stdin: bool) -> Result<ExecStreams, PodError> {
        let process = to_raw_value(process)?;
        self.exec_of(stdin, |container, exec| Request::Exec(Exec { container, exec, process, stdin })).await
    }

    /// Has files of the container on the standard output, the first under its own name or under this one.
    ///
    /// # Errors
    /// As [`Self::exec`]; also when the agent is too old to give names.
    pub async fn get_archive(
        &self,
        path: String,
        follow: bool,
        name: Option<String>,
    ) -> Result<ExecStreams, PodError> {
        if name.is_some() && !self.sandbox.knows(FEATURE_ARCHIVE_NAMES) {
            return Err(too_old("serve tar"));
        }
        self.exec_of(false, |container, exec| {
            Request::GetArchive(GetArchive { container, exec, path, follow, name })
        })
        .await
    }

    /// Takes files for the container on the standard input.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub async fn put_archive(&self, path: String, how: PutHow) -> Result<ExecStreams, PodError> {
        let PutHow { contents, owners, stream } = how;
        self.exec_of(true, |container, exec| {
            Request::PutArchive(PutArchive { container, exec, path, contents, owners, stream })
        })
        .await
    }

    /// Sends a request that makes an exec, and opens its streams.
    async fn exec_of(
        &self,
        stdin: bool,
        request: impl FnOnce(String, String) -> Request,
    ) -> Result<ExecStreams, PodError> {
        let exec = random_hex(16)?;
        let exit = self.sandbox.desk().expect_exec(self.container.as_str(), &exec);
        let request = request(self.container.as_str().to_owned(), exec.clone());
        let opened = self.exec_inner(&exec, request, stdin, exit).await;
        if opened.is_err() {
            self.sandbox.desk().forget_exec(self.container.as_str(), &exec);
        }
        opened
    }

    async fn exec_inner(
        &self,
        exec: &str,
        request: Request,
        stdin: bool,
        exit: oneshot::Receiver<ExitStatus>,
    ) -> Result<ExecStreams, PodError> {
        let (vm, container) = (self.vm(), self.container.as_str());
        match tokio::time::timeout(PATIENCE, self.sandbox.agent().request(request)).await {
            Ok(answer) => answer.map(drop)?,
            Err(_) => return Err(PodError::Slow { what: "the start of the command", within: PATIENCE }),
        }
        let (stdout, stderr, stdin) = tokio::try_join!(
            vm.output(container, Some(exec), StreamKind::Stdout, 0, PATIENCE),
            vm.output(container, Some(exec), StreamKind::Stderr, 0, PATIENCE),
            async {
                match stdin {
                    true => vm.stdin(container, Some(exec), PATIENCE).await.map(Some),
                    false => Ok(None),
                }
            }
        )?;
        Ok(ExecStreams { id: exec.to_owned(), stdout, stderr, stdin, exit })
    }
}

pub(crate) fn wrong_answer() -> PodError {
    PodError::Agent(AgentCallError::Broken("it answered another question than the one that was asked".into()))
}

/// How files are put into a container; see [`PutArchive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutHow {
    /// The first folder of the tar is left out.
    pub contents: bool,
    /// Owners and groups are the tar's.
    pub owners: bool,
    /// Any tar, whose entries keep their names.
    pub stream: bool,
}

/// One more process in a container.
#[derive(Debug)]
pub struct ExecStreams {
    /// Its id with the agent.
    pub id: String,
    /// Its standard output.
    pub stdout: OutputStream,
    /// Its standard error.
    pub stderr: OutputStream,
    /// Its standard input, if asked for.
    pub stdin: Option<StdinStream>,
    /// Its end; never, when the container ends first.
    pub exit: oneshot::Receiver<ExitStatus>,
}
