//! Images on their way out as one archive: what `vial save` sends, byte for byte, and how long it is before the first.

use std::collections::HashMap;
use std::io::{self, Write};

use super::{Export, ImageStore};
use crate::archive::write::{self, Content, Outgoing, Written};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits;
use crate::reference::ImageName;

/// An archive that can be written. Its layers stay as long as this lives, whatever is removed meanwhile.
#[derive(Debug)]
pub struct Save {
    exports: Vec<Export>,
    members: Vec<Written>,
}

impl ImageStore {
    /// Begins to take images out as one archive. One that is asked for by name has that name in it, one by ID has none, as Docker
    /// does it.
    ///
    /// # Errors
    /// When one of them is not there or lacks what makes a tar of its layers, or when they are more than an archive holds.
    pub fn save(&self, names_or_ids: &[String]) -> Result<Save> {
        let too_much = |what, max| Err(Error::TooMuchToSave { what, max });
        if names_or_ids.len() > limits::MAX_ARCHIVE_IMAGES {
            return too_much("images", limits::MAX_ARCHIVE_IMAGES);
        }
        let all = self.names()?;
        let mut images: Vec<(Export, Vec<ImageName>)> = Vec::new();
        for text in names_or_ids {
            let (id, name) = self.find(&all, text)?;
            let at = match images.iter().position(|(export, _)| export.id == id) {
                Some(at) => at,
                None => {
                    images.push((self.export_of(id)?, Vec::new()));
                    images.len() - 1
                }
            };
            // A name by digest is the registry's, not one that can be given.
            if let Some(name) = name.filter(|name| name.tag().is_some() && !images[at].1.contains(name)) {
                images[at].1.push(name);
            }
        }
        let mut lengths: HashMap<Digest, u64> = HashMap::new();
        let mut sized = Vec::with_capacity(images.len());
        for (export, _) in &images {
            let mut layers = Vec::with_capacity(export.layers.len());
            for &layer in &export.layers {
                let length = match lengths.get(&layer) {
                    Some(&length) => length,
                    None => export.tar_length(layer)?,
                };
                lengths.insert(layer, length);
                layers.push((layer, length));
            }
            sized.push(layers);
        }
        let outgoing: Vec<Outgoing<'_>> = images
            .iter()
            .zip(&sized)
            .map(|((export, names), layers)| Outgoing {
                id: export.id,
                names,
                config: &export.config,
                layers,
            })
            .collect();
        let members = write::members(&outgoing)
            .map_err(|error| Error::io("describing the images of", &self.dir)(error.into()))?;
        // Nobody, we least of all, would read it again.
        if members.len() > limits::MAX_ARCHIVE_MEMBERS {
            return too_much("members", limits::MAX_ARCHIVE_MEMBERS);
        }
        Ok(Save { exports: images.into_iter().map(|(export, _)| export).collect(), members })
    }
}

impl Save {
    /// Bytes of the archive.
    pub fn length(&self) -> u64 {
        write::length(&self.members)
    }

    /// Writes the archive. The same images give the same bytes each time.
    ///
    /// # Errors
    /// When a layer is damaged, or `out` fails; what was written by then is no archive, for its end is missing.
    pub fn write(&self, mut out: impl Write) -> Result<()> {
        let zeros = [0; write::END as usize];
        // Layers tell of a failing `out` themselves.
        let gone =
            |error: io::Error| Error::io("sending an archive of", std::path::Path::new("images"))(error);
        for member in &self.members {
            out.write_all(&write::header(member)).map_err(gone)?;
            match &member.content {
                Content::Bytes(bytes) => out.write_all(bytes).map_err(gone)?,
                Content::Layer(layer) => {
                    let has = self.exports.iter().find(|export| export.layers.contains(layer));
                    let missing = || Error::NotFound(layer.to_string());
                    has.ok_or_else(missing)?.tar(*layer, &mut out)?;
                }
            }
            // Less than a block.
            out.write_all(&zeros[..write::padding(member.size) as usize]).map_err(gone)?;
        }
        out.write_all(&zeros).and_then(|()| out.flush()).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LoadSource, LoadedImage, Progress};
    use crate::testing::{docker_archive, simple};
    use std::io::Cursor;
    use std::process::Command;

    fn load(store: &ImageStore, archive: Vec<u8>) -> Vec<LoadedImage> {
        let mut loaded = Vec::new();
        let source = LoadSource::Reader(Box::new(Cursor::new(archive)));
        let mut note = |progress| {
            if let Progress::Done(image) = progress {
                loaded.push(image);
            }
        };
        store.load(source, &mut note).unwrap();
        loaded
    }

    fn saved(store: &ImageStore, names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let save = store.save(&names).unwrap();
        let mut bytes = Vec::new();
        save.write(&mut bytes).unwrap();
        assert_eq!(save.length(), bytes.len() as u64);
        bytes
    }

    #[test]
    fn what_was_saved_comes_back_as_the_same_images_from_either_form() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, other) = (ImageStore::open(one.path()).unwrap(), ImageStore::open(two.path()).unwrap());
        let shared = simple(b"shared");
        let a = load(&store, docker_archive("a", &[shared.clone(), simple(&[1; 70_000])]))[0].id;
        let b = load(&store, docker_archive("r.io/b:v", &[shared, simple(b"b")]))[0].id;
        store.tag("a", "also").unwrap();
        let bytes = saved(&store, &["a", "r.io/b:v", "also"]);
        assert!(bytes == saved(&store, &["a", "r.io/b:v", "also"]));
        let loaded = load(&other, bytes);
        let ids: Vec<_> = loaded.iter().map(|image| image.id).collect();
        assert_eq!(ids, [a, b]);
        assert_eq!(other.resolve("also").unwrap().id, a);
        assert_eq!(other.resolve("a").unwrap().layers, store.resolve("a").unwrap().layers);

        // The OCI layout alone.
        let layout = tempfile::tempdir().unwrap();
        let archive = layout.path().join("archive");
        std::fs::write(&archive, saved(&store, &[&a.hex()[..12]])).unwrap();
        let status = Command::new("tar").arg("-C").arg(layout.path()).arg("-xf").arg(&archive).status();
        assert!(status.unwrap().success());
        std::fs::remove_file(layout.path().join("manifest.json")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let third = ImageStore::open(dir.path()).unwrap();
        third.load(LoadSource::Path(layout.path().to_owned()), &mut |_| {}).unwrap();
        let found = third.list().unwrap();
        assert_eq!(found.iter().map(|image| (image.id, image.names.len())).collect::<Vec<_>>(), [(a, 0)]);
    }

    #[test]
    fn what_can_not_be_saved_is_told_before_the_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let tar = simple(b"1");
        load(&store, docker_archive("a", std::slice::from_ref(&tar)));
        let save = |name: &str, times: usize| store.save(&vec![name.to_owned(); times]);
        assert!(matches!(save("zz", 1), Err(Error::NotFound(_))));
        assert!(matches!(save("a", 1000), Err(Error::TooMuchToSave { .. })));
        let whole = save("a", 2).unwrap();
        for file in std::fs::read_dir(store.layers()).unwrap().flatten() {
            if file.path().extension().is_some_and(|kind| kind == "frame") {
                std::fs::write(file.path(), b"rubbish").unwrap();
            }
        }
        assert!(matches!(save("a", 1), Err(Error::NoTar { .. })));
        // Damaged only since: it has no end.
        let mut bytes = Vec::new();
        assert!(matches!(whole.write(&mut bytes), Err(Error::NoTar { .. })));
        assert!((bytes.len() as u64) < whole.length());
    }
}
