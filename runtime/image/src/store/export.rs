//! An image on its way out: its layers as compressed tars, made anew from layer file and frame. And more names for images.

use std::fs::File;
use std::io::{self, Write};

use super::files::{self, NewFile};
use super::ingest::Pinned;
use super::{ImageStore, Origin, free_space};
use crate::digest::{Digest, Hasher, ImageId};
use crate::error::{Error, Result};
use crate::layer::frame;
use crate::limits;
use crate::reference::ImageName;

/// An image on its way out. Its layers stay as long as this lives, whatever is removed meanwhile.
#[derive(Debug)]
pub struct Export {
    store: ImageStore,
    format: u32,
    /// The image's ID.
    pub id: ImageId,
    /// Its configuration, byte for byte.
    pub config: String,
    /// diff_ids, lowest first.
    pub layers: Vec<Digest>,
    /// Where it was pulled from, if it was.
    pub origin: Option<Origin>,
    _pinned: Pinned,
}

/// A compressed layer.
#[derive(Debug)]
pub struct ExportBlob {
    /// Its bytes, in a file without a name.
    pub file: File,
    /// How many.
    pub size: u64,
    /// Their digest.
    pub digest: Digest,
}

impl ImageStore {
    /// Begins to take an image out.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn export(&self, name_or_id: &str) -> Result<Export> {
        let (id, _) = self.find(&self.names()?, name_or_id)?;
        self.export_of(id)
    }

    /// The image with this ID.
    pub(super) fn export_of(&self, id: ImageId) -> Result<Export> {
        let pinned = self.pin(&self.record(id)?.layers, true)?;
        // Again, now that nothing can go any more.
        let record = self.record(id)?;
        Ok(Export {
            store: self.clone(),
            format: record.format,
            id,
            config: record.config,
            layers: record.layers,
            origin: record.origin,
            _pinned: pinned,
        })
    }

    /// Gives an image one more name, which another image may have to give up.
    ///
    /// # Errors
    /// When there is no such image, or the name is none.
    pub fn tag(&self, name_or_id: &str, name: &str) -> Result<ImageId> {
        let parsed: ImageName =
            name.parse().map_err(|source| Error::Name { name: name.to_owned(), source })?;
        if parsed.tag().is_none() {
            return Err(Error::NotATag(name.to_owned()));
        }
        let _lock = files::lock(&self.dir)?;
        let mut names = self.names()?;
        let (id, _) = self.find(&names, name_or_id)?;
        names.insert(parsed, id);
        self.write_names(&names)?;
        Ok(id)
    }
}

impl Export {
    /// A layer as a gzipped tar. The same layer gives the same bytes each time, so that a registry that has them is not sent them
    /// again.
    ///
    /// # Errors
    /// When the layer's frame is missing or damaged, or there is no room for the blob.
    pub fn blob(&self, diff_id: Digest) -> Result<ExportBlob> {
        let (frame, layer) = self.open(diff_id)?;
        let file = NewFile::create(&self.store.tmp())?.unlink()?;
        let (size, digest) = pack(&frame, &layer, diff_id, &file)
            .map_err(|source| self.store.or_no_space(Error::NoTar { layer: diff_id, source }))?;
        Ok(ExportBlob { file, size, digest })
    }

    /// Bytes of a layer's tar.
    ///
    /// # Errors
    /// When the layer's frame is missing or damaged.
    pub fn tar_length(&self, diff_id: Digest) -> Result<u64> {
        let (frame, _) = self.open(diff_id)?;
        frame::length(&frame).map_err(|source| Error::NoTar { layer: diff_id, source })
    }

    /// Writes a layer as the tar that it came as.
    ///
    /// # Errors
    /// When the layer's frame is missing or damaged, or `out` fails; some of it has been written then.
    pub fn tar(&self, diff_id: Digest, out: impl Write) -> Result<()> {
        let (frame, layer) = self.open(diff_id)?;
        plain(&frame, &layer, diff_id, out)
            .map(drop)
            .map_err(|source| Error::NoTar { layer: diff_id, source })
    }

