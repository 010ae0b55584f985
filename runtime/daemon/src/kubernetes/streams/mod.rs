//! Streams of the Kubernetes API, from and to containers that this daemon looks after.
//!
//! All work is done on the daemon's threads, where the connections to the VMs are; the API server's see only channels.

mod log;
mod process;
mod tar;

use crate::ending;
use crate::error::ApiError as DaemonError;
use crate::live::Phase;
use crate::state::Shared;
use crate::store::Record;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use vial_orchestrator::http::streams::{Duplex, LogOptions, Place, Process, Stdio, Streams};
use vial_orchestrator::object;
use vial_orchestrator::status::{ApiError, Reason};
use vial_orchestrator::store::Stored;
use vial_sandbox::{ContainerId, Sandbox, spec};

/// What ids of containers in a pod's status begin with.
const SCHEME: &str = "vial://";

/// Opens streams.
pub struct Connector {
    daemon: Shared,
    tasks: Handle,
}

impl Connector {
    /// For the daemon on whose runtime this is called.
    pub fn new(daemon: &Shared) -> Self {
        Self { daemon: daemon.clone(), tasks: Handle::current() }
    }

    /// Does something on the daemon's threads. It is finished even when nobody waits for it any more.
    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ApiError>> {
        let task = self.tasks.spawn(work);
        Box::pin(async move {
            task.await.unwrap_or_else(|_| {
                Err(ApiError::new(
                    Reason::InternalError,
                    "the daemon failed inside while it opened the stream",
                ))
            })
        })
    }
}

/// In the words of the other side.
fn told(error: impl Into<DaemonError>) -> ApiError {
    ApiError::new(Reason::InternalError, error.into().to_string())
}

fn record(daemon: &Shared, id: &str) -> Result<Record, ApiError> {
    let gone = || ApiError::new(Reason::NotFound, format!("the container {id} has gone"));
    let id = id.strip_prefix(SCHEME).and_then(ContainerId::parse).ok_or_else(gone)?;
    daemon.store.get(&id).map_err(told)?.ok_or_else(gone)
}

/// The sandbox of a pod, by any container of it that runs.
fn sandbox(daemon: &Shared, pod: &Stored) -> Option<Sandbox> {
    let statuses = ["containerStatuses", "initContainerStatuses"];
    let statuses = statuses.iter().flat_map(|list| object::list(&pod.object, &["status", list]));
    let mut tasks = statuses.filter_map(|status| {
        let record = record(daemon, object::text(status, &["containerID"])).ok()?;
        match daemon.live(&record.id)?.phase() {
            Phase::Running(task) => Some(task.sandbox().clone()),
            _ => None,
        }
    });
    tasks.next()
}

impl Streams for Connector {
    fn exec(
        &self,
        place: Place,
        command: Vec<String>,
        stdio: Stdio,
    ) -> BoxFuture<'_, Result<Process, ApiError>> {
        let daemon = self.daemon.clone();
        self.run(async move {
            let record = record(&daemon, &place.id)?;
            let terminal = stdio.tty.then_some((0, 0));
            let options = spec::ExecOptions { command, terminal, ..spec::ExecOptions::default() };
            let process = spec::exec(&record.spec, &options).map_err(told)?;
            let task = ending::running(&daemon, &record).await.map_err(told)?;
            match task.exec(&process, stdio.stdin).await {
                Ok(streams) => Ok(process::of_exec(task, streams, process::Orphan::GoesOn)),
                Err(error) => match tar::job(&options.command).filter(|_| tar::is_missing(&error)) {
                    Some(job) => {
                        let streams = job.begin(&task).await.map_err(told)?;
                        Ok(process::of_exec(task, streams, process::Orphan::Ends))
                    }
                    None => Err(told(error)),
                },
            }
        })
    }

    fn attach(&self, place: Place, stdio: Stdio) -> BoxFuture<'_, Result<Process, ApiError>> {
        let daemon = self.daemon.clone();
        self.run(async move {
            let record = record(&daemon, &place.id)?;
            let task = ending::running(&daemon, &record).await.map_err(told)?;
            let live = daemon.live(&record.id).ok_or_else(|| told(ending::not_running(&record)))?;
            let containers = object::list(&place.pod.object, &["spec", "containers"]);
            let own = containers.iter().find(|own| object::text(own, &["name"]) == place.container);
            let has_end =
                own.is_some_and(|own| own["stdinOnce"] == true) && !spec::has_terminal(&record.spec);
            let stdin = stdio.stdin && record.stdin;
            Ok(process::of_container(task, live, process::Input { is_wanted: stdin, has_end }))
        })
    }

    fn log(
        &self,
        place: Place,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<Bytes>, ApiError>> {
        let daemon = self.daemon.clone();
        self.run(async move {
            let record = record(&daemon, &place.id)?;
            log::open(daemon.log(&record.id), options).await.map_err(told)
        })
    }

    fn dial(&self, pod: Arc<Stored>, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>> {
        let daemon = self.daemon.clone();
        let dialled = self.run(async move {
            let gone = || ApiError::new(Reason::NotFound, "no container of the pod runs");
            let sandbox = sandbox(&daemon, &pod).ok_or_else(gone)?;
            sandbox.forward(port).await.map_err(told)
        });
        Box::pin(async move {
            dialled.await.map(|stream| Box::new(stream) as Box<dyn Duplex>).map_err(|error| error.message)
        })
    }
}
