//! All of a layer's tar but its files' data: with it and the layer file the tar can be had again, byte for byte.
//!
//! Pushing an image needs layers whose digest is the diff_id. To keep them compressed beside the layer files would cost
//! every image a third of its size and every pull as much writing, for something that few hosts ever do; headers and padding alone cost
//! about a hundredth (Docker's tar-split is the same thought). The compressed form is made anew by each push.
//!
//! Format, compressed with zstd: `0`, length (u32), bytes; or `1`, offset in the layer file (u64), length (u64); `2` at the
//! end. Numbers are little-endian.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

use super::stream::Chunks;
use crate::limits;
use crate::tar::Source;

const LITERAL: u8 = 0;
const STORED: u8 = 1;
const END: u8 = 2;
/// Bytes of literals that are gathered before they are written.
const GATHERED: usize = 64 << 10;

/// Writes a frame.
pub struct FrameWriter<'a> {
    /// `None` when it got too long: such a layer can be run, but not pushed.
    out: Option<zstd::Encoder<'static, Counted<'a>>>,
    literal: Vec<u8>,
    stored: (u64, u64),
}

struct Counted<'a> {
    file: &'a File,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> FrameWriter<'a> {
    /// Begins a frame in an empty file.
    pub fn new(file: &'a File) -> io::Result<Self> {
        let out = zstd::Encoder::new(Counted { file, written: 0 }, 3)?;
        Ok(FrameWriter { out: Some(out), literal: Vec::with_capacity(GATHERED), stored: (0, 0) })
    }

    fn literal(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.flush_stored()?;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(GATHERED - self.literal.len()));
            self.literal.extend_from_slice(now);
            if self.literal.len() == GATHERED {
                self.flush_literal()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn stored(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.stored.1 > 0 && self.stored.0 + self.stored.1 == offset {
            self.stored.1 += length;
            return Ok(());
        }
        self.flush_literal()?;
        self.flush_stored()?;
        self.stored = (offset, length);
        Ok(())
    }

    fn flush_literal(&mut self) -> io::Result<()> {
        if !self.literal.is_empty() {
            // At most GATHERED, so it fits.
            let length = self.literal.len() as u32;
            let literal = std::mem::take(&mut self.literal);
            self.put(&[&[LITERAL], &length.to_le_bytes(), &literal])?;
            self.literal = literal;
            self.literal.clear();
        }
        Ok(())
    }

    fn flush_stored(&mut self) -> io::Result<()> {
        let (offset, length) = std::mem::take(&mut self.stored);
        if length > 0 {
            self.put(&[&[STORED], &offset.to_le_bytes(), &length.to_le_bytes()])?;
        }
        Ok(())
    }

    fn put(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        for part in parts {
            out.write_all(part)?;
        }
        if out.get_ref().written > limits::MAX_FRAME {
            self.out = None;
        }
        Ok(())
    }

    /// Ends the frame; whether it is whole.
    pub fn finish(mut self) -> io::Result<bool> {
        self.flush_literal()?;
        self.flush_stored()?;
        self.put(&[&[END]])?;
        match self.out {
            Some(out) => out.finish().map(|_| true),
            None => Ok(false),
        }
    }
}

/// A layer's tar on its way to the reader, every byte of which is noted in the frame.
pub struct Framed<'c, 's, 'f> {
    chunks: &'c mut Chunks<'s>,
    frame: FrameWriter<'f>,
    /// The first failure: consuming can't tell of one.
    failed: Option<io::Error>,
}

impl<'c, 's, 'f> Framed<'c, 's, 'f> {
    /// Notes what passes.
    pub fn new(chunks: &'c mut Chunks<'s>, frame: FrameWriter<'f>) -> Self {
        Framed { chunks, frame, failed: None }
    }

    /// Reads and notes whatever is left, since digests cover it; whether the frame is whole.
    pub fn finish(mut self) -> io::Result<bool> {
        loop {
            let count = self.chunks.fill_buf()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        match self.failed {
            Some(error) => Err(error),
            None => self.frame.finish(),
        }
    }

    fn note(&mut self, count: usize, stored_at: Option<u64>) {
        let noted = match stored_at {
            Some(offset) => self.frame.stored(offset, count as u64),
            // What is consumed was seen in the buffer before.
            None => self.chunks.fill_buf().and_then(|bytes| self.frame.literal(&bytes[..count])),
        };
        if let (Err(error), None) = (noted, &self.failed) {
            self.failed = Some(error);
        }
        self.chunks.consume(count);
    }
}

impl Read for Framed<'_, '_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Framed<'_, '_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.chunks.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.note(count, None);
    }
}

impl Source for Framed<'_, '_, '_> {
    fn consume_stored(&mut self, count: usize, at: u64) {
        self.note(count, Some(at));
    }
}

