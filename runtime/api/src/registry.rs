//! Registries: `POST /v1/images/pull`, `/v1/images/push`, `/v1/images/tag`, `/v1/registries/login`.

use serde::{Deserialize, Serialize};

/// What a user has for a registry. The command line finds it; the daemon never looks into anybody's home.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RegistryCredential {
    /// Name and password.
    Password {
        /// Name.
        username: String,
        /// Password, or a token in its place.
        password: String,
    },
    /// An OAuth 2 refresh token.
    IdentityToken {
        /// The token.
        token: String,
    },
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryCredential")
    }
}

/// How a registry is to be spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryAccess {
    /// Absent: anonymously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<RegistryCredential>,
    /// Over plain HTTP; only for a registry on this machine, or one that the daemon's configuration lists.
    #[serde(default)]
    pub insecure: bool,
    /// Certificates in PEM form that are trusted for it, besides the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<String>,
}

/// Body of `POST /v1/images/pull`, answered with lines of [`TransferEvent`]. Closing the connection gives the pull up, unless another
/// client asked for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// `[registry/]repository[:tag|@digest]`.
    pub image: String,
    /// `os/architecture[/variant]`; absent: this machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How.
    #[serde(default)]
    pub access: RegistryAccess,
}

/// Body of `POST /v1/images/push`, answered with lines of [`TransferEvent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushImage {
    /// `[registry/]repository[:tag]`, a name that the image has here and will have there.
    pub image: String,
    /// How.
    #[serde(default)]
    pub access: RegistryAccess,
}

/// Body of `POST /v1/images/tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagImage {
    /// Name or id of an image.
    pub image: String,
    /// One more name for it.
    pub name: String,
}

/// Body of `POST /v1/registries/login`: asks a registry whether it takes a credential. Nothing is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginCheck {
    /// `host[:port]`, or `docker.io`.
    pub registry: String,
    /// How.
    pub access: RegistryAccess,
}

/// One JSON line of the answer to pull and push; the last one is `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TransferEvent {
    /// The image is known, and this many layers.
    Begun {
        /// Its name in full.
        name: String,
        /// Digest of its manifest.
        digest: String,
        /// Layers.
        layers: usize,
    },
    /// A layer moves on.
    Layer {
        /// The first digits of its digest.
        id: String,
        /// What is being done with it.
        state: LayerState,
        /// Bytes that went over the network.
        done: u64,
        /// Bytes in all; 0 when not known yet.
        total: u64,
    },
    /// All went well.
    Finished {
        /// Its name in full.
        name: String,
        /// The image's id.
        id: String,
        /// Digest of what has that name in the registry.
        digest: String,
        /// Whether anything changed: on this machine by a pull, in the registry by a push.
        changed: bool,
    },
    /// It did not.
    Failed(crate::ErrorBody),
}

/// What is being done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// Others come first.
    Waiting,
    /// It is on its way.
    Moving,
    /// The connection was lost and is made again.
    Again,
    /// It is here, and is being written; or it is being made ready to be sent.
    Preparing,
    /// It is where it should be.
    Done,
    /// It was there already.
    Exists,
    /// A state that this build does not know (a newer daemon).
    #[serde(other)]
    Unknown,
}
