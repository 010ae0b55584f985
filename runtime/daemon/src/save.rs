//! `POST /v1/save`: images as one archive, made while it is sent. Nothing of it is held or written here but a few pieces on their way.

use crate::body::json;
use crate::error::{ApiError, Result};
use crate::images::or_missing;
use crate::state::Shared;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use std::io::{self, Write};
use tokio::sync::mpsc;
use vial_api::{ErrorKind, SaveImages};
use vial_image::Error;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a slow client.
const AHEAD: usize = 4;

/// Answers with an archive. What is wrong with an image's files is told before, as far as it can be known without reading all of them; after
/// that an answer that is shorter than its head says is all that is left to say.
pub async fn save(State(daemon): State<Shared>, body: Bytes) -> Result<Response> {
    let SaveImages { images } = json(&body)?;
    if images.is_empty() {
        return Err(ApiError::new(ErrorKind::InvalidArgument, "name at least one image to save"));
    }
    let store = daemon.images.clone();
    let save = tokio::task::spawn_blocking(move || {
        store.save(&images).map_err(|error| match error {
            Error::NotFound(ref wanted) => or_missing(&store, &wanted.clone(), error),
            other => other.into(),
        })
    })
    .await??;
    let length = HeaderValue::from(save.length());
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender: sender.clone(), piece: BytesMut::with_capacity(PIECE) };
        match save.write(&mut pieces) {
            Err(error) if !sender.is_closed() => {
                tracing::error!(%error, "an archive of images is cut off");
                let _ = sender.blocking_send(Err(io::Error::other("the archive can't be finished")));
            }
            // Or a client that is gone, which is its right.
            _ => {}
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    // So that the client knows an end from a daemon that is gone.
    headers.insert(CONTENT_LENGTH, length);
    Ok(response)
}

/// Bytes on their way from a thread that blocks.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.flush()?;
            self.piece.reserve(PIECE);
        }
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
