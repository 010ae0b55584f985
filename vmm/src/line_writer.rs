//! Lines for a file or pipe that may have no room: whole ones, or none at all.

use std::fs::File;
use std::io::{self, Write};

/// Where lines go. It never waits, if the file does not block.
#[derive(Debug)]
pub struct LineWriter {
    file: File,
    // The end of a line that was begun when there was room for a part: a pipe takes more than PIPE_BUF bytes in pieces (pipe(7)), a
    // disk gets full in the middle.
    rest: Vec<u8>,
}

impl LineWriter {
    /// Nothing is written yet.
    pub fn new(file: File) -> Self {
        Self { file, rest: Vec::new() }
    }

    /// Writes a line, in one call if it can: lines of several processes in one file then stay whole. What there is no room for of a line
    /// that was begun is kept, and goes out before anything else does.
    ///
    /// # Errors
    /// Nothing of it was written, and nothing will be.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let (done, error) = push(&mut self.file, &self.rest);
        self.rest.drain(..done);
        if let Some(error) = error {
            return Err(error);
        }
        match push(&mut self.file, line) {
            (0, Some(error)) => Err(error),
            (done, _) => {
                self.rest.extend_from_slice(&line[done..]);
                Ok(())
            }
        }
    }
}

/// Writes as much as there is room for: how much, and why not more.
fn push(to: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
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
        for end in [&OwnedFd::from(reader.try_clone().unwrap()), &OwnedFd::from(writer.try_clone().unwrap())]
        {
            crate::sys::set_nonblocking(end).unwrap();
        }
        let (mut reader, mut lines) =
            (File::from(OwnedFd::from(reader)), LineWriter::new(OwnedFd::from(writer).into()));
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
