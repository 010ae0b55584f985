//! The hello: version and secret, decided before anything else is believed.

use agent_protocol::{
    AgentError, ClientHello, ErrorKind, FEATURE_ARCHIVE_NAMES, FEATURE_BOOT_TIMES, FEATURE_FORWARD,
    FEATURE_NETWORK, FEATURE_PODS, FEATURE_VOLUMES, PROTOCOL, PROTOCOL_MIN, ServerHello,
};

/// What this build can do beyond version 1's base.
const FEATURES: [&str; 12] = [
    "exec",
    "streams-resume",
    "sandbox-stats",
    "terminal",
    "processes",
    "archives",
    FEATURE_NETWORK,
    FEATURE_PODS,
    FEATURE_BOOT_TIMES,
    FEATURE_VOLUMES,
    FEATURE_FORWARD,
    FEATURE_ARCHIVE_NAMES,
];

/// The agent's answer to a hello.
///
/// # Errors
/// [`ErrorKind::Unauthorized`] for a wrong secret, [`ErrorKind::Unsupported`] without a common version.
pub fn answer(hello: &ClientHello, token: &str) -> Result<ServerHello, AgentError> {
    if !same(&hello.token, token) {
        return Err(unauthorized());
    }
    let protocol = hello.protocol.min(PROTOCOL);
    if protocol < hello.protocol_min.max(PROTOCOL_MIN) {
        let message = format!(
            "no common protocol version: the host speaks {} to {}, this agent {PROTOCOL_MIN} to {PROTOCOL}",
            hello.protocol_min, hello.protocol
        );
        return Err(AgentError::new(ErrorKind::Unsupported, message));
    }
    let features = FEATURES.iter().map(ToString::to_string).collect();
    Ok(ServerHello { protocol, build: env!("CARGO_PKG_VERSION").to_owned(), features })
}

/// The error for a wrong secret. It says nothing about the right one.
pub fn unauthorized() -> AgentError {
    AgentError::new(ErrorKind::Unauthorized, "the secret is not this VM's")
}

/// Compares secrets in a time that depends on nothing but the length of the one that was shown.
pub fn same(shown: &str, token: &str) -> bool {
    let (shown, token) = (shown.as_bytes(), token.as_bytes());
    let mut difference = usize::from(shown.len() != token.len() || token.is_empty());
    for (n, byte) in shown.iter().enumerate() {
        let known = token.get(n % token.len().max(1)).copied().unwrap_or(0);
        difference |= usize::from(std::hint::black_box(byte ^ known));
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(min: u32, max: u32, token: &str) -> ClientHello {
        ClientHello { protocol: max, protocol_min: min, token: token.into(), events: false }
    }

    #[test]
    fn only_the_whole_secret_opens() {
        for wrong in ["", "s", "secre", "secret2", "secretsecret", "Secret"] {
            assert_eq!(
                answer(&hello(1, 1, wrong), "secret").unwrap_err().kind,
                ErrorKind::Unauthorized,
                "{wrong}"
            );
        }
        assert!(answer(&hello(1, 1, "secret"), "secret").is_ok());
        assert!(!same("", ""), "a VM without a secret opens to nobody");
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(answer(&hello(PROTOCOL_MIN, PROTOCOL + 5, "s"), "s").unwrap().protocol, PROTOCOL);
        let error = answer(&hello(PROTOCOL + 1, PROTOCOL + 1, "s"), "s").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert_eq!(answer(&hello(0, 0, "s"), "s").unwrap_err().kind, ErrorKind::Unsupported);
    }
}
