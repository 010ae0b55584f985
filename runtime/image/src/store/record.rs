//! What the store remembers of an image, and of names.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::{ImageStore, Names, files};
use crate::archive;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};

/// `images/<id>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Writer format version of the files.
    pub format: u32,
    /// The configuration, byte for byte; its SHA-256 is the image's ID.
    pub config: String,
    /// diff_ids, lowest first.
    pub layers: Vec<Digest>,
    /// The layer files behind the merged image, in the order of its device table.
    pub devices: Vec<Digest>,
    /// Seconds since the epoch.
    pub loaded: u64,
    /// Bytes on disk.
    pub size: u64,
    /// Where it was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where an image came from, so that a push there, or to where the same blobs are, sends nothing twice and changes no digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The registry.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// Media type of the manifest.
    pub media_type: String,
    /// The manifest, byte for byte.
    pub manifest: String,
}

impl Record {
    /// The parsed configuration.
    pub fn configuration(&self, path: &Path) -> Result<ImageConfiguration> {
        match archive::parse_config(self.config.as_bytes()) {
            Ok((config, _)) => Ok(config),
            Err(error) => Err(Error::DamagedRecord { path: path.to_owned(), why: error.to_string() }),
        }
    }
}

/// Names a merged image: the digest of all diff_ids in order.
pub fn chain(layers: &[Digest]) -> Digest {
    let text: Vec<String> = layers.iter().map(Digest::to_string).collect();
    Digest::of(text.join("\n").as_bytes())
}

impl ImageStore {
    pub(super) fn record(&self, id: ImageId) -> Result<Record> {
        let path = self.record_path(id);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound(id.to_string()));
            }
            other => other.map_err(Error::io("reading", &path))?,
        };
        let damaged = |why: String| Error::DamagedRecord { path: path.clone(), why };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if Digest::of(record.config.as_bytes()) != id {
            return Err(damaged("the configuration is not the image's".into()));
        }
        Ok(record)
    }

    pub(super) fn write_record(&self, id: ImageId, record: &Record) -> Result<()> {
        let path = self.record_path(id);
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::DamagedRecord { path: path.clone(), why: error.to_string() })?;
        files::replace(&self.tmp(), &path, &bytes)
    }

    pub(super) fn names(&self) -> Result<Names> {
        let path = self.dir.join("names.json");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Names::new()),
            Err(error) => Err(Error::io("reading", &path)(error)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::DamagedRecord { path, why: error.to_string() }),
        }
    }

    pub(super) fn write_names(&self, names: &Names) -> Result<()> {
        let path = self.dir.join("names.json");
        let bytes = serde_json::to_vec_pretty(names)
            .map_err(|error| Error::DamagedRecord { path: path.clone(), why: error.to_string() })?;
        files::replace(&self.tmp(), &path, &bytes)
    }

    /// Removes layer files and merged images that no record refers to, and names of images that are gone.
    /// The caller holds the lock.
    pub(super) fn collect_garbage(&self) -> Result<()> {
        let ids: HashSet<ImageId> = self.ids()?.into_iter().collect();
        let mut names = self.names()?;
        let before = names.len();
        names.retain(|_, id| ids.contains(id));
        if names.len() != before {
            self.write_names(&names)?;
        }
        let mut referred = HashSet::new();
        for &id in &ids {
            // What a damaged record refers to is unknown: better to keep too much.
            let Ok(record) = self.record(id) else { return Ok(()) };
            for &layer in &record.layers {
                referred
                    .extend([self.layer_path(layer, record.format), self.frame_path(layer, record.format)]);
            }
            referred.insert(self.merged_path(&record));
        }
        // Held meanwhile, so that nobody begins to rely on a layer that is just going.
        let pinned = self.pins.lock();
        for dir in [self.layers(), self.merged()] {
            for name in files::list_dir(&dir)? {
                let path = dir.join(&name);
                let hex = name.split('.').next().unwrap_or_default();
                let kept = Digest::from_hex(hex).is_ok_and(|digest| pinned.contains_key(&digest));
                if !kept && !referred.contains(&path) {
                    files::remove(&path)?;
                }
            }
        }
        Ok(())
    }
}
