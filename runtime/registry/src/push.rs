//! What a push asks of a registry: which blobs it has, uploads, and the manifest that makes an image of them.

use crate::digest_of;
use crate::endpoint::follow;
use crate::error::{Cause, Result};
use crate::manifest::ACCEPT;
use crate::pull::Moved;
use crate::session::{Ask, Registry, header};
use crate::transport::{self, Body};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::header::{ACCEPT as ACCEPT_HEADER, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION};
use hyper::{Method, StatusCode, Uri};
use oci_spec::image::{Digest, MediaType};
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// Bytes that are read and sent at once.
const CHUNK: usize = 256 << 10;

/// A blob to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its bytes.
    pub bytes: OutgoingBytes,
    /// How many.
    pub size: u64,
    /// Their digest.
    pub digest: Digest,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub enum OutgoingBytes {
    /// At hand.
    Memory(Bytes),
    /// In a file, from its beginning.
    File(Arc<File>),
}

/// Where a blob is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// The manifest of an image of these parts.
pub fn manifest(config: &Placed, layers: &[Placed]) -> Vec<u8> {
    let part = |part: &Placed| json!({ "mediaType": part.media_type, "digest": part.digest.to_string(), "size": part.size });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest.to_string(),
        "config": part(config),
        "layers": layers.iter().map(part).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

fn scopes(repository: &str) -> Vec<String> {
    vec![format!("repository:{repository}:pull,push")]
}

impl Registry {
    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// When that can't be learnt.
    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let asked = async {
            let scopes = scopes(repository);
            let ask = self.ask(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}"), &scopes)?;
            let answer = self.send(&ask, transport::empty).await?;
            match answer.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(self.failure(answer).await),
            }
        };
        asked.await.map_err(|cause| self.error(format!("push to {repository}"), cause))
    }

    /// The digest of what a tag means now, if it means anything.
    ///
    /// # Errors
    /// When that can't be learnt.
    pub async fn tagged(&self, repository: &str, tag: &str) -> Result<Option<String>> {
        let asked = async {
            let scopes = scopes(repository);
            let mut ask = self.ask(Method::HEAD, &format!("/v2/{repository}/manifests/{tag}"), &scopes)?;
            for media_type in ACCEPT {
                header(&mut ask.headers, ACCEPT_HEADER, media_type)?;
            }
            let answer = self.send(&ask, transport::empty).await?;
            match answer.status() {
                StatusCode::OK => {
                    let digest = answer.headers().get("docker-content-digest");
                    Ok(digest.and_then(|digest| digest.to_str().ok()).map(str::to_owned))
                }
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(self.failure(answer).await),
            }
        };
        asked.await.map_err(|cause| self.error(format!("push {repository}:{tag}"), cause))
    }

    /// Takes a blob over from another repository of the same registry; whether it did.
    ///
    /// # Errors
    /// When the registry refuses to talk about it at all.
    pub async fn mount(&self, repository: &str, digest: &Digest, from: &str) -> Result<bool> {
        let asked = async {
            let mut scopes = scopes(repository);
            scopes.push(format!("repository:{from}:pull"));
            let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
            let answer = self.send(&self.ask(Method::POST, &path, &scopes)?, transport::empty).await?;
            // Anything else is a no: it may not know the other repository, or not let us see it.
            Ok(answer.status() == StatusCode::CREATED)
        };
        match asked.await {
            Err(Cause::Unauthorized { .. }) => Ok(false),
            asked => asked.map_err(|cause| self.error(format!("push to {repository}"), cause)),
        }
    }

    /// Sends a blob. A transfer that breaks is begun again, since few registries can take one up.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn upload(
        &self,
        repository: &str,
        blob: &Outgoing,
        moved: impl Fn(Moved) + Send + Sync + 'static,
    ) -> Result<()> {
        let moved = Arc::new(moved);
        let mut pause = self.patience.pause;
        for attempt in 0.. {
            let Err(cause) = self.upload_once(repository, blob, moved.clone()).await else { break };
            if !cause.is_passing() || attempt >= self.patience.attempts {
                return Err(self.error(format!("push to {repository}"), cause));
            }
            moved(Moved::Again);
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    async fn upload_once(
        &self,
        repository: &str,
        blob: &Outgoing,
        moved: Arc<dyn Fn(Moved) + Send + Sync>,
    ) -> Result<(), Cause> {
        let scopes = scopes(repository);
        let begin = self.ask(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), &scopes)?;
        let answer = self.send(&begin, transport::empty).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.failure(answer).await);
        }
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Cause::Protocol("it takes uploads nowhere".into()))?;
        let url = follow(&begin.url, location)?;
        let joint = if url.query().is_some() { '&' } else { '?' };
        let url: Uri = format!("{url}{joint}digest={}", blob.digest)
            .parse()
            .map_err(|_| Cause::Protocol("it takes uploads at an address that is none".into()))?;
        let mut headers = HeaderMap::new();
        header(&mut headers, CONTENT_TYPE, "application/octet-stream")?;
        header(&mut headers, CONTENT_LENGTH, &blob.size.to_string())?;
        let sent = Arc::new(AtomicU64::new(0));
        let ask = Ask {
            method: Method::PUT,
            url,
            headers,
            scopes: &scopes,
            patience: self.patience.idle,
            sent: Some(sent.clone()),
        };
        let body = || body(blob, sent.clone(), moved.clone());
        let answer = self.send(&ask, body).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.failure(answer).await),
        }
    }

    /// Gives a manifest a tag. Returns its digest.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn tag(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<Digest> {
        let tagged = async {
            let scopes = scopes(repository);
            let mut ask = self.ask(Method::PUT, &format!("/v2/{repository}/manifests/{tag}"), &scopes)?;
            header(&mut ask.headers, CONTENT_TYPE, media_type)?;
            let bytes = Bytes::copy_from_slice(manifest);
            let answer = self.send(&ask, || transport::whole(bytes.clone())).await?;
            if !answer.status().is_success() {
                return Err(self.failure(answer).await);
            }
            let digest = digest_of(manifest);
            let claimed = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            match claimed {
                Some(claimed) if claimed.starts_with("sha256:") && claimed != digest.as_ref() => {
                    let found = crate::error::clean(claimed);
                    Err(Cause::Digest { what: "copy of the manifest", found, expected: digest.to_string() })
                }
                _ => Ok(digest),
            }
        };
        tagged.await.map_err(|cause| self.error(format!("push {repository}:{tag}"), cause))
    }
}

