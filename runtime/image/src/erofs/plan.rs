//! Decides where each inode and each directory block goes, before anything is written.
//!
//! Directory entries hold node numbers, which are positions: so positions come first.

use super::directory;
use super::layout::{BLOCK, CHUNK_INDEX, DataLayout, INODE, NID_UNIT};
use super::serialize;
use super::writer::WriteError;
use crate::tree::{Kind, NodeId, ROOT, Tree};

/// Node number 0 is avoided: user space treats a directory entry with inode 0 as deleted.
const FIRST_POSITION: u64 = INODE;

/// Where one inode goes.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub node: NodeId,
    pub parent: NodeId,
    pub links: u32,
    pub layout: DataLayout,
    /// Bytes from the start of the metadata area.
    pub position: u64,
    /// `i_size`.
    pub size: u64,
    /// First block of out-of-line directory or symlink data, counted from the end of the inode area.
    pub block: u32,
}

impl Placed {
    pub fn nid(&self) -> u64 {
        self.position / NID_UNIT
    }

    /// Bytes of the data that follow the inode itself.
    pub fn inline_size(&self) -> u64 {
        if self.layout == DataLayout::FlatInline { self.size % BLOCK } else { 0 }
    }

    /// Blocks of directory or symlink data outside the inode area.
    pub fn outside_blocks(&self) -> u64 {
        (self.size - self.inline_size()).div_ceil(BLOCK)
    }
}

/// All inodes in the order in which they are written.
pub(super) struct Plan {
    pub inodes: Vec<Placed>,
    /// Index into `inodes` by node; `u32::MAX` for nodes without a name.
    pub by_node: Vec<u32>,
    pub inode_area_blocks: u64,
    pub outside_blocks: u64,
}

impl Plan {
    pub fn placed(&self, node: NodeId) -> &Placed {
        &self.inodes[self.by_node[node as usize] as usize]
    }

    /// Breadth first, so that the inodes of one directory lie together and `ls -l` reads few blocks.
    pub fn new(tree: &Tree, chunked_files: bool) -> Result<Plan, WriteError> {
        let mut plan = Plan {
            inodes: Vec::with_capacity(tree.len()),
            by_node: vec![u32::MAX; tree.len()],
            inode_area_blocks: 0,
            outside_blocks: 0,
        };
        let mut position = FIRST_POSITION;
        plan.place(tree, ROOT, ROOT, chunked_files, &mut position)?;
        let mut next = 0;
        while next < plan.inodes.len() {
            let parent = plan.inodes[next].node;
            if let Some(directory) = tree.directory(parent) {
                for &child in directory.entries.values() {
                    match plan.by_node[child as usize] {
                        u32::MAX => plan.place(tree, child, parent, chunked_files, &mut position)?,
                        _ if tree.directory(child).is_some() => {
                            return Err(WriteError::DirectoryWithTwoNames);
                        }
                        seen => plan.inodes[seen as usize].links += 1,
                    }
                    if tree.directory(child).is_some() {
                        plan.inodes[next].links += 1;
                    }
                }
            }
            next += 1;
        }
        plan.inode_area_blocks = position.div_ceil(BLOCK);
        for placed in &mut plan.inodes {
            if matches!(
                tree.node(placed.node).kind,
                Kind::Directory(_) | Kind::Symlink(_) | Kind::LowerLink(_)
            ) {
                placed.block = u32::try_from(plan.outside_blocks).map_err(|_| WriteError::TooLarge)?;
                plan.outside_blocks += placed.outside_blocks();
            }
        }
        Ok(plan)
    }

    fn place(
        &mut self,
        tree: &Tree,
        id: NodeId,
        parent: NodeId,
        chunked_files: bool,
        position: &mut u64,
    ) -> Result<(), WriteError> {
        let node = tree.node(id);
        let head = INODE + serialize::xattr_size(node) as u64;
        let (size, links) = match &node.kind {
            Kind::Directory(dir) => (directory::size(names(dir.entries.keys())), 2),
            Kind::File(extent) => (extent.size, 1),
            Kind::Symlink(target) | Kind::LowerLink(target) => (target.len() as u64, 1),
            _ => (0, 1),
        };
        let (layout, body, at) = match &node.kind {
            Kind::File(_) if chunked_files && size > 0 => {
                (DataLayout::ChunkBased, head.next_multiple_of(CHUNK_INDEX) + CHUNK_INDEX, whole(*position))
            }
            Kind::Directory(_) | Kind::Symlink(_) | Kind::LowerLink(_) if size % BLOCK > 0 => {
                match inline(*position, head, size % BLOCK) {
                    Some(at) => (DataLayout::FlatInline, head + size % BLOCK, at),
                    None => (DataLayout::FlatPlain, head, whole(*position)),
                }
            }
            _ => (DataLayout::FlatPlain, head, whole(*position)),
        };
        self.by_node[id as usize] = self.inodes.len() as u32;
        self.inodes.push(Placed { node: id, parent, links, layout, position: at, size, block: 0 });
        *position = (at + body).next_multiple_of(NID_UNIT);
        Ok(())
    }
}

/// `.` and `..` among the names, in byte order: some names sort before them.
pub(super) fn names<'a>(children: impl Iterator<Item = &'a Box<[u8]>>) -> impl Iterator<Item = &'a [u8]> {
    let mut dots = [&b"."[..], b".."].into_iter().peekable();
    let mut children = children.map(|name| &**name).peekable();
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some(dot), Some(child)) if child < dot => children.next(),
        (Some(_), _) => dots.next(),
        (None, _) => children.next(),
    })
}

/// The next position where an inode's 64 bytes stay in one block: the kernel copies those that don't.
fn whole(position: u64) -> u64 {
    if position % BLOCK + INODE > BLOCK { position.next_multiple_of(BLOCK) } else { position }
}

/// The next position from which an inline tail stays in one block, as Linux demands
/// (`erofs_map_blocks_flatmode`), if there is any.
fn inline(position: u64, head: u64, tail: u64) -> Option<u64> {
    let fits = |at: u64| (at + head) % BLOCK + tail <= BLOCK && at % BLOCK + INODE <= BLOCK;
    [position, position.next_multiple_of(BLOCK)].into_iter().find(|&at| fits(at))
}
