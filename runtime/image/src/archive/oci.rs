//! OCI image layout: `index.json` → manifest → configuration and layers, each blob under its digest.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ArchiveError, ArchiveImage, Members, host_architecture, layers};
use crate::digest::Digest;
use crate::limits;
use crate::reference::ImageName;

const INDEX: &str = "index.json";
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_TYPES: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/// containerd and Docker put the full name here, OCI the tag or the full name there.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// All images of the layout that are for this machine.
pub fn images(members: &Members, fallback: Option<&str>) -> Result<Vec<ArchiveImage>, ArchiveError> {
    let index: Index = parse(INDEX, &members.small(INDEX)?)?;
    let mut walk = Walk { members, fallback, found: Vec::new(), visited: 0 };
    walk.index(index, &Names::default(), 0)?;
    if walk.found.is_empty() { Err(ArchiveError::NoImage(host_architecture())) } else { Ok(walk.found) }
}

struct Walk<'a> {
    members: &'a Members,
    fallback: Option<&'a str>,
    found: Vec<ArchiveImage>,
    /// Descriptors followed: indexes in indexes multiply, so the walk is bounded as a whole.
    visited: usize,
}

impl Walk<'_> {
    fn index(&mut self, index: Index, inherited: &Names, depth: usize) -> Result<(), ArchiveError> {
        if depth > limits::MAX_INDEX_DEPTH {
            return Err(ArchiveError::TooMany("indexes within each other", limits::MAX_INDEX_DEPTH));
        }
        for descriptor in index.manifests.iter().filter(|d| is_for_us(d)) {
            self.visited += 1;
            if self.visited > limits::MAX_ARCHIVE_IMAGES {
                return Err(ArchiveError::TooMany("images and indexes", limits::MAX_ARCHIVE_IMAGES));
            }
            let mut names = names(descriptor, self.fallback);
            if names.0.is_empty() {
                names.0.clone_from(&inherited.0);
            }
            names.1.extend(inherited.1.iter().cloned());
            let (member, bytes) = small_blob(self.members, descriptor)?;
            if INDEX_TYPES.contains(&descriptor.media_type.as_str()) {
                self.index(parse(&member, &bytes)?, &names, depth + 1)?;
            } else if MANIFEST_TYPES.contains(&descriptor.media_type.as_str()) {
                self.found.push(image(self.members, parse(&member, &bytes)?, names)?);
            } else {
                return Err(ArchiveError::MediaType(member, descriptor.media_type.clone()));
            }
        }
        Ok(())
    }
}

fn image(members: &Members, manifest: Manifest, names: Names) -> Result<ArchiveImage, ArchiveError> {
    let (config_name, config) = small_blob(members, &manifest.config)?;
    expect_type(&config_name, &manifest.config, &CONFIG_TYPES)?;
    if manifest.layers.len() > limits::MAX_LAYERS {
        return Err(ArchiveError::TooMany("layers in one image", limits::MAX_LAYERS));
    }
    let mut blobs = Vec::with_capacity(manifest.layers.len());
    for layer in &manifest.layers {
        let (member, digest) = blob_name(layer)?;
        expect_type(&member, layer, &LAYER_TYPES)?;
        if members.open(&member)?.remaining() != layer.size {
            return Err(ArchiveError::Mismatch(member, "size"));
        }
        blobs.push((member, Some(digest)));
    }
    let layers = layers(&config_name, &config, blobs)?;
    Ok(ArchiveImage { names: names.0, bad_names: names.1, config, layers })
}

/// Attestations have the platform unknown/unknown; descriptors without a platform are judged by configuration.
fn is_for_us(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == host_architecture())
}

/// Names, and what is none.
type Names = (Vec<ImageName>, Vec<String>);

fn names(descriptor: &Descriptor, fallback: Option<&str>) -> Names {
    let Some(annotations) = &descriptor.annotations else { return Names::default() };
    let (mut good, mut bad) =
        super::sort_names(annotations.get(CONTAINERD_NAME).map(String::as_str).into_iter());
    let reference = annotations.get(REF_NAME).filter(|_| good.is_empty());
    // A bare tag: the folder or file is all that names the repository, and need not be able to.
    let tag = reference.filter(|text| !text.contains(['/', ':']));
    if let Some(tag) = tag {
        good.extend(fallback.and_then(|repository| format!("{repository}:{tag}").parse().ok()));
    } else {
        let more = super::sort_names(reference.map(String::as_str).into_iter());
        good.extend(more.0);
        bad.extend(more.1);
    }
    (good, bad)
}

fn expect_type(member: &str, descriptor: &Descriptor, known: &[&str]) -> Result<(), ArchiveError> {
    if known.contains(&descriptor.media_type.as_str()) {
        return Ok(());
    }
    Err(ArchiveError::MediaType(member.to_owned(), descriptor.media_type.clone()))
}

fn blob_name(descriptor: &Descriptor) -> Result<(String, Digest), ArchiveError> {
    let digest: Digest =
        descriptor.digest.parse().map_err(|error| ArchiveError::Digest(descriptor.digest.clone(), error))?;
    Ok((format!("blobs/sha256/{}", digest.hex()), digest))
}

fn small_blob(members: &Members, descriptor: &Descriptor) -> Result<(String, Vec<u8>), ArchiveError> {
    let (member, digest) = blob_name(descriptor)?;
    let bytes = members.small_blob(&member, digest)?;
    if bytes.len() as u64 != descriptor.size {
        return Err(ArchiveError::Mismatch(member, "size"));
    }
    Ok((member, bytes))
}

fn parse<T: DeserializeOwned>(member: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|error| ArchiveError::Json(member.to_owned(), error))
}
