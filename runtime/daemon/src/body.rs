//! Bodies of requests: as JSON, and as bytes on their way to a thread that blocks.

use crate::error::{ApiError, Result};
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use std::io::Read;
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
