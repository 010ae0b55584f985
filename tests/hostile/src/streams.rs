//! Streams of the Kubernetes API: frames of SPDY/3.1.

use vial_orchestrator::http::streams::spdy::{Decoder, Event, MAX_DATA};

/// A connection's bytes, coming in pieces as long as the first byte says.
pub fn spdy(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (mut decoder, mut buffer) = (Decoder::default(), bytes::BytesMut::new());
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(Event::Data { bytes, .. })) => assert!((1..=MAX_DATA).contains(&bytes.len())),
                Ok(Some(Event::Open { headers, .. })) => {
                    let length: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                    // What is no UTF-8 grows to three bytes for each.
                    assert!(length <= 3 * (16 << 10) && headers.len() <= 64);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.len() <= (16 << 10) + 8 + piece.len(), "what waits is bounded");
    }
}
