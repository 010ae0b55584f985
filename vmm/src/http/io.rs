//! A Unix stream as hyper wants it. Readiness comes from the server's epoll set, which polls a connection whenever its stream
//! changes: so what would block is simply pending.

use crate::sys::has_room;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::Cell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Bytes that are read at a time.
const PIECE: usize = 4096;

/// What stands before the last digit of a request line's version, and nowhere else in one: targets have no spaces.
const VERSION: &[u8] = b" HTTP/1.";

/// Where in a request line of an HTTP/1.0 client reading is. Firecracker answers these as others and leaves the connection open, and
/// firecracker-rs-sdk counts on that; hyper would close it. So hyper is told that they speak HTTP/1.1, whose answers they understand.
#[derive(Debug)]
pub(super) struct RequestLine {
    // How much of VERSION came last; none beyond the line.
    matched: Cell<Option<usize>>,
    old: Cell<bool>,
}

impl Default for RequestLine {
    fn default() -> Self {
        Self { matched: Cell::new(Some(0)), old: Cell::new(false) }
    }
}

impl RequestLine {
    /// The next byte belongs to a new request, if the last one was of an HTTP/1.0 client. Others may have sent part of it already.
    pub fn next(&self) {
        if self.old.get() {
            self.matched.set(Some(0));
        }
    }

    fn read(&self, bytes: &mut [u8]) {
        let Some(mut matched) = self.matched.get() else { return };
        for byte in bytes {
            if matched == VERSION.len() {
                if *byte == b'0' {
                    *byte = b'1';
                    self.old.set(true);
                }
                return self.matched.set(None);
            }
            matched = if *byte == VERSION[matched] { matched + 1 } else { usize::from(*byte == VERSION[0]) };
            if *byte == b'\n' {
                return self.matched.set(None);
            }
        }
        self.matched.set(Some(matched));
    }
}

