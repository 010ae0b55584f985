//! Writes a [`Tree`] as an EROFS image, front to back.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use super::directory;
use super::layout::{BLOCK, CHUNK_INDEX, DEVICE_TAG, DataLayout, INODE};
use super::plan::{Placed, Plan, names};
pub use super::serialize::DeviceSlot;
use super::serialize::{self, Superblock};
use crate::tree::{Kind, NodeId, Tree};

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file could not be written.
    #[error("writing the image: {0}")]
    Io(#[from] io::Error),
    /// Block addresses are 32 bits wide.
    #[error("the image needs more than 16 TiB of block addresses")]
    TooLarge,
    /// The tree is not a tree.
    #[error("a directory has two names")]
    DirectoryWithTwoNames,
    /// Whiteouts and links to lower layers mean nothing in a merged image.
    #[error("the merged tree still has a whiteout or a link to a lower layer")]
    NotMerged,
}

/// A layer file that a merged image refers to; device numbers in [`crate::tree::Extent`] count from 1.
#[derive(Debug, Clone)]
pub struct Device {
    /// Free text of at most 64 bytes.
    pub tag: String,
    /// Length of the file in blocks.
    pub blocks: u32,
}

/// Writes the metadata of a layer behind its data and then block 0. The file's blocks 1 to `data_blocks` hold
/// the data that the extents of `tree` (device 0) point to. Returns the length of the file in blocks.
pub fn write_layer(file: &File, tree: &Tree, data_blocks: u32, uuid: [u8; 16]) -> Result<u32, WriteError> {
    let plan = Plan::new(tree, false)?;
    let metadata_block = u64::from(data_blocks) + 1;
    let total = fit(metadata_block + plan.inode_area_blocks + plan.outside_blocks)?;
    let superblock = superblock(&plan, total, metadata_block as u32, uuid, &[]);
    write_body(file, tree, &plan, metadata_block)?;
    file.write_all_at(&serialize::head(&superblock), 0)?;
    Ok(total)
}

/// Writes a merged image: metadata only, whose files lie on `devices` in the order of concatenation.
/// Returns the length of the file in blocks.
pub fn write_merged(file: &File, tree: &Tree, devices: &[Device], uuid: [u8; 16]) -> Result<u32, WriteError> {
    let plan = Plan::new(tree, true)?;
    if plan.inodes.iter().any(|placed| only_in_layers(&tree.node(placed.node).kind)) {
        return Err(WriteError::NotMerged);
    }
    let metadata_block = serialize::head_blocks(devices.len());
    let own = fit(metadata_block + plan.inode_area_blocks + plan.outside_blocks)?;
    let mut next = own;
    let mut slots = Vec::with_capacity(devices.len());
    for device in devices {
        let mut tag = [0; DEVICE_TAG];
        let length = device.tag.len().min(DEVICE_TAG);
        tag[..length].copy_from_slice(&device.tag.as_bytes()[..length]);
        slots.push(DeviceSlot { tag, blocks: device.blocks, mapped_block: next });
        next = fit(u64::from(next) + u64::from(device.blocks))?;
    }
    let superblock = superblock(&plan, own, metadata_block as u32, uuid, &slots);
    file.write_all_at(&serialize::head(&superblock), 0)?;
    write_body(file, tree, &plan, metadata_block)?;
    Ok(own)
}

fn only_in_layers(kind: &Kind) -> bool {
    match kind {
        Kind::Whiteout | Kind::LowerLink(_) => true,
        Kind::Directory(directory) => directory.opaque || directory.implicit,
        _ => false,
    }
}

/// Block addresses stay below `EROFS_NULL_ADDR`.
fn fit(blocks: u64) -> Result<u32, WriteError> {
    u32::try_from(blocks).ok().filter(|&b| b < u32::MAX).ok_or(WriteError::TooLarge)
}

fn superblock<'a>(
    plan: &Plan,
    blocks: u32,
    metadata_block: u32,
    uuid: [u8; 16],
    devices: &'a [DeviceSlot],
) -> Superblock<'a> {
    Superblock {
        root_nid: plan.inodes[0].nid() as u16,
        inodes: plan.inodes.len() as u64,
        blocks,
        metadata_block,
        uuid,
        devices,
    }
}

/// Inodes, then the directory and symlink data that did not fit behind its inode.
fn write_body(file: &File, tree: &Tree, plan: &Plan, metadata_block: u64) -> Result<(), WriteError> {
    let mut out = Positioned { file, at: metadata_block * BLOCK, start: metadata_block * BLOCK };
    let mut buffered = BufWriter::with_capacity(256 << 10, &mut out);
    let outside = fit(metadata_block + plan.inode_area_blocks)?;
    let mut written = 0u64;
    let mut bytes = Vec::new();
    for (number, placed) in plan.inodes.iter().enumerate() {
        bytes.clear();
        bytes.resize((placed.position - written) as usize, 0);
        append_inode(tree, plan, placed, number as u32 + 1, outside + placed.block, &mut bytes)?;
        buffered.write_all(&bytes)?;
        written += bytes.len() as u64;
    }
    let pad = (plan.inode_area_blocks * BLOCK - written) as usize;
    buffered.write_all(&vec![0; pad])?;
    for placed in &plan.inodes {
        let mut data = payload(tree, plan, placed);
        data.truncate(data.len() - placed.inline_size() as usize);
        data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
        buffered.write_all(&data)?;
    }
    buffered.flush()?;
    drop(buffered);
    debug_assert_eq!(out.at - out.start, (plan.inode_area_blocks + plan.outside_blocks) * BLOCK);
    Ok(())
}

fn append_inode(
    tree: &Tree,
    plan: &Plan,
    placed: &Placed,
    number: u32,
    data_block: u32,
    out: &mut Vec<u8>,
) -> Result<(), WriteError> {
    let node = tree.node(placed.node);
    let start = out.len();
    out.extend_from_slice(&serialize::inode(node, placed, number, data_block));
    serialize::xattrs(node, out);
    match (&node.kind, placed.layout) {
        (Kind::File(extent), DataLayout::ChunkBased) => {
            let head = (out.len() - start).next_multiple_of(CHUNK_INDEX as usize);
            out.resize(start + head, 0);
            out.extend_from_slice(&serialize::chunk_index(extent.device, extent.block));
        }
        (_, DataLayout::FlatInline) => {
            let data = payload(tree, plan, placed);
            out.extend_from_slice(&data[data.len() - placed.inline_size() as usize..]);
        }
        _ => debug_assert!(out.len() - start >= INODE as usize),
    }
    Ok(())
}

/// Directory blocks or a link's target; nothing for other types.
fn payload(tree: &Tree, plan: &Plan, placed: &Placed) -> Vec<u8> {
    match &tree.node(placed.node).kind {
        Kind::Symlink(target) | Kind::LowerLink(target) => target.to_vec(),
        Kind::Directory(directory) => {
            let entry = |name, id: NodeId| directory::Entry {
                name,
                nid: plan.placed(id).nid(),
                file_type: serialize::file_type(tree.node(id)),
            };
            let entries: Vec<_> = names(directory.entries.keys())
                .map(|name| match name {
                    b"." => entry(name, placed.node),
                    b".." => entry(name, placed.parent),
                    _ => entry(name, directory.entries[name]),
                })
                .collect();
            let mut out = Vec::with_capacity(placed.size as usize);
            directory::write(&entries, &mut out);
            out
        }
        _ => Vec::new(),
    }
}

struct Positioned<'a> {
    file: &'a File,
    at: u64,
    start: u64,
}

impl Write for Positioned<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
