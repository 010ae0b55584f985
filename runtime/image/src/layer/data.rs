//! Writes file data into the blocks of a layer file; zero blocks become holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::erofs::layout::BLOCK;

const BUFFER: usize = 1 << 20;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Appends to a file that is empty from the current position on.
pub struct DataWriter<'a> {
    file: &'a File,
    /// Where the buffer begins in the file: always a multiple of a block.
    start: u64,
    buffer: Vec<u8>,
    /// Bytes that really went to disk.
    stored: u64,
}

impl<'a> DataWriter<'a> {
    /// Begins at this block.
    pub fn new(file: &'a File, first_block: u64) -> Self {
        DataWriter { file, start: first_block * BLOCK, buffer: Vec::with_capacity(BUFFER), stored: 0 }
    }

    /// Byte position in the file.
    pub fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Bytes that were not holes so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Appends bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(BUFFER - self.buffer.len());
            let (now, later) = bytes.split_at(count);
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == BUFFER {
                self.flush_blocks()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Appends zeros without storing them.
    pub fn hole(&mut self, length: u64) -> io::Result<()> {
        let to_block = (self.position().next_multiple_of(BLOCK) - self.position()).min(length);
        self.write(&ZEROS[..to_block as usize])?;
        let rest = length - to_block;
        if rest >= BLOCK {
            self.flush_blocks()?;
            self.start += rest / BLOCK * BLOCK;
        }
        self.write(&ZEROS[..(rest % BLOCK) as usize])
    }

    /// Fills the last block with zeros; the next file begins on a block of its own.
    pub fn align(&mut self) -> io::Result<()> {
        let pad = self.position().next_multiple_of(BLOCK) - self.position();
        self.write(&ZEROS[..pad as usize])
    }

    /// Writes what is left; the position must be aligned. Returns the block behind the last one.
    pub fn finish(mut self) -> io::Result<u64> {
        self.align()?;
        self.flush_blocks()?;
        Ok(self.start / BLOCK)
    }

    /// Writes all whole blocks that are not zero, in runs, and keeps the rest.
    fn flush_blocks(&mut self) -> io::Result<()> {
        let whole = self.buffer.len() / BLOCK as usize * BLOCK as usize;
        let mut run = 0;
        for at in (0..whole).step_by(BLOCK as usize) {
            if self.buffer[at..at + BLOCK as usize] == ZEROS {
                self.store(run, at)?;
                run = at + BLOCK as usize;
            }
        }
        self.store(run, whole)?;
        self.buffer.drain(..whole);
        self.start += whole as u64;
        Ok(())
    }

    fn store(&mut self, from: usize, to: usize) -> io::Result<()> {
        if from < to {
            self.file.write_all_at(&self.buffer[from..to], self.start + from as u64)?;
            self.stored += (to - from) as u64;
        }
        Ok(())
    }
}
