//! Bodies of requests: as JSON, and as bytes on their way to a thread that blocks.

use crate::error::{ApiError, Result};
use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::Request;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use vial_api::ErrorKind;

/// A body of JSON.
///
/// # Errors
/// When it is none, or not what is wanted here.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(ErrorKind::InvalidArgument, format!("the request's body makes no sense: {error}"))
    })
}

/// Has a request's body read to its end whatever becomes of the request. A refusal may come before the body is read; a connection
/// that were closed with bytes unread would break under the client, which is still writing and would never see the refusal
/// (RFC 9112, 9.6).
pub fn read_to_the_end(request: Request) -> Request {
    request.map(|body| match body.is_end_stream() {
        true => body,
        false => Body::from_stream(ToTheEnd(Some(body.into_data_stream()))),
    })
}

/// A body whose unread rest is read by a task of its own, once nobody else wants it.
struct ToTheEnd(Option<BodyDataStream>);

impl Stream for ToTheEnd {
    type Item = std::result::Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        let polled = stream.poll_next_unpin(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.0 = None;
        }
        polled
    }
}

impl Drop for ToTheEnd {
    fn drop(&mut self) {
        // Without a runtime the daemon is ending, and its connections with it.
        if let (Some(mut rest), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { while let Some(Ok(_)) = rest.next().await {} });
        }
    }
}

/// A request's body for a thread that blocks.
pub fn reader(body: Body) -> BodyReader {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut stream: BodyDataStream = body.into_data_stream();
        while let Some(part) = stream.next().await {
            if part.as_ref().is_ok_and(Bytes::is_empty) {
                continue;
            }
            let part = part.map_err(|error| std::io::Error::other(format!("the upload broke off: {error}")));
            let broken = part.is_err();
            if sender.send(part).await.is_err() || broken {
                return;
            }
        }
        // An end that is said, because a channel that just closes may be a runtime that shuts down.
        let _ = sender.send(Ok(Bytes::new())).await;
    });
    BodyReader::new(receiver, "the upload")
}

/// Bytes that arrive piece by piece, an empty piece being the end. A channel that just closes is an error.
#[derive(Debug)]
pub struct BodyReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
    ended: bool,
    what: &'static str,
}

impl BodyReader {
    /// Reads what comes here. `what`: for errors.
    pub fn new(receiver: mpsc::Receiver<std::io::Result<Bytes>>, what: &'static str) -> Self {
        Self { receiver, current: Bytes::new(), ended: false, what }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(part) => {
                    self.current = part?;
                    self.ended = self.current.is_empty();
                }
                None => return Err(std::io::Error::other(format!("{} broke off", self.what))),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use axum::{Router, routing::post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A client that writes all before it reads, more than any buffer on the way holds, sees the refusal of a body that nobody read.
    #[tokio::test]
    async fn a_refusal_reaches_a_client_that_is_still_writing() {
        const SIZE: usize = 16 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let router = Router::new()
            .route("/", post(async |_body: Body| StatusCode::IM_A_TEAPOT))
            .layer(axum::middleware::map_request(async |request| read_to_the_end(request)));
        tokio::spawn(std::future::IntoFuture::into_future(axum::serve(listener, router)));
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let head =
            format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![0; SIZE]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    }
}
