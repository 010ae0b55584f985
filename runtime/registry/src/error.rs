//! What goes wrong between this machine and a registry, in words for the person who asked.

use crate::limits;
use crate::manifest::ManifestError;
use std::time::Duration;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A request that failed: at which registry, doing what, why, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: registry {registry}: {cause}{advice}", advice = advice(.registry, .what, .cause))]
pub struct Error {
    /// The registry, as people write it.
    pub registry: String,
    /// What was asked for, after "cannot".
    pub what: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No connection.
    #[error("it can't be reached ({0})")]
    Unreachable(String),
    /// It answers, but not with TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// Its certificate.
    #[error("its certificate is not trusted ({0})")]
    Certificate(String),
    /// Plain HTTP that was asked for and is not allowed.
    #[error("plain HTTP is refused for a registry that is neither on this machine nor listed as insecure")]
    PlainHttp,
    /// No credentials, or not these.
    #[error("it wants other credentials{}", spoken(.said))]
    Unauthorized {
        /// Its own words.
        said: String,
        /// Whether some were sent.
        had_some: bool,
    },
    /// It has no such thing, or does not say so to everybody.
    #[error("there is no such image{}", spoken(.0))]
    NotFound(String),
    /// Any other status.
    #[error("it answered {status}{}", spoken(.said))]
    Status {
        /// HTTP status.
        status: u16,
        /// Its own words.
        said: String,
    },
    /// Redirects that are not followed.
    #[error("its redirect is refused: {0}")]
    Redirect(String),
    /// Nothing came for too long.
    #[error("nothing came for {} seconds", .0.as_secs_f32().ceil())]
    Stalled(Duration),
    /// The connection broke.
    #[error("the connection broke ({0})")]
    Broken(String),
    /// Something that must be small is not.
    #[error("its {what} has more than {limit} bytes")]
    TooLong {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A blob's length.
    #[error("it sent {got} bytes of a blob that should have {expected}")]
    Size {
        /// Bytes that came, or that it announced.
        got: u64,
        /// Bytes by the manifest.
        expected: u64,
    },
    /// A digest.
    #[error("its {what} has the digest {found}, not {expected}: it is damaged or was tampered with")]
    Digest {
        /// What.
        what: &'static str,
        /// What the bytes have.
        found: String,
        /// What they should have.
        expected: String,
    },
    /// A manifest that can't be used.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// An answer against the protocol.
    #[error("its answer makes no sense: {0}")]
    Protocol(String),
    /// The server that hands out tokens for it.
    #[error("its token server {realm}: {why}")]
    Token {
        /// Where it is.
        realm: String,
        /// What went wrong there.
        why: String,
    },
    /// TLS can't be set up with what this machine has.
    #[error("TLS can't be set up: {0}")]
    TlsSetup(String),
}

/// How a caller should treat an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such image there, or not for this platform.
    NotFound,
    /// Log in first, or with other credentials.
    Unauthorized,
    /// What the user asked for is not allowed or not possible.
    Invalid,
    /// The network or the registry is at fault, and another try may help.
    Unavailable,
    /// The registry breaks the protocol or lies.
    Bad,
}

impl Cause {
    /// Sorts it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::Manifest(ManifestError::Platform { .. }) => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::PlainHttp | Self::TlsSetup(_) => ErrorKind::Invalid,
            Self::Unreachable(_)
            | Self::NotTls
            | Self::Certificate(_)
            | Self::Stalled(_)
            | Self::Broken(_)
            | Self::Token { .. } => ErrorKind::Unavailable,
            Self::Status { status, .. } if *status >= 500 || *status == 429 => ErrorKind::Unavailable,
            _ => ErrorKind::Bad,
        }
    }

    /// Whether a transfer that was under way may be taken up again after this.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Stalled(_) | Self::Broken(_) => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// A registry's own words, behind what we say.
