//! A push: layers that the registry does not have, the configuration, then the manifest under its tag.

use super::pull::given_up;
use super::transfer::{Layer, Transfer};
use super::{Access, short};
use crate::error::{ApiError, Result};
use crate::state::Shared;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::{JoinSet, spawn_blocking};
use vial_api::{ErrorBody, ErrorKind, LayerState, TransferEvent};
use vial_image::{Digest, Export, ImageName, Origin};
use vial_registry::limits::PARALLEL_BLOBS;
use vial_registry::{
    ImageManifest, Moved, Outgoing, OutgoingBytes, Placed, Registries, Registry, digest_of, manifest_of,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is to be pushed.
#[derive(Debug, Clone)]
pub struct Push {
    /// The image, and where it goes.
    pub name: ImageName,
    /// Its tag.
    pub tag: String,
    /// How to speak to its registry.
    pub access: Access,
}

impl Push {
    /// Does it; the last event of the transfer.
    ///
    /// # Errors
    /// When it fails, or nobody wants it any more. The tag has not changed then; blobs may be there that nothing refers to, which
    /// registries sweep.
    pub async fn run(self, daemon: Shared, transfer: Arc<Transfer>) -> Result<TransferEvent, ErrorBody> {
        let done = tokio::select! {
            done = self.push(&daemon, &transfer) => done,
            () = transfer.unwanted() => Err(given_up()),
        };
        done.map_err(|error| error.0)
    }

    async fn push(&self, daemon: &Shared, transfer: &Arc<Transfer>) -> Result<TransferEvent> {
        let registries = spawn_blocking(Registries::of_this_machine).await??;
        let what = format!("push {}", self.name);
        let endpoint = self.access.endpoint(self.name.domain(), &what, &registries)?;
        let registry = self.access.open(endpoint, registries).await?;
        let (store, full) = (daemon.images.clone(), self.name.full());
        let export = Arc::new(spawn_blocking(move || store.export(&full)).await??);
        let repository = self.name.path().to_owned();
        // Before any work: a registry that refuses does so at once.
        let before = registry.tagged(&repository, &self.tag).await?;

        let original = export.origin.as_ref().and_then(|origin| Original::read(origin, &export));
        let tell = |(index, diff_id): (usize, &Digest)| {
            let blob = original.as_ref().map(|original| original.layers[index].digest.to_string());
            let total = original.as_ref().map_or(0, |original| original.layers[index].size);
            let id = short(&blob.unwrap_or_else(|| diff_id.to_string()));
            Layer { id, state: LayerState::Waiting, done: 0, total }
        };
        let told = export.layers.iter().enumerate().map(tell).collect();
        transfer.begin(&self.name.to_string(), &export.id.to_string(), told);

        let sending = Sending {
            registry: registry.clone(),
            repository: repository.clone(),
            export: export.clone(),
            original,
            transfer: transfer.clone(),
            domain: self.name.domain().to_owned(),
        };
        let original = sending.original.clone();
        let layers = sending.all().await?;
        let config = self.config(&registry, &export, original.as_ref()).await?;
        let (media_type, manifest) = match (&original, &export.origin) {
            // What was pulled goes back byte for byte, and keeps its digest.
            (Some(original), Some(origin)) if original.layers == layers && original.config == config => {
                (origin.media_type.clone(), origin.manifest.clone().into_bytes())
            }
            _ => {
                let config = Placed { media_type: CONFIG.to_owned(), ..config };
                let layers: Vec<Placed> = layers.into_iter().map(oci).collect();
                (MANIFEST.to_owned(), manifest_of(&config, &layers))
            }
        };
        let digest = digest_of(&manifest).to_string();
        let changed = before.as_deref() != Some(digest.as_str());
        if changed {
            registry.tag(&repository, &self.tag, &media_type, &manifest).await?;
        }
        Ok(TransferEvent::Finished {
            name: self.name.to_string(),
            id: export.id.to_string(),
            digest,
            changed,
        })
    }

    async fn config(
        &self,
        registry: &Registry,
        export: &Export,
        original: Option<&Original>,
    ) -> Result<Placed> {
        let bytes = export.config.clone().into_bytes();
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        let media_type = original.map_or(CONFIG, |original| &original.config.media_type).to_owned();
        if !registry.has_blob(self.name.path(), &digest).await? {
            let blob = Outgoing { bytes: OutgoingBytes::Memory(bytes.into()), size, digest: digest.clone() };
            registry.upload(self.name.path(), &blob, |_| {}).await?;
        }
        Ok(Placed { media_type, digest, size })
    }
}

/// Docker's names for layers are the same bytes under OCI's; a manifest should not mix them.
fn oci(layer: Placed) -> Placed {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => LAYER.to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar" => LAYER.trim_end_matches("+gzip").to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => LAYER.replace("gzip", "zstd"),
        _ => layer.media_type,
    };
    Placed { media_type, ..layer }
}

