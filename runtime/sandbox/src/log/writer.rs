//! Writes a container's log, and finds out after a crash where it ended.

use super::format::{
    Header, MAX_PAYLOAD, Position, RECORD_HEADER, SEGMENT_HEADER, Stream, parse_segment_header,
    segment_header, segment_name, segment_number,
};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bounds of a log on the host's disk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after which a segment is full.
    pub segment: u64,
    /// Segments that are kept; older ones are removed.
    pub segments: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment: 20 << 20, segments: 5 }
    }
}

/// The one writer of a container's log.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    limits: Limits,
    file: File,
    number: u64,
    length: u64,
    position: Position,
}

/// The numbers of a log's segments, oldest first.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl Writer {
    /// Opens a log, makes it when it is not there, and cuts off a record that a killed predecessor had not finished.
    ///
    /// # Errors
    /// When a file can't be made, read or cut.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut numbers = segments(dir)?;
        while let Some(number) = numbers.pop() {
            let path = dir.join(segment_name(number));
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            if let Some((length, position)) = scan(&file)? {
                file.set_len(length)?;
                return Ok(Self { dir: dir.to_owned(), limits, file, number, length, position });
            }
            // Killed between making the segment and writing its header: the one before is the last.
            fs::remove_file(&path)?;
        }
        let file = new_segment(dir, 0, Position::default())?;
        let length = SEGMENT_HEADER as u64;
        Ok(Self { dir: dir.to_owned(), limits, file, number: 0, length, position: Position::default() })
    }

    /// Up to where the log holds the streams: what may be acknowledged, and where to go on.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Appends bytes of a stream that begin at `offset`. What the log holds already is skipped. On an error the log is as it was.
    ///
    /// # Errors
    /// When they can't be written, even after the older segments were given up.
    pub fn append(&mut self, stream: Stream, offset: u64, data: &[u8], time_ms: u64) -> io::Result<()> {
        let known = self.position.of(stream).saturating_sub(offset);
        let Some(fresh) = usize::try_from(known).ok().and_then(|known| data.get(known..)) else {
            return Ok(());
        };
        let mut at = offset + known;
        for chunk in fresh.chunks(MAX_PAYLOAD) {
            let header = Header { stream, length: chunk.len(), offset: at, time_ms };
            if self.length >= self.limits.segment {
                self.rotate()?;
            }
            if let Err(error) = self.write(&header, chunk) {
                if error.kind() != io::ErrorKind::StorageFull || self.drop_older()? == 0 {
                    return Err(error);
                }
                self.write(&header, chunk)?;
            }
            at = header.end();
            self.position.set(stream, at);
        }
        Ok(())
    }

    /// Counts bytes of a stream as passed although they are not in the log; readers see a gap.
    pub fn skip_to(&mut self, stream: Stream, offset: u64) {
        if offset > self.position.of(stream) {
            self.position.set(stream, offset);
        }
    }

    fn write(&mut self, header: &Header, chunk: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(RECORD_HEADER + chunk.len());
        record.extend_from_slice(&header.encode());
        record.extend_from_slice(chunk);
        match self.file.write_all_at(&record, self.length) {
            Ok(()) => {
                self.length += record.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What was written of it would be taken for the next record's place.
                self.file.set_len(self.length)?;
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = new_segment(&self.dir, self.number + 1, self.position)?;
        self.number += 1;
        self.length = SEGMENT_HEADER as u64;
        for number in segments(&self.dir)? {
            if number + self.limits.segments <= self.number {
                fs::remove_file(self.dir.join(segment_name(number)))?;
            }
        }
        Ok(())
    }

    fn drop_older(&self) -> io::Result<usize> {
        let mut dropped = 0;
        for number in segments(&self.dir)?.into_iter().filter(|&number| number < self.number) {
            fs::remove_file(self.dir.join(segment_name(number)))?;
            dropped += 1;
        }
        Ok(dropped)
    }
}

fn new_segment(dir: &Path, number: u64, start: Position) -> io::Result<File> {
    let path = dir.join(segment_name(number));
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    if let Err(error) = file.write_all_at(&segment_header(start), 0) {
        // The next attempt makes it again; a reader must not meet a segment without a header.
        fs::remove_file(&path)?;
        return Err(error);
    }
    Ok(file)
}

/// Length of the valid part and the streams' position at its end; `None` when not even the header is whole.
fn scan(file: &File) -> io::Result<Option<(u64, Position)>> {
    let size = file.metadata()?.len();
    if size < SEGMENT_HEADER as u64 {
        return Ok(None);
    }
    let mut header = [0; SEGMENT_HEADER];
    file.read_exact_at(&mut header, 0)?;
    let Some(mut position) = parse_segment_header(&header) else { return Ok(None) };
    let mut at = SEGMENT_HEADER as u64;
    while at + RECORD_HEADER as u64 <= size {
        let mut bytes = [0; RECORD_HEADER];
        file.read_exact_at(&mut bytes, at)?;
        let Some(header) = Header::decode(&bytes) else { break };
        let end = at + (RECORD_HEADER + header.length) as u64;
        if end > size || header.offset < position.of(header.stream) {
            break;
        }
        position.set(header.stream, header.end());
        at = end;
    }
    Ok(Some((at, position)))
}
