//! Brings images into the store: from archives, and as single layers from `import`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::files::{self, NewFile};
use super::record::{Origin, Record, chain};
use super::{ImageStore, free_space};
use crate::archive::{Archive, ArchiveError, ArchiveImage, Members};
use crate::digest::{Digest, ImageId};
use crate::erofs::{reader, writer};
use crate::error::{Error, Result};
use crate::import::{self, ImportConfig};
use crate::layer::{self, Compression, FORMAT_VERSION, LayerError};
use crate::limits;
use crate::merge::Merge;
use crate::reference::ImageName;

/// Where an archive comes from.
pub enum LoadSource {
    /// A file (plain, gzip or zstd) or a folder.
    Path(PathBuf),
    /// A stream: kept in the store while it is loaded, since archives have to be read at random.
    Reader(Box<dyn Read + Send>),
}

/// An image that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The names it has now by this archive, in familiar form.
    pub names: Vec<String>,
    /// Digest of the configuration.
    pub id: ImageId,
}

/// How far a load is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The archive is being copied into the store: bytes so far, decompressed.
    Spooling {
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer is being read.
    Layer {
        /// From 1.
        number: usize,
        /// Layers of this image.
        count: usize,
        /// Digest of the uncompressed layer; unknown until the end for an import.
        diff_id: Option<Digest>,
        /// Uncompressed bytes so far.
        bytes: u64,
    },
    /// A layer is in the store, and perhaps was before.
    LayerDone {
        /// From 1.
        number: usize,
        /// Layers of this image.
        count: usize,
        /// Digest of the uncompressed layer.
        diff_id: Digest,
        /// The store had it already.
        reused: bool,
    },
    /// An image is complete.
    Done(LoadedImage),
    /// Something of the archive was left out; for people.
    Warning(String),
}

/// What a layer's bytes must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// Digest of the bytes as they come, where it is known.
    pub digest: Option<Digest>,
    /// Digest of the decompressed bytes.
    pub diff_id: Digest,
}

/// A layer that is written and has no name yet.
struct NewLayer {
    file: NewFile,
    frame: Option<NewFile>,
    diff_id: Digest,
}

impl ImageStore {
    /// Loads all images of an archive that are for this machine. Images before a broken one stay.
    pub fn load(&self, source: LoadSource, progress: &mut dyn FnMut(Progress)) -> Result<Vec<LoadedImage>> {
        // A source may be slow or stall, and others must not wait for it: the lock is taken when all of it is at hand.
        let (archive, origin, fallback) =
            self.open_archive(source, progress).map_err(|error| self.or_no_space(error))?;
        self.write_locked(|| {
            let wrong = |source| Error::Archive { origin: origin.clone(), source };
            let images = archive.images(fallback.as_deref()).map_err(wrong)?;
            images.iter().map(|image| self.load_image(&archive, image, &origin, progress)).collect()
        })
    }

    /// Makes an image of one layer from the tar of a root file system (plain, gzip or zstd), as `docker import`.
    pub fn import(&self, reader: impl Read + Send, name: &str, changes: ImportConfig) -> Result<LoadedImage> {
        // There is one layer of unknown length: nothing to tell that the reader's owner can't count.
        let progress: &mut dyn FnMut(Progress) = &mut |_| {};
        let parsed: ImageName =
            name.parse().map_err(|source| Error::Name { name: name.to_owned(), source })?;
        // As in `load`: whoever sends the tar may stall, so the lock is taken when the layer is whole.
        let written = self.write_layer(reader, name, (1, 1), None, progress);
        let new = written.map_err(|error| self.or_no_space(error))?;
        let diff_id = new.diff_id;
        self.write_locked(|| {
            self.commit_layer(new)?;
            let config = import::configuration(&changes, diff_id, SystemTime::now());
            self.commit_image(&config, &[diff_id], None, std::slice::from_ref(&parsed), name, progress)
        })
    }

    /// Runs a writer alone; when it fails, nothing of its doing stays.
    pub(super) fn write_locked<T>(&self, write: impl FnOnce() -> Result<T>) -> Result<T> {
        let _lock = files::lock(&self.dir)?;
        let result = write();
        if result.is_err() {
            // The first error is the one to report; what can't be swept now is at the next open.
            let _ = self.collect_garbage();
        }
        result.map_err(|error| self.or_no_space(error))
    }

    /// Whatever failed for want of space is told as that.
    pub(super) fn or_no_space(&self, error: Error) -> Error {
        match error.is_full() {
            true => Error::NoSpace { store: self.dir.clone(), free: self.free().unwrap_or(0) },
            false => error,
        }
    }

    fn free(&self) -> io::Result<u64> {
        free_space(&File::open(&self.dir)?)
    }

