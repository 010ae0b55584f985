//! Manifests and indexes: pure functions from bytes to what is to be fetched.

use crate::error::clean;
use crate::limits;
use oci_spec::image::{Descriptor, DigestAlgorithm, ImageIndex, ImageManifest};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// Media types that we take, the ones we like most first.
pub const ACCEPT: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It does not parse.
    #[error("its manifest does not parse: {0}")]
    Json(String),
    /// Another kind of document.
    #[error("what it has under that name is no image but {0:?}")]
    MediaType(String),
    /// Not for this platform.
    #[error("the image is not there for {wanted}, only for {there}")]
    Platform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Another hash.
    #[error("its digest {0} is not sha256, which is all that is supported")]
    Algorithm(String),
    /// Too many layers.
    #[error("it has more than {} layers", limits::MAX_LAYERS)]
    Layers,
    /// A blob that is too long.
    #[error("its blob {0} has {1} bytes, more than {max}", max = limits::MAX_BLOB)]
    Blob(String, u64),
    /// Indexes within indexes.
    #[error("its indexes lie too deep within each other")]
    Depth,
}

impl From<serde_json::Error> for ManifestError {
    /// Its words may be the registry's, such as a digest that is none.
    fn from(error: serde_json::Error) -> Self {
        Self::Json(clean(&error.to_string()))
    }
}

/// What an image runs on: `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// As Go's GOOS.
    pub os: String,
    /// As Go's GOARCH.
    pub architecture: String,
    /// Of the architecture; absent: any.
    pub variant: Option<String>,
}

impl Platform {
    /// That of this machine.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|text| part(text)) {
            return Err(format!("{text:?} is no platform, as in linux/amd64"));
        }
        let name = |text: &str| match text.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        match parts[..] {
            [architecture] => {
                Ok(Self { os: "linux".into(), architecture: name(architecture), variant: None })
            }
            [os, architecture] => {
                Ok(Self { os: os.to_ascii_lowercase(), architecture: name(architecture), variant: None })
            }
            [os, architecture, variant] => Ok(Self {
                os: os.to_ascii_lowercase(),
                architecture: name(architecture),
                variant: Some(variant.to_owned()),
            }),
            _ => Err(format!("{text:?} is no platform, as in linux/amd64")),
        }
    }
}

/// What a registry has under a name.
#[derive(Debug)]
pub enum Document {
    /// One image.
    Image(Box<ImageManifest>),
    /// Several, for different platforms.
    Index(Box<ImageIndex>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
}

/// Parses a document. What it says of itself counts; where it says nothing, the answer's header.
///
/// # Errors
/// When it is neither image nor index, or breaks a bound.
pub fn parse(bytes: &[u8], content_type: &str) -> Result<Document, ManifestError> {
    let kind: Kind = serde_json::from_slice(bytes)?;
    if kind.schema_version == 1 {
        return Err(ManifestError::MediaType(
            "an old schema 1 manifest; push it again with a newer tool".into(),
        ));
    }
    let header = content_type.split(';').next().unwrap_or_default().trim();
    match kind.media_type.as_deref().unwrap_or(header) {
        kind if kind == ACCEPT[0] || kind == ACCEPT[2] => {
            Ok(Document::Index(Box::new(serde_json::from_slice(bytes)?)))
        }
        kind if kind == ACCEPT[1] || kind == ACCEPT[3] => {
            image(serde_json::from_slice(bytes)?).map(Box::new).map(Document::Image)
        }
        other => Err(ManifestError::MediaType(crate::error::clean(other))),
    }
}

fn image(manifest: ImageManifest) -> Result<ImageManifest, ManifestError> {
    let config = manifest.config();
    if !CONFIGS.contains(&config.media_type().to_string().as_str()) {
        // Charts, signatures and the like are stored as images too.
        return Err(ManifestError::MediaType(crate::error::clean(config.media_type().as_ref())));
    }
    if manifest.layers().len() > limits::MAX_LAYERS {
        return Err(ManifestError::Layers);
    }
    for blob in manifest.layers().iter().chain([config]) {
        check(blob)?;
    }
    Ok(manifest)
}

/// Checks what every descriptor must keep to before it is followed.
pub fn check(blob: &Descriptor) -> Result<(), ManifestError> {
    if *blob.digest().algorithm() != DigestAlgorithm::Sha256 {
        return Err(ManifestError::Algorithm(crate::error::clean(blob.digest().as_ref())));
    }
    if blob.size() > limits::MAX_BLOB {
        return Err(ManifestError::Blob(blob.digest().to_string(), blob.size()));
    }
    Ok(())
}

/// The descriptor for a platform; the first that fits, as Docker does.
///
/// # Errors
/// When there is none; says which there are.
pub fn choose<'a>(index: &'a ImageIndex, wanted: &Platform) -> Result<&'a Descriptor, ManifestError> {
    let mut there = Vec::new();
    let mut found = None;
    for descriptor in index.manifests() {
        let Some(platform) = descriptor.platform() else {
            // Nothing is said, so its configuration will tell.
            found = found.or(Some((1, descriptor)));
            continue;
        };
        let this = Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone(),
        };
        // Attestations call themselves so.
        if this.os == "unknown" {
            continue;
        }
        let fits = this.os == wanted.os
            && this.architecture == wanted.architecture
            && (wanted.variant.is_none() || wanted.variant == this.variant);
        if fits && found.is_none_or(|(rank, _)| rank > 0) {
            found = Some((0, descriptor));
        }
        if there.len() < 16 {
            there.push(crate::error::clean(&this.to_string()));
        }
    }
    match found {
        Some((_, descriptor)) => check(descriptor).map(|()| descriptor),
        None => {
            let there = if there.is_empty() { "nothing".into() } else { there.join(", ") };
            Err(ManifestError::Platform { wanted: wanted.to_string(), there })
        }
    }
}

