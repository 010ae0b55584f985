//! Frames on an upgraded connection: one byte of kind, a little-endian `u32` length, then as many bytes.
//!
//! Client → daemon: [`Kind::Stdin`], an empty one being the end of standard input; [`Kind::Resize`] where there is a terminal.
//! Daemon → client: [`Kind::Stdout`], [`Kind::Stderr`], and one [`Kind::Exit`] or [`Kind::Error`] as the last frame. A
//! connection that ends without either was cut (the daemon is gone): the client can attach again at the offsets that it has
//! counted, and nothing is lost or doubled.

use serde::{Deserialize, Serialize};

/// Upper bound of a frame's payload in bytes; a longer one ends the connection.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// Bytes of standard input that a client may have sent and not heard to be taken ([`Kind::StdinTaken`]); beyond that and one payload it
/// is cut off. Twice what the daemon has on its way into the guest, for it hears what was taken only while it has more to write: less
/// here, and both would wait.
pub const INPUT_WINDOW: usize = 8 << 20;
/// Bytes in front of a payload.
pub const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bytes for standard input; none: its end.
    Stdin = 0,
    /// Bytes of standard output.
    Stdout = 1,
    /// Bytes of standard error.
    Stderr = 2,
    /// JSON of [`crate::Exit`]: the process is over. Last frame.
    Exit = 3,
    /// JSON of [`crate::ErrorBody`]: it could not be run. Last frame.
    Error = 4,
    /// JSON of a list of [`crate::TimingStep`], before the last frame.
    Timing = 5,
    /// A little-endian `u64`: all bytes of standard input before this offset are with the container.
    StdinTaken = 6,
    /// JSON of [`Gap`]: output that the host could not keep.
    Gap = 7,
    /// Empty: the container's command runs now.
    Started = 8,
    /// [`crate::TerminalSize::to_bytes`]: the client's terminal has this size now.
    Resize = 9,
    /// Two little-endian `u64`s: the offsets in standard output and error at which what follows begins.
    Position = 10,
}

/// Output that was lost because the host could not store it (no space) or no longer has it (rotated away).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whether it was standard error.
    pub stderr: bool,
    /// How many bytes are missing here.
    pub bytes: u64,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// No such kind.
    UnknownKind(u8),
    /// Longer than [`MAX_PAYLOAD`].
    TooLong(u32),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "a frame of unknown kind {kind}"),
            Self::TooLong(length) => {
                write!(f, "a frame of {length} bytes is over the limit of {MAX_PAYLOAD}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl TryFrom<u8> for Kind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Exit,
            4 => Self::Error,
            5 => Self::Timing,
            6 => Self::StdinTaken,
            7 => Self::Gap,
            8 => Self::Started,
            9 => Self::Resize,
            10 => Self::Position,
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

/// The bytes in front of a payload of this length.
///
/// # Errors
/// When it is longer than [`MAX_PAYLOAD`].
pub fn header(kind: Kind, length: usize) -> Result<[u8; HEADER], FrameError> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    if length as usize > MAX_PAYLOAD {
        return Err(FrameError::TooLong(length));
    }
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind as u8, a, b, c, d])
}

/// What a header announces: the kind and the payload's length, which is within bounds.
///
/// # Errors
/// When it is not a frame's header.
pub fn parse_header(bytes: [u8; HEADER]) -> Result<(Kind, usize), FrameError> {
    let kind = Kind::try_from(bytes[0])?;
    let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    if length as usize > MAX_PAYLOAD { Err(FrameError::TooLong(length)) } else { Ok((kind, length as usize)) }
}

/// A whole frame with a JSON payload.
///
/// # Errors
/// When the value can't be written as JSON or is too long.
pub fn json<T: Serialize>(
    kind: Kind,
    value: &T,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let payload = serde_json::to_vec(value)?;
    let mut out = header(kind, payload.len())?.to_vec();
    out.extend_from_slice(&payload);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(kind in 0u8..11, length in 0usize..=MAX_PAYLOAD) {
            let kind = Kind::try_from(kind).unwrap();
            prop_assert_eq!(parse_header(header(kind, length).unwrap()), Ok((kind, length)));
        }

        #[test]
        fn hostile_headers_are_refused_or_bounded(bytes in any::<[u8; HEADER]>()) {
            if let Ok((_, length)) = parse_header(bytes) {
                prop_assert!(length <= MAX_PAYLOAD);
            }
        }
    }

    #[test]
    fn sizes_travel_in_four_bytes() {
        let size = crate::TerminalSize { cols: 300, rows: 24 };
        assert_eq!(crate::TerminalSize::from_bytes(&size.to_bytes()), Some(size));
        assert_eq!(crate::TerminalSize::from_bytes(&[1, 2, 3]), None);
    }

    #[test]
    fn an_oversized_payload_has_no_header() {
        assert_eq!(header(Kind::Stdin, MAX_PAYLOAD + 1), Err(FrameError::TooLong(MAX_PAYLOAD as u32 + 1)));
    }
}
