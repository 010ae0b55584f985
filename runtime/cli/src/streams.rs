//! The command line's end of a stream connection: standard input, output and error, signals, and coming back when the daemon
//! was lost.

use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::input::{Input, read_stdin, wait_until};
use crate::signals::Signals;
use crate::terminal::keys::DetachKeys;
use crate::terminal::screen::{Screen, changed};
use hyper::Method;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use vial_api::frame::{self, Gap, Kind};
use vial_api::{ErrorKind, Exit, TimingStep};

type Connection = TokioIo<Upgraded>;

/// Interrupts after which the command line gives up on its container, as Docker's does.
const PATIENCE: u32 = 3;

/// Attempts to come back to a container, after each of which its daemon was lost once more.
const RECONNECTS: u32 = 10;

/// How long a daemon may take to remove what goes with a container, after it has told the end.
const FAREWELL: Duration = Duration::from_secs(30);

/// How long what was typed before the detach keys may take on its way.
const LAST_KEYS: Duration = Duration::from_secs(1);

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
    /// The user typed the detach keys; the container goes on.
    Detached,
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
    /// Whether others may have been there before: their input counts, and a terminal is to be drawn again.
    pub joins: bool,
    /// The keys that leave, when the process has a terminal.
    pub terminal: Option<DetachKeys>,
}

