//! A Unix stream as hyper wants it. Readiness comes from the server's epoll set, which polls a connection whenever its stream
//! changes: so what would block is simply pending.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes that are read at a time.
const PIECE: usize = 4096;

/// A stream that does not wait.
pub(super) struct Stream(pub UnixStream);

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
        ready((&self.0).read(&mut piece[..room]), context).map_ok(|length| cursor.put_slice(&piece[..length]))
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready((&self.0).write(bytes), context)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever is gone already needs no telling.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
