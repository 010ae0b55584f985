//! Archives, layers and block images of strangers.

use crate::tarball;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use vial_image::archive::{Archive, Members};
use vial_image::erofs::{layout, reader, writer};
use vial_image::merge::Merge;
use vial_image::tree::Tree;
use vial_image::{Digest, ImageName, layer as layers, limits, tar as tars};

const BLOCK: usize = 4096;

/// The tar reader: as the bytes are, and with right checksums.
pub fn tar(bytes: &[u8]) {
    read_tar(bytes);
    read_tar(&tarball::sealed(bytes));
}

/// Extended headers: two bytes say how many of the rest are one; the others are the file that it describes.
pub fn pax(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let (records, data) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let mut tar = Vec::new();
    tarball::push(&mut tar, b'x', "records", records);
    tarball::push(&mut tar, b'0', "file", data);
    read_tar(&tar);
}

fn read_tar(bytes: &[u8]) {
    let mut reader = tars::Reader::new(bytes);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(entry.size <= limits::MAX_FILE);
        let mut stored = entry.size;
        if let Some(runs) = &entry.sparse {
            assert!(runs.len() <= limits::MAX_SPARSE_RUNS);
            let mut end = 0;
            stored = 0;
            for &(offset, length) in runs {
                assert!(
                    offset >= end && offset + length <= entry.size,
                    "runs are ordered and inside of the file"
                );
                end = offset + length;
                stored += length;
            }
        }
        let mut left = stored;
        while left > 0 {
            let Ok(data) = reader.data() else { return };
            assert!(!data.is_empty(), "an entry has as many bytes as its header says, or ends with an error");
            let count = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            reader.consume(count);
            left -= count as u64;
        }
    }
}

/// Layers, separated by `==layer==`: written as EROFS, read back, merged, read back.
pub fn layer(bytes: &[u8]) {
    const SEPARATOR: &[u8] = b"==layer==";
    let mut parts = vec![bytes];
    while parts.len() < 4
        && let Some(at) = parts[parts.len() - 1].windows(SEPARATOR.len()).position(|part| part == SEPARATOR)
    {
        let last = parts.len() - 1;
        let (before, after) = parts[last].split_at(at);
        parts[last] = before;
        parts.push(&after[SEPARATOR.len()..]);
    }
    let (mut merge, mut devices) = (Merge::default(), Vec::new());
    for part in parts {
        // Compressed layers are what they are; plain ones get right checksums.
        let sealed = match layers::Compression::of(part) {
            layers::Compression::None => tarball::sealed(part),
            _ => part.to_vec(),
        };
        let file = tempfile::tempfile().unwrap();
        let mut frame = tempfile::tempfile().unwrap();
        let Ok(written) = layers::write(&sealed[..], &file, &frame, &mut |_| {}) else { return };
        if written.framed {
            let mut tar = Vec::new();
            std::io::Seek::rewind(&mut frame).unwrap();
            layers::frame::replay(&frame, &file, &mut tar).expect("what was framed can be had again");
            assert_eq!(vial_image::Digest::of(&tar), written.totals.diff_id, "byte for byte");
        }
        let image = reader::read(&file).expect("what was written can be read");
        assert_eq!(image.blocks, written.blocks);
        devices.push(writer::Device { blocks: image.blocks, tag: written.totals.diff_id.hex() });
        if merge.push(&image.tree).is_err() {
            return;
        }
    }
    merged(merge, &devices);
}

fn merged(merge: Merge, devices: &[writer::Device]) {
    let (tree, used) = merge.finish();
    let devices: Vec<_> = used.iter().map(|&index| devices[index].clone()).collect();
    let file = tempfile::tempfile().unwrap();
    if writer::write_merged(&file, &tree, &devices, [7; 16]).is_ok() {
        let image = reader::read(&file).expect("what was merged can be read");
        let paths = |tree: &Tree| tree.paths().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert!(paths(&image.tree) == paths(&tree), "a merged image has the paths of its tree");
    }
}

/// The EROFS reader: as the bytes are, and with a right length and checksum in the superblock.
pub fn erofs(bytes: &[u8]) {
    let _ = reader::read(bytes);
    let mut image = bytes[..bytes.len() / BLOCK * BLOCK].to_vec();
    if image.is_empty() {
        return;
    }
    let blocks = u32::try_from(image.len() / BLOCK).unwrap();
    let superblock = &mut image[layout::SUPER_OFFSET..BLOCK];
    superblock[36..40].copy_from_slice(&blocks.to_le_bytes());
    superblock[4..8].fill(0);
    let checksum = layout::crc32c(superblock);
    superblock[4..8].copy_from_slice(&checksum.to_le_bytes());
    let Ok(read) = reader::read(&image[..]) else { return };
    assert!(read.tree.len() <= limits::MAX_ENTRIES);
    assert_eq!(read.links.len(), read.tree.len());
    // Reading is what a merge begins with: whatever was accepted must be fit for it.
    let mut merge = Merge::default();
    if read.devices.is_empty() && merge.push(&read.tree).is_ok() {
        merged(merge, &[writer::Device { blocks, tag: "fuzzed".into() }]);
    }
}

/// A whole archive, with right checksums.
pub fn archive(bytes: &[u8]) {
    open(&tarball::sealed(bytes));
}

/// The documents of an archive, separated by lines of `---`: the first is `manifest.json` if it is a list, else
/// `index.json`; the others are blobs. In a document `@1` stands for the digest of blob 1, which must come after it, and
/// `#1` for its length.
pub fn manifests(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut documents: Vec<String> = text.splitn(6, "\n---\n").map(str::to_owned).collect();
    let mut tar = Vec::new();
    for index in (1..documents.len()).rev() {
        let digest = Digest::of(documents[index].as_bytes()).hex();
        tarball::push(&mut tar, b'0', &format!("blobs/sha256/{digest}"), documents[index].as_bytes());
        tarball::push(&mut tar, b'0', &format!("{digest}.json"), documents[index].as_bytes());
        let length = documents[index].len().to_string();
        for text in &mut documents[..index] {
            *text = text.replace(&format!("@{index}"), &digest).replace(&format!("#{index}"), &length);
        }
    }
    let first = if documents[0].starts_with('[') { "manifest.json" } else { "index.json" };
    tarball::push(&mut tar, b'0', first, documents[0].as_bytes());
    tarball::push(&mut tar, b'0', "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    tarball::push(&mut tar, b'0', "layer.tar", b"a layer");
    open(&tar);
}

fn open(tar: &[u8]) {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(tar).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let Ok(members) = Members::tar(Arc::new(file)) else { return };
    let archive = Archive::new(members);
    let Ok(images) = archive.images(Some("fallback:1")) else { return };
    assert!(images.len() <= limits::MAX_ARCHIVE_IMAGES);
    for image in images {
        assert!(image.layers.len() <= limits::MAX_LAYERS);
        assert!(image.config.len() as u64 <= limits::MAX_JSON);
        for layer in &image.layers {
            if let Ok(mut section) = archive.layer(layer) {
                let length = section.remaining();
                assert!(section.read_to_end(&mut Vec::new()).unwrap_or(0) as u64 <= length);
            }
        }
    }
}

/// Names of images: what is accepted means the same when it is written in full, and as people write it.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(name) = text.parse::<ImageName>() else { return };
    assert_eq!(name.full().parse().as_ref(), Ok(&name));
    assert_eq!(name.to_string().parse().as_ref(), Ok(&name));
}
