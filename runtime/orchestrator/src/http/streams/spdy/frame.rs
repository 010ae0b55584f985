//! Frames of SPDY/3.1: bytes to what they say and back. Pure; bounded by what it is fed.

use super::headers::{EmptyBlocks, Headers, Inflater};
use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame's head.
const HEAD: usize = 8;
/// Longest control frame; they hold headers of a few words.
const MAX_CONTROL: usize = 16 << 10;
/// Bytes of data that are passed on at a time, however long a frame is.
pub const MAX_DATA: usize = 32 << 10;

const FLAG_FIN: u8 = 1;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream was given up (SPDY/3, 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Something is against the protocol.
    ProtocolError = 1,
    /// There are too many of them.
    RefusedStream = 3,
    /// Nobody wants it any more.
    Cancel = 5,
}

/// What ends a connection: behind these nothing can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A control frame of another version of SPDY.
    #[error("a frame of SPDY/{0}, and this is SPDY/3.1")]
    Version(u16),
    /// A control frame is longer than any that makes sense.
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    /// A control frame is too short for its kind.
    #[error("a control frame of kind {0} is cut off")]
    Short(u16),
    /// Headers that make no sense.
    #[error("headers are not understood: {0}")]
    Headers(&'static str),
}

/// What the other side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new stream (SYN_STREAM).
    Open {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// The other side sends nothing on it.
        fin: bool,
    },
    /// Bytes of a stream, never none, [`MAX_DATA`] at most.
    Data {
        /// Which.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// The other side sends nothing more on this stream.
    Fin {
        /// Which.
        stream: u32,
    },
    /// A stream is given up (RST_STREAM).
    Reset {
        /// Which.
        stream: u32,
    },
    /// To be sent back.
    Ping {
        /// Its number.
        id: u32,
    },
    /// No more streams will come.
    GoAway,
}

/// Makes events of bytes.
pub struct Decoder {
    inflater: Inflater,
    /// Data of a frame that is still to come.
    data: Option<DataFrame>,
}

#[derive(Clone, Copy)]
struct DataFrame {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflater: Inflater::new(), data: None }
    }
}

