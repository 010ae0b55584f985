//! The handle of one VM.

use crate::agent::{self, AgentClient, Events, OutputStream, StdinStream};
use crate::dir::{Meta, VmDir};
use crate::exit::{Status, VmExit};
use crate::id::{hex, random_bytes};
use crate::launcher::Made;
use crate::registry::{Registry, VmInfo};
use crate::{DiskSource, Error, Launcher, Parts, VmId, VmSpec, control, process, sys};
use agent_protocol::{
    CONTROL_PORT, FORWARD_PORT, ForwardHeader, Ready, STREAM_PORT, StreamHeader, StreamKind,
};
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use vmm::api::control::{Reply, Request};

mod disk;
mod launch;
mod medium;

pub use launch::host_memory_mib;

/// How long a VMM may take to end in order after SIGTERM, before it is killed.
const TERM_WITHIN: Duration = Duration::from_secs(2);

/// One VM, running or ended. Clones are the same VM; dropping them changes nothing for it.
#[derive(Debug, Clone)]
pub struct Vm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    dir: VmDir,
    meta: Meta,
    /// None when the process was gone before we came.
    process: Option<AsyncFd<OwnedFd>>,
    /// Our end of the pair on which the agent reports, until somebody waits for it.
    ready: Mutex<Option<StdUnixStream>>,
    /// None when another program launched it.
    launched: Option<Launched>,
}

/// When a launch reached what: CLOCK_MONOTONIC, microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launched {
    /// Folder, cgroup and files were there, and the launcher was asked.
    opened_us: u64,
    /// What the launcher says.
    made: Made,
}

impl Vm {
    /// Makes a VM. When this future is dropped the VM is not left behind.
    ///
    /// # Errors
    /// [`Error::Spec`] for a description that makes no sense; [`Error::Exists`]; [`Error::File`] when one of its files
    /// can't be opened; [`Error::Launch`] and [`Error::LauncherGone`]. Nothing is left of the VM then.
    pub async fn launch(
        launcher: &Launcher,
        registry: &Registry,
        parts: &Parts,
        id: VmId,
        spec: VmSpec,
    ) -> Result<Self, Error> {
        launch::launch(launcher.clone(), registry.clone(), parts.clone(), id, spec).await
    }

    pub(crate) fn from_parts(
        registry: Registry,
        dir: VmDir,
        meta: Meta,
        pidfd: Option<OwnedFd>,
        ready: Option<StdUnixStream>,
        launched: Option<Launched>,
    ) -> Result<Self, Error> {
        let process = pidfd.map(sys::watch).transpose().map_err(Error::system("watch the VM's process"))?;
        Ok(Self(Arc::new(Inner { registry, dir, meta, process, ready: Mutex::new(ready), launched })))
    }

    /// Its name.
    pub fn id(&self) -> &VmId {
        &self.0.meta.id
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// What it was made from.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// When its folder can't be read.
    pub fn info(&self) -> Result<VmInfo, Error> {
        self.0.registry.info(self.id())
    }

    /// Waits for the agent's report and gives it the VM's secret, which is noted in the VM's folder first. Once per VM.
    ///
    /// # Errors
    /// [`Error::Ended`] when the VM ends first; [`Error::TimedOut`]; [`Error::BadAgent`] when the report is nonsense, or
    /// was asked for before.
    pub async fn ready(&self, within: Duration) -> Result<Ready, Error> {
        let socket = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = socket.ok_or_else(|| Error::BadAgent("its report was asked for before".into()))?;
        let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
        let mut socket = socket.map_err(Error::system("watch for the agent"))?;
        let token = hex(&random_bytes::<32>()?);
        let greet = async {
            let ready = agent::read_ready(&mut socket).await?;
            // Before the agent gets it, so that a program that comes after us never meets an agent with a secret it can't know.
            self.0.dir.write_token(&token)?;
            agent::send_welcome(&mut socket, &token).await?;
            Ok(ready)
        };
        tokio::select! {
            ready = greet => match ready {
                // The VM may have ended because of it; then that is the better story. A VMM closes its sockets just before its end.
                Err(e @ Error::BadAgent(_)) => match tokio::time::timeout(TERM_WITHIN, self.wait_exit()).await {
                    Ok(exit) => Err(self.ended(exit)),
                    Err(_) => Err(e),
                },
                other => other,
            },
            exit = self.wait_exit() => Err(self.ended(exit)),
            () = tokio::time::sleep(within) => Err(Error::TimedOut { what: "the agent's report", within }),
        }
    }

    fn ended(&self, exit: VmExit) -> Error {
        Error::Ended { id: self.id().clone(), exit: Box::new(exit) }
    }

    /// Waits for the VM's end. May be dropped and called again, by any number of callers.
    pub async fn wait_exit(&self) -> VmExit {
        if let Some(process) = &self.0.process {
            // A pidfd becomes readable when the process ends and stays so. The only failure is that the runtime shuts down.
            if let Ok(mut guard) = process.readable().await {
                guard.retain_ready();
            }
        }
        Status::read(&self.0.dir.status()).into_exit()
    }

    /// Steps of the launch, before the VM's process could tell any itself: what was reached, and CLOCK_MONOTONIC in microseconds. None when it
    /// was another program that launched it.
    pub fn launch_steps(&self) -> Vec<(&'static str, u64)> {
        let Some(Launched { opened_us, made }) = self.0.launched else { return Vec::new() };
        vec![
            ("VM files open", opened_us),
            ("launcher: order read", made.ordered_us),
            ("launcher: process cloned", made.cloned_us),
            ("launcher: process released", made.released_us),
            ("launcher: VMM executed", made.executed_us),
        ]
    }

    /// Steps of the start that the VM has reported so far.
    pub fn milestones(&self) -> Vec<crate::Milestone> {
        Status::read(&self.0.dir.status()).milestones
    }

    /// Kills the VM's process. That it has ended already is no error.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn kill(&self) -> Result<(), Error> {
        match &self.0.process {
            Some(process) => process::kill(process.get_ref()).map_err(Error::system("kill the VM's process")),
            None => Ok(()),
        }
    }

