//! Archives of images: docker-archive (`docker save`) and OCI layout, as a tar or as a folder.
//!
//! Reads what an archive says about itself and hands out its layers; says what a new one is made of ([`write`]); knows nothing of the store.

mod config;
mod docker;
mod members;
mod oci;
pub mod write;

pub use config::{ConfigError, host_architecture, parse as parse_config};
pub use members::Members;

use crate::digest::{Digest, DigestError};
use crate::limits;
use crate::reference::ImageName;
use crate::tar::{Section, TarError};

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Neither format.
    #[error("it is neither a docker-archive (no manifest.json) nor an OCI layout (no index.json)")]
    UnknownFormat,
    /// The outer tar.
    #[error("{0}")]
    Tar(#[from] TarError),
    /// A member could not be read.
    #[error("reading {0:?}: {1}")]
    Io(String, #[source] std::io::Error),
    /// A member is not there.
    #[error("it has no {0:?}")]
    Missing(String),
    /// A member's name or link leads nowhere good.
    #[error("its member {0:?} is not a regular file inside it")]
    BadMember(String),
    /// A manifest or configuration is too long.
    #[error("{0:?} has {1} bytes, more than {max}", max = limits::MAX_JSON)]
    TooLong(String, u64),
    /// A manifest does not parse.
    #[error("{0:?} is not valid: {1}")]
    Json(String, #[source] serde_json::Error),
    /// A digest does not parse.
    #[error("{0:?} has an unusable digest: {1}")]
    Digest(String, #[source] DigestError),
    /// A blob is not what its digest or size says.
    #[error("{0:?} is damaged: its {1} is not what the archive says")]
    Mismatch(String, &'static str),
    /// A media type that is no image, layer or index.
    #[error("{0:?} has the media type {1:?}, which is not supported")]
    MediaType(String, String),
    /// Too many of something.
    #[error("it has more than {1} {0}")]
    TooMany(&'static str, usize),
    /// The configuration.
    #[error("the configuration {0:?} can't be used: {1}")]
    Config(String, #[source] ConfigError),
    /// No image, or none for this machine.
    #[error("it has no image for linux/{0}")]
    NoImage(&'static str),
}

/// One image of an archive.
#[derive(Debug, Clone)]
pub struct ArchiveImage {
    /// Names that the archive gives it.
    pub names: Vec<ImageName>,
    /// What the archive gives as names and is none; at most [`limits::MAX_BAD_NAMES`], each cut to what fits on a line.
    pub bad_names: Vec<String>,
    /// The configuration, byte for byte: its digest is the image's ID.
    pub config: Vec<u8>,
    /// Layers, lowest first.
    pub layers: Vec<LayerBlob>,
}

/// Where a layer is and what it must be.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// Member of the archive.
    pub member: String,
    /// Digest of the member's bytes, where the archive gives one.
    pub digest: Option<Digest>,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// An archive that can be read at random.
#[derive(Debug)]
pub struct Archive {
    members: Members,
}

impl Archive {
    /// An archive with these members.
    pub fn new(members: Members) -> Self {
        Archive { members }
    }

    /// All its images for this machine. `fallback` names an image of an OCI layout that has a tag and no name.
    pub fn images(&self, fallback: Option<&str>) -> Result<Vec<ArchiveImage>, ArchiveError> {
        // Docker writes both formats into one archive; manifest.json has the names as people gave them.
        if self.members.contains("manifest.json") {
            docker::images(&self.members)
        } else if self.members.contains("index.json") {
            oci::images(&self.members, fallback)
        } else {
            Err(ArchiveError::UnknownFormat)
        }
    }

    /// The bytes of a layer.
    pub fn layer(&self, layer: &LayerBlob) -> Result<Section, ArchiveError> {
        self.members.open(&layer.member)
    }
}

/// Sorts what an archive gives as names.
fn sort_names<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<ImageName>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse::<ImageName>() {
            // A name by digest promises a manifest that nobody has checked here.
            Ok(name) if name.tag().is_some() => good.push(name),
            Ok(_) => {}
            Err(_) if bad.len() < limits::MAX_BAD_NAMES => bad.push(text.chars().take(100).collect()),
            Err(_) => {}
        }
    }
    (good, bad)
}

/// Pairs layers with the diff_ids of the configuration.
fn layers(
    config_name: &str,
    config: &[u8],
    members: Vec<(String, Option<Digest>)>,
) -> Result<Vec<LayerBlob>, ArchiveError> {
    if members.len() > limits::MAX_LAYERS {
        return Err(ArchiveError::TooMany("layers in one image", limits::MAX_LAYERS));
    }
    let wrong = |error| ArchiveError::Config(config_name.to_owned(), error);
    let (_, diff_ids) = config::parse(config).map_err(wrong)?;
    if diff_ids.len() != members.len() {
        return Err(wrong(ConfigError::LayerCount { config: diff_ids.len(), manifest: members.len() }));
    }
    let layers = members.into_iter().zip(diff_ids);
    Ok(layers.map(|((member, digest), diff_id)| LayerBlob { member, digest, diff_id }).collect())
}
