//! An image that arrives layer by layer from somewhere else, several layers at the same time.
//!
//! Whoever fetches the layers may take minutes, and others must not wait for that: the writers' lock is taken only at the
//! end. Until then the layers that are there are pinned, so that no removal takes them, and a shared lock keeps other
//! processes from sweeping. An [`Ingest`] that is dropped before its end takes along what nobody else needs.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::load::{Expected, LoadedImage, Progress};
use super::{ImageStore, Origin, files};
use crate::archive::{ArchiveError, ConfigError, parse_config};
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::layer::FORMAT_VERSION;
use crate::reference::ImageName;

/// The lock that is shared by all who bring in layers.
pub(super) const LOCK: &str = "arriving";

/// How many images on their way need each layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Arc<Mutex<HashMap<Digest, usize>>>);

impl Pins {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, layers: &[Digest]) {
        let mut pins = self.lock();
        for layer in layers {
            *pins.entry(*layer).or_default() += 1;
        }
    }

    fn remove(&self, layers: &[Digest]) {
        let mut pins = self.lock();
        for layer in layers {
            if let Some(count) = pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(layer);
                }
            }
        }
    }
}

/// Layers that stay in the store as long as this lives, whatever is removed and whoever sweeps.
#[derive(Debug)]
pub(super) struct Pinned {
    store: ImageStore,
    layers: Vec<Digest>,
    /// Whether to sweep afterwards what nobody else needs.
    sweep: bool,
    _alive: File,
}

impl ImageStore {
    pub(super) fn pin(&self, layers: &[Digest], sweep: bool) -> Result<Pinned> {
        let alive = files::share(&self.dir, LOCK)?;
        self.pins.add(layers);
        Ok(Pinned { store: self.clone(), layers: layers.to_vec(), sweep, _alive: alive })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.store.pins.remove(&self.layers);
        if self.sweep
            && let Ok(_lock) = files::lock(&self.store.dir)
        {
            // What can't be swept now is at the next removal or open.
            let _ = self.store.collect_garbage();
        }
    }
}

/// A layer of an image that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestLayer {
    /// Digest of its bytes as they come.
    pub digest: Digest,
    /// Digest of its uncompressed bytes, by the configuration.
    pub diff_id: Digest,
}

/// An image on its way into the store.
#[derive(Debug)]
pub struct Ingest {
    store: ImageStore,
    shown: String,
    config: String,
    layers: Vec<IngestLayer>,
    pinned: Pinned,
}

impl ImageStore {
    /// Begins to bring in an image, whose configuration's digest the caller has verified. `blobs`: the digests of its layers as
    /// they will come, lowest first. `shown` names the image in errors.
    ///
    /// # Errors
    /// When the image is not for this machine, or its configuration makes no sense.
    pub fn ingest(&self, config: &[u8], blobs: &[Digest], shown: &str) -> Result<Ingest> {
        let wrong = |source| Error::Archive {
            origin: shown.to_owned(),
            source: ArchiveError::Config(Digest::of(config).to_string(), source),
        };
        let (_, diff_ids) = parse_config(config).map_err(wrong)?;
        if diff_ids.len() != blobs.len() {
            return Err(wrong(ConfigError::LayerCount { config: diff_ids.len(), manifest: blobs.len() }));
        }
        let text = std::str::from_utf8(config).map_err(|_| Error::Archive {
            origin: shown.to_owned(),
            source: ArchiveError::Mismatch(shown.to_owned(), "configuration's encoding"),
        })?;
        let pinned = self.pin(&diff_ids, true)?;
        let layers = blobs.iter().zip(&diff_ids).map(|(&digest, &diff_id)| IngestLayer { digest, diff_id });
        Ok(Ingest {
            store: self.clone(),
            shown: shown.to_owned(),
            config: text.to_owned(),
            layers: layers.collect(),
            pinned,
        })
    }
}

impl Ingest {
    /// The image's ID.
    pub fn id(&self) -> ImageId {
        Digest::of(self.config.as_bytes())
    }

    /// Its layers, lowest first.
    pub fn layers(&self) -> &[IngestLayer] {
        &self.layers
    }

    /// Whether a layer is in the store; if so it stays there at least as long as this lives.
    pub fn has(&self, layer: &IngestLayer) -> bool {
        self.store.layer_path(layer.diff_id, FORMAT_VERSION).exists()
    }

    /// Reads a layer from its first to its last byte, and verifies both its digests. Layers may be added in any order and at the
    /// same time. A source that ends early must fail, not end. `progress` hears the number of uncompressed bytes so far.
    ///
    /// # Errors
    /// When the source fails, the layer is not what it should be, or there is no room.
    pub fn add(
        &self,
        layer: &IngestLayer,
        source: impl Read + Send,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let number = self.layers.iter().position(|other| other == layer).map_or(0, |index| index + 1);
        let expected = Expected { digest: Some(layer.digest), diff_id: layer.diff_id };
        let mut report = |event: Progress| {
            if let Progress::Layer { bytes, .. } = event {
                progress(bytes);
            }
        };
        let place = (number, self.layers.len());
        let added = self.store.add_layer(source, &self.shown, place, Some(expected), &mut report);
        added.map(drop).map_err(|error| self.store.or_no_space(error))
    }

