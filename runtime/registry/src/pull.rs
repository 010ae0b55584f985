//! What a pull asks of a registry: the manifest for a platform, small blobs, and layers that survive broken connections.

use crate::digest_of;
use crate::error::{Cause, Result};
use crate::limits;
use crate::manifest::{self, ACCEPT, Document, Platform};
use crate::session::{Registry, header};
use crate::transport;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT as ACCEPT_HEADER, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use hyper::{Method, Response, StatusCode};
use oci_spec::image::{Descriptor, Digest, ImageManifest};
use std::time::Duration;
use tokio::sync::mpsc;

/// An image by its repository and tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Path within the registry: `library/busybox`.
    pub repository: String,
    /// A tag, or `sha256:…`.
    pub reference: String,
}

impl Wanted {
    fn scope(&self) -> Vec<String> {
        vec![format!("repository:{}:pull", self.repository)]
    }
}

/// A manifest, and what it is made of.
#[derive(Debug, Clone)]
pub struct Found {
    /// Digest of the manifest's bytes.
    pub digest: Digest,
    /// Digest of what the name means: an index's, where there is one.
    pub named: Digest,
    /// The manifest byte for byte.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// The manifest.
    pub manifest: ImageManifest,
}

/// How a transfer is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes are there.
    To(u64),
    /// The connection was lost, and is taken up again.
    Again,
}

/// How a transfer of a blob ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Complete,
    /// Whoever reads it has given up, and knows why.
    Unwanted,
}

impl Registry {
    /// Finds the manifest of an image for a platform.
    ///
    /// # Errors
    /// When there is none, or it can't be used.
    pub async fn find(&self, wanted: &Wanted, platform: &Platform) -> Result<Found> {
        let found = self.find_inner(wanted, platform).await;
        found.map_err(|cause| self.error(format!("pull {}", shown(wanted)), cause))
    }

    async fn find_inner(&self, wanted: &Wanted, platform: &Platform) -> Result<Found, Cause> {
        let mut reference = wanted.reference.clone();
        let mut named = None;
        for _ in 0..=limits::MAX_INDEX_DEPTH {
            let (bytes, media_type, digest) = self.manifest(wanted, &reference).await?;
            let named = named.get_or_insert_with(|| digest.clone()).clone();
            match manifest::parse(&bytes, &media_type)? {
                Document::Image(manifest) => {
                    let own = manifest.media_type().as_ref().map(ToString::to_string);
                    let media_type = own.unwrap_or(media_type);
                    return Ok(Found { digest, named, bytes, media_type, manifest: *manifest });
                }
                Document::Index(index) => {
                    reference = manifest::choose(&index, platform)?.digest().to_string();
                }
            }
        }
        Err(manifest::ManifestError::Depth.into())
    }

