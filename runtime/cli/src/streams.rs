//! The command line's end of a stream connection: standard input, output and error, signals, and coming back when the daemon
//! was lost.

use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::input::{Input, read_stdin};
use crate::signals::Signals;
use hyper::Method;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io::Write;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use vial_api::frame::{self, Gap, Kind};
use vial_api::{ErrorKind, Exit, TimingStep};

type Connection = TokioIo<Upgraded>;

/// Interrupts after which the command line gives up on its container, as Docker's does.
const PATIENCE: u32 = 3;

/// Attempts to come back to a container, after each of which its daemon was lost once more.
const RECONNECTS: u32 = 10;

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// The process is over.
    Exit(Exit),
    /// It could not be run.
    Failed(vial_api::ErrorBody),
    /// A signal came before its command ran, so the start was given up.
    Interrupted(i32),
    /// The user insisted on leaving, with this signal; the container goes on.
    Left(i32),
}

/// What is attached to.
#[derive(Debug)]
pub struct Session {
    /// Where the daemon is.
    pub client: Client,
    /// The container.
    pub container: String,
    /// Whether standard input goes there.
    pub stdin: bool,
    /// Whether interrupts go to the container; an exec's do not.
    pub proxy: bool,
    /// Whether the connection can be made again when it breaks; an exec's cannot.
    pub resume: bool,
}

/// Steps of the start, when they came.
pub type Timing = Option<Vec<TimingStep>>;

/// How one connection ended.
enum Cut {
    End(End),
    Lost,
}

impl Session {
    /// Moves streams until the process is over.
    ///
    /// # Errors
    /// When standard output can't be written, or the daemon is lost for good.
    pub async fn run(self, connection: Connection, mut signals: Signals) -> Result<(End, Timing)> {
        let mut connection = connection;
        let mut stdin = self.stdin.then(read_stdin);
        let mut state = State {
            input: Input::default(),
            position: [0, 0],
            timing: None,
            interrupts: 0,
            started: false,
            signal: None,
        };
        loop {
            match self.once(connection, &mut stdin, &mut state, &mut signals).await? {
                Cut::End(end) => return Ok((end, state.timing)),
                Cut::Lost if !self.resume => {
                    return Err(Error::Connection(
                        "it broke; the command may still run in the container".into(),
                    ));
                }
                Cut::Lost => {
                    // The daemon is gone, the container is not: a new daemon has its output, from where this one was cut.
                    connection = match self.attach(state.position).await {
                        Ok(connection) => connection,
                        Err(Error::Api(body))
                            if body.kind == ErrorKind::NoSuchContainer && !state.started =>
                        {
                            let words = "the daemon was lost before the command ran; nothing is left of the start, try again";
                            return Err(Error::Message(words.into()));
                        }
                        Err(error) => return Err(error),
                    };
                    state.input.rewind();
                }
            }
        }
    }

    /// A new connection for one that was lost, from these bytes of standard output and error on. A daemon that is being killed may
    /// still seem to listen while its connections break, so that is tried again; attaching twice does no harm.
    ///
    /// # Errors
    /// When there is no daemon to be had, or it does not know the container.
    pub async fn attach(&self, position: [u64; 2]) -> Result<Connection> {
        let path = format!(
            "/containers/{}/attach?stdout={}&stderr={}&stdin={}",
            escape(&self.container),
            position[0],
            position[1],
            self.stdin
        );
        let mut attempts = RECONNECTS;
        loop {
            match self.client.upgrade(&path, &()).await {
                Err(Error::Connection(_)) if attempts > 0 => attempts -= 1,
                other => return other.map(|(connection, _)| connection),
            }
        }
    }

    async fn once(
        &self,
        connection: Connection,
        stdin: &mut Option<mpsc::Receiver<Vec<u8>>>,
        state: &mut State,
        signals: &mut Signals,
    ) -> Result<Cut> {
        let (reader, writer) = tokio::io::split(connection);
        // Tasks of their own, because reading or writing half a frame can't be given up; and one for each direction, because a
        // container that echoes its input must be read from while it is written to. One frame ahead is enough.
        let (sender, mut frames) = mpsc::channel(1);
        let _reading = Abort(tokio::spawn(read_frames(reader, sender)));
        let (payloads, receiver) = mpsc::channel(1);
        let _writing = Abort(tokio::spawn(write_input(writer, receiver)));
        let mut printing: Option<tokio::task::JoinHandle<std::io::Result<()>>> = None;
        loop {
            let wants_input = state.input.wants_more();
            tokio::select! {
                frame = frames.recv(), if printing.is_none() => {
                    let Some((kind, payload)) = frame else { return Ok(Cut::Lost) };
                    match kind {
                        // A terminal that was stopped must not stop signals and input too.
                        Kind::Stdout | Kind::Stderr => {
                            state.position[usize::from(kind == Kind::Stderr)] += payload.len() as u64;
                            printing = Some(tokio::task::spawn_blocking(move || print(kind, &payload)));
                        }
                        _ => if let Some(end) = state.frame(kind, &payload)? {
                            return Ok(Cut::End(end));
                        }
                    }
                }
                printed = finished(&mut printing), if printing.is_some() => {
                    printing = None;
                    printed.map_err(Error::io("write to standard output"))?;
                }
                chunk = next_chunk(stdin), if wants_input => state.input.extend(chunk),
                permit = payloads.reserve(), if self.stdin && state.input.has_next() => {
                    match permit {
                        Ok(permit) => if let Some(payload) = state.input.next() {
                            permit.send(payload);
                        },
                        // What could not be written is sent again; why it could not is with the reader.
                        Err(_) => return Ok(Cut::Lost),
                    }
                }
                number = signals.next() => {
                    if let Some(end) = self.interrupted(number, state).await {
                        return Ok(Cut::End(end));
                    }
                }
            }
        }
    }

