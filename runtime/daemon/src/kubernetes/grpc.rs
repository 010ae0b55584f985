//! gRPC's health protocol (grpc.health.v1): one call over HTTP/2 in the clear (RFC 9113), as much of it as that takes. The header block is
//! written without a table, and none is read: what counts is the message.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest frame that a peer may send unasked (RFC 9113, 4.2).
const MAX_FRAME: usize = 16 << 10;
/// Frames that are read before one gives up.
const MAX_FRAMES: usize = 64;
/// Largest service name, which fits into one byte of length.
const MAX_SERVICE: usize = 100;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Asks a service, or all of them (an empty name).
///
/// # Errors
/// It does not serve, or says nothing of use.
pub async fn check(mut stream: impl AsyncRead + AsyncWrite + Unpin, service: &str) -> Result<(), String> {
    if service.len() > MAX_SERVICE {
        return Err(format!("a service's name has {MAX_SERVICE} bytes at most"));
    }
    let failed = |error: std::io::Error| format!("gRPC: {error}");
    stream.write_all(&call(service)).await.map_err(failed)?;
    let mut message = Vec::new();
    for _ in 0..MAX_FRAMES {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.map_err(failed)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > MAX_FRAME {
            return Err("gRPC: it does not speak HTTP/2".into());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.map_err(failed)?;
        let (kind, flags) = (head[3], head[4]);
        match kind {
            SETTINGS if flags & ACK == 0 => {
                stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.map_err(failed)?
            }
            DATA => message.extend_from_slice(payload(flags, &body)),
            RST_STREAM | GOAWAY => return Err("gRPC: it refuses the call".into()),
            _ => {}
        }
        if let Some(status) = status(&message) {
            return match status {
                1 => Ok(()),
                2 => Err("service unhealthy (responded with \"NOT_SERVING\")".into()),
                other => Err(format!("service unhealthy (responded with {other})")),
            };
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 || message.len() > MAX_FRAME {
            return Err("this server does not implement the grpc health protocol (grpc.health.v1.Health), or does not know the service".into());
        }
    }
    Err("gRPC: it never comes to an answer".into())
}

fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    // All of ours are short.
    let length = body.len() as u32;
    let mut out = length.to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    out.extend_from_slice(body);
    out
}

/// A DATA frame's bytes without its padding.
fn payload(flags: u8, body: &[u8]) -> &[u8] {
    if flags & PADDED == 0 {
        return body;
    }
    let Some((padding, rest)) = body.split_first() else { return body };
    &rest[..rest.len().saturating_sub((*padding).into())]
}

/// The whole call. Header fields by RFC 7541: 6.1 (indexed), 6.2.2 (literal without indexing).
fn call(service: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        // Shorter than 127, so one byte without Huffman's bit.
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], "/grpc.health.v1.Health/Check");
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    let mut message = vec![0; 5];
    if !service.is_empty() {
        message.extend_from_slice(&[0x0a, service.len() as u8]);
        message.extend_from_slice(service.as_bytes());
    }
    message[4] = (message.len() - 5) as u8;
    [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &block),
        &frame(DATA, END_STREAM, 1, &message),
    ]
    .concat()
}

/// The status of a `HealthCheckResponse` behind its gRPC prefix; none: it is not whole, compressed, or no such message.
fn status(bytes: &[u8]) -> Option<u64> {
    let (&[compressed, a, b, c, d], rest) = bytes.split_first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    let message = rest.get(..length)?;
    match message {
        _ if compressed != 0 => None,
        [] => Some(0),
        // Field 1, a varint; larger ones than a byte mean nothing here.
        [0x08, value, ..] if value & 0x80 == 0 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn answered(frames: Vec<u8>) -> Result<(), String> {
        let (here, mut there) = tokio::io::duplex(1 << 16);
        there.write_all(&frames).await.unwrap();
        let checking = tokio::spawn(async move { check(here, "db").await });
        // It may have enough before it acknowledges.
        let mut asked = vec![0; PREFACE.len()];
        there.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, PREFACE);
        there.shutdown().await.unwrap();
        checking.await.unwrap()
    }

    fn reply(status: u8) -> Vec<u8> {
        let data = [0, 0, 0, 0, 2, 8, status];
        [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, &[0x88]), frame(DATA, 0, 1, &data)]
            .concat()
    }

    #[tokio::test]
    async fn a_service_says_how_it_is() {
        assert_eq!(answered(reply(1)).await, Ok(()));
        assert!(answered(reply(2)).await.unwrap_err().contains("NOT_SERVING"));
        let trailers =
            [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])].concat();
        assert!(answered(trailers).await.unwrap_err().contains("does not implement"));
        assert!(answered(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await.is_err());
        assert!(answered(frame(GOAWAY, 0, 0, &[])).await.unwrap_err().contains("refuses"));
    }

    #[test]
    fn padding_is_left_out() {
        assert_eq!(payload(PADDED, &[2, 7, 8, 0, 0]), [7, 8]);
        assert_eq!(payload(PADDED, &[200, 7]), b"");
        assert_eq!(payload(PADDED, &[]), b"");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in any::<Vec<u8>>(), flags in any::<u8>()) {
            let _ = status(&bytes);
            prop_assert!(payload(flags, &bytes).len() <= bytes.len());
        }
    }
}
