//! The daemon's end of upgraded connections: a client attached to a container, or to an exec.

use crate::live::{Live, Phase};
use agent_protocol::StreamKind;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use vial_api::frame::{self, Gap, Kind};
use vial_api::{Exit, TerminalSize};
use vial_sandbox::log::{Follower, Item, Position, Stream};
use vial_sandbox::{ExecStreams, Task};
use vial_vm::{OutputStream, StdinStream};

type Connection = TokioIo<Upgraded>;

/// Where frames go; several tasks share it.
#[derive(Clone)]
struct Frames(Arc<Mutex<WriteHalf<Connection>>>);

impl Frames {
    async fn send(&self, kind: Kind, payload: &[u8]) -> std::io::Result<()> {
        let mut writer = self.0.lock().await;
        for chunk in payload.chunks(frame::MAX_PAYLOAD) {
            writer.write_all(&frame::header(kind, chunk.len()).map_err(std::io::Error::other)?).await?;
            writer.write_all(chunk).await?;
        }
        if payload.is_empty() {
            writer.write_all(&frame::header(kind, 0).map_err(std::io::Error::other)?).await?;
        }
        writer.flush().await
    }

    /// No more frames. Clients wait for this before they go, and what reads from them waits for that.
    async fn close(&self) {
        // A client that is gone needs no end.
        let _ = self.0.lock().await.shutdown().await;
    }

    async fn json(&self, kind: Kind, value: &impl serde::Serialize) -> std::io::Result<()> {
        self.send(kind, &serde_json::to_vec(value)?).await
    }

    async fn item(&self, item: Item) -> std::io::Result<()> {
        match item {
            Item::Data { stream: Stream::Stdout, bytes, .. } => self.send(Kind::Stdout, &bytes).await,
            Item::Data { stream: Stream::Stderr, bytes, .. } => self.send(Kind::Stderr, &bytes).await,
            Item::Gap { stream, bytes } => {
                self.json(Kind::Gap, &Gap { stderr: stream == Stream::Stderr, bytes }).await
            }
        }
    }
}

/// Standard input that a client sent and the container has not been given. A client keeps to [`frame::INPUT_WINDOW`], so all that it
/// sends is read at once: of a connection that is not read its end would not be seen.
struct Input {
    payloads: mpsc::UnboundedReceiver<Vec<u8>>,
    room: Arc<Semaphore>,
}

impl Input {
    /// The next payload; an empty one is the end; none: the client is gone.
    async fn recv(&mut self) -> Option<Vec<u8>> {
        let payload = self.payloads.recv().await?;
        self.room.add_permits(payload.len());
        Some(payload)
    }
}

/// Input from the client, and whether it is still there.
struct Client {
    input: Input,
    /// Sizes of its terminal.
    sizes: mpsc::Receiver<TerminalSize>,
    gone: watch::Receiver<bool>,
}

impl Client {
    async fn gone(&mut self) {
        // A dropped sender means that the reading task has ended, and it ends with the connection.
        let _ = self.gone.wait_for(|gone| *gone).await;
    }
}

fn split(connection: Connection) -> (Frames, Client) {
    let (reader, writer) = tokio::io::split(connection);
    let (sender, payloads) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(frame::INPUT_WINDOW + frame::MAX_PAYLOAD));
    let (size_sender, sizes) = mpsc::channel(SIZES);
    let (gone_sender, gone) = watch::channel(false);
    tokio::spawn(read_input(reader, sender, room.clone(), size_sender, gone_sender));
    let input = Input { payloads, room };
    (Frames(Arc::new(Mutex::new(writer))), Client { input, sizes, gone })
}

/// Sizes that may wait for a slow agent; of more than these only a later one matters, and that comes after them.
const SIZES: usize = 16;

/// Reads frames until the connection or everybody's interest ends, or the client sends more than it may.
async fn read_input(
    mut reader: ReadHalf<Connection>,
    sender: mpsc::UnboundedSender<Vec<u8>>,
    room: Arc<Semaphore>,
    sizes: mpsc::Sender<TerminalSize>,
    gone: watch::Sender<bool>,
) {
    loop {
        let mut header = [0; frame::HEADER];
        if reader.read_exact(&mut header).await.is_err() {
            break;
        }
        let Ok((kind @ (Kind::Stdin | Kind::Resize), length)) = frame::parse_header(header) else { break };
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            break;
        }
        if kind == Kind::Resize {
            let Some(size) = TerminalSize::from_bytes(&payload) else { break };
            tokio::select! {
                _ = sizes.send(size) => continue,
                () = gone.closed() => return,
            }
        }
        // At most MAX_PAYLOAD, which fits.
        let Ok(held) = room.try_acquire_many(payload.len() as u32) else {
            tracing::warn!(
                "a client sends more input than was taken of it, against the protocol, and is cut off"
            );
            break;
        };
        held.forget();
        // When nobody takes input (any more), it is dropped; the end of the connection must still be seen.
        let _ = sender.send(payload);
    }
    gone.send_replace(true);
}

