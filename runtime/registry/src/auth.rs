//! Credentials, and the tokens that are had for them.

use crate::endpoint::follow;
use crate::error::{Cause, clean, words};
use crate::limits;
use crate::transport::{self, Transport};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use serde::Deserialize;
use std::time::Duration;

/// What a user has for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password.
    Password {
        /// Name.
        username: String,
        /// Password, or a token in its place.
        password: String,
    },
    /// An OAuth 2 refresh token, which Docker calls an identity token.
    IdentityToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password of {username:?}"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

impl Credential {
    /// The header for Basic authentication, if there is a password.
    pub fn basic(&self) -> Option<HeaderValue> {
        let Self::Password { username, password } = self else { return None };
        secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What is wanted of a token server.
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// The request that was answered with the challenge.
    pub from: &'a Uri,
    /// The token server, as the challenge has it.
    pub realm: &'a str,
    /// What the token is for.
    pub service: Option<&'a str>,
    /// What it must allow, one or more.
    pub scopes: Vec<&'a str>,
    /// What the user has.
    pub credential: Option<&'a Credential>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// Asks for a token; returns the header that carries it.
///
/// # Errors
/// When the server can't be asked, says no, or speaks nonsense.
pub async fn token(
    transport: &Transport,
    wanted: TokenRequest<'_>,
    idle: Duration,
) -> Result<HeaderValue, Cause> {
    let failed = |why: String| Cause::Token { realm: clean(wanted.realm), why };
    // The same rule as for redirects: credentials for a registry behind TLS never travel in the clear.
    let realm = follow(wanted.from, wanted.realm).map_err(|cause| failed(cause.to_string()))?;
    let request = build(&realm, &wanted).ok_or_else(|| failed("no request can be made for it".into()))?;
    let answer = transport.send(request, idle, None).await.map_err(|cause| failed(cause.to_string()))?;
    let status = answer.status();
    let limit = if status.is_success() { limits::MAX_TOKEN_ANSWER } else { limits::MAX_ERROR_BODY };
    let body = transport::read(answer.into_body(), "token", limit, idle).await;
    if status == 401 || status == 403 {
        let said = words(&body.unwrap_or_default());
        return Err(Cause::Unauthorized { said, had_some: wanted.credential.is_some() });
    }
    let body = body.map_err(|cause| failed(cause.to_string()))?;
    if !status.is_success() {
        return Err(failed(format!("it answered {} {}", status.as_u16(), words(&body))));
    }
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|_| failed("its answer is no token".into()))?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| failed("its answer has no token".into()))?;
    secret(&format!("Bearer {token}"))
        .ok_or_else(|| failed("its token has characters that no token has".into()))
}

fn build(realm: &Uri, wanted: &TokenRequest<'_>) -> Option<Request<transport::Body>> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    pairs.extend(wanted.service.map(|service| ("service", service)));
    let agent = |request: hyper::http::request::Builder| {
        request.header(USER_AGENT, crate::session::AGENT).header(ACCEPT, "application/json")
    };
    if let Some(Credential::IdentityToken(refresh)) = wanted.credential {
        let scopes = wanted.scopes.join(" ");
        pairs.extend([
            ("grant_type", "refresh_token"),
            ("client_id", "vial"),
            ("refresh_token", refresh),
            ("scope", &scopes),
        ]);
        let request = agent(Request::builder().method(Method::POST).uri(realm.clone()))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        return request.body(transport::whole(encode(&pairs))).ok();
    }
    pairs.extend(wanted.scopes.iter().map(|scope| ("scope", *scope)));
    if let Some(Credential::Password { username, .. }) = wanted.credential {
        pairs.extend([("account", username.as_str()), ("client_id", "vial")]);
    }
    let joint = if realm.query().is_some() { '&' } else { '?' };
    let uri: Uri = format!("{realm}{joint}{}", encode(&pairs)).parse().ok()?;
    let mut request = agent(Request::builder().uri(uri));
    if let Some(basic) = wanted.credential.and_then(Credential::basic) {
        request = request.header(AUTHORIZATION, basic);
    }
    request.body(transport::empty()).ok()
}

fn encode(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    pairs.join("&")
}

/// Escapes a query value (RFC 3986, unreserved characters stay).
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let credential = Credential::Password { username: "me".into(), password: "secret".into() };
        assert!(!format!("{credential:?}").contains("secret"));
        let header = credential.basic().unwrap();
        assert_eq!(header, "Basic bWU6c2VjcmV0");
        assert!(!format!("{header:?}").contains("bWU6"));
    }

    #[test]
    fn a_token_is_asked_for_as_docker_does() {
        let from: Uri = "https://r.io/v2/".parse().unwrap();
        let realm: Uri = "https://auth.io/token?a=b".parse().unwrap();
        let credential = Credential::Password { username: "me".into(), password: "pw".into() };
        let mut wanted = TokenRequest {
            from: &from,
            realm: "",
            service: Some("r.io"),
            scopes: vec!["repository:a/b:pull"],
            credential: Some(&credential),
        };
        let request = build(&realm, &wanted).unwrap();
        assert_eq!(
            request.uri(),
            "https://auth.io/token?a=b&service=r.io&scope=repository%3Aa%2Fb%3Apull&account=me&client_id=vial"
        );
        assert!(request.headers().contains_key(AUTHORIZATION));
        wanted.credential = None;
        assert!(!build(&realm, &wanted).unwrap().headers().contains_key(AUTHORIZATION));
        let refresh = Credential::IdentityToken("r".into());
        wanted.credential = Some(&refresh);
        assert_eq!(build(&realm, &wanted).unwrap().method(), Method::POST);
    }
}
