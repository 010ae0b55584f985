//! Asking a container: by a command in it, a connection, a request. What it answers is hostile: bounded, and parsed by pure functions.

use super::pods::Node;
use super::{grpc, observe, web};
use crate::ending;
use crate::store::Record;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use vial_orchestrator::node::probe::{Handler, Outcome};
use vial_orchestrator::store::Stored;
use vial_sandbox::{ExecStreams, Task, spec};

/// For a hook that comes after a start; Kubernetes names no bound, and nobody waits for ever here.
pub const HOOK: Duration = Duration::from_secs(600);
/// What is kept of an answer for people, bytes (kubelet's `maxRespBodyLength`).
pub const MAX_SAID: usize = 10 << 10;

/// Asks, within this time.
pub async fn handler(
    node: &Node,
    _pod: &Stored,
    record: &Record,
    handler: &Handler,
    within: Duration,
) -> Outcome {
    match handler {
        Handler::Exec(command) => exec(node, record, command, within).await,
        Handler::Sleep(duration) => {
            tokio::time::sleep((*duration).min(within)).await;
            Outcome::Success
        }
        Handler::Tcp { host, port } => {
            let asking = async { connect(node, record, host.as_deref(), *port).await.map(|_| Ok(())) };
            timed(within, asking).await
        }
        Handler::Http { host, port, path, is_tls, headers } => {
            let asking = async {
                let stream = connect(node, record, host.as_deref(), *port).await?;
                let authority = match host {
                    Some(host) => format!("{host}:{port}"),
                    None => format!(
                        "{}:{port}",
                        stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default()
                    ),
                };
                Ok(web::get(stream, *is_tls, &authority, path, headers).await)
            };
            timed(within, asking).await
        }
        Handler::Grpc { port, service } => {
            let asking = async {
                let stream = connect(node, record, None, *port).await?;
                Ok(grpc::check(stream, service).await)
            };
            timed(within, asking).await
        }
    }
}

/// What an answer comes to: the outer error is that nobody could ask.
async fn timed(
    within: Duration,
    asking: impl Future<Output = Result<Result<(), String>, Unasked>>,
) -> Outcome {
    match tokio::time::timeout(within, asking).await {
        Ok(Ok(Ok(()))) => Outcome::Success,
        Ok(Ok(Err(why)) | Err(Unasked::Refused(why))) => Outcome::Failure(why),
        Ok(Err(Unasked::NoWay(why))) => Outcome::Unknown(why),
        Err(_) => Outcome::Failure(format!("no answer within {within:?}")),
    }
}

/// Why there is no answer.
enum Unasked {
    /// The container's doing.
    Refused(String),
    /// Not the container's doing.
    NoWay(String),
}

async fn connect(node: &Node, record: &Record, host: Option<&str>, port: u16) -> Result<TcpStream, Unasked> {
    let connected = match host {
        Some(host) => TcpStream::connect((host, port)).await,
        None => TcpStream::connect((address(node, record)?, port)).await,
    };
    connected.map_err(|error| Unasked::Refused(format!("port {port}: {error}")))
}

fn address(node: &Node, record: &Record) -> Result<IpAddr, Unasked> {
    let pod = node.daemon.store.pod(&record.pod).ok().flatten();
    let lease = pod.and_then(|pod| pod.network);
    let first = lease.as_ref().and_then(|lease| observe::addresses(lease).into_iter().next());
    first.ok_or_else(|| Unasked::NoWay("the pod has no network; ask it by exec".into()))
}

/// Runs a command in the container. One that takes too long is killed.
async fn exec(node: &Node, record: &Record, command: &[String], within: Duration) -> Outcome {
    let options = spec::ExecOptions { command: command.to_vec(), ..spec::ExecOptions::default() };
    let process = match spec::exec(&record.spec, &options) {
        Ok(process) => process,
        Err(error) => return Outcome::Failure(error.to_string()),
    };
    let begun = tokio::time::Instant::now();
    let task = match tokio::time::timeout(within, ending::running(&node.daemon, record)).await {
        Ok(Ok(task)) => task,
        Ok(Err(error)) => return Outcome::Unknown(error.to_string()),
        Err(_) => return Outcome::Unknown(format!("the container can't be asked within {within:?}")),
    };
    // The way back to the container, after a restart of this daemon, is not given twice.
    let within = within.saturating_sub(begun.elapsed());
    let streams = match task.exec(&process, false).await {
        Ok(streams) => streams,
        // A command that is not there is the container's doing; what else the agent refuses (too many at a time, just ended) is not.
        Err(error) => {
            use agent_protocol::ErrorKind::{CommandNotExecutable, CommandNotFound, UserNotFound};
            return match error.refusal() {
                Some(CommandNotFound | CommandNotExecutable | UserNotFound) => {
                    Outcome::Failure(error.to_string())
                }
                _ => Outcome::Unknown(error.to_string()),
            };
        }
    };
    let id = streams.id.clone();
    let (answer, answered) = oneshot::channel();
    // A task of its own: whoever asks may be gone, and a process whose output nobody reads would hang.
    tokio::spawn(finish(task.clone(), streams, answer));
    match tokio::time::timeout(within, answered).await {
        Ok(Ok((0, _))) => Outcome::Success,
        Ok(Ok((code, said))) => {
            Outcome::Failure(if said.is_empty() { format!("its status is {code}") } else { said })
        }
        Ok(Err(_)) => Outcome::Unknown("the container ended first".into()),
        Err(_) => {
            // One that has just ended is what is wanted.
            let _ = task.kill_exec(&id).await;
            Outcome::Failure(format!("command timed out: {command:?} timed out after {within:?}"))
        }
    }
}

/// Reads a command to its end; its status, and the beginning of what it said.
async fn finish(task: Task, streams: ExecStreams, answer: oneshot::Sender<(i32, String)>) {
    use agent_protocol::StreamKind;
    let ExecStreams { id, mut stdout, mut stderr, exit, .. } = streams;
    let read = async |stream: &mut vial_vm::OutputStream, kind| {
        let mut said = Vec::new();
        while let Ok(Some(bytes)) = task.exec_output(stream, &id, kind).await {
            let room = MAX_SAID.saturating_sub(said.len());
            said.extend_from_slice(&bytes[..bytes.len().min(room)]);
            let safe = stream.offset();
            // A connection that is lost is seen, and made again, by the next read.
            let _ = stream.ack(safe).await;
        }
        said
    };
    let (mut said, more) =
        tokio::join!(read(&mut stdout, StreamKind::Stdout), read(&mut stderr, StreamKind::Stderr));
    said.extend(more);
    if let Ok(status) = exit.await {
        let _ = answer.send((status.code, String::from_utf8_lossy(&said).trim_end().to_owned()));
    }
}