/// What is said to a client that does not speak HTTP, or whose head is too long: with Firecracker's words for the reason, and its body.
const REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nserver: Firecracker API\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 82\r\n\r\n\
{ \"error\": \"Invalid request.\\nAll previous unanswered requests will be dropped.\" }";

/// Whether these bytes are what hyper says to such a client: a 4xx without a body, where each of ours has one. It makes it itself, with
/// no way to change it, when nothing else waits to be written: an answer before it went out before the head was read.
fn is_refusal(bytes: &[u8]) -> bool {
    let empty = b"content-length: 0\r\n";
    bytes.starts_with(b"HTTP/1.1 4")
        && bytes.ends_with(b"\r\n\r\n")
        && bytes.windows(empty.len()).any(|window| window == empty)
}

/// A stream that does not wait.
pub(super) struct Stream {
    pub socket: UnixStream,
    pub line: Rc<RequestLine>,
    /// Set for the last bytes, for which nobody comes back.
    pub ending: Rc<Cell<bool>>,
    /// What has not gone out of [`REFUSAL`], if it has begun to.
    pub refusal: &'static [u8],
}

fn ready<T>(result: io::Result<T>, context: &Context<'_>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        result => Poll::Ready(result),
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = [0; PIECE];
        let room = cursor.remaining().min(PIECE);
        ready((&self.socket).read(&mut piece[..room]), context).map_ok(|length| {
            self.line.read(&mut piece[..length]);
            cursor.put_slice(&piece[..length]);
        })
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A socket says that it has room while a quarter of its buffer is in use at most, and each small write takes a kilobyte of it. So
        // what a slow client is to get gathers here, becomes few large writes, and the rest of the buffer is kept for the end.
        if !self.ending.get() && !has_room(&self.socket) {
            return Poll::Pending;
        }
        if !is_refusal(bytes) {
            return ready((&self.socket).write(bytes), context);
        }
        // Until all of it is out hyper offers the same bytes again.
        if self.refusal.is_empty() {
            self.refusal = REFUSAL;
        }
        while !self.refusal.is_empty() {
            match ready((&self.socket).write(self.refusal), context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.refusal = &self.refusal[written..],
                other => return other,
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever is gone already needs no telling.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn read(pieces: &[&str]) -> (String, bool) {
        let line = RequestLine::default();
        let mut all = Vec::new();
        for piece in pieces {
            let mut bytes = piece.as_bytes().to_vec();
            line.read(&mut bytes);
            all.extend(bytes);
        }
        (String::from_utf8(all).unwrap(), line.old.get())
    }

    proptest! {
        // Whatever comes, and in whatever pieces: at most one byte is another, and that is the last digit of HTTP/1.0.
        #[test]
        fn pieces_make_no_difference_and_nothing_but_the_version_is_touched(
            parts in vec("(GET /x?| HTTP/1\\.[01]|\r?\n| HTTP| HTTP/1\\.0|[\\x00-\\x7f]{0,4})", 0..8),
            cuts in vec(any::<Index>(), 0..6),
        ) {
            let whole = parts.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([whole.len()]);
            let mut from = 0;
            let pieces: Vec<&str> = ends.map(|end| &whole[std::mem::replace(&mut from, end)..end]).collect();
            let told = read(&pieces);
            prop_assert_eq!(&told, &read(&[&whole]));
            let other: Vec<usize> = (0..whole.len()).filter(|&at| told.0.as_bytes()[at] != whole.as_bytes()[at]).collect();
            prop_assert_eq!(other.len(), usize::from(told.1));
            for at in other {
                prop_assert!(whole[..=at].ends_with(" HTTP/1.0") && !whole[..at].contains('\n'));
                prop_assert_eq!(told.0.as_bytes()[at], b'1');
            }
        }
    }

    #[test]
    fn a_refusal_is_said_once_and_whole_however_little_goes_out_at_a_time() {
        assert!(is_refusal(b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n"));
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"[..],
            b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0",
        ] {
            assert!(!is_refusal(other));
        }
        let head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let (server, mut client) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        // The last bytes are not held back; so a full socket takes some of them now and some later.
        let ending = Rc::new(Cell::new(true));
        let mut stream = Stream { socket: server, line: Rc::default(), ending, refusal: &[] };
        let mut filled = 0;
        for size in [4096, 1] {
            while let Ok(written) = (&stream.socket).write(&vec![b'-'; size]) {
                filled += written;
            }
        }
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut write = |stream: &mut Stream| Pin::new(stream).poll_write(&mut context, head);
        assert!(write(&mut stream).is_pending());
        client.read_exact(&mut vec![0; filled]).unwrap();
        client.set_nonblocking(true).unwrap();
        // Part of it went out already.
        stream.refusal = &REFUSAL[9..];
        assert!(matches!(write(&mut stream), Poll::Ready(Ok(all)) if all == head.len()));
        let mut said = vec![0; REFUSAL.len()];
        assert_eq!(client.read(&mut said).unwrap(), REFUSAL.len() - 9);
        assert!(said.starts_with(&REFUSAL[9..]));
        assert!(matches!(write(&mut stream), Poll::Ready(Ok(_))));
        assert_eq!(client.read(&mut said).unwrap(), REFUSAL.len());
        assert_eq!(said, REFUSAL);
    }

    #[test]
    fn only_the_version_of_a_request_line_is_read_differently() {
        let old = "PUT /mmds HTTP/1.0\r\nContent-Length: 13\r\n\r\n\" HTTP/1.0\r\n\"";
        let new = old.replacen("1.0", "1.1", 1);
        assert_eq!(read(&[old]), (new.clone(), true));
        for at in 1..old.len() {
            let (first, second) = old.split_at(at);
            assert_eq!(read(&[first, second]), (new.clone(), true));
        }
        assert_eq!(read(&[&new]), (new.clone(), false));
        let strange = "GET /HTTP/1.0\r\nA: b HTTP/1.0\r\n\r\n";
        assert_eq!(read(&[strange]), (strange.to_owned(), false));
    }
}