/// Steps of the start, in the order of their times; empty when none came.
pub type Timing = Vec<TimingStep>;

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
    pub async fn run(self, connection: Connection, signals: Signals) -> Result<(End, Timing)> {
        self.run_from(connection, signals, [0, 0]).await
    }

    /// The same, where the first bytes are not the log's first.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_from(
        self,
        connection: Connection,
        mut signals: Signals,
        position: [u64; 2],
    ) -> Result<(End, Timing)> {
        let mut connection = connection;
        // A terminal belongs to the user until the command runs: Ctrl-C gives the start up.
        let mut stdin = (self.stdin && self.terminal.is_none()).then(read_stdin);
        let mut state = State {
            screen: self.terminal.as_ref().map(|keys| Screen::new(keys, self.joins)),
            position,
            ..State::default()
        };
        if self.joins {
            state.input = Input::joining();
        }
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
        self.connect(&format!("stdout={}&stderr={}", position[0], position[1])).await
    }

    /// A connection to a container that others have started, from now on.
    ///
    /// # Errors
    /// As [`Self::attach`]; also when it does not run.
    pub async fn join(&self) -> Result<Connection> {
        self.connect("tail=true").await
    }

    async fn connect(&self, from: &str) -> Result<Connection> {
        let path = format!("/containers/{}/attach?{from}&stdin={}", escape(&self.container), self.stdin);
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
        let mut writing = Abort(tokio::spawn(write_input(writer, receiver)));
        let mut printing: Option<tokio::task::JoinHandle<std::io::Result<()>>> = None;
        loop {
            let wants_input = state.input.wants_more();
            let redraw_at = state.screen.as_ref().and_then(|screen| screen.redraw_at);
            tokio::select! {
                frame = frames.recv(), if printing.is_none() => {
                    let Some((kind, payload)) = frame else { return Ok(Cut::Lost) };
                    match kind {
                        // A terminal that was stopped must not stop signals and input too.
                        Kind::Stdout | Kind::Stderr => {
                            state.position[usize::from(kind == Kind::Stderr)] += payload.len() as u64;
                            if let Some(screen) = &mut state.screen {
                                screen.drawn();
                            }
                            printing = Some(tokio::task::spawn_blocking(move || print(kind, &payload)));
                        }
                        _ => {
                            if let Some(end) = state.frame(kind, &payload)? {
                                // The daemon still removes what goes with the container (--rm); it is gone when the connection is.
                                let over = async { while frames.recv().await.is_some() {} };
                                let _ = timeout(FAREWELL, over).await;
                                return Ok(Cut::End(end));
                            }
                            if kind == Kind::Started && let Some(screen) = &mut state.screen {
                                if self.stdin && stdin.is_none() {
                                    *stdin = Some(read_stdin());
                                }
                                screen.lend(self.stdin)?;
                            }
                        }
                    }
                }
                printed = finished(&mut printing), if printing.is_some() => {
                    printing = None;
                    printed.map_err(Error::io("write to standard output"))?;
                }
                chunk = next_chunk(stdin), if wants_input => match (&mut state.screen, chunk) {
                    (None, chunk) => state.input.extend(chunk),
                    // A terminal without an end has vanished; what ran on it does not.
                    (Some(_), None) => return Ok(Cut::End(End::Left(libc::SIGHUP))),
                    (Some(screen), Some(chunk)) => {
                        let mut typed = Vec::with_capacity(chunk.len());
                        let detached = screen.matcher.feed(&chunk, &mut typed);
                        state.input.extend(Some(typed));
                        if detached {
                            break;
                        }
                    }
                },
                () = changed(&mut state.screen) => if let Some(screen) = &mut state.screen {
                    screen.tell();
                },
                () = sleep_until(redraw_at.unwrap_or_else(Instant::now)), if redraw_at.is_some() => {
                    if let Some(screen) = &mut state.screen {
                        screen.redraw_at = None;
                        screen.tell();
                    }
                }
                permit = payloads.reserve(), if state.has_next(self.stdin) => {
                    match permit {
                        Ok(permit) => if let Some(frame) = state.next() {
                            permit.send(frame);
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
        // Not for ever: these keys are the way out of a container that reads nothing.
        let _ = timeout(LAST_KEYS, flush(&mut state.input, payloads, &mut writing.0)).await;
        Ok(Cut::End(End::Detached))
    }

    async fn interrupted(&self, number: i32, state: &mut State) -> Option<End> {
        if matches!(number, libc::SIGINT | libc::SIGTERM) {
            state.interrupts += 1;
        }
        // Ctrl-C in a terminal is a byte for the process there; a signal was meant for this program alone, as with Docker.
        let own = !self.proxy || (self.terminal.is_some() && state.started);
        if own || state.interrupts >= PATIENCE {
            return Some(End::Left(number));
        }
        state.signal = Some(number);
        let path = format!("/containers/{}/kill?signal={number}", escape(&self.container));
        // It may have ended a moment ago; then its exit is on the way.
        let _ = self.client.send(Method::POST, &path, crate::client::body(""), &[]).await;
        None
    }
}

#[derive(Default)]
struct State {
    input: Input,
    screen: Option<Screen>,
    /// Bytes of standard output and error that were printed.
    position: [u64; 2],
    timing: Timing,
    interrupts: u32,
    /// Whether the command runs.
    started: bool,
    /// The last signal that was passed on.
    signal: Option<i32>,
}

async fn flush(
    input: &mut Input,
    payloads: mpsc::Sender<(Kind, Vec<u8>)>,
    writing: &mut tokio::task::JoinHandle<()>,
) {
    while let Some(payload) = input.next() {
        if payloads.send((Kind::Stdin, payload)).await.is_err() {
            return;
        }
    }
    drop(payloads);
    let _ = writing.await;
}

impl State {
    fn has_next(&self, stdin: bool) -> bool {
        self.screen.as_ref().is_some_and(Screen::has_size) || (stdin && self.input.has_next())
    }

    fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        let size = self.screen.as_mut().and_then(Screen::next_size);
        match size {
            Some(size) => Some((Kind::Resize, size.to_bytes().to_vec())),
            None => self.input.next().map(|payload| (Kind::Stdin, payload)),
        }
    }

    fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<Option<End>> {
        match kind {
            Kind::Stdout | Kind::Stderr => {
                print(kind, payload).map_err(Error::io("write to standard output"))?
            }
            Kind::Gap => {
                let gap: Gap = serde_json::from_slice(payload)?;
                self.position[usize::from(gap.stderr)] += gap.bytes;
                let stream = if gap.stderr { "standard error" } else { "standard output" };
                crate::output::tell(&format!(
                    "{} bytes of {stream} are missing here: the host had no room for them",
                    gap.bytes
                ));
            }
            Kind::StdinTaken => {
                if let Ok(bytes) = payload.try_into() {
                    self.input.taken(u64::from_le_bytes(bytes));
                }
            }
            Kind::Timing => self.timing = serde_json::from_slice(payload)?,
            Kind::Exit => return Ok(Some(End::Exit(serde_json::from_slice(payload)?))),
            Kind::Error => {
                return Ok(Some(match self.signal {
                    Some(number) if !self.started => End::Interrupted(number),
                    _ => End::Failed(serde_json::from_slice(payload)?),
                }));
            }
            Kind::Started => self.started = true,
            Kind::Position => {
                if let ([stdout, stderr], []) = payload.as_chunks() {
                    self.position = [u64::from_le_bytes(*stdout), u64::from_le_bytes(*stderr)];
                }
            }
            Kind::Stdin | Kind::Resize => {}
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

/// Writes frames until there are no more or nobody takes them.
pub async fn write_input(mut writer: WriteHalf<Connection>, mut frames: mpsc::Receiver<(Kind, Vec<u8>)>) {
    while let Some((kind, payload)) = frames.recv().await {
        // At most MAX_PAYLOAD bytes, so there is a header.
        let Ok(header) = frame::header(kind, payload.len()) else { return };
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

/// Reads frames until the connection ends or nobody wants them.
pub async fn read_frames(mut reader: ReadHalf<Connection>, sender: mpsc::Sender<(Kind, Vec<u8>)>) {
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
    let mut state = State::default();
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
        return write_all(std::io::stderr().lock(), bytes);
    }
    let mut out = std::io::stdout().lock();
    // Nothing of ours waits in it, or it would come after what is written past it.
    out.flush()?;
    write_all(out, bytes)
}

/// Writes to the descriptor itself: where that does not block, how far a buffered write came would not be known.
fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_until(&fd, PollFlags::OUT),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A task that ends with whoever waits for it.
pub struct Abort(pub tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
