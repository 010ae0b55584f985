//! The inodes of one layer, or of a whole image: what lies between a tar and an EROFS image.
//!
//! A hardlink is one node with several names, so link counts are always counted and never believed.

use std::collections::BTreeMap;

use crate::limits;

/// Index of a node in [`Tree`].
pub type NodeId = u32;

/// The root directory is always the first node.
pub const ROOT: NodeId = 0;

/// Extended attributes by full name (`user.x`, `security.capability`, …).
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// What every inode has, whatever its type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission, set-uid, set-gid and sticky bits (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since the epoch; may be negative.
    pub mtime: i64,
    /// Nanoseconds of the modification time, below 10⁹.
    pub mtime_nsec: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Attributes {
    /// What a directory gets that a tar uses but never mentions: `0755 root:root`, as Docker creates it.
    pub fn implicit_directory() -> Self {
        Attributes { mode: 0o755, ..Attributes::default() }
    }
}

/// Where the bytes of a regular file are: always one contiguous run of blocks.
///
/// Sparse files are contiguous too; their zero blocks are holes of the layer file on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Length in bytes.
    pub size: u64,
    /// 0: this image; n: entry n−1 of the device table.
    pub device: u16,
    /// First 4 KiB block on that device; meaningless when `size` is 0.
    pub block: u32,
}

/// A directory's own part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// Children by name.
    pub entries: BTreeMap<Box<[u8]>, NodeId>,
    /// Hides everything that lower layers have below this path (`.wh..wh..opq`).
    pub opaque: bool,
    /// No tar entry described it: a lower layer's attributes stay in force.
    pub implicit: bool,
}

/// A device number, within what Linux stores on disk: major below 2¹², minor below 2²⁰.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Type and payload of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(Extent),
    /// A symbolic link; its target is data and is never followed here.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket; no tar has one, but a file system may.
    Socket,
    /// Only in layers: the name is deleted from the layers below.
    Whiteout,
    /// Only in layers: a hardlink to a path (normalised, relative) of the layers below.
    LowerLink(Box<[u8]>),
}

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, times, xattrs.
    pub attributes: Attributes,
    /// Type and payload.
    pub kind: Kind,
}

/// Why a tree can't grow further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Too many inodes.
    #[error("more than {} files and directories", limits::MAX_ENTRIES)]
    TooManyEntries,
}

/// Inodes reachable by names from [`ROOT`]. Nodes that lost their last name stay in the list, unseen.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

impl Tree {
    /// A tree with an implicit root directory.
    pub fn new() -> Self {
        let root = Node {
            attributes: Attributes::implicit_directory(),
            kind: Kind::Directory(Directory { implicit: true, ..Directory::default() }),
        };
        Tree { nodes: vec![root] }
    }

    /// Adds an unnamed node.
    pub fn add(&mut self, node: Node) -> Result<NodeId, TreeError> {
        if self.nodes.len() >= limits::MAX_ENTRIES {
            return Err(TreeError::TooManyEntries);
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as NodeId)
    }

    /// The node with this index, which came from this tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// The node with this index, which came from this tree.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// How many nodes there are, unnamed ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The directory part of a node, if it is a directory.
    pub fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory part of a node, if it is a directory.
    pub fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.node_mut(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// A child by name.
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(parent)?.entries.get(name).copied()
    }

    /// Walks a normalised path; symlinks are not followed.
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        if path.is_empty() {
            return Some(ROOT);
        }
        path.split(|&b| b == b'/').try_fold(ROOT, |node, name| self.child(node, name))
    }

    /// All reachable paths with their nodes, parents before children, in byte order of names.
    /// For tests and listings: it builds every path.
    pub fn paths(&self) -> Vec<(Vec<u8>, NodeId)> {
        let mut found = Vec::new();
        let mut open = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = open.pop() {
            if let Some(directory) = self.directory(id) {
                for (name, &child) in directory.entries.iter().rev() {
                    let mut child_path = path.clone();
                    if !child_path.is_empty() {
                        child_path.push(b'/');
                    }
                    child_path.extend_from_slice(name);
                    open.push((child_path, child));
                }
            }
            found.push((path, id));
        }
        found
    }
}