impl Source for &mut Framed<'_, '_, '_> {
    fn consume_stored(&mut self, count: usize, at: u64) {
        self.note(count, Some(at));
    }
}

/// What a frame has one after the other.
enum Piece<'a> {
    /// These bytes.
    Literal(&'a [u8]),
    /// So many of the layer file, from there.
    Stored(u64, u64),
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its frame is damaged")
}

/// Reads a frame to its end; the bytes of the tar that it was made of.
fn walk(frame: impl Read, mut each: impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<u64> {
    let mut frame = io::BufReader::new(zstd::Decoder::new(frame)?);
    let mut literal = vec![0; GATHERED];
    let mut total = 0u64;
    loop {
        let mut kind = [0];
        frame.read_exact(&mut kind)?;
        let (length, piece) = match kind[0] {
            LITERAL => {
                let mut length = [0; 4];
                frame.read_exact(&mut length)?;
                let piece = literal.get_mut(..u32::from_le_bytes(length) as usize).ok_or_else(damaged)?;
                frame.read_exact(piece)?;
                (piece.len() as u64, Piece::Literal(piece))
            }
            STORED => {
                let mut numbers = [[0; 8]; 2];
                for number in &mut numbers {
                    frame.read_exact(number)?;
                }
                let [offset, length] = numbers.map(u64::from_le_bytes);
                (length, Piece::Stored(offset, length))
            }
            END => return Ok(total),
            _ => return Err(damaged()),
        };
        total =
            total.checked_add(length).filter(|&total| total <= limits::MAX_LAYER_TAR).ok_or_else(damaged)?;
        each(piece)?;
    }
}

/// Bytes of the tar that a frame was made of.
///
/// # Errors
/// When the frame is damaged.
pub fn length(frame: impl Read) -> io::Result<u64> {
    walk(frame, |_| Ok(()))
}

/// Writes the tar again that a frame and its layer file were made of. The caller checks its digest.
///
/// # Errors
/// When the frame is damaged, or `out` fails.
pub fn replay(frame: impl Read, layer: &File, mut out: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    walk(frame, |piece| match piece {
        Piece::Literal(bytes) => out.write_all(bytes),
        Piece::Stored(mut offset, mut left) => {
            while left > 0 {
                let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                layer.read_exact_at(&mut buffer[..count], offset)?;
                out.write_all(&buffer[..count])?;
                offset = offset.checked_add(count as u64).ok_or_else(damaged)?;
                left -= count as u64;
            }
            Ok(())
        }
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::testing::{Tar, gzip, simple};
    use proptest::prelude::*;

    fn again(tar: &[u8]) -> Vec<u8> {
        let (layer, frame) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let written = crate::layer::write(&gzip(tar)[..], &layer, &frame, &mut |_| {}).unwrap();
        assert!(written.framed);
        assert_eq!(written.totals.diff_id, Digest::of(tar));
        let mut out = Vec::new();
        io::Seek::rewind(&mut &frame).unwrap();
        replay(&frame, &layer, &mut out).unwrap();
        io::Seek::rewind(&mut &frame).unwrap();
        assert_eq!(length(&frame).unwrap(), out.len() as u64);
        out
    }

    #[test]
    fn a_tar_comes_back_byte_for_byte() {
        let mut trailing = simple(b"data");
        trailing.extend(vec![0; 5000]);
        trailing.extend(b"what some tools put behind the end");
        for tar in [
            simple(b""),
            simple(&vec![0; 1 << 20]),
            simple(&vec![7; (1 << 20) + 17]),
            // Of two of the same name only the later is seen, but both were written.
            Tar::default().file("a", b"first").file("a", &[1; 9000]).hardlink("b", "a").end(),
            Tar::default().dir("d").file("d/.wh.x", b"with data").symlink("s", "t").end(),
            trailing,
        ] {
            assert!(again(&tar) == tar);
        }
    }

    #[test]
    fn a_damaged_frame_is_an_error() {
        let layer = tempfile::tempfile().unwrap();
        for bytes in [&[LITERAL, 255, 255, 255, 255][..], &[STORED; 17], &[9], &[]] {
            let frame = zstd::encode_all(bytes, 1).unwrap();
            assert!(replay(&frame[..], &layer, io::sink()).is_err(), "{bytes:?}");
        }
        assert!(replay(&b"rubbish"[..], &layer, io::sink()).is_err());
    }

    proptest! {
        #[test]
        fn any_files_come_back(files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..6)) {
            let mut tar = Tar::default();
            for (index, data) in files.iter().enumerate() {
                tar = tar.file(&format!("f{index}"), data);
            }
            let tar = tar.end();
            prop_assert!(again(&tar) == tar);
        }
    }
}
