//! One layer: from the bytes of a tar to a layer file, in one pass, without unpacking anything.

mod builder;
mod data;
pub mod frame;
pub mod path;
mod stream;

use std::fs::File;
use std::io::{self, Read};

pub use builder::{Builder, EntryError};
use data::DataWriter;
use frame::{FrameWriter, Framed};
pub use path::PathError;
use stream::Chunks;
pub use stream::{Compression, StreamError, Totals, decompress};

use crate::digest::Digest;
use crate::erofs::layout::BLOCK;
use crate::erofs::writer::{self, WriteError};
use crate::limits;
use crate::tar::{self, TarError};
use crate::tree::Extent;

/// Changes whenever the same tar would give another layer file or merged image: old ones are then not reused.
pub const FORMAT_VERSION: u32 = 1;

/// Why a layer was refused, and where.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The tar itself.
    #[error("{0}{place}", place = after(.1))]
    Tar(#[source] TarError, Option<String>),
    /// One entry.
    #[error("entry {1:?} is refused: {0}")]
    Entry(#[source] EntryError, String),
    /// The compressed stream around it.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// More data than a layer may have.
    #[error("entry {0:?} takes the layer beyond {max} bytes of files", max = limits::MAX_LAYER_DATA)]
    TooMuchData(String),
    /// The layer file.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// The layer file.
    #[error("writing the layer's files: {0}")]
    Io(#[from] io::Error),
    /// The disk is nearly full.
    #[error(
        "only {free} bytes are free where images are stored, and {reserve} must stay free",
        reserve = limits::DISK_RESERVE
    )]
    DiskFull {
        /// Bytes that were free.
        free: u64,
    },
    /// Digests.
    #[error("its {what} is {found}, not {expected} as the image says")]
    Digest {
        /// Which digest.
        what: &'static str,
        /// What the bytes have.
        found: Digest,
        /// What the manifest or configuration says.
        expected: Digest,
    },
}

fn after(entry: &Option<String>) -> String {
    entry.as_ref().map(|name| format!(" (after entry {name:?})")).unwrap_or_default()
}

/// What became of a layer's bytes.
#[derive(Debug, Clone)]
pub struct Written {
    /// Lengths and digests.
    pub totals: Totals,
    /// Length of the layer file in blocks.
    pub blocks: u32,
    /// Entries of the tar.
    pub entries: u64,
    /// Whether the frame is whole, so that the tar can be had again.
    pub framed: bool,
}

/// Reads a layer tar (plain, gzip or zstd) to its last byte and writes its layer file and its frame, which must be empty.
/// `progress` hears the number of tar bytes so far, about once per MiB.
///
/// Reading, decompression and digests run on a thread of their own, tar and file on the caller's. Memory: about
/// 12 MiB, a decompressor's window, and the names and attributes of the layer.
pub fn write(
    source: impl Read + Send,
    file: &File,
    frame: &File,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, LayerError> {
    let frame = FrameWriter::new(frame)?;
    std::thread::scope(|scope| {
        let mut chunks = Chunks::spawn(scope, source);
        let mut framed = Framed::new(&mut chunks, frame);
        let written = write_from(&mut framed, file, progress)
            .and_then(|(tree, data_blocks, entries)| Ok((tree, data_blocks, entries, framed.finish()?)));
        match written {
            Ok((tree, data_blocks, entries, framed)) => {
                let totals = chunks.finish()?;
                let blocks = writer::write_layer(file, &tree, data_blocks, totals.diff_id.uuid())?;
                Ok(Written { totals, blocks, entries, framed })
            }
            // A broken stream looks like a truncated tar to the reader: the stream knows better.
            Err(error) => Err(chunks.failure().map_or(error, LayerError::Stream)),
        }
    })
}

fn write_from(
    source: &mut Framed<'_, '_, '_>,
    file: &File,
    progress: &mut dyn FnMut(u64),
) -> Result<(crate::tree::Tree, u32, u64), LayerError> {
    let mut reader = tar::Reader::new(source);
    let mut builder = Builder::default();
    let mut out = DataWriter::new(file, 1);
    let mut space = SpaceCheck::default();
    let mut last = None;
    let (mut logical, mut entries, mut reported) = (0u64, 0u64, 0u64);
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Err(LayerError::Tar(error, last)),
        };
        entries += 1;
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        if let Some(id) = builder.place(&entry).map_err(|error| LayerError::Entry(error, name.clone()))? {
            logical += entry.size.next_multiple_of(BLOCK);
            if logical > limits::MAX_LAYER_DATA {
                return Err(LayerError::TooMuchData(name));
            }
            let block = u32::try_from(out.position() / BLOCK).map_err(|_| WriteError::TooLarge)?;
            copy(&mut reader, &entry, &mut out, file, &mut space, &name)?;
            let extent = if entry.size == 0 {
                Extent::default()
            } else {
                Extent { size: entry.size, device: 0, block }
            };
            builder.set_extent(id, extent);
        }
        if entry.offset - reported >= 1 << 20 {
            reported = entry.offset;
            progress(reported);
        }
        last = Some(name);
    }
    let data_end = out.finish()?;
    let data_blocks = u32::try_from(data_end - 1).map_err(|_| WriteError::TooLarge)?;
    let tree = builder.finish().map_err(|error| LayerError::Entry(error, last.unwrap_or_default()))?;
    Ok((tree, data_blocks, entries))
}

/// Copies one file's data, its holes left out.
fn copy(
    reader: &mut tar::Reader<&mut Framed<'_, '_, '_>>,
    entry: &tar::Entry,
    out: &mut DataWriter<'_>,
    file: &File,
    space: &mut SpaceCheck,
    name: &str,
) -> Result<(), LayerError> {
    let whole = [(0, entry.size)];
    let mut at = 0;
    for &(offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
        out.hole(offset - at)?;
        let mut left = length;
        while left > 0 {
            let bytes = reader.data().map_err(|error| LayerError::Tar(error, Some(name.into())))?;
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let at = out.position();
            out.write(&bytes[..count])?;
            reader.consume_stored(count, at);
            left -= count as u64;
            space.check(file, out.stored())?;
        }
        at = offset + length;
    }
    out.hole(entry.size - at)?;
    out.align()?;
    Ok(())
}

/// Asks for the free space of the file system now and then, so that a full disk stays usable for others.
#[derive(Default)]
struct SpaceCheck {
    next: u64,
}

impl SpaceCheck {
    const STEP: u64 = 16 << 20;

    fn check(&mut self, file: &File, stored: u64) -> Result<(), LayerError> {
        if stored < self.next {
            return Ok(());
        }
        self.next = stored + Self::STEP;
        let free = crate::store::free_space(file)?;
        if free < limits::DISK_RESERVE { Err(LayerError::DiskFull { free }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
