//! The bytes of superblock, device slots, inodes and attributes.

use super::layout::{self, DataLayout, mark, mode};
use super::plan::Placed;
use crate::tree::{Kind, Node};

/// What the superblock says.
pub(super) struct Superblock<'a> {
    pub root_nid: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub metadata_block: u32,
    pub uuid: [u8; 16],
    pub devices: &'a [DeviceSlot],
}

/// One entry of the device table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSlot {
    /// Free text; Vial puts the layer's diff_id there, in hex.
    pub tag: [u8; layout::DEVICE_TAG],
    /// Length in blocks.
    pub blocks: u32,
    /// Where the device begins in the concatenation.
    pub mapped_block: u32,
}

/// Blocks that superblock and device table take.
pub(super) fn head_blocks(devices: usize) -> u64 {
    let bytes = layout::SUPER_OFFSET + layout::SUPER_SIZE + devices * layout::DEVICE_SLOT;
    (bytes as u64).div_ceil(layout::BLOCK)
}

/// Superblock and device table, padded to whole blocks.
pub(super) fn head(superblock: &Superblock<'_>) -> Vec<u8> {
    let devices = superblock.devices;
    let table = layout::SUPER_OFFSET + layout::SUPER_SIZE;
    let incompat = match devices.is_empty() {
        true => 0,
        false => layout::INCOMPAT_CHUNKED_FILE | layout::INCOMPAT_DEVICE_TABLE,
    };
    let mut out = vec![0u8; (head_blocks(devices.len()) * layout::BLOCK) as usize];
    let mut put = |offset: usize, bytes: &[u8]| out[offset..offset + bytes.len()].copy_from_slice(bytes);
    let field = |offset: usize| layout::SUPER_OFFSET + offset;
    put(field(0), &layout::MAGIC.to_le_bytes());
    put(field(8), &(layout::COMPAT_SB_CHKSUM | layout::COMPAT_MTIME).to_le_bytes());
    put(field(12), &[layout::BLOCK_BITS]);
    put(field(14), &superblock.root_nid.to_le_bytes());
    put(field(16), &superblock.inodes.to_le_bytes());
    put(field(36), &superblock.blocks.to_le_bytes());
    put(field(40), &superblock.metadata_block.to_le_bytes());
    put(field(48), &superblock.uuid);
    put(field(80), &incompat.to_le_bytes());
    if !devices.is_empty() {
        put(field(86), &(devices.len() as u16).to_le_bytes());
        put(field(88), &((table / layout::DEVICE_SLOT) as u16).to_le_bytes());
    }
    for (index, device) in devices.iter().enumerate() {
        let slot = table + index * layout::DEVICE_SLOT;
        put(slot, &device.tag);
        put(slot + 64, &device.blocks.to_le_bytes());
        put(slot + 68, &device.mapped_block.to_le_bytes());
    }
    // The checksum covers the first block from the superblock on, with its own field zero.
    let crc = layout::crc32c(&out[layout::SUPER_OFFSET..layout::BLOCK as usize]);
    out[field(4)..field(8)].copy_from_slice(&crc.to_le_bytes());
    out
}

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory(_) => mode::DIRECTORY,
        Kind::File(_) => mode::FILE,
        Kind::Symlink(_) | Kind::LowerLink(_) => mode::SYMLINK,
        Kind::CharDevice(_) | Kind::Whiteout => mode::CHAR,
        Kind::BlockDevice(_) => mode::BLOCK,
        Kind::Fifo => mode::FIFO,
        Kind::Socket => mode::SOCKET,
    }
}

/// `FT_*` of a node.
pub(super) fn file_type(node: &Node) -> u8 {
    layout::file_type(type_bits(&node.kind))
}

