//! OCI registries: pull, push, log in.
//!
//! The distribution protocol with its authentication, TLS, redirects and resumed transfers; Docker's file and helpers
//! for credentials; which registries have mirrors or may be spoken to in the clear. Everything that a registry
//! says is bounded and checked here; what a layer's bytes are worth is for whoever reads them.
//!
//! This crate must never know of image stores, file systems, VMs or the daemon. `docs/registry.md` tells the story.
//! Specification: OCI distribution 1.1; for what that leaves open, Docker's registry API and token authentication.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails to set up has failed"))]

mod auth;
pub mod challenge;
mod config;
pub mod credentials;
mod endpoint;
mod error;
pub mod limits;
pub mod manifest;
mod pull;
mod push;
mod session;
mod tls;
mod transport;

pub use auth::Credential;
pub use config::{ConfigError, Registries};
pub use endpoint::{Endpoint, is_loopback};
pub use error::{Cause, Error, ErrorKind, LOG_IN, Result};
pub use manifest::{ManifestError, Platform};
pub use oci_spec::image::{Descriptor, Digest, ImageManifest};
pub use pull::{Found, Moved, Wanted};
pub use push::{Outgoing, OutgoingBytes, Placed, manifest as manifest_of};
pub use session::{Patience, Registry};

/// The registry that an image's name means, as Docker reads names: the first part, if it can't be a repository on Docker Hub.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some(("index.docker.io", _)) | None => "docker.io",
        Some((first, _)) => {
            let domain = first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase());
            if domain { first } else { "docker.io" }
        }
    }
}

/// The digest of these bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in sha2::Sha256::digest(bytes) {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.parse().unwrap_or_else(|_| unreachable!("64 hexadecimal digits behind sha256: are a digest"))
}