    /// A layer's frame and the layer itself.
    fn open(&self, diff_id: Digest) -> Result<(File, File)> {
        let open = |path: std::path::PathBuf| {
            File::open(path).map_err(|source| Error::NoTar { layer: diff_id, source })
        };
        let layer = open(self.store.layer_path(diff_id, self.format))?;
        Ok((open(self.store.frame_path(diff_id, self.format))?, layer))
    }
}

/// Makes a layer's tar again; what it was written to, once its digest is right.
fn plain<W: Write>(frame: &File, layer: &File, diff_id: Digest, out: W) -> io::Result<W> {
    let mut tar = Hashed { inner: out, hasher: Hasher::default() };
    frame::replay(frame, layer, &mut tar)?;
    let found = tar.hasher.finish();
    if found != diff_id {
        let words = format!("its bytes have the digest {found}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    Ok(tar.inner)
}

/// Makes a layer's tar again and packs it; bytes and digest of what came out.
fn pack(frame: &File, layer: &File, diff_id: Digest, out: &File) -> io::Result<(u64, Digest)> {
    let blob = Blob { file: out, digest: Hasher::default(), size: 0, next_check: 0 };
    let packed = flate2::write::GzEncoder::new(blob, flate2::Compression::default());
    let blob = plain(frame, layer, diff_id, packed)?.finish()?;
    Ok((blob.size, blob.digest.finish()))
}

struct Hashed<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Blob<'a> {
    file: &'a File,
    digest: Hasher,
    size: u64,
    next_check: u64,
}

impl Write for Blob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size >= self.next_check {
            self.next_check = self.size + (16 << 20);
            if free_space(self.file)? < limits::DISK_RESERVE {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LoadSource;
    use crate::testing::{docker_archive, simple};
    use std::io::{Cursor, Read, Seek};

    #[test]
    fn layers_come_out_as_they_came_in_even_when_the_image_is_removed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let layers = [simple(b"1"), simple(&[2; 100_000])];
        let archive = docker_archive("a", &layers);
        store.load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |_| {}).unwrap();
        let export = store.export("a").unwrap();
        store.remove("a", &|_| false, false).unwrap();
        for tar in &layers {
            let [mut one, two] = [(); 2].map(|()| export.blob(Digest::of(tar)).unwrap());
            assert_eq!((one.digest, one.size), (two.digest, two.size));
            let mut packed = Vec::new();
            one.file.rewind().unwrap();
            one.file.read_to_end(&mut packed).unwrap();
            assert_eq!((Digest::of(&packed), packed.len() as u64), (one.digest, one.size));
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
            assert!(plain == *tar);
        }
        drop(export);
        assert!(files::list_dir(&store.layers()).unwrap().is_empty());
        assert!(files::list_dir(&store.tmp()).unwrap().is_empty());
    }

    #[test]
    fn a_layer_without_its_frame_or_with_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let tar = simple(b"1");
        let archive = docker_archive("a", std::slice::from_ref(&tar));
        store.load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |_| {}).unwrap();
        let export = store.export("a").unwrap();
        let frame = store.frame_path(Digest::of(&tar), export.format);
        let other = zstd::encode_all(&[2u8][..], 1).unwrap();
        std::fs::write(&frame, other).unwrap();
        assert!(export.blob(Digest::of(&tar)).unwrap_err().to_string().contains("have the digest"));
        std::fs::remove_file(&frame).unwrap();
        assert!(matches!(export.blob(Digest::of(&tar)), Err(Error::NoTar { .. })));
    }

    #[test]
    fn an_image_gets_more_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let archive = docker_archive("a", &[simple(b"1")]);
        store.load(LoadSource::Reader(Box::new(Cursor::new(archive))), &mut |_| {}).unwrap();
        let id = store.tag("a", "r.io/b:v1").unwrap();
        assert_eq!(store.resolve("r.io/b:v1").unwrap().id, id);
        assert!(matches!(store.tag("nope", "b"), Err(Error::NotFound(_))));
        assert!(matches!(store.tag("a", "B"), Err(Error::Name { .. })));
        assert!(matches!(store.tag("a", &format!("b@{id}")), Err(Error::NotATag(_))));
    }
}
