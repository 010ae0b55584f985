//! How chunks look on a stream connection: a little-endian `u32` length, then the bytes; length 0 is the end.

use agent_protocol::MAX_CHUNK;
use std::io;

/// Bytes of a chunk's length.
pub const PREFIX: usize = 4;
/// The end of a stream.
pub const END: [u8; PREFIX] = [0; PREFIX];

/// The prefix of a chunk of `length` bytes, at most [`MAX_CHUNK`].
pub fn prefix(length: usize) -> [u8; PREFIX] {
    debug_assert!(length <= MAX_CHUNK);
    (length as u32).to_le_bytes()
}

/// The length that a prefix says; 0 is the end.
///
/// # Errors
/// When it is over [`MAX_CHUNK`].
pub fn length(prefix: [u8; PREFIX]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_CHUNK {
        return Err(io::Error::other(format!("a chunk of {length} bytes is over the limit of {MAX_CHUNK}")));
    }
    Ok(length)
}
