//! Reads a container's log, also while it is written.

use super::format::{
    Header, Position, RECORD_HEADER, SEGMENT_HEADER, Stream, parse_segment_header, segment_name,
};
use super::writer::segments;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a reader meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Bytes of a stream, in order and without repetition.
    Data {
        /// Which stream.
        stream: Stream,
        /// Offset of the first byte.
        offset: u64,
        /// Milliseconds since the epoch.
        time_ms: u64,
        /// The bytes, never empty.
        bytes: Vec<u8>,
    },
    /// Bytes that the log does not have.
    Gap {
        /// Which stream.
        stream: Stream,
        /// How many.
        bytes: u64,
    },
}

impl Item {
    /// Whether it begins before this place.
    pub fn is_before(&self, end: Position) -> bool {
        match self {
            Self::Data { stream, offset, .. } => *offset < end.of(*stream),
            // The record behind it tells.
            Self::Gap { .. } => true,
        }
    }
}

/// A place in a log.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    segment: Option<Segment>,
    position: Position,
    /// A record behind a gap that was just reported.
    pending: Option<Item>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    at: u64,
}

impl Reader {
    /// A reader that wants each stream from its `start` on. The log need not exist yet.
    pub fn new(dir: &Path, start: Position) -> Self {
        Self { dir: dir.to_owned(), segment: None, position: start, pending: None }
    }

    /// Up to where it has read.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes to `end`, which lies behind everything that was read; the gap on the way, one stream at a time.
    pub fn skip_to(&mut self, end: Position) -> Option<Item> {
        let behind = |stream: &Stream| self.position.of(*stream) < end.of(*stream);
        let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(behind)?;
        let bytes = end.of(stream) - self.position.of(stream);
        self.position.set(stream, end.of(stream));
        Some(Item::Gap { stream, bytes })
    }

    /// The next item; `None` at the end of what is written so far.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn read(&mut self) -> io::Result<Option<Item>> {
        if let Some(item) = self.pending.take() {
            self.pass(&item);
            return Ok(Some(item));
        }
        loop {
            if self.segment.is_none() {
                self.segment = self.first()?;
            }
            let Some(segment) = &mut self.segment else { return Ok(None) };
            let Some((header, mut bytes)) = segment.record()? else {
                // Only when there is a newer segment is this one complete; what came between the two looks is read first.
                let next = open(&self.dir, segment.number + 1)?;
                let Some(next) = next else {
                    return self.skip_lost();
                };
                let at = segment.at;
                match segment.record()? {
                    Some(_) => segment.at = at,
                    None => self.segment = Some(next),
                }
                continue;
            };
            let known = self.position.of(header.stream).saturating_sub(header.offset);
            if known >= bytes.len() as u64 {
                continue;
            }
            // Below the length, which fits.
            bytes.drain(..known as usize);
            let offset = header.offset + known;
            let data = Item::Data { stream: header.stream, offset, time_ms: header.time_ms, bytes };
            let missing = offset - self.position.of(header.stream);
            if missing > 0 {
                self.position.set(header.stream, offset);
                self.pending = Some(data);
                return Ok(Some(Item::Gap { stream: header.stream, bytes: missing }));
            }
            self.pass(&data);
            return Ok(Some(data));
        }
    }

    fn pass(&mut self, item: &Item) {
        if let Item::Data { stream, offset, bytes, .. } = item {
            self.position.set(*stream, offset + bytes.len() as u64);
        }
    }

    /// Whether the segment that was read was rotated away meanwhile: then go on with the oldest that is there.
    fn skip_lost(&mut self) -> io::Result<Option<Item>> {
        let oldest = segments(&self.dir)?.first().copied();
        match (&self.segment, oldest) {
            (Some(segment), Some(oldest)) if oldest > segment.number => {
                self.segment = open(&self.dir, oldest)?;
                self.read()
            }
            _ => Ok(None),
        }
    }

    /// The newest segment that begins at or before the wanted position, else the oldest.
    fn first(&self) -> io::Result<Option<Segment>> {
        let numbers = match segments(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut best = None;
        for number in numbers {
            let Some(segment) = open(&self.dir, number)? else { continue };
            let mut header = [0; SEGMENT_HEADER];
            segment.file.read_exact_at(&mut header, 0)?;
            let begins_before =
                parse_segment_header(&header).is_some_and(|start| start.within(&self.position));
            if best.is_none() || begins_before {
                best = Some(segment);
            }
        }
        Ok(best)
    }
}

fn open(dir: &Path, number: u64) -> io::Result<Option<Segment>> {
    let file = match File::open(dir.join(segment_name(number))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Its writer is just making it.
    if file.metadata()?.len() < SEGMENT_HEADER as u64 {
        return Ok(None);
    }
    Ok(Some(Segment { number, file, at: SEGMENT_HEADER as u64 }))
}

impl Segment {
    /// The record here, and goes behind it; `None` when there is no whole one.
    fn record(&mut self) -> io::Result<Option<(Header, Vec<u8>)>> {
        let mut bytes = [0; RECORD_HEADER];
        if !read_whole(&self.file, &mut bytes, self.at)? {
            return Ok(None);
        }
        let Some(header) = Header::decode(&bytes) else { return Ok(None) };
        let mut payload = vec![0; header.length];
        if !read_whole(&self.file, &mut payload, self.at + RECORD_HEADER as u64)? {
            return Ok(None);
        }
        self.at += (RECORD_HEADER + header.length) as u64;
        Ok(Some((header, payload)))
    }
}

fn read_whole(file: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