    async fn interrupted(&self, number: i32, state: &mut State) -> Option<End> {
        if matches!(number, libc::SIGINT | libc::SIGTERM) {
            state.interrupts += 1;
        }
        if !self.proxy || state.interrupts >= PATIENCE {
            eprintln!(
                "vial: leaving; the container goes on. End it with: vial kill {}",
                &self.container[..12.min(self.container.len())]
            );
            return Some(End::Left(number));
        }
        state.signal = Some(number);
        let path = format!("/containers/{}/kill?signal={number}", escape(&self.container));
        // It may have ended a moment ago; then its exit is on the way.
        let _ = self.client.send(Method::POST, &path, crate::client::body(""), &[]).await;
        None
    }
}

struct State {
    input: Input,
    /// Bytes of standard output and error that were printed.
    position: [u64; 2],
    timing: Timing,
    interrupts: u32,
    /// Whether the command runs.
    started: bool,
    /// The last signal that was passed on.
    signal: Option<i32>,
}

impl State {
    fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<Option<End>> {
        match kind {
            Kind::Stdout | Kind::Stderr => {
                print(kind, payload).map_err(Error::io("write to standard output"))?
            }
            Kind::Gap => {
                let gap: Gap = serde_json::from_slice(payload)?;
                self.position[usize::from(gap.stderr)] += gap.bytes;
                let stream = if gap.stderr { "standard error" } else { "standard output" };
                eprintln!(
                    "vial: {} bytes of {stream} are missing here: the host had no room for them",
                    gap.bytes
                );
            }
            Kind::StdinTaken => {
                if let Ok(bytes) = payload.try_into() {
                    self.input.taken(u64::from_le_bytes(bytes));
                }
            }
            Kind::Timing => self.timing = Some(serde_json::from_slice(payload)?),
            Kind::Exit => return Ok(Some(End::Exit(serde_json::from_slice(payload)?))),
            Kind::Error => {
                return Ok(Some(match self.signal {
                    Some(number) if !self.started => End::Interrupted(number),
                    _ => End::Failed(serde_json::from_slice(payload)?),
                }));
            }
            Kind::Started => self.started = true,
            Kind::Stdin => {}
        }
        Ok(None)
    }
}

async fn next_chunk(stdin: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match stdin {
        Some(stdin) => stdin.recv().await,
        None => std::future::pending().await,
    }
}

async fn finished(
    printing: &mut Option<tokio::task::JoinHandle<std::io::Result<()>>>,
) -> std::io::Result<()> {
    match printing {
        Some(printing) => printing.await.unwrap_or_else(|error| Err(std::io::Error::other(error))),
        None => std::future::pending().await,
    }
}

async fn write_input(mut writer: WriteHalf<Connection>, mut payloads: mpsc::Receiver<Vec<u8>>) {
    while let Some(payload) = payloads.recv().await {
        // At most MAX_PAYLOAD bytes, so there is a header.
        let Ok(header) = frame::header(Kind::Stdin, payload.len()) else { return };
        let written = async {
            writer.write_all(&header).await?;
            writer.write_all(&payload).await?;
            writer.flush().await
        };
        if written.await.is_err() {
            return;
        }
    }
}

async fn read_frames(mut reader: ReadHalf<Connection>, sender: mpsc::Sender<(Kind, Vec<u8>)>) {
    loop {
        let mut header = [0; frame::HEADER];
        if reader.read_exact(&mut header).await.is_err() {
            return;
        }
        let Ok((kind, length)) = frame::parse_header(header) else { return };
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() || sender.send((kind, payload)).await.is_err() {
            return;
        }
    }
}

/// Prints an answer's body of frames (`logs`).
///
/// # Errors
/// When standard output can't be written or the answer is cut.
pub async fn print_frames(mut body: hyper::body::Incoming) -> Result<()> {
    use http_body_util::BodyExt;
    let mut state = State {
        input: Input::default(),
        position: [0, 0],
        timing: None,
        interrupts: 0,
        started: false,
        signal: None,
    };
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(part) = body.frame().await {
        if let Some(data) = part?.data_ref() {
            buffer.extend_from_slice(data);
        }
        let mut at = 0;
        while let Some(&header) = buffer[at..].first_chunk::<{ frame::HEADER }>() {
            let (kind, length) =
                frame::parse_header(header).map_err(|error| Error::Connection(error.to_string()))?;
            let Some(payload) = buffer[at + frame::HEADER..].get(..length) else { break };
            if let Some(End::Failed(body)) = state.frame(kind, payload)? {
                return Err(Error::Api(body));
            }
            at += frame::HEADER + length;
        }
        buffer.drain(..at);
    }
    if buffer.is_empty() { Ok(()) } else { Err(Error::Connection("the log was cut".into())) }
}

fn print(kind: Kind, bytes: &[u8]) -> std::io::Result<()> {
    if kind == Kind::Stderr {
        return std::io::stderr().write_all(bytes);
    }
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
