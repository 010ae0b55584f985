//! Frames on an asynchronous connection.

use agent_protocol::frame::{self, PREFIX};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame's body of at most `limit` bytes; none when the connection ends before it.
///
/// Memory grows with what has arrived, not with what a prefix promises.
///
/// # Errors
/// When the connection breaks or ends within the frame, or the frame is too long.
pub async fn body<R: AsyncRead + Unpin>(read: &mut R, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0; PREFIX];
    if read.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    read.read_exact(&mut prefix[1..]).await?;
    let length = frame::body_length(prefix, limit).map_err(io::Error::other)?;
    let mut body = Vec::new();
    read.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(body))
}

/// Reads one message; the connection's end is an error.
///
/// # Errors
/// As [`body`], and when the body is not a `T`.
pub async fn read<R: AsyncRead + Unpin, T: DeserializeOwned>(read: &mut R, limit: usize) -> io::Result<T> {
    let body = body(read, limit).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    frame::decode(&body).map_err(io::Error::other)
}

/// Writes one message.
///
/// # Errors
/// When the connection breaks or the message is over the limit.
pub async fn write<W: AsyncWrite + Unpin, T: Serialize>(
    write: &mut W,
    message: &T,
    limit: usize,
) -> io::Result<()> {
    let frame = frame::encode(message, limit).map_err(io::Error::other)?;
    write.write_all(&frame).await
}
