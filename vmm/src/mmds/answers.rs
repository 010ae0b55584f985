//! What the guest asks and is answered: HTTP as EC2's service speaks it, as pure functions.

use super::token::{MAX_TTL, Tokens};
use super::{Store, StoreError};
use crate::api::config::MmdsVersion;
use std::time::Instant;

/// Bytes of a request at most, its head and body together.
pub const MAX_REQUEST: usize = 4096;
const MAX_HEADERS: usize = 32;

/// What an answer is made from.
pub struct Context<'a> {
    /// The document.
    pub store: &'a Store,
    /// Valid tokens.
    pub tokens: &'a mut Tokens,
    /// Whether tokens are needed.
    pub version: MmdsVersion,
    /// Whether answers are plain text whatever is accepted.
    pub imds_compat: bool,
    /// The time.
    pub now: Instant,
    /// Becomes a token if one is asked for.
    pub secret: [u8; 32],
}

/// Answers what has come so far; `None` while more has to come. Every answer ends its connection.
pub fn answer(bytes: &[u8], context: &mut Context<'_>) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let answer = match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => reply(&request, context),
        Ok(httparse::Status::Partial) if bytes.len() < MAX_REQUEST => return None,
        Ok(httparse::Status::Partial) => plain(400, "The request is too long."),
        Err(error) => plain(400, &format!("Invalid request: {error}.")),
    };
    Some(answer.into_bytes())
}

fn header<'a>(request: &httparse::Request<'_, 'a>, names: &[&str]) -> Option<&'a str> {
    let found =
        request.headers.iter().find(|header| names.iter().any(|name| header.name.eq_ignore_ascii_case(name)));
    found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
}

