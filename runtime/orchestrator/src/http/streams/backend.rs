//! What runs pods, as far as their streams need it: implemented by whoever does.

use crate::status::ApiError;
use crate::store::Stored;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// Pieces of bytes that may wait between a process and its client; whoever sends more waits.
pub const PIECES: usize = 4;

/// A container that a request is about.
#[derive(Debug, Clone)]
pub struct Place {
    /// The pod as it is declared and observed.
    pub pod: Arc<Stored>,
    /// The container's name in it; any kind of container.
    pub container: String,
    /// The `containerID` in the pod's status that is meant: of the container that runs, or of the one before.
    pub id: String,
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stdio {
    /// It sends standard input.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error; never with a terminal.
    pub stderr: bool,
    /// All of them are one terminal's.
    pub tty: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A process that a client is connected with.
#[derive(Debug)]
pub struct Process {
    /// Takes standard input. Dropped, it has ended: by the client's word, or because the client is gone.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Standard output, closed at its end. Dropped when the client is gone.
    pub stdout: Option<mpsc::Receiver<Bytes>>,
    /// Standard error.
    pub stderr: Option<mpsc::Receiver<Bytes>>,
    /// Takes sizes of the client's terminal.
    pub sizes: Option<mpsc::Sender<Size>>,
    /// How it ended: exit status 0 to 255, or why that can't be known.
    pub end: oneshot::Receiver<Result<i32, ApiError>>,
}

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// It goes on until the container ends.
    pub follow: bool,
    /// Nothing older.
    pub since: Option<DateTime<Utc>>,
    /// No more than these lines, the last ones.
    pub tail: Option<u64>,
    /// A time before each line (RFC 3339).
    pub timestamps: bool,
}

/// A connection to a port.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Opens streams to pods.
pub trait Streams: Send + Sync {
    /// Runs a command in a container that runs.
    ///
    /// # Errors
    /// It can't be run; the message goes to the person who asked.
    fn exec(
        &self,
        place: Place,
        command: Vec<String>,
        stdio: Stdio,
    ) -> BoxFuture<'_, Result<Process, ApiError>>;

    /// Connects with the container's own process.
    ///
    /// # Errors
    /// The container has gone.
    fn attach(&self, place: Place, stdio: Stdio) -> BoxFuture<'_, Result<Process, ApiError>>;

    /// What a container wrote. The receiver is dropped when the client is gone.
    ///
    /// # Errors
    /// There is no log.
    fn log(
        &self,
        place: Place,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<Bytes>, ApiError>>;

    /// Connects with a port of the pod's loopback (TCP).
    ///
    /// # Errors
    /// Nobody listens, or the pod has gone; in words for a person.
    fn dial(&self, pod: Arc<Stored>, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>>;
}

/// Refuses all: of a server that only keeps objects.
#[derive(Debug, Clone, Copy)]
pub struct NoStreams;

impl NoStreams {
    fn refuse<T>() -> Result<T, ApiError> {
        Err(ApiError::bad_request("this server runs no pods, so there is nothing to connect with"))
    }
}

impl Streams for NoStreams {
    fn exec(&self, _: Place, _: Vec<String>, _: Stdio) -> BoxFuture<'_, Result<Process, ApiError>> {
        Box::pin(async { Self::refuse() })
    }

    fn attach(&self, _: Place, _: Stdio) -> BoxFuture<'_, Result<Process, ApiError>> {
        Box::pin(async { Self::refuse() })
    }

    fn log(&self, _: Place, _: LogOptions) -> BoxFuture<'_, Result<mpsc::Receiver<Bytes>, ApiError>> {
        Box::pin(async { Self::refuse() })
    }

    fn dial(&self, _: Arc<Stored>, _: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>> {
        Box::pin(async { Self::refuse().map_err(|error: ApiError| error.message) })
    }
}
