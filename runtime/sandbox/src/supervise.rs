//! Looking after a running container: its output into the log, its end.

use crate::desk::TaskExit;
use crate::log::{OutputLog, Stream};
use crate::sandbox::{Over, PATIENCE};
use crate::task::{Connections, STREAM_ATTEMPTS, Task};
use agent_protocol::StreamKind;
use std::sync::Arc;
use vial_vm::{OutputStream, StreamError};

/// How a container came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its process ended; all of its output is in the log. To be acknowledged with [`Task::noted`] when that is safely noted.
    Exited(TaskExit),
    /// Its sandbox ended first.
    Sandbox(Over),
}

impl Task {
    /// Moves output into the log and waits for the container's end.
    pub async fn supervise(&self, connections: Connections, log: &Arc<OutputLog>) -> Ended {
        let Connections { exit, stdout, stderr } = connections;
        let pumps = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)]
            .map(|(stream, opened)| tokio::spawn(pump(self.clone(), stream, opened, log.clone())));
        let ended = match exit.await {
            Ok(exit) => Ended::Exited(exit),
            // With its sandbox goes whoever would have told.
            Err(_) => Ended::Sandbox(self.sandbox.over().await),
        };
        // Whoever waits for an exec learns that the container ended first.
        self.sandbox.desk().forget(self.container().as_str());
        // What is left is in the agent's rings, a bounded rest: no client may hold it up any longer.
        log.let_go();
        for pump in pumps {
            let stop = pump.abort_handle();
            if tokio::time::timeout(PATIENCE, pump).await.is_err() {
                tracing::warn!(
                    container = self.container().short(),
                    "a stream does not end although its process has"
                );
                stop.abort();
            }
        }
        ended
    }

    /// Tells the agent that this end is safely noted.
    pub async fn noted(&self, exit: &TaskExit) {
        self.sandbox.noted(exit.seq).await;
    }
}

/// Moves one stream into the log until its end. What is acknowledged is in the log, and only that.
async fn pump(task: Task, stream: Stream, opened: Option<OutputStream>, log: Arc<OutputLog>) {
    let mut opened = opened;
    let mut attempts = 0;
    loop {
        let source = match opened.take() {
            Some(source) => Ok(source),
            None => {
                let kind = match stream {
                    Stream::Stdout => StreamKind::Stdout,
                    Stream::Stderr => StreamKind::Stderr,
                };
                let from = log.position().of(stream).saturating_sub(log.base().of(stream));
                task.sandbox.vm().output(task.container().as_str(), None, kind, from, PATIENCE).await
            }
        };
        let before = log.position().of(stream);
        let why = match source {
            Ok(source) => match drain(source, stream, &log).await {
                Ok(()) => return,
                Err(error @ StreamError::Lost(_)) => error.to_string(),
                Err(error) => {
                    return tracing::warn!(container = task.container().short(), %error, "output is given up");
                }
            },
            Err(error) => error.to_string(),
        };
        attempts = if log.position().of(stream) > before { 0 } else { attempts + 1 };
        if attempts >= STREAM_ATTEMPTS {
            // Usually because the VM is gone, which its supervisor knows better.
            return tracing::debug!(container = task.container().short(), why, "output ends");
        }
    }
}

async fn drain(mut source: OutputStream, stream: Stream, log: &Arc<OutputLog>) -> Result<(), StreamError> {
    loop {
        log.room().await;
        let (base, offset) = (log.base().of(stream), source.offset());
        let Some(bytes) = source.next().await? else { return Ok(()) };
        let safe = log.append(stream, base.saturating_add(offset), bytes).await;
        source.ack(safe.saturating_sub(base)).await?;
    }
}