/// What a client wants of a container.
#[derive(Debug, Clone, Copy)]
pub struct Attach {
    /// Where it goes on; none: with what comes from now on.
    pub start: Option<Position>,
    /// Whether it sends standard input.
    pub stdin: bool,
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// Whether the start is its own: then it is given up when the client goes before the command runs.
    pub owner: bool,
    /// Whether it wants to know how long the steps took.
    pub timing: bool,
}

/// Serves a client that is attached to a container, until the container's end or the client's.
pub async fn attach(connection: Connection, live: Arc<Live>, attach: Attach) {
    let (frames, mut client) = split(connection);
    let attendance = live.attend();
    let phase = tokio::select! {
        phase = live.started() => phase,
        () = client.gone() => {
            if attach.owner {
                live.cancel();
            }
            return;
        }
    };
    let served = async {
        let start = match attach.start {
            Some(start) => start,
            None => {
                let now = live.log.position();
                let bytes = [now.stdout.to_le_bytes(), now.stderr.to_le_bytes()];
                frames.send(Kind::Position, bytes.as_flattened()).await?;
                now
            }
        };
        if let Phase::Running(task) = &phase {
            frames.send(Kind::Started, &[]).await?;
            let mut gone = client.gone.clone();
            if attach.stdin {
                // It ends with the client or with the process: when the client goes, what it sent is still passed on.
                let input =
                    ContainerInput { task: task.clone(), live: live.clone(), endless: attach.terminal };
                tokio::spawn(input.pass(client.input, frames.clone()));
            }
            if attach.terminal {
                tokio::spawn(pass_sizes(task.clone(), None, client.sizes));
            }
            tokio::select! {
                output = output(&frames, live.log.follow(start, true)) => output?,
                _ = gone.wait_for(|gone| *gone) => return Ok(()),
            }
        }
        let end = live.end_known().await;
        if !matches!(phase, Phase::Running(_)) {
            // It ended before the client came, or could not start: what is in the log is all there is.
            output(&frames, live.log.follow(start, false)).await?;
        }
        if attach.timing {
            frames.json(Kind::Timing, &live.timing()).await?;
        }
        match end {
            Phase::Leaving(exit) | Phase::Ended(exit) => frames.json(Kind::Exit, &exit).await,
            Phase::Failed(error) => frames.json(Kind::Error, &error.0).await,
            Phase::Starting | Phase::Running(_) => Ok(()),
        }
    };
    let served = served.await;
    drop(attendance);
    if matches!(live.phase(), Phase::Leaving(_)) {
        // The end of the connection says that the container is gone too.
        live.ended().await;
    }
    frames.close().await;
    finish(served);
}

/// Serves a client that is attached to a container that has ended already.
pub async fn attach_ended(connection: Connection, follower: Follower, exit: Exit) {
    let (frames, _client) = split(connection);
    let served = async {
        output(&frames, follower).await?;
        frames.json(Kind::Exit, &exit).await
    };
    let served = served.await;
    frames.close().await;
    finish(served);
}

fn finish(served: std::io::Result<()>) {
    if let Err(error) = served {
        // Usually a client that is gone, which is its right.
        tracing::debug!(%error, "a client's connection broke");
    }
}

async fn output(frames: &Frames, mut follower: Follower) -> std::io::Result<()> {
    while let Some(item) = follower.next().await? {
        frames.item(item).await?;
    }
    Ok(())
}

/// Passes sizes on until the client is gone or the process is.
async fn pass_sizes(task: Task, exec: Option<String>, mut sizes: mpsc::Receiver<TerminalSize>) {
    while let Some(size) = sizes.recv().await {
        if let Err(error) = task.resize(exec.as_deref(), size.cols, size.rows).await {
            // Usually a process that has just ended.
            tracing::debug!(container = task.container().short(), %error, "a terminal keeps its size");
        }
    }
}

/// One client's way to a container's standard input, which all clients share.
struct ContainerInput {
    task: Task,
    live: Arc<Live>,
    /// It is a terminal: a client's going is not its end.
    endless: bool,
}

impl ContainerInput {
    /// Passes standard input on. Where it is not a terminal, the client's going is its end.
    async fn pass(self, mut input: Input, frames: Frames) {
        if let Err(error) = self.pass_until(&mut input, &frames).await {
            // A process that has ended: the rest is nobody's.
            tracing::warn!(container = self.task.container().short(), %error, "standard input ends early");
        }
        while input.recv().await.is_some() {}
    }