/// The 64 bytes of an extended inode. `data_block`: where directory or symlink data outside the inode begins.
pub(super) fn inode(
    node: &Node,
    placed: &Placed,
    number: u32,
    data_block: u32,
) -> [u8; layout::INODE as usize] {
    let attributes = &node.attributes;
    let xattr_count = match xattr_size(node) {
        0 => 0,
        size => ((size - layout::XATTR_HEADER) / 4 + 1) as u16,
    };
    let union: u32 = match (&node.kind, placed.layout) {
        (Kind::File(_), DataLayout::ChunkBased) => {
            u32::from(layout::CHUNK_FORMAT_INDEXES | u16::from(chunk_bits(placed.size)))
        }
        (Kind::File(extent), _) => {
            if extent.size == 0 {
                0
            } else {
                extent.block
            }
        }
        (Kind::CharDevice(device) | Kind::BlockDevice(device), _) => layout::encode_device(*device),
        (Kind::Directory(_) | Kind::Symlink(_) | Kind::LowerLink(_), _) => data_block,
        _ => 0,
    };
    let mut out = [0u8; layout::INODE as usize];
    let mut put = |offset: usize, bytes: &[u8]| out[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &layout::inode_format(placed.layout).to_le_bytes());
    put(2, &xattr_count.to_le_bytes());
    put(4, &(type_bits(&node.kind) | (attributes.mode & 0o7777)).to_le_bytes());
    put(8, &placed.size.to_le_bytes());
    put(16, &union.to_le_bytes());
    put(20, &number.to_le_bytes());
    put(24, &attributes.uid.to_le_bytes());
    put(28, &attributes.gid.to_le_bytes());
    put(32, &attributes.mtime.to_le_bytes());
    put(40, &attributes.mtime_nsec.to_le_bytes());
    put(44, &placed.links.to_le_bytes());
    out
}

/// The smallest chunk that holds the whole file, as log2 of blocks: then one index is enough.
pub(super) fn chunk_bits(size: u64) -> u8 {
    let blocks = size.div_ceil(layout::BLOCK).max(1);
    blocks.next_power_of_two().trailing_zeros() as u8
}

/// The only chunk index of a file.
pub(super) fn chunk_index(device: u16, block: u32) -> [u8; layout::CHUNK_INDEX as usize] {
    let mut out = [0; layout::CHUNK_INDEX as usize];
    out[2..4].copy_from_slice(&device.to_le_bytes());
    out[4..].copy_from_slice(&block.to_le_bytes());
    out
}

fn marks(node: &Node) -> impl Iterator<Item = &'static [u8]> {
    let (opaque, implicit) = match &node.kind {
        Kind::Directory(directory) => (directory.opaque, directory.implicit),
        _ => (false, false),
    };
    [
        (opaque, mark::OPAQUE),
        (implicit, mark::IMPLICIT),
        (matches!(node.kind, Kind::Whiteout), mark::WHITEOUT),
        (matches!(node.kind, Kind::LowerLink(_)), mark::LOWER_LINK),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
}

fn stored_xattrs(node: &Node) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
    let own = node.attributes.xattrs.iter().map(|(name, value)| (&**name, &**value));
    own.chain(marks(node).map(|name| (name, &b"y"[..]))).filter_map(|(name, value)| {
        let (index, rest) = layout::split_xattr_name(name)?;
        Some((index, rest, value))
    })
}

/// Bytes of the attributes that follow an inode; 0 without any.
pub(super) fn xattr_size(node: &Node) -> usize {
    let entries: usize =
        stored_xattrs(node).map(|(_, rest, value)| (4 + rest.len() + value.len()).next_multiple_of(4)).sum();
    if entries == 0 { 0 } else { layout::XATTR_HEADER + entries }
}

/// Appends the attributes of an inode, all inline: shared ones would save a few hundred bytes per image.
pub(super) fn xattrs(node: &Node, out: &mut Vec<u8>) {
    let start = out.len();
    for (index, rest, value) in stored_xattrs(node) {
        if out.len() == start {
            out.extend_from_slice(&[0; layout::XATTR_HEADER]);
        }
        out.extend_from_slice(&[rest.len() as u8, index]);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
}