    /// Opens an archive for reading at random, spooling it where it is a stream or compressed as a whole.
    fn open_archive(
        &self,
        source: LoadSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Archive, String, Option<String>)> {
        let (file, origin, fallback) = match source {
            LoadSource::Reader(reader) => {
                let origin = "the stream".to_owned();
                (self.spool(reader, &origin, progress)?, origin, None)
            }
            LoadSource::Path(path) => {
                let origin = path.display().to_string();
                let fallback = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
                // Not blocking, so that a named pipe without a writer can't hold us.
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
                let mut file = options.open(&path).map_err(Error::io("opening", &path))?;
                let metadata = file.metadata().map_err(Error::io("opening", &path))?;
                if metadata.is_dir() {
                    let members = Members::folder(&path).map_err(Error::io("opening", &path))?;
                    return Ok((Archive::new(members), origin, fallback));
                }
                if !metadata.is_file() {
                    return Err(Error::NeitherFileNorFolder(path));
                }
                let mut start = [0; 4];
                let count = file.read_at(&mut start, 0).map_err(Error::io("reading", &path))?;
                let plain = Compression::of(&start[..count]) == Compression::None;
                let file = if plain { file } else { self.spool(&mut file, &origin, progress)? };
                (file, origin, fallback)
            }
        };
        let members = Members::tar(Arc::new(file))
            .map_err(|source| Error::Archive { origin: origin.clone(), source })?;
        Ok((Archive::new(members), origin, fallback))
    }