    async fn pass_until(
        &self,
        input: &mut Input,
        frames: &Frames,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut told = None;
        loop {
            // Held only while something is written: another client may type too.
            let taken = self.opened(&mut *self.live.stdin.lock().await).await?.taken();
            if told != Some(taken) {
                told = Some(taken);
                // The client may be gone; then the container's end of input comes next.
                let _ = frames.send(Kind::StdinTaken, &taken.to_le_bytes()).await;
            }
            let payload = input.recv().await.unwrap_or_default();
            if payload.is_empty() && self.endless {
                return Ok(());
            }
            let mut shared = self.live.stdin.lock().await;
            let stdin = self.opened(&mut shared).await?;
            let passed = self.task.put_stdin(stdin, None, &payload).await;
            if passed.is_err() {
                // The next client opens it anew, if there is still something to open.
                *shared = None;
            }
            passed?;
            if payload.is_empty() {
                return Ok(());
            }
        }
    }

    async fn opened<'a>(
        &self,
        shared: &'a mut Option<StdinStream>,
    ) -> Result<&'a mut StdinStream, vial_sandbox::PodError> {
        match shared {
            Some(stdin) => Ok(stdin),
            none => Ok(none.insert(self.task.stdin().await?)),
        }
    }
}

async fn exec_input(task: Task, exec: String, mut stdin: StdinStream, mut input: Input, frames: Frames) {
    let mut told = None;
    loop {
        if told != Some(stdin.taken()) {
            told = Some(stdin.taken());
            // The client may be gone; then the container's end of input comes next.
            let _ = frames.send(Kind::StdinTaken, &stdin.taken().to_le_bytes()).await;
        }
        let payload = input.recv().await.unwrap_or_default();
        if let Err(error) = task.put_stdin(&mut stdin, Some(&exec), &payload).await {
            // A process that has ended: the rest is nobody's.
            tracing::debug!(container = task.container().short(), %error, "standard input ends early");
            break;
        }
        if payload.is_empty() {
            break;
        }
    }
    // The rest is read and dropped, as a closed pipe would take it, so that the client's going is still seen.
    while input.recv().await.is_some() {}
}

/// Serves a client's exec.
pub async fn exec(connection: Connection, task: Task, streams: ExecStreams, orphan: Orphan) {
    let (frames, client) = split(connection);
    let ExecStreams { id, stdout, stderr, stdin, exit } = streams;
    // Ends with the client.
    tokio::spawn(pass_sizes(task.clone(), Some(id.clone()), client.sizes));
    let outputs = [(StreamKind::Stdout, stdout), (StreamKind::Stderr, stderr)].map(|(kind, stream)| {
        tokio::spawn(exec_output(task.clone(), id.clone(), (kind, stream), frames.clone(), orphan))
    });
    let _input =
        stdin.map(|stdin| Abort(tokio::spawn(exec_input(task, id, stdin, client.input, frames.clone()))));
    let served = async {
        frames.send(Kind::Started, &[]).await.ok();
        for output in outputs {
            // A task that panicked has ended too.
            let _ = output.await;
        }
        let exit = match exit.await {
            Ok(status) => Exit { code: status.code, signal: status.signal, oom: status.oom, reason: None },
            Err(_) => {
                let reason = "the container ended first".to_owned();
                Exit { code: 137, signal: Some(9), oom: false, reason: Some(reason) }
            }
        };
        frames.json(Kind::Exit, &exit).await
    };
    let served = served.await;
    frames.close().await;
    finish(served);
}

/// What becomes of a process that a client had started when that client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// It goes on, without input, and its output is dropped: it may have been started for what it does.
    GoesOn,
    /// It ends: nobody takes the files that it passes on.
    Ends,
}

/// Looks after an exec whose client went before it could be told.
pub async fn abandon(task: &Task, streams: ExecStreams, orphan: Orphan) {
    let ExecStreams { id, stdout, stderr, stdin, .. } = streams;
    if orphan == Orphan::Ends {
        // One that has ended is what is wanted.
        let _ = task.kill_exec(&id).await;
    }
    if let Some(mut stdin) = stdin {
        // A process that has ended needs no end of input.
        let _ = stdin.finish().await;
    }
    tokio::join!(drain(stdout), drain(stderr));
}

async fn drain(mut stream: OutputStream) {
    while let Ok(Some(_)) = stream.next().await {
        let safe = stream.offset();
        if stream.ack(safe).await.is_err() {
            return;
        }
    }
}

/// Passes one stream of an exec on. When the client is gone the rest is read and dropped, or the process would hang.
async fn exec_output(
    task: Task,
    exec: String,
    (kind, mut stream): (StreamKind, OutputStream),
    frames: Frames,
    orphan: Orphan,
) {
    let frame = match kind {
        StreamKind::Stderr => Kind::Stderr,
        StreamKind::Stdout | StreamKind::Stdin => Kind::Stdout,
    };
    let mut there = true;
    loop {
        match task.exec_output(&mut stream, &exec, kind).await {
            Ok(Some(bytes)) if there => {
                there = frames.send(frame, &bytes).await.is_ok();
                if !there && orphan == Orphan::Ends {
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

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