    /// A manifest's bytes, media type and digest; the digest is that which was asked for, if one was.
    async fn manifest(&self, wanted: &Wanted, reference: &str) -> Result<(Vec<u8>, String, Digest), Cause> {
        let scopes = wanted.scope();
        let mut ask =
            self.ask(Method::GET, &format!("/v2/{}/manifests/{reference}", wanted.repository), &scopes)?;
        for media_type in ACCEPT {
            header(&mut ask.headers, ACCEPT_HEADER, media_type)?;
        }
        let answer = self.send(&ask, transport::empty).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.failure(answer).await);
        }
        let text =
            |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (media_type, claimed) = (text(CONTENT_TYPE.as_str()), text("docker-content-digest"));
        let bytes =
            transport::read(answer.into_body(), "manifest", limits::MAX_MANIFEST, self.patience.idle).await?;
        let digest = digest_of(&bytes);
        // Asked for by digest, only that will do; by tag, what the registry says of it must be true.
        let by_digest = reference.starts_with("sha256:").then(|| reference.to_owned());
        let claimed = claimed.filter(|claimed| claimed.starts_with("sha256:"));
        for expected in [by_digest, claimed].into_iter().flatten() {
            if expected != digest.as_ref() {
                let expected = crate::error::clean(&expected);
                return Err(Cause::Digest { what: "manifest", found: digest.to_string(), expected });
            }
        }
        Ok((bytes, media_type.unwrap_or_default(), digest))
    }

    /// An image's configuration, verified to be what the manifest says and for that platform.
    ///
    /// # Errors
    /// When it can't be had, or is not what it should be.
    pub async fn configuration(
        &self,
        wanted: &Wanted,
        found: &Found,
        platform: &Platform,
    ) -> Result<Vec<u8>> {
        let config = self.small_blob(wanted, found.manifest.config()).await?;
        manifest::check_platform(&config, platform)
            .map_err(|error| self.error(format!("pull {}", shown(wanted)), error.into()))?;
        Ok(config)
    }

    /// A blob that is small, as a whole and verified.
    async fn small_blob(&self, wanted: &Wanted, blob: &Descriptor) -> Result<Vec<u8>> {
        let what = || format!("pull {}", shown(wanted));
        if blob.size() > limits::MAX_MANIFEST {
            let cause = Cause::TooLong { what: "configuration", limit: limits::MAX_MANIFEST };
            return Err(self.error(what(), cause));
        }
        let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
        let collect = async {
            let mut bytes = Vec::new();
            while let Some(Ok(piece)) = receiver.recv().await {
                bytes.extend_from_slice(&piece);
            }
            bytes
        };
        let fetch = async move { self.blob(wanted, blob, &sender, |_| {}).await };
        let (done, bytes) = tokio::join!(fetch, collect);
        done?;
        let found = digest_of(&bytes);
        if found != *blob.digest() {
            let cause = Cause::Digest {
                what: "configuration",
                found: found.to_string(),
                expected: blob.digest().to_string(),
            };
            return Err(self.error(what(), cause));
        }
        Ok(bytes)
    }

    /// Sends a blob's bytes to `sink`, exactly as many as its descriptor says; a connection that breaks is taken up where it
    /// was. Returns early, and without error, when the other end of `sink` is dropped. The digest is the reader's to check,
    /// who reads every byte anyway.
    ///
    /// # Errors
    /// When it can't be had whole.
    pub async fn blob(
        &self,
        wanted: &Wanted,
        blob: &Descriptor,
        sink: &mpsc::Sender<std::io::Result<Bytes>>,
        moved: impl Fn(Moved),
    ) -> Result<()> {
        let mut transfer = Transfer { at: 0, expected: blob.size(), sink, moved: &moved };
        let (mut tries, mut pause) = (0, self.patience.pause);
        for _ in 0..=limits::MAX_RESUMES {
            let before = transfer.at;
            let cause = match self.stretch(wanted, blob, &mut transfer).await {
                Ok(Stop::Complete | Stop::Unwanted) => return Ok(()),
                Err(cause) => cause,
            };
            if transfer.at > before {
                (tries, pause) = (0, self.patience.pause);
            }
            tries += 1;
            if !cause.is_passing() || tries > self.patience.attempts {
                return Err(self.error(format!("pull {}", shown(wanted)), cause));
            }
            moved(Moved::Again);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(8));
        }
        let cause = Cause::Broken(format!("{} times", limits::MAX_RESUMES + 1));
        Err(self.error(format!("pull {}", shown(wanted)), cause))
    }

    /// One connection's share of a blob.
    async fn stretch(
        &self,
        wanted: &Wanted,
        blob: &Descriptor,
        transfer: &mut Transfer<'_, impl Fn(Moved)>,
    ) -> Result<Stop, Cause> {
        let scopes = wanted.scope();
        let mut ask =
            self.ask(Method::GET, &format!("/v2/{}/blobs/{}", wanted.repository, blob.digest()), &scopes)?;
        if transfer.at > 0 {
            header(&mut ask.headers, RANGE, &format!("bytes={}-", transfer.at))?;
        }
        let answer = self.send(&ask, transport::empty).await?;
        let mut skip = match answer.status() {
            // It does not know ranges, and begins again: what is there already is passed over.
            StatusCode::OK => transfer.at,
            StatusCode::PARTIAL_CONTENT if transfer.at > 0 => {
                check_range(&answer, transfer.at)?;
                0
            }
            _ => return Err(self.failure(answer).await),
        };
        check_length(&answer, transfer.expected - (transfer.at - skip), transfer)?;
        let mut body = answer.into_body();
        while let Some(mut piece) = transport::piece(&mut body, self.patience.idle).await? {
            let passed = skip.min(piece.len() as u64);
            skip -= passed;
            // `passed` is at most the piece's length, so it fits.
            let piece = piece.split_off(passed as usize);
            if piece.is_empty() {
                continue;
            }
            let end = transfer.at + piece.len() as u64;
            if end > transfer.expected {
                return Err(Cause::Size { got: end, expected: transfer.expected });
            }
            if transfer.sink.send(Ok(piece)).await.is_err() {
                return Ok(Stop::Unwanted);
            }
            transfer.at = end;
            (transfer.moved)(Moved::To(end));
        }
        if transfer.at < transfer.expected {
            return Err(Cause::Broken(format!("after {} of {} bytes", transfer.at, transfer.expected)));
        }
        Ok(Stop::Complete)
    }
}

struct Transfer<'a, F> {
    at: u64,
    expected: u64,
    sink: &'a mpsc::Sender<std::io::Result<Bytes>>,
    moved: &'a F,
}

fn check_range(answer: &Response<Incoming>, from: u64) -> Result<(), Cause> {
    let text = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let start = text.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse::<u64>().ok());
    if start == Some(from) {
        return Ok(());
    }
    Err(Cause::Protocol(format!("asked for bytes from {from} on, it sends {:?}", crate::error::clean(text))))
}

/// An announced length that is wrong is an error before a byte of it is read.
fn check_length<F>(answer: &Response<Incoming>, left: u64, transfer: &Transfer<'_, F>) -> Result<(), Cause> {
    let text = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match text.and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length != left => {
            let got = (transfer.expected - left).saturating_add(length);
            Err(Cause::Size { got, expected: transfer.expected })
        }
        _ => Ok(()),
    }
}

/// As people write it.
fn shown(wanted: &Wanted) -> String {
    let joint = if wanted.reference.starts_with("sha256:") { '@' } else { ':' };
    format!("{}{joint}{}", wanted.repository, wanted.reference)
}
