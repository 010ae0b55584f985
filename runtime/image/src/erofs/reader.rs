//! Reads back what the writer wrote: layers for merging, and any of our images in tests.
//!
//! The files are our own, but disks rot and people copy files: every number is checked against the length of
//! the file and the limits of this crate, nothing is believed, and no directory is entered twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::directory;
use super::layout::{self, BLOCK, CHUNK_INDEX, INODE, NID_UNIT, XATTR_HEADER, mark, mode};
pub use super::serialize::DeviceSlot;
use crate::limits;
use crate::tree::{Attributes, Directory, Extent, Kind, Node, NodeId, ROOT, Tree, Xattrs};

/// Why an image can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("reading the image: {0}")]
    Io(#[from] io::Error),
    /// It breaks the format, or the part of it that Vial writes.
    #[error("not an EROFS image of ours: {0}")]
    Format(&'static str),
}

use ReadError::Format;

/// Something that can be read at any offset.
pub trait ReadAt {
    /// Fills `buffer` from `offset`, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// What an image holds.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its inodes.
    pub tree: Tree,
    /// Its device table; empty for a layer.
    pub devices: Vec<DeviceSlot>,
    /// Its own length in blocks.
    pub blocks: u32,
    /// Link count on disk of each node, for checks.
    pub links: Vec<u32>,
}

/// Reads superblock, device table and all inodes.
pub fn read<R: ReadAt + ?Sized>(source: &R) -> Result<Image, ReadError> {
    let mut reader =
        Reader { source, cached: None, cache: Box::new([0; BLOCK as usize]), metadata: 0, bytes: 0 };
    let length = source.length()?;
    if length < BLOCK || length % BLOCK != 0 {
        return Err(Format("its length is not a positive multiple of 4096"));
    }
    let mut head = [0u8; BLOCK as usize];
    source.read_at(&mut head, 0)?;
    let superblock = &mut head[layout::SUPER_OFFSET..];
    if le32(superblock, 0) != layout::MAGIC {
        return Err(Format("no superblock"));
    }
    let checksum = le32(superblock, 4);
    superblock[4..8].fill(0);
    if layout::crc32c(superblock) != checksum {
        return Err(Format("the superblock's checksum is wrong"));
    }
    if superblock[12] != layout::BLOCK_BITS {
        return Err(Format("blocks are not 4 KiB"));
    }
    let known = layout::INCOMPAT_CHUNKED_FILE | layout::INCOMPAT_DEVICE_TABLE;
    if le32(superblock, 80) & !known != 0 {
        return Err(Format("features that Vial does not write"));
    }
    let blocks = le32(superblock, 36);
    if u64::from(blocks) * BLOCK != length {
        return Err(Format("the file was cut or grew"));
    }
    reader.metadata = u64::from(le32(superblock, 40)) * BLOCK;
    let devices = reader.devices(usize::from(le16(superblock, 86)), u64::from(le16(superblock, 88)))?;
    let root = u64::from(le16(superblock, 14));
    let (tree, links) = reader.tree(root, le64(superblock, 16), &devices, blocks)?;
    Ok(Image { tree, devices, blocks, links })
}

struct Reader<'a, R: ?Sized> {
    source: &'a R,
    cached: Option<u64>,
    cache: Box<[u8; BLOCK as usize]>,
    metadata: u64,
    /// Bytes of names, targets and attributes so far.
    bytes: u64,
}

/// An inode as it was found, before its data is.
struct Raw {
    mode: u16,
    layout: u16,
    size: u64,
    union: u32,
    links: u32,
    /// Where what follows inode and attributes begins.
    body: u64,
    node: Attributes,
}

