//! A process's standard input: chunks to the guest, kept until the agent says that they were taken.

use super::stream::{PREFIX, StreamError, greet};
use agent_protocol::{MAX_CHUNK, StreamHeader};
use std::collections::VecDeque;
use std::io;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Bytes that are kept for a new connection. More than the agent and the sockets hold, so that an agent which
/// acknowledges only when the container has read is never waited for without need.
const WINDOW: usize = 4 << 20;

/// Standard input of a process in the guest.
#[derive(Debug)]
pub struct StdinStream {
    stream: UnixStream,
    /// Everything before this byte is with the container.
    taken: u64,
    /// The bytes from `taken` on that were written here.
    kept: VecDeque<u8>,
    /// How many of `kept` have been put into chunks.
    framed: usize,
    /// Chunks on their way into the socket.
    out: Vec<u8>,
    /// Part of an acknowledgement.
    partial: Vec<u8>,
    finished: bool,
}

impl StdinStream {
    /// Opens the stream on a fresh connection to the agent's stream port.
    ///
    /// # Errors
    /// The agent's refusal, a lost connection, or a broken protocol.
    pub async fn open(mut stream: UnixStream, header: &StreamHeader) -> Result<Self, StreamError> {
        let taken = greet(&mut stream, header).await?;
        let (kept, out, partial) = (VecDeque::new(), Vec::new(), Vec::new());
        Ok(Self { stream, taken, kept, framed: 0, out, partial, finished: false })
    }

    /// Goes on over a fresh connection after the old one was lost: what the container did not take yet is sent again.
    ///
    /// # Errors
    /// As [`StdinStream::open`]; also when the agent wants bytes that were never written or are gone.
    pub async fn resume(&mut self, mut stream: UnixStream, header: &StreamHeader) -> Result<(), StreamError> {
        let taken = greet(&mut stream, header).await?;
        self.note_taken(taken, self.kept.len())?;
        self.stream = stream;
        self.partial.clear();
        self.out.clear();
        self.framed = 0;
        if std::mem::take(&mut self.finished) { self.finish().await } else { self.flush().await }
    }

    /// How many bytes the container's side has taken; the first byte to write on a new stream has this number.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Up to where it was given bytes; those are kept until they are taken, also when a write failed.
    pub fn accepted(&self) -> u64 {
        self.taken + self.kept.len() as u64
    }

    /// Writes all of it; waits while the container does not read. After this was dropped halfway, the rest of what was
    /// accepted goes out with the next call.
    ///
    /// # Errors
    /// A lost connection or a broken protocol.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<(), StreamError> {
        while !data.is_empty() {
            while self.kept.len() >= WINDOW {
                self.step().await?;
            }
            let (now, rest) = data.split_at(data.len().min(WINDOW - self.kept.len()).min(MAX_CHUNK));
            self.kept.extend(now);
            data = rest;
            self.flush().await?;
        }
        Ok(())
    }

    /// Says that nothing more will come.
    ///
    /// # Errors
    /// A lost connection or a broken protocol.
    pub async fn finish(&mut self) -> Result<(), StreamError> {
        self.flush().await?;
        if !std::mem::replace(&mut self.finished, true) {
            self.out.extend(0u32.to_le_bytes());
        }
        while !self.out.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    /// Frames what is not framed yet and writes until it is all with the socket.
    async fn flush(&mut self) -> Result<(), StreamError> {
        loop {
            if self.out.is_empty() && self.framed < self.kept.len() {
                let length = (self.kept.len() - self.framed).min(MAX_CHUNK);
                self.out.reserve(PREFIX + length);
                // At most MAX_CHUNK, so the cast is exact.
                self.out.extend((length as u32).to_le_bytes());
                self.out.extend(self.kept.range(self.framed..self.framed + length));
                self.framed += length;
            }
            if self.out.is_empty() {
                return Ok(());
            }
            self.step().await?;
        }
    }

    /// Waits for the socket once; reads acknowledgements and writes what it takes. Reading comes along with writing, else
    /// two full sockets would wait for each other.
    async fn step(&mut self) -> Result<(), StreamError> {
        let interest =
            if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = self.stream.ready(interest).await.map_err(StreamError::from_io)?;
        if ready.is_readable() {
            let mut bytes = [0; 1024];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(StreamError::from_io(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.take_acks(&bytes[..read])?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(StreamError::from_io(e)),
            }
        }
        if ready.is_writable() && !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(StreamError::from_io(e)),
            }
        }
        Ok(())
    }

    fn take_acks(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.partial.extend(bytes);
        let whole = self.partial.len() - self.partial.len() % 8;
        let newest = self.partial[..whole].as_chunks().0.iter().map(|ack| u64::from_le_bytes(*ack)).max();
        self.partial.drain(..whole);
        newest.map_or(Ok(()), |taken| self.note_taken(taken, self.framed))
    }

    /// Forgets what the container has. The agent can't have taken more than `sent` of what is kept.
    fn note_taken(&mut self, taken: u64, sent: usize) -> Result<(), StreamError> {
        let fits = taken.checked_sub(self.taken).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= sent);
        let Some(newly) = fits else {
            return Err(StreamError::Broken(format!(
                "it says that {taken} bytes of input were taken, {} were known and {sent} more sent",
                self.taken
            )));
        };
        self.kept.drain(..newly);
        self.framed = self.framed.saturating_sub(newly);
        self.taken = taken;
        Ok(())
    }
}
