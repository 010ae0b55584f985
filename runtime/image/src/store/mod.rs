//! The image store: a folder of layer files, merged images and records.
//!
//! ```text
//! lock                         flock: one writer at a time, across processes
//! names.json                   every name and the image it means
//! images/<id>.json             one record per image, with its configuration
//! layers/<diff_id>.v<N>.erofs  layer files, shared between images
//! layers/<diff_id>.v<N>.frame  the rest of their tars, for pushing
//! merged/<chain>.v<N>.erofs    merged images, by the digest of all diff_ids
//! tmp/                         what is being written
//! arriving                     flock: shared by whoever brings layers in without being the writer
//! ```
//! Files appear whole: written in `tmp/`, synced, renamed, folder synced. What refers comes after what it refers
//! to, and goes before it. So a kill at any instruction leaves at most files that nothing refers to, and the next
//! [`ImageStore::open`] sweeps those.

mod export;
mod files;
mod ingest;
mod load;
mod record;
mod remove;
mod save;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

pub use export::{Export, ExportBlob};
pub use ingest::{Ingest, IngestLayer};
pub use load::{LoadSource, LoadedImage, Progress};
pub use record::Origin;
pub use remove::RemoveReport;
pub use save::Save;

use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::reference::ImageName;
use record::Record;

/// A store of images in one folder. Cheap to clone; all state is on disk.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
    /// Layers that images on their way need, and how many of those: kept though no record refers to them yet.
    pins: ingest::Pins,
}

/// An image, ready to be run.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Its names, in familiar form.
    pub names: Vec<String>,
    /// What to run and how.
    pub config: ImageConfiguration,
    /// The configuration, byte for byte.
    pub config_json: String,
    /// The files whose concatenation is the image's read-only disk: merged image first. Each is a multiple of
    /// 4096 bytes long. One plain EROFS mount in the guest shows the whole tree.
    pub disk: Vec<PathBuf>,
    /// Digests of the uncompressed layers, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes that its files take on disk, shared layers included.
    pub size: u64,
}

/// One line of a list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Its names, in familiar form; none for an image whose name went to another.
    pub names: Vec<String>,
    /// When the image was made, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// When it came into this store, seconds since the epoch.
    pub loaded: u64,
    /// Bytes that its files take on disk, shared layers included.
    pub size: u64,
}

impl ImageStore {
    /// Opens a store, making the folder where there is none, and sweeps what a killed writer left behind,
    /// unless another process is writing or bringing in layers right now.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let store = ImageStore { dir: dir.as_ref().to_owned(), pins: ingest::Pins::default() };
        for dir in [store.dir.clone(), store.images(), store.layers(), store.merged(), store.tmp()] {
            files::make_dir(&dir)?;
        }
        if let (Some(_lock), Some(_alone)) =
            (files::try_lock(&store.dir)?, files::try_alone(&store.dir, ingest::LOCK)?)
        {
            files::empty_dir(&store.tmp())?;
            store.collect_garbage()?;
        }
        Ok(store)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All images, the one that came last first.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let names = self.names()?;
        let mut list = Vec::new();
        for id in self.ids()? {
            let record = match self.record(id) {
                // Removed meanwhile.
                Err(Error::NotFound(_)) => continue,
                other => other?,
            };
            let created = record.configuration(&self.record_path(id))?.created().clone();
            list.push(ImageSummary {
                id,
                names: names_of(&names, id),
                created,
                loaded: record.loaded,
                size: record.size,
            });
        }
        list.sort_by(|a, b| (b.loaded, &a.names, a.id).cmp(&(a.loaded, &b.names, b.id)));
        Ok(list)
    }

    /// An image by name, ID, or the first digits of an ID that no other has.
    pub fn resolve(&self, name_or_id: &str) -> Result<Image> {
        let names = self.names()?;
        let id = self.find(&names, name_or_id)?.0;
        let record = self.record(id)?;
        let merged = self.merged_path(&record);
        let layers = record.devices.iter().map(|layer| self.layer_path(*layer, record.format));
        let disk: Vec<PathBuf> = std::iter::once(merged).chain(layers).collect();
        for path in &disk {
            path.metadata().map_err(Error::io("finding the image's file", path))?;
        }
        Ok(Image {
            id,
            names: names_of(&names, id),
            config: record.configuration(&self.record_path(id))?,
            config_json: record.config,
            disk,
            layers: record.layers,
            size: record.size,
        })
    }

    /// The image that a text means, and the name by which it was found.
    fn find(&self, names: &Names, text: &str) -> Result<(ImageId, Option<ImageName>)> {
        if let Ok(id) = text.parse::<Digest>() {
            self.record(id)?;
            return Ok((id, None));
        }
        let by_name = text.parse::<ImageName>();
        if let Some((name, id)) = by_name.as_ref().ok().and_then(|name| names.get_key_value(name)) {
            return Ok((*id, Some(name.clone())));
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            let mut found = self.ids()?.into_iter().filter(|id| id.hex().starts_with(digits));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok((id, None)),
                (Some(_), Some(_)) => return Err(Error::Ambiguous(text.to_owned())),
                (None, _) => {}
            }
        }
        by_name.map_err(|source| Error::Name { name: text.to_owned(), source })?;
        Err(Error::NotFound(text.to_owned()))
    }

    fn ids(&self) -> Result<Vec<ImageId>> {
        let mut ids = Vec::new();
        for name in files::list_dir(&self.images())? {
            if let Some(id) = name.strip_suffix(".json").and_then(|hex| Digest::from_hex(hex).ok()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    fn merged(&self) -> PathBuf {
        self.dir.join("merged")
    }

    fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn record_path(&self, id: ImageId) -> PathBuf {
        self.images().join(format!("{}.json", id.hex()))
    }

    fn layer_path(&self, diff_id: Digest, format: u32) -> PathBuf {
        self.layers().join(format!("{}.v{format}.erofs", diff_id.hex()))
    }

    fn frame_path(&self, diff_id: Digest, format: u32) -> PathBuf {
        self.layers().join(format!("{}.v{format}.frame", diff_id.hex()))
    }

    fn merged_path(&self, record: &Record) -> PathBuf {
        self.merged().join(format!("{}.v{}.erofs", record::chain(&record.layers).hex(), record.format))
    }
}

type Names = BTreeMap<ImageName, ImageId>;

fn names_of(names: &Names, id: ImageId) -> Vec<String> {
    names.iter().filter(|&(_, &named)| named == id).map(|(name, _)| name.to_string()).collect()
}

/// Bytes that unprivileged writers could still take on the file system of `file`.
pub(crate) fn free_space(file: &File) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(file.as_fd())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests;
