//! Image names as Docker writes them: `[domain/]path[:tag|@digest]`, stored in full and shown as people type them.
//!
//! Grammar: distribution's `reference` package; defaults: domain `docker.io`, path below `library/`, tag `latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Bytes of domain and path together.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
/// Bytes of `@sha256:` and 64 digits.
const MAX_DIGEST: usize = 72;

/// A full name: `docker.io/library/busybox:latest`. `Display` shows the familiar form, `busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    domain: String,
    path: String,
    version: Version,
}

/// Which of a repository's images: the one that a tag means now, or that with this manifest for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("an image name can't be empty")]
    Empty,
    /// Too long.
    #[error("an image name has at most {MAX_NAME} bytes before its tag")]
    Long,
    /// The digest behind an `@`.
    #[error("its digest is unusable: {0}")]
    Digest(#[from] DigestError),
    /// The domain.
    #[error(
        "{0:?} is not a registry's domain (letters, digits, dots, dashes, and perhaps a port up to 65535)"
    )]
    Domain(String),
    /// The path.
    #[error(
        "{0:?} is not a repository name: parts of lower-case letters and digits, with single '.', one or two '_' or any '-' between them"
    )]
    Path(String),
    /// The tag.
    #[error(
        "{0:?} is not a tag: at most {MAX_TAG} letters, digits, '_', '.', '-', not starting with '.' or '-'"
    )]
    Tag(String),
}

impl ImageName {
    /// `domain/path:tag`, with nothing left out.
    pub fn full(&self) -> String {
        format!("{}/{}{}", self.domain, self.path, self.version)
    }

    /// The name without its tag, as people type it.
    pub fn familiar_repository(&self) -> String {
        match (self.domain.as_str(), self.path.strip_prefix(OFFICIAL)) {
            (DEFAULT_DOMAIN, Some(path)) if !path.contains('/') => path.to_owned(),
            // `docker.io/example.com/app` without its domain would name an image of another registry.
            (DEFAULT_DOMAIN, _) if !self.path.split('/').next().is_some_and(is_meant_as_domain) => {
                self.path.clone()
            }
            _ => format!("{}/{}", self.domain, self.path),
        }
    }

    /// The registry: `docker.io` where none was written.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` for a name by digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest of the manifest that is meant; `None` for a name by tag.
    pub fn digest(&self) -> Option<Digest> {
        match self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME + 1 + MAX_TAG + MAX_DIGEST {
            return Err(NameError::Long);
        }
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, DEFAULT_TAG),
        };
        // The first part is a domain only if it can't be a repository on Docker Hub.
        let (domain, path) = match name.split_once('/') {
            Some((first, rest)) if is_meant_as_domain(first) => (first, rest),
            _ => (DEFAULT_DOMAIN, name),
        };
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        if !is_domain(domain) {
            return Err(NameError::Domain(domain.to_owned()));
        }
        if !path.split('/').all(is_path_component) {
            return Err(NameError::Path(name.to_owned()));
        }
        if !is_tag(tag) {
            return Err(NameError::Tag(tag.to_owned()));
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(NameError::Long);
        }
        // With both, the digest says it all.
        let version = digest.map_or_else(|| Version::Tag(tag.to_owned()), Version::Digest);
        Ok(ImageName { domain: domain.to_owned(), path, version })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.familiar_repository(), self.version)
    }
}

impl TryFrom<String> for ImageName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.full()
    }
}

/// Whether the part before a name's first slash is a registry rather than a part of a repository on Docker Hub.
fn is_meant_as_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) => {
            let port = if port.is_empty() { Some("0") } else { port.strip_prefix(':') };
            let Some(port) = port.filter(|_| address.parse::<std::net::Ipv6Addr>().is_ok()) else {
                return false;
            };
            ("ip6", port)
        }
        None => text.split_once(':').unwrap_or((text, "0")),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host.split('.').all(label) && is_port
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    let separators = text.split(|c: char| c.is_ascii() && word(c as u8)).filter(|s| !s.is_empty());
    word(first)
        && word(last)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=MAX_TAG).contains(&text.len()) && text.bytes().all(byte) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_completed_and_shown_as_typed() {
        for (typed, full, shown) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("docker.io/a.io/b", "docker.io/a.io/b:latest", "docker.io/a.io/b:latest"),
            ("docker.io/localhost/b", "docker.io/localhost/b:latest", "docker.io/localhost/b:latest"),
            ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("[::1]:5000/app:v1", "[::1]:5000/app:v1", "[::1]:5000/app:v1"),
            ("ghcr.io/x/y__z:a.b", "ghcr.io/x/y__z:a.b", "ghcr.io/x/y__z:a.b"),
        ] {
            let name: ImageName = typed.parse().unwrap();
            assert_eq!((name.full().as_str(), name.to_string().as_str()), (full, shown));
        }
    }

    #[test]
    fn a_digest_replaces_the_tag() {
        let digest = Digest::of(b"x");
        let name: ImageName = format!("busybox:1.36@{digest}").parse().unwrap();
        assert_eq!(name.full(), format!("docker.io/library/busybox@{digest}"));
        assert_eq!((name.tag(), name.digest()), (None, Some(digest)));
        assert_eq!(name.to_string().parse::<ImageName>().unwrap(), name);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "-a",
            "a___b",
            "a b",
            "a@sha256:00",
            "[::1/a",
            "[evil]:1/a",
            "localhost:99999/x",
            "localhost:0x1/x",
            "a.io/../b",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_full_and_the_shown_form_mean_the_same(text in "[a-z0-9./:_-]{1,40}") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert_eq!(name.full().parse::<ImageName>().unwrap(), name.clone());
                prop_assert_eq!(name.to_string().parse::<ImageName>().unwrap(), name);
            }
        }
    }
}