fn body(blob: &Outgoing, sent: Arc<AtomicU64>, moved: Arc<dyn Fn(Moved) + Send + Sync>) -> Body {
    sent.store(0, Ordering::Relaxed);
    Sending { bytes: blob.bytes.clone(), at: 0, size: blob.size, sent, moved }.boxed()
}

struct Sending {
    bytes: OutgoingBytes,
    at: u64,
    size: u64,
    sent: Arc<AtomicU64>,
    moved: Arc<dyn Fn(Moved) + Send + Sync>,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        // It is asked for the next piece when the one before went to the network.
        let at = self.at;
        self.sent.store(at, Ordering::Relaxed);
        if at > 0 {
            (self.moved)(Moved::To(at));
        }
        let count = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(CHUNK);
        if count == 0 {
            return Poll::Ready(None);
        }
        let piece = match &self.bytes {
            // A blob in memory is one of some MiB at most, so its positions fit.
            OutgoingBytes::Memory(bytes) => bytes.slice(at as usize..at as usize + count),
            OutgoingBytes::File(file) => {
                // Read here and not on another thread: it was written just now, so it comes from memory.
                let mut piece = vec![0; count];
                if let Err(error) = file.read_exact_at(&mut piece, at) {
                    return Poll::Ready(Some(Err(error)));
                }
                piece.into()
            }
        };
        self.at += count as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.size - self.at)
    }
}
