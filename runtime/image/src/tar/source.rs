//! Where tar bytes come from: buffered, and able to pass over data without reading it.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A buffered reader that can pass over bytes.
pub trait Source: BufRead {
    /// Passes over `count` bytes; fails with `UnexpectedEof` when there are fewer.
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let available = self.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = count.min(available as u64);
            self.consume(step as usize);
            count -= step;
        }
        Ok(())
    }

    /// As `consume`, of bytes that were also written at this offset of another file.
    fn consume_stored(&mut self, count: usize, _at: u64) {
        self.consume(count);
    }
}

impl Source for &[u8] {}

/// A range of a file, read without moving the file's own position: many readers may share the file.
#[derive(Debug)]
pub struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Section {
    /// The `length` bytes from `start`.
    pub fn new(file: Arc<File>, start: u64, length: u64) -> Self {
        Section { file, position: start, end: start.saturating_add(length), buffer: Vec::new(), used: 0 }
    }

    /// Bytes that were not consumed yet.
    pub fn remaining(&self) -> u64 {
        self.end - self.position + (self.buffer.len() - self.used) as u64
    }
}

impl Read for Section {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            // Large reads go past the buffer.
            let most = out.len().min(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
            let count = self.file.read_at(&mut out[..most], self.position)?;
            self.position += count as u64;
            return Ok(count);
        }
        let count = (&self.buffer[self.used..]).read(out)?;
        self.used += count;
        Ok(count)
    }
}

impl BufRead for Section {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() {
            let size = (self.end - self.position).min(64 << 10) as usize;
            self.buffer.resize(size, 0);
            self.used = 0;
            let count =
                self.file.read_at(&mut self.buffer, self.position).inspect_err(|_| self.used = size)?;
            self.buffer.truncate(count);
            self.position += count as u64;
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.buffer.len());
    }
}

impl Source for Section {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > self.remaining() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let buffered = (self.buffer.len() - self.used) as u64;
        let step = count.min(buffered);
        self.used += step as usize;
        self.position += count - step;
        Ok(())
    }
}