/// The blobs that an image was pulled as.
#[derive(Debug, Clone)]
struct Original {
    registry: String,
    repository: String,
    config: Placed,
    layers: Vec<Placed>,
}

impl Original {
    /// From the manifest that is kept, if it is this image's.
    fn read(origin: &Origin, export: &Export) -> Option<Self> {
        let manifest: ImageManifest = serde_json::from_str(&origin.manifest).ok()?;
        let placed = |descriptor: &vial_registry::Descriptor| Placed {
            media_type: descriptor.media_type().to_string(),
            digest: descriptor.digest().clone(),
            size: descriptor.size(),
        };
        let layers: Vec<Placed> = manifest.layers().iter().map(placed).collect();
        let ours = layers.len() == export.layers.len()
            && manifest.config().digest().to_string() == export.id.to_string();
        ours.then(|| Self {
            registry: origin.registry.clone(),
            repository: origin.repository.clone(),
            config: placed(manifest.config()),
            layers,
        })
    }
}

#[derive(Clone)]
struct Sending {
    registry: Arc<Registry>,
    domain: String,
    repository: String,
    export: Arc<Export>,
    original: Option<Original>,
    transfer: Arc<Transfer>,
}

impl Sending {
    /// Sends all layers that are not there, a few at a time; where each of them is then.
    async fn all(self) -> Result<Vec<Placed>> {
        let layers = self.export.layers.clone();
        let mut first: HashMap<Digest, usize> = HashMap::new();
        for (index, diff_id) in layers.iter().enumerate() {
            first.entry(*diff_id).or_insert(index);
        }
        let mut waiting: Vec<usize> = first.values().copied().collect();
        // Taken from the end.
        waiting.sort_unstable_by(|a, b| b.cmp(a));
        let mut placed: HashMap<usize, Placed> = HashMap::new();
        let mut running = JoinSet::new();
        loop {
            while running.len() < PARALLEL_BLOBS
                && let Some(index) = waiting.pop()
            {
                let this = self.clone();
                running.spawn(async move { (index, this.one(index).await) });
            }
            match running.join_next().await {
                Some(done) => {
                    let (index, done) = done?;
                    placed.insert(index, done?);
                }
                None => break,
            }
        }
        let all = layers.iter().map(|diff_id| placed.get(first.get(diff_id)?).cloned());
        let missing = || ApiError::new(ErrorKind::Internal, "the daemon failed inside: a layer was not sent");
        all.collect::<Option<_>>().ok_or_else(missing)
    }

    /// Sees to it that one layer is there.
    async fn one(self, index: usize) -> Result<Placed> {
        let state = |state| self.transfer.layer(index, |layer| layer.state = state);
        if let Some(original) = &self.original {
            let layer = &original.layers[index];
            let mut there = self.registry.has_blob(&self.repository, &layer.digest).await?;
            if !there && original.registry == self.domain && original.repository != self.repository {
                there = self.registry.mount(&self.repository, &layer.digest, &original.repository).await?;
            }
            if there {
                state(LayerState::Exists);
                return Ok(layer.clone());
            }
        }
        state(LayerState::Preparing);
        let (export, diff_id) = (self.export.clone(), self.export.layers[index]);
        let blob = spawn_blocking(move || export.blob(diff_id)).await??;
        let digest: vial_registry::Digest = blob.digest.to_string().parse().map_err(|error| {
            ApiError::new(ErrorKind::Internal, format!("the daemon failed inside: {error}"))
        })?;
        let placed = Placed { media_type: LAYER.to_owned(), digest: digest.clone(), size: blob.size };
        if self.registry.has_blob(&self.repository, &digest).await? {
            state(LayerState::Exists);
            return Ok(placed);
        }
        self.transfer.layer(index, |layer| (layer.state, layer.total) = (LayerState::Moving, blob.size));
        let told = self.transfer.clone();
        let moved = move |moved| {
            told.layer(index, |layer| match moved {
                Moved::To(done) => (layer.state, layer.done) = (LayerState::Moving, done),
                Moved::Again => layer.state = LayerState::Again,
            });
        };
        let outgoing = Outgoing { bytes: OutgoingBytes::File(Arc::new(blob.file)), size: blob.size, digest };
        self.registry.upload(&self.repository, &outgoing, moved).await?;
        state(LayerState::Done);
        Ok(placed)
    }
}
