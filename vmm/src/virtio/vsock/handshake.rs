//! What a host program says before its connection is one: `CONNECT <port>\n`, as with Firecracker.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;

/// `CONNECT 4294967295\n` is 19 bytes long.
const MAX_LINE: usize = 19;

/// A host program that has not said which port it wants.
pub struct Handshake {
    stream: UnixStream,
    line: Vec<u8>,
}

/// How a handshake goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Waiting,
    /// The guest's port.
    Connect(u32),
    /// Nonsense, or the end.
    Failed,
}

impl Handshake {
    /// `stream` must not block.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::new() }
    }

    /// The socket, once the handshake is done.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Reads on. Not a byte more than the line: what follows it is the guest's.
    pub fn advance(&mut self) -> Progress {
        loop {
            let mut byte = [0];
            match (&self.stream).read(&mut byte) {
                Ok(1) if byte == *b"\n" => {
                    return parse(&self.line).map_or(Progress::Failed, Progress::Connect);
                }
                Ok(1) if self.line.len() < MAX_LINE => self.line.extend(byte),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(io::Error { .. }) => return Progress::Failed,
            }
        }
    }
}

/// The port that a line without its end asks for.
pub fn parse(line: &[u8]) -> Option<u32> {
    let (word, port) = std::str::from_utf8(line).ok()?.trim_end_matches('\r').split_once(' ')?;
    // Firecracker takes the word in any case.
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if word.eq_ignore_ascii_case("connect") && digits { port.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_understood_or_refused() {
        assert_eq!(parse(b"CONNECT 1024"), Some(1024));
        assert_eq!(parse(b"connect 4294967295"), Some(u32::MAX));
        for bad in [
            "",
            "CONNECT",
            "CONNECT ",
            "CONNECT +1",
            "CONNECT -1",
            "CONNECT 4294967296",
            "GET / HTTP/1.1",
            "CONNECT 1 2",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(&[0xff; 19]), None);
    }

    #[test]
    fn nothing_after_the_line_is_taken() {
        let (mut host, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut handshake = Handshake::new(ours);
        assert_eq!(handshake.advance(), Progress::Waiting);
        host.write_all(b"CONNECT").unwrap();
        assert_eq!(handshake.advance(), Progress::Waiting);
        host.write_all(b" 52\nhello").unwrap();
        assert_eq!(handshake.advance(), Progress::Connect(52));
        let mut rest = [0; 5];
        handshake.into_stream().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut host, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        host.write_all(&[b'C'; 4096]).unwrap();
        assert_eq!(Handshake::new(ours).advance(), Progress::Failed);
    }

    #[test]
    fn an_early_end_is_refused() {
        let (host, ours) = UnixStream::pair().unwrap();
        drop(host);
        assert_eq!(Handshake::new(ours).advance(), Progress::Failed);
    }
}
