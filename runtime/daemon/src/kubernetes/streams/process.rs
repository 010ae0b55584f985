//! A process in a container, as channels.

use crate::live::{Live, Phase};
use agent_protocol::StreamKind;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use vial_orchestrator::http::streams::{PIECES, Process, Size};
use vial_orchestrator::status::{ApiError, Reason};
use vial_sandbox::log::{Follower, Item, Stream};
use vial_sandbox::{ExecStreams, PodError, Task};
use vial_vm::{OutputStream, StdinStream};

pub use crate::streams::Orphan;

/// What SIGKILL leaves.
const KILLED: i32 = 137;

/// An exec whose streams are open.
pub fn of_exec(task: Task, streams: ExecStreams, orphan: Orphan) -> Process {
    let ExecStreams { id, stdout, stderr, stdin, exit } = streams;
    let (sizes, seen) = mpsc::channel(PIECES);
    tokio::spawn(resize(task.clone(), Some(id.clone()), seen));
    let (over, is_over) = oneshot::channel::<()>();
    let stdin = stdin.map(|mut stream| {
        let (sender, input) = mpsc::channel(PIECES);
        let (task, id) = (task.clone(), id.clone());
        tokio::spawn(async move {
            exec_input(task, id, &mut stream, input).await;
            // A connection that is closed takes along what the agent has not read of it. Ends with the process.
            let _ = is_over.await;
        });
        sender
    });
    let output = |kind, stream| {
        let (sender, receiver) = mpsc::channel(PIECES);
        (receiver, tokio::spawn(exec_output(task.clone(), id.clone(), (kind, stream), sender, orphan)))
    };
    let ((stdout, out), (stderr, err)) =
        (output(StreamKind::Stdout, stdout), output(StreamKind::Stderr, stderr));
    let (told, end) = oneshot::channel();
    tokio::spawn(async move {
        // A task that panicked has ended too.
        let _ = (out.await, err.await);
        // None: the container ended first, and its end is that of all in it.
        let code = exit.await.map_or(KILLED, |status| status.code);
        drop(over);
        // The client may be gone.
        let _ = told.send(Ok(code));
    });
    Process { stdin, stdout: Some(stdout), stderr: Some(stderr), sizes: Some(sizes), end }
}

async fn resize(task: Task, exec: Option<String>, mut sizes: mpsc::Receiver<Size>) {
    while let Some(Size { cols, rows }) = sizes.recv().await {
        if let Err(error) = task.resize(exec.as_deref(), cols, rows).await {
            // Usually a process that has just ended.
            tracing::debug!(container = task.container().short(), %error, "a terminal keeps its size");
        }
    }
}

async fn exec_input(task: Task, exec: String, stdin: &mut StdinStream, mut input: mpsc::Receiver<Bytes>) {
    loop {
        let payload = input.recv().await;
        if payload.as_ref().is_some_and(Bytes::is_empty) {
            continue;
        }
        // Nothing is the end.
        let payload = payload.unwrap_or_default();
        if let Err(error) = task.put_stdin(stdin, Some(&exec), &payload).await {
            // A process that has ended: the rest is nobody's.
            return tracing::debug!(container = task.container().short(), %error, "standard input ends early");
        }
        if payload.is_empty() {
            return;
        }
    }
}

/// Passes one stream on. When the client is gone the rest is read and dropped, or the process would hang.
async fn exec_output(
    task: Task,
    exec: String,
    (kind, mut stream): (StreamKind, OutputStream),
    to: mpsc::Sender<Bytes>,
    orphan: Orphan,
) {
    let mut is_there = true;
    loop {
        match task.exec_output(&mut stream, &exec, kind).await {
            Ok(Some(bytes)) if is_there => {
                is_there = to.send(bytes.into()).await.is_ok();
                if !is_there && orphan == Orphan::Ends {
                    // One that has ended is what is wanted.
                    let _ = task.kill_exec(&exec).await;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                // Usually because the container has ended, which the exec's status tells.
                return tracing::debug!(container = task.container().short(), %error, "an exec's output ends early");
            }
        }
        let safe = stream.offset();
        // A connection that is lost is seen, and made again, by the next read.
        let _ = stream.ack(safe).await;
    }
}

/// A client's standard input for a container.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    pub is_wanted: bool,
    /// The client's end is the container's (`stdinOnce`).
    pub has_end: bool,
}

/// The container's own process, from now on.
pub fn of_container(task: Task, live: Arc<Live>, input: Input) -> Process {
    let (sizes, seen) = mpsc::channel(PIECES);
    tokio::spawn(resize(task.clone(), None, seen));
    let stdin = input.is_wanted.then(|| {
        let (sender, payloads) = mpsc::channel(PIECES);
        let (task, live) = (task.clone(), live.clone());
        tokio::spawn(async move {
            if let Err(error) = container_input(&task, &live, input, payloads).await {
                // A process that has ended: the rest is nobody's.
                tracing::debug!(container = task.container().short(), %error, "standard input ends early");
            }
        });
        sender
    });
    let ((out, stdout), (err, stderr)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
    let follower = live.log.follow(live.log.position(), true);
    let (told, end) = oneshot::channel();
    tokio::spawn(async move {
        let attendance = live.attend();
        let ended = container_output(&live, follower, out, err).await;
        drop(attendance);
        // The client may be gone.
        let _ = told.send(ended);
    });
    Process { stdin, stdout: Some(stdout), stderr: Some(stderr), sizes: Some(sizes), end }
}

async fn container_input(
    task: &Task,
    live: &Live,
    input: Input,
    mut payloads: mpsc::Receiver<Bytes>,
) -> Result<(), PodError> {
    loop {
        let payload = payloads.recv().await;
        if payload.as_ref().is_some_and(Bytes::is_empty) {
            continue;
        }
        let payload = payload.unwrap_or_default();
        if payload.is_empty() && !input.has_end {
            return Ok(());
        }
        // Held only while something is written: another client may type too.
        let mut shared = live.stdin.lock().await;
        let mut stdin = match shared.take() {
            Some(stdin) => stdin,
            None => task.stdin().await?,
        };
        // After a failure the next client opens it anew, if there is still something to open.
        task.put_stdin(&mut stdin, None, &payload).await?;
        *shared = Some(stdin);
        if payload.is_empty() {
            return Ok(());
        }
    }
}

/// Follows the log, which is what the container wrote. The end of an attached process is success, as Kubernetes tells it: its status is the pod's.
async fn container_output(
    live: &Live,
    mut follower: Follower,
    stdout: mpsc::Sender<Bytes>,
    stderr: mpsc::Sender<Bytes>,
) -> Result<i32, ApiError> {
    loop {
        let item = tokio::select! {
            item = follower.next() => item,
            () = stdout.closed() => return Ok(0),
        };
        let lost = |error| ApiError::new(Reason::InternalError, format!("the log can't be read: {error}"));
        let sent = match item.map_err(lost)? {
            None => break,
            Some(Item::Data { stream: Stream::Stderr, bytes, .. }) => stderr.send(bytes.into()).await,
            Some(Item::Data { bytes, .. }) => stdout.send(bytes.into()).await,
            Some(gap @ Item::Gap { .. }) => stderr.send(super::log::words(&gap)).await,
        };
        if sent.is_err() {
            return Ok(0);
        }
    }
    match live.end_known().await {
        Phase::Failed(error) => Err(super::told(error)),
        _ => Ok(0),
    }
}
