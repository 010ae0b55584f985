//! The format of a container's log: segments with a header each, then records.
//!
//! Every record carries the offset of its first byte in its stream, so that a reader knows what it has, a writer that comes back
//! after a crash knows where to go on, and a gap (no space on the host) is seen as one.
//!
//! Segment: magic `VIALLOG1`, then little-endian `u64`s: offset of standard output, of standard error at its beginning.
//! Record: magic byte 0xA7, stream (1 or 2), two zero bytes, `u32` length, `u64` offset, `u64` milliseconds since the epoch,
//! then the payload. Written with one `write`, never synced: a VM does not outlive the host either, so after a power cut the last
//! records may hold zeros, but a killed daemon leaves at most one torn record, which is cut off.

/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"VIALLOG1";
/// Bytes of a segment's header.
pub const SEGMENT_HEADER: usize = 24;
/// Bytes of a record's header.
pub const RECORD_HEADER: usize = 24;
/// Upper bound of a record's payload in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;
const RECORD_MAGIC: u8 = 0xA7;

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How far each stream has come, in bytes since the container's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Standard output.
    pub stdout: u64,
    /// Standard error.
    pub stderr: u64,
}

impl Position {
    /// That of one stream.
    pub fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// Sets that of one stream.
    pub fn set(&mut self, stream: Stream, offset: u64) {
        match stream {
            Stream::Stdout => self.stdout = offset,
            Stream::Stderr => self.stderr = offset,
        }
    }

    /// Bytes of both together.
    pub fn total(&self) -> u64 {
        self.stdout.saturating_add(self.stderr)
    }

    /// Whether neither stream is further than in `other`.
    pub fn within(&self, other: &Self) -> bool {
        self.stdout <= other.stdout && self.stderr <= other.stderr
    }
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which stream.
    pub stream: Stream,
    /// Bytes of payload, 1 to [`MAX_PAYLOAD`].
    pub length: usize,
    /// Offset of the first of them.
    pub offset: u64,
    /// Milliseconds since the epoch.
    pub time_ms: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; RECORD_HEADER] {
        let mut out = [0; RECORD_HEADER];
        out[0] = RECORD_MAGIC;
        out[1] = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        // At most MAX_PAYLOAD.
        out[4..8].copy_from_slice(&(self.length as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..24].copy_from_slice(&self.time_ms.to_le_bytes());
        out
    }

    /// From bytes; `None` when they are not a header (a torn tail, zeros after a power cut).
    pub fn decode(bytes: &[u8; RECORD_HEADER]) -> Option<Self> {
        let stream = match bytes[..4] {
            [RECORD_MAGIC, 1, 0, 0] => Stream::Stdout,
            [RECORD_MAGIC, 2, 0, 0] => Stream::Stderr,
            _ => return None,
        };
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let (offset, time_ms) = (u64_at(bytes, 8), u64_at(bytes, 16));
        let fits = (1..=MAX_PAYLOAD).contains(&length) && offset.checked_add(length as u64).is_some();
        fits.then_some(Self { stream, length, offset, time_ms })
    }

    /// Offset behind its last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

/// A segment's header.
pub fn segment_header(start: Position) -> [u8; SEGMENT_HEADER] {
    let mut out = [0; SEGMENT_HEADER];
    out[..8].copy_from_slice(&SEGMENT_MAGIC);
    out[8..16].copy_from_slice(&start.stdout.to_le_bytes());
    out[16..24].copy_from_slice(&start.stderr.to_le_bytes());
    out
}

/// Where a segment begins; `None` when it is not one.
pub fn parse_segment_header(bytes: &[u8; SEGMENT_HEADER]) -> Option<Position> {
    (bytes[..8] == SEGMENT_MAGIC).then(|| Position { stdout: u64_at(bytes, 8), stderr: u64_at(bytes, 16) })
}

/// A segment's file name.
pub fn segment_name(number: u64) -> String {
    format!("{number:08}.log")
}

/// The number in a segment's file name.
pub fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}
