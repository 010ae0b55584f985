//! A compressed or plain byte stream, decompressed and hashed on a thread of its own.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use crate::digest::{Digest, Hasher};
use crate::limits;

/// Bytes handed from thread to thread at once. With 16 in flight, about 9 MiB: enough that neither side waits for a busy machine to wake the other.
const CHUNK: usize = 512 << 10;
const IN_FLIGHT: usize = 16;

/// How a stream is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or unknown.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Looks at magic numbers, never at names or media types: both lie.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// Why a stream stopped.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The source or the decompressor failed.
    #[error("the data can't be read or decompressed: {0}")]
    Io(#[from] io::Error),
    /// A bomb.
    #[error(
        "the data grows to more than {max} times its compressed size: a decompression bomb",
        max = limits::MAX_EXPANSION
    )]
    Bomb,
    /// Too long.
    #[error("the data has more than {0} bytes")]
    TooLong(u64),
}

/// Lengths and digests of a stream that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Digest of the bytes as they came.
    pub digest: Digest,
    /// Digest of the decompressed bytes.
    pub diff_id: Digest,
    /// Bytes as they came.
    pub length: u64,
    /// Decompressed bytes.
    pub plain_length: u64,
}

/// Counts and, where the digest is not that of the decompressed bytes, hashes what passes.
struct Raw<R> {
    inner: R,
    length: u64,
    hasher: Option<Hasher>,
}

impl<R: Read> Read for Raw<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.length += count as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&out[..count]);
        }
        Ok(count)
    }
}

/// The start of a stream, put back in front of the rest.
type Peeked<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

fn peek<R: Read>(mut source: R) -> io::Result<(Compression, Peeked<R>)> {
    let mut start = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    Ok((compression, io::Cursor::new(start).chain(source)))
}

enum Decoder<B: BufRead> {
    Plain(B),
    Gzip(Box<flate2::bufread::MultiGzDecoder<B>>),
    Zstd(Box<zstd::Decoder<'static, B>>),
}

impl<B: BufRead> Decoder<B> {
    fn new(compression: Compression, source: B) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Decoder::Plain(source),
            Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source)?;
                decoder.window_log_max(limits::ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(Box::new(decoder))
            }
        })
    }

    fn source(&self) -> &B {
        match self {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(source) => source.read(out),
            Decoder::Gzip(decoder) => decoder.read(out),
            Decoder::Zstd(decoder) => decoder.read(out),
        }
    }
}

/// Decompresses `source` piece by piece into `sink`, within the bounds on expansion and `longest` bytes.
fn pump<R: Read>(
    source: R,
    longest: u64,
    mut chunk: Vec<u8>,
    mut sink: impl FnMut(Vec<u8>) -> Option<Vec<u8>>,
) -> Result<Totals, StreamError> {
    let (compression, source) = peek(source)?;
    let hasher = (compression != Compression::None).then(Hasher::default);
    let raw = BufReader::with_capacity(CHUNK / 2, Raw { inner: source, length: 0, hasher });
    let mut decoder = Decoder::new(compression, raw)?;
    let (mut plain, mut plain_length) = (Hasher::default(), 0u64);
    loop {
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        chunk.truncate(filled);
        plain.update(&chunk);
        plain_length += filled as u64;
        let read = decoder.source().get_ref().length;
        if plain_length > longest {
            return Err(StreamError::TooLong(longest));
        }
        if plain_length > limits::EXPANSION_FREE && plain_length / limits::MAX_EXPANSION > read {
            return Err(StreamError::Bomb);
        }
        if filled == 0 {
            let raw = decoder.source().get_ref();
            let diff_id = plain.finish();
            let digest = raw.hasher.clone().map_or(diff_id, Hasher::finish);
            return Ok(Totals { digest, diff_id, length: read, plain_length });
        }
        chunk = match sink(chunk) {
            Some(chunk) => chunk,
            // Nobody wants more: the reader failed and says why.
            None => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        };
    }
}

/// Writes the decompressed bytes of `source` to `out`; returns how many there were.
pub fn decompress<R: Read>(source: R, longest: u64, mut out: impl io::Write) -> Result<u64, StreamError> {
    let mut failed = None;
    let totals = pump(source, longest, Vec::new(), |chunk| match out.write_all(&chunk) {
        Ok(()) => Some(chunk),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    match failed {
        Some(error) => Err(error.into()),
        None => totals.map(|totals| totals.plain_length),
    }
}

/// The reading end: decompressed bytes, while the thread already works on the next ones.
pub struct Chunks<'scope> {
    full: Option<Receiver<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    thread: Option<ScopedJoinHandle<'scope, Result<Totals, StreamError>>>,
    chunk: Vec<u8>,
    used: usize,
}

impl<'scope> Chunks<'scope> {
    /// Starts the thread.
    pub fn spawn<R: Read + Send + 'scope>(scope: &'scope Scope<'scope, '_>, source: R) -> Self {
        let (full_sender, full) = sync_channel(IN_FLIGHT);
        let (empty, empty_receiver) = sync_channel::<Vec<u8>>(IN_FLIGHT + 1);
        let thread = scope.spawn(move || {
            pump(source, limits::MAX_LAYER_TAR, Vec::new(), |chunk| {
                full_sender.send(chunk).ok()?;
                Some(empty_receiver.try_recv().unwrap_or_default())
            })
        });
        Chunks { full: Some(full), empty, thread: Some(thread), chunk: Vec::new(), used: 0 }
    }

    /// Reads whatever is left, since digests cover it, and returns the totals.
    pub fn finish(&mut self) -> Result<Totals, StreamError> {
        while self.next_chunk() {}
        match self.join() {
            Some(result) => result,
            None => Err(io::Error::other("the stream was finished twice").into()),
        }
    }

    /// Why the stream ended, if it failed by itself: otherwise the reader gave up first.
    pub fn failure(&mut self) -> Option<StreamError> {
        self.full = None;
        let error = self.join()?.err()?;
        match &error {
            StreamError::Io(io) if io.kind() == io::ErrorKind::BrokenPipe => None,
            _ => Some(error),
        }
    }

    fn join(&mut self) -> Option<Result<Totals, StreamError>> {
        let result = self.thread.take()?.join();
        Some(result.unwrap_or_else(|_| Err(io::Error::other("the decompressor panicked").into())))
    }

    fn next_chunk(&mut self) -> bool {
        let next = self.full.as_ref().and_then(|full| full.recv().ok());
        match next {
            Some(chunk) => {
                // A full queue of empty buffers only means that one is freed instead.
                let _ = self.empty.try_send(std::mem::replace(&mut self.chunk, chunk));
                self.used = 0;
                true
            }
            None => false,
        }
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Chunks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.chunk.len() && !self.next_chunk() {
            return Ok(&[]);
        }
        Ok(&self.chunk[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}