impl<R: ReadAt + ?Sized> Reader<'_, R> {
    fn bytes(&mut self, mut offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let block = offset / BLOCK;
            if self.cached != Some(block) {
                self.cached = None;
                self.source.read_at(&mut self.cache[..], block.saturating_mul(BLOCK))?;
                self.cached = Some(block);
            }
            let start = (offset % BLOCK) as usize;
            let count = (buffer.len() - filled).min(BLOCK as usize - start);
            buffer[filled..filled + count].copy_from_slice(&self.cache[start..start + count]);
            filled += count;
            offset += count as u64;
        }
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), ReadError> {
        self.bytes += bytes;
        // A merged image may add up what its layers have; what it can't exceed is one layer's limit per layer.
        let most = (limits::MAX_NAME_BYTES + limits::MAX_XATTR_BYTES) * 2;
        if self.bytes > most { Err(Format("more names and attributes than allowed")) } else { Ok(()) }
    }

    fn devices(&mut self, count: usize, slot_offset: u64) -> Result<Vec<DeviceSlot>, ReadError> {
        if count > limits::MAX_LAYERS {
            return Err(Format("too many devices"));
        }
        let mut devices = Vec::with_capacity(count);
        for index in 0..count as u64 {
            let mut slot = [0u8; layout::DEVICE_SLOT];
            self.bytes((slot_offset + index) * layout::DEVICE_SLOT as u64, &mut slot)?;
            let mut tag = [0; layout::DEVICE_TAG];
            tag.copy_from_slice(&slot[..layout::DEVICE_TAG]);
            devices.push(DeviceSlot { tag, blocks: le32(&slot, 64), mapped_block: le32(&slot, 68) });
        }
        Ok(devices)
    }

    fn tree(
        &mut self,
        root: u64,
        inodes: u64,
        devices: &[DeviceSlot],
        blocks: u32,
    ) -> Result<(Tree, Vec<u32>), ReadError> {
        if inodes > limits::MAX_ENTRIES as u64 {
            return Err(Format("too many inodes"));
        }
        let mut tree = Tree::new();
        let mut links = vec![0];
        let mut seen: std::collections::HashMap<u64, NodeId> = [(root, ROOT)].into();
        let mut open = std::collections::VecDeque::from([(root, ROOT, root)]);
        while let Some((nid, id, parent)) = open.pop_front() {
            let raw = self.inode(nid)?;
            links[id as usize] = raw.links;
            let kind = if raw.mode & mode::TYPE == mode::DIRECTORY {
                let (directory, children) = self.directory(&raw, nid, parent)?;
                let mut directory = directory;
                for (name, child) in children {
                    let next = tree.len() as NodeId;
                    let child_id = *seen.entry(child).or_insert(next);
                    if child_id == next {
                        let unread = Node { attributes: Attributes::default(), kind: Kind::Fifo };
                        tree.add(unread).map_err(|_| Format("too many inodes"))?;
                        links.push(0);
                        open.push_back((child, child_id, nid));
                    } else if child_id == ROOT || tree.directory(child_id).is_some() {
                        return Err(Format("a directory has two names"));
                    }
                    directory.entries.insert(name, child_id);
                }
                Kind::Directory(directory)
            } else {
                self.kind(&raw, devices, blocks)?
            };
            let mut node = Node { attributes: raw.node, kind };
            unmark(&mut node);
            *tree.node_mut(id) = node;
        }
        check_names(&tree, &links)?;
        Ok((tree, links))
    }

    fn inode(&mut self, nid: u64) -> Result<Raw, ReadError> {
        let position = nid
            .checked_mul(NID_UNIT)
            .and_then(|offset| offset.checked_add(self.metadata))
            .filter(|offset| *offset < u64::MAX / 2)
            .ok_or(Format("a node number is out of range"))?;
        let mut raw = [0u8; INODE as usize];
        self.bytes(position, &mut raw)?;
        let format = le16(&raw, 0);
        if format & 1 != 1 || format >> 4 != 0 {
            return Err(Format("an inode is not extended"));
        }
        let count = u64::from(le16(&raw, 2));
        let xattr_size = if count == 0 { 0 } else { XATTR_HEADER as u64 + (count - 1) * 4 };
        if xattr_size > limits::MAX_XATTR_BYTES_PER_FILE as u64 {
            return Err(Format("an inode has too many attributes"));
        }
        self.charge(xattr_size)?;
        let mut xattrs = vec![0u8; xattr_size as usize];
        self.bytes(position + INODE, &mut xattrs)?;
        let mtime_nsec = le32(&raw, 40);
        if mtime_nsec >= 1_000_000_000 {
            return Err(Format("a time has more than 10⁹ nanoseconds"));
        }
        let mode = le16(&raw, 4);
        Ok(Raw {
            mode,
            layout: (format >> 1) & 7,
            size: le64(&raw, 8),
            union: le32(&raw, 16),
            links: le32(&raw, 44),
            body: position + INODE + xattr_size,
            node: Attributes {
                mode: mode & 0o7777,
                uid: le32(&raw, 24),
                gid: le32(&raw, 28),
                mtime: le64(&raw, 32) as i64,
                mtime_nsec,
                xattrs: parse_xattrs(&xattrs).ok_or(Format("the attributes of an inode are broken"))?,
            },
        })
    }

    /// The bytes of a directory or link: blocks, and perhaps a tail behind the inode.
    fn payload(&mut self, raw: &Raw, limit: u64) -> Result<Vec<u8>, ReadError> {
        if raw.size > limit {
            return Err(Format("a directory or link is too long"));
        }
        self.charge(raw.size)?;
        let tail = match raw.layout {
            0 => 0,
            2 => raw.size % BLOCK,
            _ => return Err(Format("a directory or link has a strange layout")),
        };
        let mut out = vec![0u8; raw.size as usize];
        let (blocks, inline) = out.split_at_mut((raw.size - tail) as usize);
        self.bytes(u64::from(raw.union) * BLOCK, blocks)?;
        if tail > 0 && raw.body % BLOCK + tail > BLOCK {
            return Err(Format("an inline tail crosses a block"));
        }
        self.bytes(raw.body, inline)?;
        Ok(out)
    }

    #[allow(clippy::type_complexity, reason = "a list of names and node numbers, used once")]
    fn directory(
        &mut self,
        raw: &Raw,
        nid: u64,
        parent: u64,
    ) -> Result<(Directory, Vec<(Box<[u8]>, u64)>), ReadError> {
        // Names are padded to whole blocks: a name of 255 bytes may waste almost as much again.
        let data = self.payload(raw, limits::MAX_NAME_BYTES * 2)?;
        let mut children = Vec::new();
        let (mut last, mut dots) = (Vec::new(), 0);
        for block in data.chunks(BLOCK as usize) {
            for entry in directory::read(block).ok_or(Format("a directory block is broken"))? {
                if entry.name <= last.as_slice() || entry.name.contains(&b'/') || entry.name.contains(&0) {
                    return Err(Format("names of a directory are unsorted, doubled or impossible"));
                }
                last = entry.name.to_vec();
                match entry.name {
                    b"." if entry.nid == nid => dots += 1,
                    b".." if entry.nid == parent => dots += 1,
                    b"." | b".." => return Err(Format("a directory does not know itself")),
                    name => children.push((name.into(), entry.nid)),
                }
            }
        }
        if dots != 2 {
            return Err(Format("a directory lacks . or .."));
        }
        Ok((Directory::default(), children))
    }

    fn kind(&mut self, raw: &Raw, devices: &[DeviceSlot], blocks: u32) -> Result<Kind, ReadError> {
        Ok(match raw.mode & mode::TYPE {
            mode::FILE => Kind::File(self.extent(raw, devices, blocks)?),
            mode::SYMLINK => Kind::Symlink(self.payload(raw, limits::MAX_PATH as u64)?.into()),
            mode::CHAR => Kind::CharDevice(layout::decode_device(raw.union)),
            mode::BLOCK => Kind::BlockDevice(layout::decode_device(raw.union)),
            mode::FIFO => Kind::Fifo,
            mode::SOCKET => Kind::Socket,
            _ => return Err(Format("an inode has no known type")),
        })
    }

    fn extent(&mut self, raw: &Raw, devices: &[DeviceSlot], blocks: u32) -> Result<Extent, ReadError> {
        let size = raw.size;
        if size > limits::MAX_FILE {
            return Err(Format("a file is too long"));
        }
        let (device, block, end) = match raw.layout {
            0 if size == 0 => return Ok(Extent::default()),
            0 => (0, raw.union, blocks),
            4 => {
                let format = raw.union as u16;
                let bits = u32::from(format & layout::CHUNK_FORMAT_BLKBITS_MASK);
                if format & layout::CHUNK_FORMAT_INDEXES == 0 || (BLOCK << bits) < size {
                    return Err(Format("a file is not one chunk with an index"));
                }
                let mut index = [0u8; CHUNK_INDEX as usize];
                self.bytes(raw.body.next_multiple_of(CHUNK_INDEX), &mut index)?;
                let device = le16(&index, 2);
                let slot = usize::from(device).checked_sub(1).and_then(|i| devices.get(i));
                (device, le32(&index, 4), slot.ok_or(Format("a file is on an unknown device"))?.blocks)
            }
            _ => return Err(Format("a file has a strange layout")),
        };
        if u64::from(block) + size.div_ceil(BLOCK) > u64::from(end) {
            return Err(Format("a file ends behind its device"));
        }
        Ok(Extent { size, device, block })
    }
}