    /// Copies a stream, decompressed, into a nameless file of the store.
    fn spool(&self, source: impl Read, origin: &str, progress: &mut dyn FnMut(Progress)) -> Result<File> {
        let file = NewFile::create(&self.tmp())?.unlink()?;
        let mut written = 0u64;
        let mut next_check = 0u64;
        let out = Writer(|bytes: &[u8]| {
            if written >= next_check {
                next_check = written + (16 << 20);
                if free_space(&file)? < limits::DISK_RESERVE {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            (&file).write_all(bytes)?;
            written += bytes.len() as u64;
            progress(Progress::Spooling { bytes: written });
            Ok(())
        });
        layer::decompress(source, limits::MAX_ARCHIVE, out)
            .map_err(|source| Error::Stream { origin: origin.to_owned(), source })?;
        Ok(file)
    }

    fn load_image(
        &self,
        archive: &Archive,
        image: &ArchiveImage,
        origin: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<LoadedImage> {
        let shown = match image.names.first() {
            Some(name) => name.to_string(),
            None => format!("{} of {origin}", Digest::of(&image.config)),
        };
        let count = image.layers.len();
        for (index, blob) in image.layers.iter().enumerate() {
            let number = index + 1;
            let reused = self.layer_path(blob.diff_id, FORMAT_VERSION).exists();
            if !reused {
                let section = archive
                    .layer(blob)
                    .map_err(|source| Error::Archive { origin: origin.to_owned(), source })?;
                let expected = Expected { digest: blob.digest, diff_id: blob.diff_id };
                self.add_layer(section, &shown, (number, count), Some(expected), progress)?;
            }
            progress(Progress::LayerDone { number, count, diff_id: blob.diff_id, reused });
        }
        for name in &image.bad_names {
            // No control characters: it comes from outside and goes to a terminal.
            progress(Progress::Warning(format!(
                "{shown}: the archive also calls it {name:?}, which is no valid image name"
            )));
        }
        let diff_ids: Vec<Digest> = image.layers.iter().map(|blob| blob.diff_id).collect();
        let config = std::str::from_utf8(&image.config).map_err(|_| Error::Archive {
            origin: origin.to_owned(),
            source: ArchiveError::Mismatch(shown.clone(), "configuration's encoding"),
        })?;
        self.commit_image(config, &diff_ids, None, &image.names, &shown, progress)
    }

    /// Reads one layer into the store. The caller holds the writers' lock or has pinned the layer.
    pub(super) fn add_layer(
        &self,
        source: impl Read + Send,
        image: &str,
        place: (usize, usize),
        expected: Option<Expected>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let new = self.write_layer(source, image, place, expected, progress)?;
        self.commit_layer(new)
    }

    /// Gives a written layer its name. The caller holds the writers' lock or has pinned the layer.
    fn commit_layer(&self, new: NewLayer) -> Result<()> {
        // The frame first: where there is a layer file, nobody looks for more.
        let frame = new.frame.map(|frame| (frame, self.frame_path(new.diff_id, FORMAT_VERSION)));
        let file = (new.file, self.layer_path(new.diff_id, FORMAT_VERSION));
        for (file, target) in frame.into_iter().chain([file]) {
            if !target.exists() {
                file.commit(&target)?;
            }
        }
        Ok(())
    }

    /// Writes one layer to a file without its name yet, and checks its digests where the image says what they must be.
    fn write_layer(
        &self,
        source: impl Read + Send,
        image: &str,
        (number, count): (usize, usize),
        expected: Option<Expected>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<NewLayer> {
        let diff_id = expected.map(|layer| layer.diff_id);
        let wrong = |source: LayerError| Error::Layer {
            image: image.to_owned(),
            layer: layer_text(number, count, diff_id),
            source: Box::new(source),
        };
        let (new, frame) = (NewFile::create(&self.tmp())?, NewFile::create(&self.tmp())?);
        let mut report = |bytes| progress(Progress::Layer { number, count, diff_id, bytes });
        let written = layer::write(source, new.file(), frame.file(), &mut report).map_err(wrong)?;
        let check = |what, expected: Option<Digest>, found| match expected {
            Some(expected) if expected != found => Err(wrong(LayerError::Digest { what, found, expected })),
            _ => Ok(()),
        };
        check("digest", expected.and_then(|layer| layer.digest), written.totals.digest)?;
        check("diff_id", diff_id, written.totals.diff_id)?;
        Ok(NewLayer { file: new, frame: written.framed.then_some(frame), diff_id: written.totals.diff_id })
    }

    /// Writes the merged image where it is missing, then the record, then the names.
    pub(super) fn commit_image(
        &self,
        config: &str,
        diff_ids: &[Digest],
        origin: Option<Origin>,
        names: &[ImageName],
        shown: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<LoadedImage> {
        let id = Digest::of(config.as_bytes());
        if let Ok(known) = self.record(id) {
            // The same image from an archive first and a registry then, say: where it is from last is where it is most likely pushed to.
            if origin.is_some() && known.origin != origin {
                self.write_record(id, &Record { origin, ..known })?;
            }
        } else {
            let mut record = Record {
                format: FORMAT_VERSION,
                origin,
                config: config.to_owned(),
                layers: diff_ids.to_vec(),
                devices: Vec::new(),
                loaded: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                size: 0,
            };
            record.devices = self.write_merged(&record, shown)?;
            record.size = self.disk_size(&record)?;
            self.write_record(id, &record)?;
        }
        if !names.is_empty() {
            let mut all = self.names()?;
            all.extend(names.iter().map(|name| (name.clone(), id)));
            self.write_names(&all)?;
        }
        let loaded = LoadedImage { names: names.iter().map(ToString::to_string).collect(), id };
        progress(Progress::Done(loaded.clone()));
        Ok(loaded)
    }

    /// Lays the layers over each other; returns those that have data, in the order of the device table.
    fn write_merged(&self, record: &Record, shown: &str) -> Result<Vec<Digest>> {
        let mut merge = Merge::default();
        let mut blocks = Vec::new();
        for (index, &diff_id) in record.layers.iter().enumerate() {
            let path = self.layer_path(diff_id, record.format);
            let file = File::open(&path).map_err(Error::io("opening", &path))?;
            let layer =
                reader::read(&file).map_err(|source| Error::DamagedLayer { path: path.clone(), source })?;
            merge.push(&layer.tree).map_err(|source| Error::Merge {
                image: shown.to_owned(),
                layer: layer_text(index + 1, record.layers.len(), Some(diff_id)),
                source,
            })?;
            blocks.push(layer.blocks);
        }
        let (tree, used) = merge.finish();
        let devices: Vec<writer::Device> = used
            .iter()
            .map(|&layer| writer::Device { tag: record.layers[layer].hex(), blocks: blocks[layer] })
            .collect();
        let target = self.merged_path(record);
        if !target.exists() {
            let new = NewFile::create(&self.tmp())?;
            writer::write_merged(new.file(), &tree, &devices, chain(&record.layers).uuid())
                .map_err(|source| Error::Write { image: shown.to_owned(), source })?;
            new.commit(&target)?;
        }
        Ok(used.iter().map(|&layer| record.layers[layer]).collect())
    }

    fn disk_size(&self, record: &Record) -> Result<u64> {
        let mut layers = record.layers.clone();
        layers.sort_unstable();
        layers.dedup();
        let size = |path: &Path| {
            // In units of 512 bytes, whatever the file system's own blocks are: stat(2).
            let metadata = path.metadata().map_err(Error::io("finding", path))?;
            Ok::<u64, Error>(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
        };
        let mut total = size(&self.merged_path(record))?;
        for layer in layers {
            total += size(&self.layer_path(layer, record.format))?;
            total += size(&self.frame_path(layer, record.format)).unwrap_or(0);
        }
        Ok(total)
    }
}

fn layer_text(number: usize, count: usize, diff_id: Option<Digest>) -> String {
    match diff_id {
        Some(diff_id) => format!("{number} of {count} (diff_id {diff_id})"),
        None => format!("{number} of {count}"),
    }
}

/// Lets a closure be written to.
struct Writer<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Writer<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
