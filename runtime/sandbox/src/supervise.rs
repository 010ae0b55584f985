//! Looking after a running pod: its output into the log, its events, its end.

use crate::log::{OutputLog, Stream};
use crate::pod::{Connections, PATIENCE, Pod, STREAM_ATTEMPTS, lock};
use agent_protocol::{Event, ExitStatus, StreamKind};
use std::sync::Arc;
use vial_vm::{AgentCallError, Events, OutputStream, StreamError, VmExit};

/// How a pod's container came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its process ended; all of its output is in the log.
    Exited {
        /// To be acknowledged with [`Pod::ack`] when it is safely noted.
        seq: u64,
        /// How.
        status: ExitStatus,
    },
    /// Its VM ended first.
    Vm(VmExit),
    /// Its agent broke the protocol or can't be reached any more; the VM must be ended.
    Agent(String),
}

impl Pod {
    /// Moves output into the log and waits for the container's end.
    pub async fn supervise(&self, connections: Connections, log: &Arc<OutputLog>) -> Ended {
        let Connections { mut events, stdout, stderr } = connections;
        let pumps = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)]
            .map(|(stream, opened)| tokio::spawn(pump(self.clone(), stream, opened, log.clone())));
        let ended = loop {
            tokio::select! {
                exit = self.0.vm.wait_exit() => break Ended::Vm(exit),
                event = events.next() => match event {
                    Some((seq, event)) => {
                        if let Some(status) = self.note(&events, seq, event).await {
                            break Ended::Exited { seq, status };
                        }
                    }
                    None => match self.reconnect(&events).await {
                        Ok(fresh) => events = fresh,
                        Err(ended) => break ended,
                    },
                }
            }
        };
        // No other event will be heard: whoever waits for an exec learns that the container ended first.
        lock(&self.0.execs).clear();
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

    /// Tells the agent that events up to this one are safely noted.
    pub async fn ack(&self, seq: u64) {
        // If the connection is lost the event comes again, and is noted again: no harm.
        let _ = self.agent().ack(seq).await;
    }

    /// Takes note of an event; the container's end is left to the caller, unacknowledged.
    async fn note(&self, events: &Events, seq: u64, event: Event) -> Option<ExitStatus> {
        match event {
            Event::Exited { container, exec: None, status } if container == self.container().as_str() => {
                return Some(status);
            }
            Event::Exited { exec: Some(exec), status, .. } => {
                let waiter = lock(&self.0.execs).remove(&exec);
                if let Some(waiter) = waiter {
                    // Whoever waited may be gone.
                    let _ = waiter.send(status);
                }
            }
            Event::Log { message } => {
                tracing::info!(container = self.container().short(), agent = %message.escape_debug(), "the agent says");
            }
            // An exit tells of it too.
            Event::Oom { .. } | Event::Exited { exec: None, .. } => {}
        }
        let _ = events.client().ack(seq).await;
        None
    }

    /// After the control connection was lost: a new one, or the reason why there is none.
    async fn reconnect(&self, events: &Events) -> Result<Events, Ended> {
        let why = events.client().closed().await;
        if let AgentCallError::Broken(why) = why {
            return Err(Ended::Agent(why));
        }
        // The usual reason for a lost connection is that the VM is just ending, which is the better story.
        tokio::select! {
            biased;
            exit = self.0.vm.wait_exit() => Err(Ended::Vm(exit)),
            fresh = self.0.vm.agent(PATIENCE, true) => match fresh {
                Ok((client, fresh)) => {
                    *lock(&self.0.agent) = client;
                    Ok(fresh)
                }
                Err(error) => match tokio::time::timeout(std::time::Duration::from_secs(2), self.0.vm.wait_exit()).await {
                    Ok(exit) => Err(Ended::Vm(exit)),
                    Err(_) => Err(Ended::Agent(format!("{why}; and again: {error}"))),
                },
            },
        }
    }
}

/// Moves one stream into the log until its end. What is acknowledged is in the log, and only that.
async fn pump(pod: Pod, stream: Stream, opened: Option<OutputStream>, log: Arc<OutputLog>) {
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
                pod.0.vm.output(pod.container().as_str(), None, kind, from, PATIENCE).await
            }
        };
        let before = log.position().of(stream);
        let why = match source {
            Ok(source) => match drain(source, stream, &log).await {
                Ok(()) => return,
                Err(error @ StreamError::Lost(_)) => error.to_string(),
                Err(error) => {
                    return tracing::warn!(container = pod.container().short(), %error, "output is given up");
                }
            },
            Err(error) => error.to_string(),
        };
        attempts = if log.position().of(stream) > before { 0 } else { attempts + 1 };
        if attempts >= STREAM_ATTEMPTS {
            // Usually because the VM is gone, which its supervisor knows better.
            return tracing::debug!(container = pod.container().short(), why, "output ends");
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
