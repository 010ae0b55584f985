//! A process's standard output or error: chunks from an offset on, acknowledged as they become safe.

use super::{invalid, read_frame};
use agent_protocol::frame::{self, MAX_HEADER};
use agent_protocol::{AgentError, MAX_CHUNK, StreamHeader, StreamReply};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Bytes of a chunk's length.
pub(super) const PREFIX: usize = 4;

/// Why a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The agent's own answer.
    #[error(transparent)]
    Refused(#[from] AgentError),
    /// The connection ended in the middle; the stream can be opened again from where it was.
    #[error("a stream from the guest is lost: {0}")]
    Lost(#[source] io::Error),
    /// The agent broke the protocol.
    #[error("the agent in the guest broke the protocol of a stream: {0}")]
    Broken(String),
}

impl StreamError {
    pub(super) fn from_io(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::InvalidData => Self::Broken(e.to_string()),
            _ => Self::Lost(e),
        }
    }
}

/// Sends a header and reads the reply's offset.
pub(super) async fn greet(stream: &mut UnixStream, header: &StreamHeader) -> Result<u64, StreamError> {
    let bytes = frame::encode(header, MAX_HEADER).map_err(|e| StreamError::Broken(e.to_string()))?;
    stream.write_all(&bytes).await.map_err(StreamError::from_io)?;
    let body = read_frame(stream, MAX_HEADER).await.map_err(StreamError::from_io)?;
    let body = body.ok_or_else(|| StreamError::from_io(io::ErrorKind::UnexpectedEof.into()))?;
    let reply: StreamReply = frame::decode(&body).map_err(|e| StreamError::from_io(invalid(e)))?;
    Ok(reply.result?)
}

/// An output stream of a process in the guest.
#[derive(Debug)]
pub struct OutputStream {
    stream: UnixStream,
    /// Bytes received; those before `start` are given out already.
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
    ended: bool,
    acks: Acks,
}

/// Acknowledgements on their way. They are cumulative, so that of those that wait only the newest matters.
#[derive(Debug, Default)]
struct Acks {
    newest: u64,
    sent: u64,
    /// The rest of one that was written in part.
    rest: Vec<u8>,
}

impl Acks {
    fn waiting(&self) -> bool {
        !self.rest.is_empty() || self.newest > self.sent
    }

    /// Writes as much as goes without waiting.
    fn flush(&mut self, stream: &UnixStream) -> io::Result<()> {
        while self.waiting() {
            if self.rest.is_empty() {
                self.rest = self.newest.to_le_bytes().to_vec();
                self.sent = self.newest;
            }
            match stream.try_write(&self.rest) {
                Ok(written) => drop(self.rest.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl OutputStream {
    /// Opens a stream on a fresh connection to the agent's stream port.
    ///
    /// # Errors
    /// The agent's refusal, a lost connection, or a broken protocol: also when the agent does not go on where it was asked to.
    pub async fn open(mut stream: UnixStream, header: &StreamHeader) -> Result<Self, StreamError> {
        let offset = greet(&mut stream, header).await?;
        if offset != header.offset {
            return Err(StreamError::Broken(format!(
                "byte {} was asked for, it begins at {offset}",
                header.offset
            )));
        }
        Ok(Self { stream, buffer: Vec::new(), start: 0, offset, ended: false, acks: Acks::default() })
    }

    /// Number of the byte that comes next, counted from the process's start.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, at most [`MAX_CHUNK`]; none is the end of the stream, for good. May be dropped without losing a byte.
    ///
    /// # Errors
    /// A lost connection or a broken protocol.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(chunk) = self.take_chunk()? {
                if chunk.is_empty() {
                    self.ended = true;
                    return Ok(None);
                }
                self.offset += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            self.fill().await.map_err(StreamError::from_io)?;
        }
    }

    /// Takes a whole chunk out of the buffer, if there is one.
    fn take_chunk(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        let Some((prefix, rest)) = self.buffer[self.start..].split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_CHUNK {
            return Err(StreamError::Broken(format!(
                "a chunk of {length} bytes is over the limit of {MAX_CHUNK}"
            )));
        }
        let chunk = rest.get(..length).map(<[u8]>::to_vec);
        if chunk.is_some() {
            self.start += PREFIX + length;
        }
        Ok(chunk)
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        // Never more than one chunk and its prefix are held.
        self.buffer.reserve(PREFIX + MAX_CHUNK - self.buffer.len());
        loop {
            self.acks.flush(&self.stream)?;
            if self.acks.waiting() {
                let ready =
                    self.stream.ready(tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE).await?;
                if !ready.is_readable() {
                    continue;
                }
                match self.stream.try_read_buf(&mut self.buffer) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    read => return ended(read?),
                }
            }
            return ended(self.stream.read_buf(&mut self.buffer).await?);
        }
    }

    /// Tells the agent that all bytes before this one are safe, so that it may forget them. Never waits for the agent: what
    /// can't be sent now goes with the next read.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn ack(&mut self, safe: u64) -> Result<(), StreamError> {
        self.acks.newest = self.acks.newest.max(safe);
        self.acks.flush(&self.stream).map_err(StreamError::from_io)
    }
}

/// An end without an empty chunk before it is a lost connection.
fn ended(read: usize) -> io::Result<()> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
