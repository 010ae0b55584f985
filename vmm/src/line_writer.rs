//! Lines for a file or pipe that may have no room: whole ones, or none at all.

use crate::lock::lock;
use crate::sys;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Mutex;

/// Bytes that go at once to what others have too and is therefore not made non-blocking: a terminal that says that it has room has room
/// for about this much.
const TERMINAL_PIECE: usize = 256;
/// The same for pipes (PIPE_BUF of pipe(7)) and sockets.
const PIPE_PIECE: usize = 4096;

/// Where lines go. It never waits, if the file does not block.
#[derive(Debug)]
pub struct LineWriter {
    file: File,
    // Of a file that may block: so much at once, after a look whether there is room.
    piece: Option<usize>,
    // The end of a line that was begun when there was room for a part: a pipe takes more than PIPE_BUF bytes in pieces (pipe(7)), a
    // disk gets full in the middle.
    rest: Vec<u8>,
}

impl LineWriter {
    /// Nothing is written yet.
    pub fn new(file: File) -> Self {
        Self { file, piece: None, rest: Vec::new() }
    }

    /// To a file that others write to as well, such as the standard output: it can't be made non-blocking, which they would have to live
    /// with too. Each piece waits for nobody as long as none of them takes the room between the look and the write.
    ///
    /// # Errors
    /// What kind of file it is can't be found out.
    pub fn shared(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let piece = match () {
            // Nobody reads it away, so nobody is waited for.
            () if kind.is_file() => None,
            () if kind.is_char_device() => Some(TERMINAL_PIECE),
            () => Some(PIPE_PIECE),
        };
        Ok(Self { file, piece, rest: Vec::new() })
    }

    /// Writes a line, in one call if it can: lines of several processes in one file then stay whole. What there is no room for of a line
    /// that was begun is kept, and goes out before anything else does.
    ///
    /// # Errors
    /// Nothing of it was written, and nothing will be.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let (done, error) = push(&mut self.file, &self.rest, self.piece);
        self.rest.drain(..done);
        if let Some(error) = error {
            return Err(error);
        }
        match push(&mut self.file, line, self.piece) {
            (0, Some(error)) => Err(error),
            (done, _) => {
                self.rest.extend_from_slice(&line[done..]);
                Ok(())
            }
        }
    }
}

/// Writes a line to the standard error, or as much of it as that takes without waiting: whoever does not read it must not hold up what
/// there is to be said about.
pub fn complain(message: &str) {
    let line = format!("vial-vmm: {}\n", message.replace('\n', "\\n"));
    let _ = push(&mut io::stderr(), line.as_bytes(), Some(TERMINAL_PIECE));
}

/// Writes to a file that may block, if there is room now: [`io::ErrorKind::WouldBlock`] says that there is none. One thread of this process at a time, since
/// each of log, console and serial port may lead to the same pipe, and what one of them saw the other could fill.
///
/// # Errors
/// What write(2) says.
pub fn write_if_room(to: &mut (impl Write + AsFd), bytes: &[u8]) -> io::Result<usize> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = lock(&TURN);
    if !sys::has_room(to) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    to.write(bytes)
}

/// Writes as much as there is room for, in pieces if they are asked for: how much, and why not more.
fn push(to: &mut (impl Write + AsFd), bytes: &[u8], piece: Option<usize>) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        let written = match piece {
            Some(piece) => write_if_room(to, &bytes[done..bytes.len().min(done + piece)]),
            None => to.write(&bytes[done..]),
        };
        match written {
            Ok(0) => return (done, Some(io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_pipe_that_is_full_gets_whole_lines_all_the_same() {
        let (reader, writer) = std::io::pipe().unwrap();
        crate::sys::set_nonblocking(&reader).unwrap();
        crate::sys::set_nonblocking(&writer).unwrap();
        gets_whole_lines(reader, LineWriter::new(OwnedFd::from(writer).into()));
    }

    #[test]
    fn a_pipe_that_would_block_does_too() {
        let (reader, writer) = std::io::pipe().unwrap();
        crate::sys::set_nonblocking(&reader).unwrap();
        gets_whole_lines(reader, LineWriter::shared(OwnedFd::from(writer).into()).unwrap());
    }

    fn gets_whole_lines(reader: std::io::PipeReader, mut lines: LineWriter) {
        let mut reader = File::from(OwnedFd::from(reader));
        let line = |number: u32| format!("{number} {}\n", "x".repeat(5000));
        let (mut expected, mut text, mut lost) = (String::new(), Vec::new(), 0);
        // A pipe has 64 KiB, and a line more than PIPE_BUF.
        for number in 0..100 {
            match lines.write(line(number).as_bytes()) {
                Ok(()) => expected += &line(number),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    lost += 1;
                }
            }
            if number % 20 == 19 {
                let mut some = vec![0; 60_000];
                let count = reader.read(&mut some).unwrap();
                text.extend_from_slice(&some[..count]);
            }
        }
        assert!(lost > 0);
        // The last one may have been begun only: the next brings its end.
        let _ = reader.read_to_end(&mut text);
        lines.write(b"end\n").unwrap();
        let _ = reader.read_to_end(&mut text);
        assert_eq!(String::from_utf8(text).unwrap(), expected + "end\n");
    }
}
