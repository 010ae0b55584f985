//! Length-prefixed frames: a little-endian `u32` length, then as many bytes of JSON.
//!
//! JSON and not a binary codec, because the OCI runtime spec, the largest part of any frame, is JSON already and must
//! pass through whole, and because unknown fields from a newer peer must be skipped, not misread.

use serde::{Serialize, de::DeserializeOwned};

/// Upper bound of a control frame's body in bytes. An OCI runtime spec is some 10 to 30 KiB.
pub const MAX_FRAME: usize = 1 << 20;
/// Upper bound of the body of [`crate::Ready`], [`crate::Welcome`], and stream headers in bytes.
pub const MAX_HEADER: usize = 4 << 10;
/// Bytes of the length prefix.
pub const PREFIX: usize = 4;

/// Why bytes are not a frame. All of these end the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix is over the bound.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the prefix said.
        length: usize,
        /// The bound that applies on this connection.
        limit: usize,
    },
    /// The body is not the JSON that was expected.
    #[error("a frame is not valid: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Encodes one message as a frame.
///
/// # Errors
/// When it is longer than `limit`, or when the value can't be written as JSON.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; PREFIX];
    serde_json::to_writer(&mut out, message)?;
    let length = out.len() - PREFIX;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    // `limit` is far below 4 GiB everywhere, so the cast is exact.
    out[..PREFIX].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(out)
}

/// The length of the body behind a prefix.
///
/// # Errors
/// When it is over `limit`.
pub fn body_length(prefix: [u8; PREFIX], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > limit { Err(FrameError::TooLong { length, limit }) } else { Ok(length) }
}

/// Decodes a body.
///
/// # Errors
/// When it is not the JSON of a `T`.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(body)?)
}