    /// Makes the image whole under these names. All its layers must be there. `origin`: where it is from.
    ///
    /// # Errors
    /// When a layer is missing, does not fit those below, or there is no room; nothing has changed then.
    pub fn commit(mut self, names: &[ImageName], origin: Option<Origin>) -> Result<LoadedImage> {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| layer.diff_id).collect();
        let store = self.store.clone();
        let loaded = store.write_locked(|| {
            store.commit_image(&self.config, &diff_ids, origin, names, &self.shown, &mut |_| {})
        })?;
        self.pinned.sweep = false;
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LoadSource;
    use crate::testing::*;
    use std::io::Cursor;

    fn config(layers: &[Vec<u8>]) -> (Vec<u8>, Vec<Digest>) {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let (config, _) = crate::testing::config(&diff_ids);
        let blobs = layers.iter().map(|layer| Digest::of(&gzip(layer))).collect();
        (config.into_bytes(), blobs)
    }

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn layer_files(store: &ImageStore) -> usize {
        files::list_dir(&store.layers()).unwrap().len() + files::list_dir(&store.tmp()).unwrap().len()
    }

    #[test]
    fn layers_arrive_in_any_order_and_become_an_image() {
        let (_dir, store) = store();
        let layers = [simple(b"1"), simple(b"2")];
        let (config, blobs) = config(&layers);
        let ingest = store.ingest(&config, &blobs, "a").unwrap();
        for index in [1, 0] {
            let layer = ingest.layers()[index];
            assert!(!ingest.has(&layer));
            ingest.add(&layer, Cursor::new(gzip(&layers[index])), &mut |_| {}).unwrap();
            assert!(ingest.has(&layer));
        }
        let id = ingest.id();
        let loaded = ingest.commit(&["a".parse().unwrap()], None).unwrap();
        assert_eq!((loaded.id, store.resolve("a").unwrap().id), (id, id));
        // The same as from an archive.
        let archive = docker_archive("b", &layers);
        store.load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |_| {}).unwrap();
        assert_eq!(store.resolve("b").unwrap().disk, store.resolve("a").unwrap().disk);
    }

    #[test]
    fn what_is_given_up_leaves_nothing_and_what_others_bring_in_stays() {
        let (_dir, store) = store();
        let layers = [simple(b"1"), simple(b"2")];
        let (config, blobs) = config(&layers);
        let given_up = store.ingest(&config, &blobs, "a").unwrap();
        let other = store.ingest(&config, &blobs, "a").unwrap();
        let layer = other.layers()[0];
        other.add(&layer, Cursor::new(gzip(&layers[0])), &mut |_| {}).unwrap();
        drop(given_up);
        // A removal and another process's opening sweep what nobody refers to, but not this.
        ImageStore::open(store.dir()).unwrap();
        store.load(LoadSource::Reader(Box::new(&b"rubbish"[..])), &mut |_| {}).unwrap_err();
        assert!(other.has(&layer));
        drop(other);
        assert_eq!(layer_files(&store), 0);
    }

    #[test]
    fn bytes_that_are_not_what_was_promised_are_refused() {
        let (_dir, store) = store();
        let layers = [simple(b"1")];
        let (config, blobs) = config(&layers);
        let ingest = store.ingest(&config, &blobs, "a").unwrap();
        let layer = ingest.layers()[0];
        let lies = IngestLayer { diff_id: Digest::of(b"x"), ..layer };
        for (bytes, layer, says) in [
            (gzip(&simple(b"2")), layer, "its digest is"),
            (gzip(&layers[0]), lies, "its diff_id is"),
            (gzip(&layers[0])[..40].to_vec(), layer, "decompressed"),
        ] {
            let error = ingest.add(&layer, Cursor::new(bytes), &mut |_| {}).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        assert_eq!(layer_files(&store), 0);
        assert!(ingest.commit(&[], None).is_err(), "a layer is missing");
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn an_image_for_another_machine_is_refused_before_anything_is_fetched() {
        let (_dir, store) = store();
        let (config, blobs) = config(&[simple(b"1")]);
        let other = String::from_utf8(config.clone()).unwrap().replace("linux", "plan9");
        assert!(store.ingest(other.as_bytes(), &blobs, "a").unwrap_err().to_string().contains("plan9"));
        assert!(store.ingest(&config, &[], "a").unwrap_err().to_string().contains("0 layers"));
        assert!(store.ingest(b"{}", &[], "a").is_err());
    }
}