fn reply(request: &httparse::Request<'_, '_>, context: &mut Context<'_>) -> String {
    let path = request.path.unwrap_or("/");
    // A proxy may ask for its own address or for the whole of it (RFC 9112, 3.2.2).
    let path = path.strip_prefix("http://").map_or(path, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let path = path.split('?').next().unwrap_or_default();
    match request.method {
        Some("GET") => get(request, path, context),
        Some("PUT") => put(request, path, context),
        _ => text(405, "text/plain", "Allow: GET, PUT\r\n", "Not allowed HTTP method."),
    }
}

fn get(request: &httparse::Request<'_, '_>, path: &str, context: &Context<'_>) -> String {
    let token = header(request, &["x-metadata-token", "x-aws-ec2-metadata-token"]);
    match (context.version, token) {
        (MmdsVersion::V2, None) => {
            context.store.metrics().rx_no_token.add(1);
            return plain(
                401,
                "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.",
            );
        }
        (MmdsVersion::V2, Some(token)) if !context.tokens.knows(token, context.now) => {
            context.store.metrics().rx_invalid_token.add(1);
            return plain(401, "MMDS token not valid.");
        }
        _ => {}
    }
    let json = !context.imds_compat
        && header(request, &["accept"]).is_some_and(|kinds| {
            kinds
                .split(',')
                .any(|kind| kind.split(';').next().unwrap_or_default().trim() == "application/json")
        });
    // As Firecracker, which takes several slashes for one.
    let mut path = path.to_owned();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    // The root is the document itself: a pointer to it is empty.
    let path = if path == "/" { "" } else { &path };
    let found = if json { context.store.json(path) } else { context.store.text(path) };
    match found {
        Ok(body) => text(200, if json { "application/json" } else { "text/plain" }, "", &body),
        Err(StoreError::NotFound) => {
            plain(404, &format!("Resource not found: {}.", if path.is_empty() { "/" } else { path }))
        }
        Err(error) => plain(501, &error.to_string()),
    }
}

fn put(request: &httparse::Request<'_, '_>, path: &str, context: &mut Context<'_>) -> String {
    // Whoever came through a proxy has not asked himself.
    if header(request, &["x-forwarded-for"]).is_some() {
        return plain(400, "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For");
    }
    if path != "/latest/api/token" {
        return plain(404, &format!("Resource not found: {path}."));
    }
    let names = ["x-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token-ttl-seconds"];
    let Some(ttl) = header(request, &names) else {
        return plain(
            400,
            "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to \
             specify the token's lifetime.",
        );
    };
    match ttl.parse() {
        Ok(ttl @ 1..=MAX_TTL) => {
            let token = context.tokens.add(context.secret, ttl, context.now);
            text(200, "text/plain", &format!("X-metadata-token-ttl-seconds: {ttl}\r\n"), &token)
        }
        _ => plain(
            400,
            &format!(
                "Invalid time to live value provided for token: {ttl:.20}. Please provide a value between 1 and {MAX_TTL}."
            ),
        ),
    }
}

fn plain(status: u16, body: &str) -> String {
    text(status, "text/plain", "", body)
}

fn text(status: u16, kind: &str, more: &str, body: &str) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Not Implemented",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nServer: MMDS\r\nConnection: close\r\nContent-Type: {kind}\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn ask(request: &str, version: MmdsVersion, imds_compat: bool, tokens: &mut Tokens) -> Option<String> {
        let mut store = Store::new(1000);
        store.put(json!({"latest": {"meta-data": {"id": "i-1", "tags": {}}, "number": 7}})).unwrap();
        let mut context =
            Context { store: &store, tokens, version, imds_compat, now: Instant::now(), secret: [7; 32] };
        answer(request.as_bytes(), &mut context).map(|answer| String::from_utf8(answer).unwrap())
    }

    fn first(request: &str) -> String {
        ask(request, MmdsVersion::V1, false, &mut Tokens::default()).unwrap()
    }

    #[test]
    fn paths_are_answered_as_text_or_json() {
        for (request, status, body) in [
            ("GET / HTTP/1.1\r\n\r\n", "200", "latest/"),
            ("GET /latest/meta-data HTTP/1.0\r\n\r\n", "200", "id\ntags/"),
            ("GET //latest///meta-data/id HTTP/1.0\r\n\r\n", "200", "i-1"),
            ("GET http://169.254.169.254/latest/meta-data/id HTTP/1.1\r\n\r\n", "200", "i-1"),
            ("GET /latest/number HTTP/1.1\r\nAccept: text/html, application/json;q=1\r\n\r\n", "200", "7"),
            (
                "GET /latest/number HTTP/1.1\r\n\r\n",
                "501",
                "Cannot retrieve value. The value has an unsupported type.",
            ),
            ("GET /none HTTP/1.1\r\n\r\n", "404", "Resource not found: /none."),
            ("POST / HTTP/1.1\r\n\r\n", "405", "Not allowed HTTP method."),
            ("\u{1}\r\n\r\n", "400", "Invalid request: invalid token."),
        ] {
            let answer = first(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(
                answer.ends_with(&format!("Content-Length: {}\r\n\r\n{body}", body.len())),
                "{request}: {answer}"
            );
        }
        let json = "GET /latest/number HTTP/1.1\r\nAccept: application/json\r\n\r\n";
        assert!(ask(json, MmdsVersion::V1, true, &mut Tokens::default()).unwrap().contains(" 501 "));
        assert_eq!(ask("GET / HT", MmdsVersion::V1, false, &mut Tokens::default()), None);
        assert!(first(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(MAX_REQUEST))).contains("too long"));
    }

    #[test]
    fn the_second_version_wants_a_token_that_a_put_gave_out() {
        let mut tokens = Tokens::default();
        let mut second = |request: &str| ask(request, MmdsVersion::V2, false, &mut tokens).unwrap();
        assert!(second("GET / HTTP/1.1\r\n\r\n").contains("401 Unauthorized"));
        assert!(second("GET / HTTP/1.1\r\nX-metadata-token: 07\r\n\r\n").contains("MMDS token not valid."));
        let put = |headers: &str| format!("PUT /latest/api/token HTTP/1.1\r\n{headers}\r\n");
        assert!(second(&put("")).contains("400 Bad"));
        assert!(second(&put("X-metadata-token-ttl-seconds: 21601\r\n")).contains("between 1 and 21600"));
        assert!(
            second(&put("X-Forwarded-For: a\r\nX-metadata-token-ttl-seconds: 60\r\n"))
                .contains("X-Forwarded-For")
        );
        let given = second(&put("x-aws-ec2-metadata-token-ttl-seconds: 60\r\n"));
        let token = given.rsplit("\r\n").next().unwrap();
        assert_eq!(token, "07".repeat(32));
        assert!(
            second(&format!("GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n"))
                .contains("200 OK")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let store = Store::new(10);
            let mut tokens = Tokens::default();
            let mut context = Context {
                store: &store, tokens: &mut tokens, version: MmdsVersion::V2, imds_compat: false,
                now: Instant::now(), secret: [0; 32],
            };
            let _ = answer(&bytes, &mut context);
        }
    }
}
