//! How an HTTP connection becomes streams: WebSocket (RFC 6455) or SPDY/3.1, with the first of the client's protocols that is known here.

use crate::status::{ApiError, Reason};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use ring::digest;

/// What names protocols of SPDY streams.
const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";
/// What a key is hashed with (RFC 6455, 1.3).
const WEBSOCKET_ID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the connection becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    Spdy,
}

/// What was agreed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) transport: Transport,
    pub(super) protocol: &'static str,
    /// For the answer.
    accept: String,
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Agrees with a client that offers protocols, of which these are known on a WebSocket and on SPDY.
pub(super) fn agree(
    headers: &HeaderMap,
    on_websocket: &'static [&'static str],
    on_spdy: &'static [&'static str],
) -> Result<Agreement, ApiError> {
    let wants = words(headers, CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let to = |name: &str| words(headers, UPGRADE).any(|word| word.eq_ignore_ascii_case(name));
    let (transport, known, header) = match wants {
        true if to("websocket") => (Transport::WebSocket, on_websocket, SEC_WEBSOCKET_PROTOCOL),
        true if to(SPDY) => (Transport::Spdy, on_spdy, SPDY_PROTOCOL),
        _ => {
            let message = "Upgrade request required: this is a stream, over a WebSocket or SPDY/3.1";
            return Err(ApiError::bad_request(message));
        }
    };
    let offered: Vec<&str> = words(headers, header).collect();
    let Some(protocol) = offered.iter().find_map(|offer| known.iter().find(|known| *known == offer)) else {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    };
    let mut accept = String::new();
    if transport == Transport::WebSocket {
        if words(headers, SEC_WEBSOCKET_VERSION).next() != Some("13") {
            return Err(ApiError::bad_request("only version 13 of the WebSocket protocol is spoken here"));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
        if key.len() != 24 {
            return Err(ApiError::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"));
        }
        // Proves nothing but that the server has read the key; RFC 6455 wants SHA-1.
        let hash =
            digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{WEBSOCKET_ID}").as_bytes());
        accept = STANDARD.encode(hash);
    }
    Ok(Agreement { transport, protocol, accept })
}

impl Agreement {
    /// The headers of the answer, 101.
    pub(super) fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol = HeaderValue::from_static(self.protocol);
        match self.transport {
            Transport::Spdy => {
                headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
                headers.insert(SPDY_PROTOCOL, protocol);
            }
            Transport::WebSocket => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
                if let Ok(accept) = HeaderValue::from_str(&self.accept) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const WEB: &[&str] = &["v5", "v4"];
    const OLD: &[&str] = &["v4"];

    #[test]
    fn the_first_known_protocol_is_agreed_on() {
        let web = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            // The example of RFC 6455, 1.3.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v9, v4,v5"),
        ]);
        let agreed = agree(&web, WEB, OLD).unwrap();
        assert_eq!((agreed.transport, agreed.protocol), (Transport::WebSocket, "v4"));
        assert_eq!(agreed.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5"),
            ("x-stream-protocol-version", "v4"),
        ]);
        let agreed = agree(&spdy, WEB, OLD).unwrap();
        assert_eq!((agreed.transport, agreed.protocol), (Transport::Spdy, "v4"));
    }

    #[test]
    fn others_are_told_what_there_is() {
        let code = |list: &[(&'static str, &'static str)]| agree(&headers(list), WEB, OLD).unwrap_err();
        assert_eq!(code(&[]).reason, Reason::BadRequest);
        let none = code(&[("connection", "upgrade"), ("upgrade", "spdy/3.1")]);
        assert_eq!(none.reason, Reason::Forbidden);
        assert!(none.message.ends_with("server accepts [v4]"));
        let web = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "v5")];
        assert!(code(&web).message.contains("version 13"));
    }
}