    /// Presses the power button and gives the guest this time to power off; then ends the VM in order; then kills it.
    ///
    /// # Errors
    /// When it can't be killed.
    pub async fn stop(&self, grace: Duration) -> Result<VmExit, Error> {
        let Some(process) = &self.0.process else { return Ok(self.wait_exit().await) };
        let button = async {
            if !grace.is_zero()
                && let Err(error) = self.control(Request::PowerButton {}).await
            {
                tracing::debug!(vm = %self.id(), %error, "the power button does not work");
                // Nothing to wait for then: the guest was not asked.
                return None;
            }
            tokio::time::timeout(grace, self.wait_exit()).await.ok()
        };
        if let Some(exit) = button.await {
            return Ok(exit);
        }
        if let Err(error) = pidfd_send_signal(process.get_ref(), Signal::TERM)
            && error != rustix::io::Errno::SRCH
        {
            return Err(Error::System { what: "stop the VM's process", source: error.into() });
        }
        if let Ok(exit) = tokio::time::timeout(TERM_WITHIN, self.wait_exit()).await {
            return Ok(exit);
        }
        self.kill()?;
        Ok(self.wait_exit().await)
    }

    /// Asks the VM's process for something.
    ///
    /// # Errors
    /// [`Error::Control`] when it refuses or can't be reached; [`Error::TimedOut`].
    pub async fn control(&self, request: Request) -> Result<Reply, Error> {
        control::call(&self.0.dir.control(), request).await
    }

    /// Puts a medium into a removable disk that has none; its size in bytes, which the guest learns of a moment later. The files
    /// are opened as at a launch: a medium that the guest may write to is no other VM's until it is ejected or the VM ends.
    /// Whether it is in when this future is dropped is unknown; [`Vm::eject`] makes sure that it is not.
    ///
    /// # Errors
    /// [`Error::Spec`] for a disk that is not there or not removable, and a source that it can't take; [`Error::File`],
    /// [`Error::DiskInUse`]; [`Error::Control`] when the VM's process refuses: there is a medium, or a file is not whole sectors
    /// of 512 bytes; [`Error::TimedOut`].
    pub async fn insert(&self, drive: &str, source: &DiskSource) -> Result<u64, Error> {
        medium::insert(self.id(), &self.0.dir, drive, source).await
    }

    /// Takes the medium out of a removable disk; that there is none is no error. Afterwards nothing of the VM has its files. A guest
    /// that still uses it meets I/O errors, so it should have closed it.
    ///
    /// # Errors
    /// [`Error::Control`] for a disk that is not there or not removable, and a process that can't be reached;
    /// [`Error::TimedOut`].
    pub async fn eject(&self, drive: &str) -> Result<(), Error> {
        self.control(Request::Eject { drive_id: drive.to_owned() }).await.map(drop)
    }

