//! Bodies of answers: a document as a whole, or events as they come.

use crate::feed::{Next, Reader};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes of events at a time: what is under way to one client at most, besides his socket's buffer.
const PIECE: usize = 4096;

/// What follows the head of an answer.
pub(super) enum Content {
    /// All of it.
    Whole(Full<Bytes>),
    /// JSON lines, until the VM ends or the client goes.
    Events(Reader),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            // The server polls all connections when there are news, so nobody has to be woken here.
            Self::Events(reader) => match reader.next(PIECE) {
                Next::Lines(lines) => Poll::Ready(Some(Ok(Frame::data(lines.into())))),
                Next::Nothing => Poll::Pending,
                Next::End => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