impl Decoder {
    /// The next event in `buffer`, which is taken out of it; none: more bytes are needed, at most 16 KiB.
    ///
    /// # Errors
    /// The bytes are no SPDY/3.1; nothing behind them will be.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        loop {
            if let Some(frame) = &mut self.data {
                if let Some(event) = frame.next(buffer) {
                    return Ok(Some(event));
                }
                if frame.left > 0 {
                    return Ok(None);
                }
                let (stream, fin) = (frame.stream, frame.fin);
                self.data = None;
                if fin {
                    return Ok(Some(Event::Fin { stream }));
                }
            }
            let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
            let fin = flags & FLAG_FIN != 0;
            if first >> 31 == 0 {
                buffer.advance(HEAD);
                self.data = Some(DataFrame { stream: first, left: length, fin });
                continue;
            }
            let (version, kind) = ((first >> 16 & 0x7fff) as u16, first as u16);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > MAX_CONTROL {
                return Err(FrameError::TooLong(length));
            }
            if buffer.len() < HEAD + length {
                return Ok(None);
            }
            buffer.advance(HEAD);
            let body = buffer.split_to(length);
            if let Some(event) = self.control(kind, fin, &body)? {
                return Ok(Some(event));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Result<Option<Event>, FrameError> {
        let short = FrameError::Short(kind);
        let number = || body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(short);
        let stream = || Ok(number()? & 0x7fff_ffff);
        Ok(match kind {
            SYN_STREAM => {
                // Number, associated stream, priority, slot.
                let headers = self.inflater.headers(body.get(10..).ok_or(short)?)?;
                Some(Event::Open { stream: stream()?, headers, fin })
            }
            SYN_REPLY | HEADERS => {
                // Says nothing to us, but what is compressed behind it needs it.
                self.inflater.headers(body.get(4..).ok_or(short)?)?;
                let stream = stream()?;
                fin.then_some(Event::Fin { stream })
            }
            RST_STREAM => Some(Event::Reset { stream: stream()? }),
            PING => Some(Event::Ping { id: number()? }),
            GOAWAY => Some(Event::GoAway),
            // SETTINGS and WINDOW_UPDATE: see the module's words about flow control. Others are skipped, as 2.2.1 wants it.
            _ => None,
        })
    }
}

impl DataFrame {
    fn next(&mut self, buffer: &mut BytesMut) -> Option<Event> {
        let length = self.left.min(buffer.len()).min(MAX_DATA);
        if length == 0 {
            return None;
        }
        self.left -= length;
        Some(Event::Data { stream: self.stream, bytes: buffer.split_to(length).freeze() })
    }
}

/// Makes frames.
#[derive(Default)]
pub(super) struct Encoder {
    blocks: EmptyBlocks,
}

impl Encoder {
    /// Accepts a stream.
    pub(super) fn reply(&mut self, stream: u32) -> Vec<u8> {
        let block = self.blocks.next();
        control(SYN_REPLY, &[&stream.to_be_bytes(), &block])
    }
}

/// The head of a data frame; `length` is at most [`MAX_DATA`].
pub(super) fn data(stream: u32, length: usize, fin: bool) -> [u8; HEAD] {
    let [a, b, c, d] = stream.to_be_bytes();
    let [_, e, f, g] = (length as u32).to_be_bytes();
    [a & 0x7f, b, c, d, u8::from(fin), e, f, g]
}

pub(super) fn reset(stream: u32, status: Status) -> Vec<u8> {
    control(RST_STREAM, &[&stream.to_be_bytes(), &(status as u32).to_be_bytes()])
}

pub(super) fn ping(id: u32) -> Vec<u8> {
    control(PING, &[&id.to_be_bytes()])
}

/// The connection ends in order; `last` is the newest stream that was looked at.
pub(super) fn go_away(last: u32) -> Vec<u8> {
    control(GOAWAY, &[&last.to_be_bytes(), &[0; 4]])
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    // Some twenty bytes.
    let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
    let mut frame = Vec::with_capacity(HEAD + length as usize);
    frame.extend((0x8000 | VERSION).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend(length.to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::headers::tests::Deflater;
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn open(client: &mut Deflater, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let block = client.block(headers);
        control(SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], &block])
    }

    pub(in super::super) fn events(bytes: &[u8], cut: usize) -> (Vec<Event>, Option<FrameError>) {
        let (mut decoder, mut buffer, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
        for part in bytes.chunks(cut) {
            buffer.extend_from_slice(part);
            loop {
                match decoder.next(&mut buffer) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => return (events, Some(error)),
                }
            }
        }
        (events, None)
    }

    fn session() -> Vec<u8> {
        let mut client = Deflater::new();
        let mut bytes = open(&mut client, 1, &[("streamType", "error")]);
        bytes.extend(open(&mut client, 3, &[("streamType", "stdin")]));
        bytes.extend(control(9, &[&3u32.to_be_bytes(), &[0, 0, 1, 0]]));
        bytes.extend(data(3, 5, true));
        bytes.extend(b"hello");
        bytes.extend(data(1, 0, true));
        bytes.extend([ping(7), reset(1, Status::Cancel), go_away(0)].concat());
        bytes
    }

    #[test]
    fn a_session_is_understood() {
        let headers = |kind: &str| Headers::from([("streamtype".to_owned(), kind.to_owned())]);
        let expected = vec![
            Event::Open { stream: 1, headers: headers("error"), fin: false },
            Event::Open { stream: 3, headers: headers("stdin"), fin: false },
            Event::Data { stream: 3, bytes: Bytes::from_static(b"hello") },
            Event::Fin { stream: 3 },
            Event::Fin { stream: 1 },
            Event::Ping { id: 7 },
            Event::Reset { stream: 1 },
            Event::GoAway,
        ];
        assert_eq!(events(&session(), usize::MAX), (expected, None));
    }

    #[test]
    fn what_is_no_spdy_3_ends_it() {
        assert_eq!(events(&[0x80, 2, 0, 1, 0, 0, 0, 0], 8).1, Some(FrameError::Version(2)));
        assert_eq!(events(&[0x80, 3, 0, 1, 0, 1, 0, 0], 8).1, Some(FrameError::TooLong(65536)));
        assert_eq!(events(&[0x80, 3, 0, 3, 0, 0, 0, 0], 8).1, Some(FrameError::Short(3)));
        assert_eq!(events(b"GET / HTTP/1.1\r\n", 99).1, None, "data of a stream that is not there");
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..12, cut in 1usize..9) {
            events(&bytes, cut);
            let control = [&[0x80, 3, 0, kind, 0, 0, 0, bytes.len().min(255) as u8], &bytes[..]].concat();
            events(&control, cut);
        }

        /// However bytes come, they say the same.
        #[test]
        fn cuts_do_not_matter(cut in 1usize..40, at in 0usize..200, to in any::<u8>()) {
            let mut bytes = session();
            let length = bytes.len();
            bytes[at % length] = to;
            let join = |(events, error): (Vec<Event>, Option<FrameError>)| {
                let mut joined: Vec<Event> = Vec::new();
                for event in events {
                    match (joined.last_mut(), event) {
                        (Some(Event::Data { stream, bytes }), Event::Data { stream: next, bytes: more }) if *stream == next => {
                            *bytes = Bytes::from([&bytes[..], &more].concat());
                        }
                        (_, event) => joined.push(event),
                    }
                }
                (joined, error)
            };
            prop_assert_eq!(join(events(&bytes, cut)), join(events(&bytes, usize::MAX)));
        }
    }
}
