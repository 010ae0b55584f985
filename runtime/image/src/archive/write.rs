//! An archive of images as a tar: an OCI layout that is a docker-archive too, as `docker save` has written it since version 25.
//!
//! So everybody who reads either form reads it. Layers are as their diff_ids want them, uncompressed: nothing has to be packed before the
//! length of the archive is known, and what it is read for (a load on the same machine, mostly) has nothing to unpack. The same images
//! give the same bytes: no time and no owner is told, and the order is that of asking.

use std::collections::HashSet;

use serde::Serialize;

use crate::digest::{Digest, ImageId};
use crate::reference::ImageName;

const BLOCK: u64 = 512;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One image that goes into an archive.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Its ID.
    pub id: ImageId,
    /// The names that it gets there; none is fine.
    pub names: &'a [ImageName],
    /// Its configuration, byte for byte.
    pub config: &'a str,
    /// diff_ids, lowest first, and the bytes of each one's tar.
    pub layers: &'a [(Digest, u64)],
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its name; of a folder it ends in a slash.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// What they are.
    pub content: Content,
}

/// What a member of an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes; nothing in a folder.
    Bytes(Vec<u8>),
    /// The tar of this layer.
    Layer(Digest),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations<'a>>,
}

#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(rename = "io.containerd.image.name")]
    name: String,
    #[serde(rename = "org.opencontainers.image.ref.name", skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<Descriptor<'a>>,
}

/// Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The members of an archive of these images, in their order. What describes comes first, so that a reader of a stream knows what
/// follows; each blob is there once.
///
/// # Errors
/// When JSON can't be made of them, which serde promises for no type.
pub fn members(images: &[Outgoing<'_>]) -> serde_json::Result<Vec<Written>> {
    let mut blobs = Blobs::default();
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for image in images {
        let layers = image.layers.iter().map(|&(digest, size)| descriptor(LAYER, digest, size));
        let manifest = serde_json::to_vec(&Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            config: descriptor(CONFIG, image.id, image.config.len() as u64),
            layers: layers.collect(),
        })?;
        let (digest, size) = (Digest::of(&manifest), manifest.len() as u64);
        // One for each name, as Docker has it: readers look images up by them.
        index.extend(image.names.iter().map(|name| Descriptor {
            annotations: Some(Annotations { name: name.full(), tag: name.tag() }),
            ..descriptor(MANIFEST, digest, size)
        }));
        if image.names.is_empty() {
            index.push(descriptor(MANIFEST, digest, size));
        }
        docker.push(Docker {
            config: path(image.id),
            repo_tags: (!image.names.is_empty())
                .then(|| image.names.iter().map(ImageName::to_string).collect()),
            layers: image.layers.iter().map(|&(digest, _)| path(digest)).collect(),
        });
        blobs.add(digest, size, Content::Bytes(manifest));
        blobs.add(image.id, image.config.len() as u64, Content::Bytes(image.config.as_bytes().to_vec()));
    }
    for &(digest, size) in images.iter().flat_map(|image| image.layers) {
        blobs.add(digest, size, Content::Layer(digest));
    }
    let index = serde_json::to_vec(&Index { schema_version: 2, media_type: INDEX, manifests: index })?;
    let mut members = vec![
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        file("index.json", index),
        file("manifest.json", serde_json::to_vec(&docker)?),
        file("blobs/", Vec::new()),
        file("blobs/sha256/", Vec::new()),
    ];
    members.append(&mut blobs.members);
    Ok(members)
}

fn file(path: &str, bytes: Vec<u8>) -> Written {
    Written { path: path.to_owned(), size: bytes.len() as u64, content: Content::Bytes(bytes) }
}

fn path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor<'_> {
    Descriptor { media_type, digest, size, annotations: None }
}

#[derive(Default)]
struct Blobs {
    members: Vec<Written>,
    there: HashSet<Digest>,
}

impl Blobs {
    fn add(&mut self, digest: Digest, size: u64, content: Content) {
        if self.there.insert(digest) {
            self.members.push(Written { path: path(digest), size, content });
        }
    }
}

/// What makes whole blocks of so many bytes.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// The two empty blocks that end a tar, in bytes.
pub const END: u64 = 2 * BLOCK;

/// Bytes of an archive with these members.
pub fn length(members: &[Written]) -> u64 {
    members.iter().map(|member| BLOCK + member.size + padding(member.size)).sum::<u64>() + END
}

/// The block before a member's bytes: ustar, with GNU's binary number where eleven octal digits are too few (layers above 8 GiB).
pub fn header(member: &Written) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let folder = member.path.ends_with('/');
    // At most 77 bytes of the 100 that there are.
    put(0, member.path.as_bytes());
    put(100, if folder { b"0000755\0" } else { b"0000644\0" });
    put(108, b"0000000\x000000000\0");
    if member.size < 1 << 33 {
        put(124, format!("{:011o}\0", member.size).as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &member.size.to_be_bytes());
    }
    put(136, b"00000000000\0        ");
    put(156, if folder { b"5" } else { b"0" });
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_layers_length_is_read_again() {
        for size in [0, 1, (1 << 33) - 1, 1 << 33, 64 << 30] {
            let digest = Digest::of(b"x");
            let member = Written { path: path(digest), size, content: Content::Layer(digest) };
            let head = header(&member);
            let entry = crate::tar::Reader::new(&head[..]).next_entry().unwrap().unwrap();
            assert_eq!((entry.path, entry.size), (member.path.into_bytes(), size));
        }
    }

    #[test]
    fn what_is_shared_is_there_once_and_what_has_no_name_gets_none() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let names = ["a".parse().unwrap(), "r.io/b:v".parse().unwrap()];
        let first =
            Outgoing { id: Digest::of(b"{}"), names: &names, config: "{}", layers: &[(one, 5), (two, 600)] };
        let second =
            Outgoing { id: Digest::of(b"[]"), names: &[], config: "[]", layers: &[(one, 5), (one, 5)] };
        let list = members(&[first, second]).unwrap();
        let layers: Vec<_> =
            list.iter().filter(|member| matches!(member.content, Content::Layer(_))).collect();
        assert_eq!(layers.iter().map(|member| member.size).collect::<Vec<_>>(), [5, 600]);
        let text = |name: &str| {
            let member = list.iter().find(|member| member.path == name).unwrap();
            let Content::Bytes(bytes) = &member.content else { panic!("{member:?}") };
            serde_json::from_slice::<serde_json::Value>(bytes).unwrap()
        };
        let docker = text("manifest.json");
        assert_eq!(docker[0]["RepoTags"], serde_json::json!(["a:latest", "r.io/b:v"]));
        assert_eq!(docker[1]["RepoTags"], serde_json::Value::Null);
        assert_eq!(docker[1]["Layers"].as_array().unwrap().len(), 2);
        let index = text("index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/a:latest");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "latest");
        assert_eq!(index["manifests"][2].get("annotations"), None);
    }
}