/// Link counts on disk must be what the names say.
fn check_names(tree: &Tree, links: &[u32]) -> Result<(), ReadError> {
    let mut found = vec![0u32; tree.len()];
    let mut named = vec![false; tree.len()];
    found[ROOT as usize] = 2;
    named[ROOT as usize] = true;
    for id in 0..tree.len() as NodeId {
        let Some(directory) = tree.directory(id) else { continue };
        for &child in directory.entries.values() {
            if tree.directory(child).is_some() {
                found[id as usize] += 1;
                found[child as usize] += 2;
                if std::mem::replace(&mut named[child as usize], true) {
                    return Err(Format("a directory has two names"));
                }
            } else {
                found[child as usize] += 1;
            }
        }
    }
    if found == links { Ok(()) } else { Err(Format("link counts are wrong")) }
}

fn parse_xattrs(mut bytes: &[u8]) -> Option<Xattrs> {
    let mut xattrs = Xattrs::new();
    if bytes.is_empty() {
        return Some(xattrs);
    }
    if bytes[4] != 0 {
        return None; // shared attributes: Vial writes none
    }
    bytes = bytes.get(XATTR_HEADER..)?;
    while !bytes.is_empty() {
        let name_length = usize::from(bytes[0]);
        let value_length = usize::from(le16(bytes, 2));
        let name = bytes.get(4..4 + name_length)?;
        let value = bytes.get(4 + name_length..4 + name_length + value_length)?;
        let name = layout::join_xattr_name(bytes[1], name)?;
        if xattrs.len() > limits::MAX_XATTRS_PER_FILE || xattrs.insert(name.into(), value.into()).is_some() {
            return None;
        }
        bytes = bytes.get((4 + name_length + value_length).next_multiple_of(4)..)?;
    }
    Some(xattrs)
}

/// Turns marks back into what they mean.
fn unmark(node: &mut Node) {
    let mut take = |name: &[u8]| node.attributes.xattrs.remove(name).is_some();
    let (opaque, implicit) = (take(mark::OPAQUE), take(mark::IMPLICIT));
    let (whiteout, lower_link) = (take(mark::WHITEOUT), take(mark::LOWER_LINK));
    match &mut node.kind {
        Kind::Directory(directory) => (directory.opaque, directory.implicit) = (opaque, implicit),
        Kind::CharDevice(_) if whiteout => node.kind = Kind::Whiteout,
        Kind::Symlink(target) if lower_link => node.kind = Kind::LowerLink(std::mem::take(target)),
        _ => {}
    }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}
