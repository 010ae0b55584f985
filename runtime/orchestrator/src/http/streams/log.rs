//! What a container wrote, as an HTTP body.

use crate::http::reply::{Body, Reply};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use std::convert::Infallible;
use tokio::sync::mpsc;

/// The answer with these bytes, `limit` at most.
pub(super) fn reply(bytes: mpsc::Receiver<Bytes>, limit: Option<u64>) -> Reply {
    let left = limit.unwrap_or(u64::MAX);
    let frames = stream::unfold((bytes, left), |(mut bytes, left)| async move {
        if left == 0 {
            return None;
        }
        let mut piece = bytes.recv().await?;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        // No more than was left.
        let left = left - piece.len() as u64;
        Some((Ok::<_, Infallible>(Frame::data(piece)), (bytes, left)))
    });
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_than_the_limit_is_shown() {
        for (limit, expected) in [(None, "onetwo"), (Some(4), "onet"), (Some(3), "one"), (Some(9), "onetwo")]
        {
            let (sender, receiver) = mpsc::channel(4);
            for text in ["one", "two"] {
                sender.send(Bytes::from_static(text.as_bytes())).await.unwrap();
            }
            drop(sender);
            let body = reply(receiver, limit).into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
        }
    }
}