    /// Connects to a vsock port of the guest.
    ///
    /// # Errors
    /// [`Error::Connect`] when nothing listens there.
    pub async fn connect(&self, port: u32) -> Result<UnixStream, Error> {
        control::connect(&self.0.dir.vsock(), port).await
    }

    fn token(&self) -> Result<String, Error> {
        self.0
            .dir
            .read_token()?
            .ok_or_else(|| Error::BadAgent("it never reported, so it has no secret".into()))
    }

    /// A new control connection to the agent. With `events` the agent's events come on this one from now on.
    ///
    /// # Errors
    /// [`Error::Connect`]; [`Error::Agent`] when the agent refuses, breaks the protocol, or is silent for longer than `within`.
    pub async fn agent(&self, within: Duration, events: bool) -> Result<(AgentClient, Events), Error> {
        let token = self.token()?;
        let connected = async {
            let stream = self.connect(CONTROL_PORT).await?;
            Ok(AgentClient::connect(stream, &token, events, within).await?)
        };
        match tokio::time::timeout(within, connected).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { what: "the agent's hello", within }),
        }
    }

    fn header(
        &self,
        container: &str,
        exec: Option<&str>,
        stream: StreamKind,
        offset: u64,
    ) -> Result<StreamHeader, Error> {
        Ok(StreamHeader {
            token: self.token()?,
            container: container.to_owned(),
            exec: exec.map(str::to_owned),
            stream,
            offset,
        })
    }

    /// Opens standard output or error of a process in the guest, from this byte on.
    ///
    /// # Errors
    /// [`Error::Connect`]; [`Error::Stream`] when the agent refuses or breaks the protocol; [`Error::TimedOut`].
    pub async fn output(
        &self,
        container: &str,
        exec: Option<&str>,
        stream: StreamKind,
        offset: u64,
        within: Duration,
    ) -> Result<OutputStream, Error> {
        let header = self.header(container, exec, stream, offset)?;
        let opened = async { Ok(OutputStream::open(self.connect(STREAM_PORT).await?, &header).await?) };
        match tokio::time::timeout(within, opened).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { what: "the opening of a stream", within }),
        }
    }

    /// Opens standard input of a process in the guest; [`StdinStream::taken`] says where to go on.
    ///
    /// # Errors
    /// As [`Vm::output`].
    pub async fn stdin(
        &self,
        container: &str,
        exec: Option<&str>,
        within: Duration,
    ) -> Result<StdinStream, Error> {
        let header = self.header(container, exec, StreamKind::Stdin, 0)?;
        let opened = async { Ok(StdinStream::open(self.connect(STREAM_PORT).await?, &header).await?) };
        match tokio::time::timeout(within, opened).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { what: "the opening of a stream", within }),
        }
    }

    /// Goes on with a standard input whose connection was lost: nothing of it is lost, and nothing comes twice.
    ///
    /// # Errors
    /// As [`Vm::stdin`].
    pub async fn resume_stdin(
        &self,
        stdin: &mut StdinStream,
        container: &str,
        exec: Option<&str>,
        within: Duration,
    ) -> Result<(), Error> {
        let header = self.header(container, exec, StreamKind::Stdin, 0)?;
        let resumed = async { Ok(stdin.resume(self.connect(STREAM_PORT).await?, &header).await?) };
        match tokio::time::timeout(within, resumed).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { what: "the opening of a stream", within }),
        }
    }

    /// Connects with a TCP port of the pod's loopback. The agent must have [`agent_protocol::FEATURE_FORWARD`].
    ///
    /// # Errors
    /// As [`Vm::output`]; the agent refuses when nobody listens.
    pub async fn forward(&self, port: u16, within: Duration) -> Result<UnixStream, Error> {
        let header = ForwardHeader { token: self.token()?, port };
        let connected = async { Ok(agent::forward(self.connect(FORWARD_PORT).await?, &header).await?) };
        match tokio::time::timeout(within, connected).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { what: "the connection to a port of the pod", within }),
        }
    }

    /// A descriptor of its process, readable from its end on; none when it was gone before we came.
    pub fn process(&self) -> Option<OwnedFd> {
        self.0.process.as_ref().and_then(|process| process.get_ref().try_clone().ok())
    }

    /// Removes what is left of it after its end.
    ///
    /// # Errors
    /// [`Error::Running`] when it has not ended.
    pub async fn remove(self) -> Result<(), Error> {
        self.0.registry.remove(self.id()).await
    }
}
