//! A pull: the manifest, the configuration, then layers into the image store while they arrive.

use super::transfer::{Layer, Transfer};
use super::{Access, short};
use crate::body::BodyReader;
use crate::error::{ApiError, Result};
use crate::state::Shared;
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use vial_api::{ErrorBody, ErrorKind, LayerState, TransferEvent};
use vial_image::{Digest, ImageName, Ingest, IngestLayer, LoadedImage, Origin};
use vial_registry::limits::PARALLEL_BLOBS;
use vial_registry::{Descriptor, Found, Moved, Platform, Registries, Registry, Wanted};

/// Pieces of a layer between network and disk; each is what one read gave, some hundred KiB at most.
const PIECES: usize = 16;

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct Pull {
    /// The image.
    pub name: ImageName,
    /// For what.
    pub platform: Platform,
    /// How to speak to its registry.
    pub access: Access,
}

impl Pull {
    /// Does it; the last event of the transfer.
    ///
    /// # Errors
    /// When it fails, or nobody wants it any more; nothing of it stays then.
    pub async fn run(self, daemon: Shared, transfer: Arc<Transfer>) -> Result<TransferEvent, ErrorBody> {
        self.by_any_mirror(&daemon, &transfer).await.map_err(|error| error.0)
    }

    async fn by_any_mirror(&self, daemon: &Shared, transfer: &Arc<Transfer>) -> Result<TransferEvent> {
        let registries = spawn_blocking(Registries::of_this_machine).await??;
        let shown = self.name.to_string();
        for mirror in registries.mirrors(self.name.domain()) {
            // Credentials are for the registry itself, and whoever runs a mirror is somebody else.
            let access = Access { credential: None, ..self.access.clone() };
            let name = mirror.name.clone();
            match self.from(daemon, transfer, access.open(mirror, registries.clone()).await?).await {
                Err(error) if retry_elsewhere(&error) => {
                    tracing::warn!(image = shown, mirror = name, %error, "a mirror does not have it");
                }
                other => return other,
            }
        }
        let endpoint = self.access.endpoint(self.name.domain(), &format!("pull {shown}"), &registries)?;
        self.from(daemon, transfer, self.access.open(endpoint, registries).await?).await
    }

    async fn from(
        &self,
        daemon: &Shared,
        transfer: &Arc<Transfer>,
        registry: Arc<Registry>,
    ) -> Result<TransferEvent> {
        let reference = self.name.digest().map(|digest| digest.to_string());
        let reference = reference.or_else(|| self.name.tag().map(str::to_owned)).unwrap_or_default();
        let wanted = Wanted { repository: self.name.path().to_owned(), reference };
        let asking = async {
            let found = registry.find(&wanted, &self.platform).await?;
            let config = registry.configuration(&wanted, &found, &self.platform).await?;
            Ok::<_, vial_registry::Error>((found, config))
        };
        let (found, config) = tokio::select! {
            answer = asking => answer?,
            () = transfer.unwanted() => return Err(given_up()),
        };
        let ingest = self.ingest(daemon, &found, config).await?;
        let layers = ingest.layers().iter().zip(found.manifest.layers());
        let layers: Vec<Part> = layers
            .map(|(&layer, blob)| Part { layer, blob: blob.clone(), there: ingest.has(&layer) })
            .collect();
        transfer.begin(&self.name.to_string(), found.named.as_ref(), layers.iter().map(Part::told).collect());

        // Each thread that writes a layer holds one of these: when the last one is gone, nobody writes any more.
        let (writing, mut written) = mpsc::channel::<()>(1);
        let fetching =
            Fetching { registry, wanted, ingest: ingest.clone(), transfer: transfer.clone(), writing };
        let fetched = tokio::select! {
            fetched = fetching.all(layers) => fetched,
            () = transfer.unwanted() => Err(given_up()),
        };
        // The senders go with the fetching, which is over or was dropped just now.
        let _ = written.recv().await;
        let store = daemon.images.clone();
        let (name, named) = (self.name.clone(), found.named.to_string());
        // Also where it failed: giving an image up means removing files, which may wait for other writers.
        let (loaded, changed) = spawn_blocking(move || {
            fetched?;
            let ingest = Arc::into_inner(ingest).ok_or_else(still_used)?;
            let origin = Origin {
                registry: name.domain().to_owned(),
                repository: name.path().to_owned(),
                media_type: found.media_type,
                // It was parsed as JSON, so it is text.
                manifest: String::from_utf8_lossy(&found.bytes).into_owned(),
            };
            let changed = store.resolve(&name.full()).map_or(true, |image| image.id != ingest.id());
            Ok::<(LoadedImage, bool), ApiError>((ingest.commit(&[name], Some(origin))?, changed))
        })
        .await??;
        Ok(TransferEvent::Finished {
            name: self.name.to_string(),
            id: loaded.id.to_string(),
            digest: named,
            changed,
        })
    }