/// Whether an image is for a platform, by its own configuration: what is no index says so nowhere else.
///
/// # Errors
/// When it is for another, or does not say.
pub fn check_platform(config: &[u8], wanted: &Platform) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    struct Own {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        variant: Option<String>,
    }
    let own: Own = serde_json::from_slice(config)?;
    let there = Platform { os: own.os, architecture: own.architecture, variant: own.variant };
    let fits = there.os == wanted.os
        && there.architecture == wanted.architecture
        && (wanted.variant.is_none() || there.variant.is_none() || wanted.variant == there.variant);
    if fits {
        return Ok(());
    }
    let there = crate::error::clean(&there.to_string());
    Err(ManifestError::Platform { wanted: wanted.to_string(), there })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn descriptor(os: &str, architecture: &str, fill: char) -> serde_json::Value {
        json!({ "mediaType": ACCEPT[1], "size": 7, "digest": format!("sha256:{}", fill.to_string().repeat(64)),
                "platform": { "os": os, "architecture": architecture } })
    }

    fn index(manifests: &[serde_json::Value]) -> ImageIndex {
        let bytes = json!({ "schemaVersion": 2, "mediaType": ACCEPT[0], "manifests": manifests }).to_string();
        match parse(bytes.as_bytes(), "").unwrap() {
            Document::Index(index) => *index,
            Document::Image(_) => panic!("an index"),
        }
    }

    #[test]
    fn the_manifest_for_the_platform_is_chosen() {
        let index = index(&[
            descriptor("unknown", "unknown", '0'),
            descriptor("linux", "arm64", 'a'),
            descriptor("linux", "amd64", 'b'),
            descriptor("linux", "amd64", 'c'),
        ]);
        let chosen = choose(&index, &"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(chosen.digest().digest(), "b".repeat(64));
        let error = choose(&index, &"linux/s390x".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("not there for linux/s390x, only for linux/arm64, linux/amd64"), "{error}");
    }

    #[test]
    fn platforms_are_read_as_people_write_them() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown);
        }
        for bad in ["", "linux/", "a/b/c/d", "linux/am d64", "/"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    fn manifest(config: &str, layers: usize, digest: &str) -> String {
        let blob = |kind: &str, digest: &str| json!({ "mediaType": kind, "size": 7, "digest": digest });
        let good = format!("sha256:{}", "a".repeat(64));
        let layers = vec![blob("application/vnd.oci.image.layer.v1.tar+gzip", digest); layers];
        json!({ "schemaVersion": 2, "mediaType": ACCEPT[1], "config": blob(config, &good), "layers": layers })
            .to_string()
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert!(parse(manifest(CONFIGS[0], 2, &good).as_bytes(), "").is_ok());
        assert!(parse(manifest(CONFIGS[1], 0, &good).as_bytes(), "").is_ok());
        let sha512 = format!("sha512:{}", "a".repeat(128));
        for (text, says) in [
            (manifest("application/vnd.cncf.helm.config.v1+json", 1, &good), "helm"),
            (manifest(CONFIGS[0], 128, &good), "127 layers"),
            (manifest(CONFIGS[0], 1, &sha512), "not sha256"),
            (manifest(CONFIGS[0], 1, "sha256:../../etc"), "does not parse"),
            (json!({ "schemaVersion": 1, "name": "a" }).to_string(), "schema 1"),
            (json!({ "schemaVersion": 2 }).to_string(), "text/html"),
            ("<html>".into(), "does not parse"),
        ] {
            let error = parse(text.as_bytes(), "text/html; charset=utf-8").unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn an_image_that_is_alone_must_be_for_the_platform_too() {
        let config = br#"{"os":"linux","architecture":"arm64","variant":"v8"}"#;
        assert!(check_platform(config, &"linux/arm64".parse().unwrap()).is_ok());
        assert!(check_platform(config, &"linux/arm64/v8".parse().unwrap()).is_ok());
        assert!(check_platform(config, &"linux/arm64/v7".parse().unwrap()).is_err());
        assert!(check_platform(b"{}", &"linux/amd64".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in "[{}\\[\\]\":,a-z0-9]{0,80}") {
            let _ = parse(text.as_bytes(), "");
        }
    }
}
