//! docker-archive: `manifest.json` lists images, their configuration and layers by member name.

use serde::Deserialize;

use super::{ArchiveError, ArchiveImage, Members, layers};
use crate::digest::Digest;
use crate::limits;

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// All images of the archive.
pub fn images(members: &Members) -> Result<Vec<ArchiveImage>, ArchiveError> {
    let manifest = members.small(MANIFEST)?;
    let items: Vec<Item> =
        serde_json::from_slice(&manifest).map_err(|error| ArchiveError::Json(MANIFEST.into(), error))?;
    if items.len() > limits::MAX_ARCHIVE_IMAGES {
        return Err(ArchiveError::TooMany("images", limits::MAX_ARCHIVE_IMAGES));
    }
    if items.is_empty() {
        return Err(ArchiveError::NoImage(super::host_architecture()));
    }
    items.into_iter().map(|item| image(members, item)).collect()
}

fn image(members: &Members, item: Item) -> Result<ArchiveImage, ArchiveError> {
    let config = match named_digest(&item.config) {
        Some(digest) => members.small_blob(&item.config, digest)?,
        None => members.small(&item.config)?,
    };
    let blobs = item.layers.unwrap_or_default().into_iter().map(|member| {
        let digest = member.starts_with("blobs/").then(|| named_digest(&member)).flatten();
        (member, digest)
    });
    let layers = layers(&item.config, &config, blobs.collect())?;
    let tags = item.repo_tags.unwrap_or_default();
    let (names, bad_names) = super::sort_names(tags.iter().map(String::as_str));
    Ok(ArchiveImage { names, bad_names, config, layers })
}

/// Configurations are called by their digest: `<hex>.json` of old, `blobs/sha256/<hex>` now.
fn named_digest(member: &str) -> Option<Digest> {
    let name = member.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}
