//! What the command line says when it fails, and its exit status.

use vial_api::ErrorBody;

/// A failure on its way to the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon said no.
    #[error("{0}")]
    Api(ErrorBody),
    /// There is no daemon and none can be started.
    #[error(transparent)]
    Start(#[from] vial_daemon::detach::StartError),
    /// The daemon went away in the middle, or speaks nonsense.
    #[error("the connection to the daemon failed: {0}; its log may say why (vial daemon status)")]
    Connection(String),
    /// The daemon ended, and has not read the request: nothing can have come of it.
    #[error("the daemon ended before it read the request")]
    Unheard,
    /// A file, or standard input or output.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with its object.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// `-it` without a terminal.
    #[error("the input device is not a TTY; leave out -t when standard input is a pipe or a file")]
    NotATerminal,
    /// Something that only needs saying.
    #[error("{0}")]
    Message(String),
}

/// The result of a command: its exit status.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A closure for `map_err` on a file operation.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Exit status of `run` and `exec`, as Docker's: 125 unless the container's command is to blame.
    pub fn run_code(&self) -> i32 {
        match self {
            Self::Api(body) => body.kind.exit_code(),
            // Docker finds this out before it runs anything.
            Self::NotATerminal => 1,
            _ => 125,
        }
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Connection(format!("an answer makes no sense: {error}"))
    }
}