    async fn ingest(&self, daemon: &Shared, found: &Found, config: Vec<u8>) -> Result<Arc<Ingest>> {
        let digests = found.manifest.layers().iter().map(|layer| layer.digest().as_ref().parse::<Digest>());
        let digests = digests
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ApiError::new(ErrorKind::BadImage, format!("{}: {error}", self.name)))?;
        let (store, shown) = (daemon.images.clone(), self.name.to_string());
        Ok(Arc::new(spawn_blocking(move || store.ingest(&config, &digests, &shown)).await??))
    }
}

/// One layer of the manifest, and of the configuration.
#[derive(Debug, Clone)]
struct Part {
    layer: IngestLayer,
    blob: Descriptor,
    there: bool,
}

impl Part {
    fn told(&self) -> Layer {
        Layer {
            id: short(self.blob.digest().as_ref()),
            state: if self.there { LayerState::Exists } else { LayerState::Waiting },
            done: 0,
            total: self.blob.size(),
        }
    }
}

#[derive(Clone)]
struct Fetching {
    registry: Arc<Registry>,
    wanted: Wanted,
    ingest: Arc<Ingest>,
    transfer: Arc<Transfer>,
    writing: mpsc::Sender<()>,
}

impl Fetching {
    /// Fetches what is not there, a few at a time, in the order of the manifest.
    async fn all(self, parts: Vec<Part>) -> Result<()> {
        let mut seen = HashSet::new();
        // The same layer may be there twice (empty ones often are): once is enough.
        let mut waiting = parts
            .into_iter()
            .enumerate()
            .filter(|(_, part)| !part.there && seen.insert(part.layer.diff_id))
            .collect::<Vec<_>>()
            .into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < PARALLEL_BLOBS
                && let Some((index, part)) = waiting.next()
            {
                running.spawn(self.clone().one(index, part));
            }
            match running.join_next().await {
                // One that fails ends all: the set is dropped, and with it every transfer.
                Some(done) => done??,
                None => return Ok(()),
            }
        }
    }

    async fn one(self, index: usize, part: Part) -> Result<()> {
        let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
        let told = self.transfer.clone();
        told.layer(index, |layer| layer.state = LayerState::Moving);
        let (ingest, writing) = (self.ingest, self.writing);
        let adding = spawn_blocking(move || {
            let reader = BodyReader::new(receiver, "the layer's transfer");
            let added = ingest.add(&part.layer, reader, &mut |_| {});
            // Before the word that nobody writes any more: the image is to be whole, or given up, by then.
            drop(ingest);
            drop(writing);
            added
        });
        let moved = |moved| {
            told.layer(index, |layer| match moved {
                Moved::To(done) => (layer.state, layer.done) = (LayerState::Moving, done),
                Moved::Again => layer.state = LayerState::Again,
            });
        };
        let fetched = self.registry.blob(&self.wanted, &part.blob, &sender, moved).await;
        if fetched.is_ok() {
            told.layer(index, |layer| layer.state = LayerState::Preparing);
            // An end that is said: without it the reader takes it for one that broke off.
            let _ = sender.send(Ok(Bytes::new())).await;
        }
        drop(sender);
        let added = adding.await?;
        // What the network says explains what the store says.
        fetched?;
        added?;
        told.layer(index, |layer| layer.state = LayerState::Done);
        Ok(())
    }
}

/// Whether another place that has the same image may do better.
fn retry_elsewhere(error: &ApiError) -> bool {
    matches!(
        error.0.kind,
        ErrorKind::NoSuchImage | ErrorKind::Unavailable | ErrorKind::Unauthorized | ErrorKind::BadImage
    )
}

pub(super) fn given_up() -> ApiError {
    ApiError::new(ErrorKind::Conflict, "it was given up, because nobody waits for it any more")
}

fn still_used() -> ApiError {
    ApiError::new(ErrorKind::Internal, "the daemon failed inside: an image is still being written")
}