fn spoken(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// What is being done when credentials are tried for the first time.
pub const LOG_IN: &str = "log in";

fn advice(registry: &str, what: &str, cause: &Cause) -> String {
    match cause {
        // Of those that were typed just now, there is no last login to speak of.
        Cause::Unauthorized { .. } if what == LOG_IN => "; check the user name and the password".into(),
        Cause::Unreachable(_) => {
            "; is its name right, and does this machine have a way to it (proxies: HTTPS_PROXY of the daemon)?".into()
        }
        Cause::NotTls => "; if that is how it should be, say --insecure".into(),
        Cause::Certificate(_) => {
            format!("; if it has a CA of its own, give it with --tls-ca FILE or as /etc/vial/certs.d/{registry}/ca.crt")
        }
        Cause::PlainHttp => {
            format!("; list \"{registry}\" under \"insecure-registries\" in /etc/vial/registries.json if it must be")
        }
        Cause::Unauthorized { had_some: false, .. } => format!("; log in with: vial login {registry}"),
        Cause::Unauthorized { had_some: true, .. } => {
            format!("; those of the last login do not do: vial login {registry}")
        }
        Cause::NotFound(_) => {
            format!("; check its name and tag, or log in if it is private: vial login {registry}")
        }
        Cause::Status { status: 429, .. } => {
            format!("; it limits how often one may ask: wait, or log in with: vial login {registry}")
        }
        Cause::Stalled(_) | Cause::Broken(_) => "; try again".into(),
        _ => String::new(),
    }
}

/// What a registry says in an error's body: `{"errors":[{"code","message","detail"}]}`, as one line of printable text.
pub fn words(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let listed = parsed.as_ref().and_then(|value| value["errors"].as_array()).map(|errors| {
        let one = |error: &serde_json::Value| {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            match (text("code"), text("message")) {
                (code, message) if message.is_empty() => code,
                (code, message) if code.is_empty() => message,
                (code, message) => format!("{message} ({code})"),
            }
        };
        errors.iter().take(3).map(one).collect::<Vec<_>>().join("; ")
    });
    let single = || {
        let value = parsed.as_ref()?;
        ["message", "error_description", "details", "error"].iter().find_map(|name| value[*name].as_str())
    };
    let plain = || match String::from_utf8_lossy(body) {
        // Pages for browsers say nothing in a terminal.
        text if text.trim_start().starts_with('<') => String::new(),
        text => text.into_owned(),
    };
    let text = listed.filter(|text| !text.is_empty()).or_else(|| single().map(str::to_owned));
    clean(&text.unwrap_or_else(plain))
}

/// Foreign text made fit for a terminal: one line, no control characters nor any that turn the direction of text (UAX #9), bounded.
pub fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let printable = text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c });
    let line: String = printable.take(limits::MAX_SAID).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_found_and_made_fit_for_a_terminal() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[2J way"},{"code":"UNKNOWN"}]}"#;
        assert_eq!(words(body), "no [2J way (DENIED); UNKNOWN");
        assert_eq!(
            words(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(words(b"<html>nope</html>"), "");
        assert_eq!(words(b"plain\nwords"), "plain words");
        assert_eq!(words(&b"x".repeat(5000)).len(), limits::MAX_SAID);
        assert_eq!(words(b"{}"), "{}");
        assert_eq!(clean("a\u{202e}b\u{2067}c\u{200f}"), "a b c", "nothing is read backwards");
    }

    #[test]
    fn errors_name_the_registry_and_what_to_do() {
        let cause = Cause::Unauthorized { said: String::new(), had_some: false };
        let error = Error { registry: "r.io:5000".into(), what: "pull a/b:v1".into(), cause };
        let text = error.to_string();
        assert!(text.contains("cannot pull a/b:v1") && text.contains("vial login r.io:5000"), "{text}");
        let cause = Cause::Unauthorized { said: String::new(), had_some: true };
        let text = Error { registry: "r.io".into(), what: LOG_IN.into(), cause }.to_string();
        assert!(text.contains("check the user name") && !text.contains("last login"), "{text}");
    }
}
