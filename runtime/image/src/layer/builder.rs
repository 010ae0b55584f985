//! Places tar entries in the tree of one layer, by the rules of the OCI image specification (layer.md).

use std::collections::{BTreeMap, BTreeSet};

use super::path::{self, PathError};
use crate::limits;
use crate::tar::{Entry, EntryKind};
use crate::tree::{Attributes, DeviceNumber, Directory, Extent, Kind, Node, NodeId, ROOT, Tree, TreeError};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names with this start belong to aufs, which has left; Docker ignores them too.
const AUFS: &[u8] = b".wh..wh.";

/// Why an entry can't be part of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Its name.
    #[error("{0}")]
    Path(#[from] PathError),
    /// The target of a hardlink.
    #[error("it is a hardlink whose target is not usable: {0}")]
    LinkTarget(PathError),
    /// Only directories have entries.
    #[error("it lies below {0:?}, which this layer made something other than a directory")]
    BelowNonDirectory(String),
    /// Directories have one name.
    #[error("it is a hardlink to a directory ({0:?})")]
    LinkToDirectory(String),
    /// A hardlink must point to something else.
    #[error("it is a hardlink to itself")]
    LinkToSelf,
    /// The root must stay a directory.
    #[error("it would replace the root directory")]
    ReplacesRoot,
    /// A whiteout without a name to remove.
    #[error("it is a whiteout of nothing")]
    BadWhiteout,
    /// Linux keeps 12 bits of major and 20 of minor.
    #[error("its device number {0}:{1} is out of range")]
    Device(u32, u32),
    /// An empty or endless target.
    #[error("its link target is empty, has a NUL, or has more than {} bytes", limits::MAX_PATH)]
    SymlinkTarget,
    /// Bounds.
    #[error("the layer has {0}")]
    Tree(#[from] TreeError),
    /// Bounds.
    #[error("the layer has more than {} bytes of names", limits::MAX_NAME_BYTES)]
    Names,
    /// Bounds.
    #[error("the layer has more than {} bytes of extended attributes", limits::MAX_XATTR_BYTES)]
    Xattrs,
}

/// A layer in the making.
#[derive(Debug, Default)]
pub struct Builder {
    tree: Tree,
    /// Names that lower layers lose, by directory. They never touch this layer's own entries, whatever the order.
    whiteouts: BTreeMap<NodeId, BTreeSet<Box<[u8]>>>,
    name_bytes: u64,
    xattr_bytes: u64,
}

impl Builder {
    /// Places an entry; returns the node when it is a regular file that now needs its data.
    pub fn place(&mut self, entry: &Entry) -> Result<Option<NodeId>, EntryError> {
        let path = path::normalise(&entry.path)?;
        if path.is_empty() {
            return self.place_root(entry).map(|()| None);
        }
        let (parent_path, name) = path::split(&path);
        let parent = self.parent(parent_path)?;
        if let Some(removed) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(parent, name, removed).map(|()| None);
        }
        let existing = self.tree.child(parent, name);
        if let EntryKind::Hardlink(target) = &entry.kind {
            return self.hardlink(parent, name, &path, existing, target).map(|()| None);
        }
        let attributes = self.attributes(entry)?;
        let kind = match &entry.kind {
            EntryKind::Directory => {
                // A directory met twice keeps its entries and takes the later attributes.
                if let Some((id, directory)) =
                    existing.and_then(|id| Some((id, self.tree.directory_mut(id)?)))
                {
                    directory.implicit = false;
                    self.tree.node_mut(id).attributes = attributes;
                    return Ok(None);
                }
                Kind::Directory(Directory::default())
            }
            EntryKind::File => Kind::File(Extent::default()),
            EntryKind::Symlink(target) => Kind::Symlink(self.symlink_target(target)?),
            EntryKind::CharDevice(major, minor) => Kind::CharDevice(device(*major, *minor)?),
            EntryKind::BlockDevice(major, minor) => Kind::BlockDevice(device(*major, *minor)?),
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::Hardlink(_) => return Ok(None), // placed above
        };
        let is_file = matches!(kind, Kind::File(_));
        let id = self.tree.add(Node { attributes, kind })?;
        self.link(parent, name, id)?;
        Ok(is_file.then_some(id))
    }

    /// Records where a file's data went.
    pub fn set_extent(&mut self, file: NodeId, extent: Extent) {
        self.tree.node_mut(file).kind = Kind::File(extent);
    }

    /// The finished layer: whiteouts become nodes, or make a directory of the same name opaque.
    pub fn finish(mut self) -> Result<Tree, EntryError> {
        for (directory, names) in std::mem::take(&mut self.whiteouts) {
            for name in names {
                match self.tree.child(directory, &name) {
                    Some(own) => {
                        if let Some(own) = self.tree.directory_mut(own) {
                            own.opaque = true;
                        }
                    }
                    None => {
                        let node = Node { attributes: Attributes::default(), kind: Kind::Whiteout };
                        let id = self.tree.add(node)?;
                        self.link(directory, &name, id)?;
                    }
                }
            }
        }
        Ok(self.tree)
    }

    fn place_root(&mut self, entry: &Entry) -> Result<(), EntryError> {
        if entry.kind != EntryKind::Directory {
            return Err(EntryError::ReplacesRoot);
        }
        let attributes = self.attributes(entry)?;
        self.tree.node_mut(ROOT).attributes = attributes;
        if let Some(root) = self.tree.directory_mut(ROOT) {
            root.implicit = false;
        }
        Ok(())
    }

    /// Finds or makes the directory of a path.
    fn parent(&mut self, path: &[u8]) -> Result<NodeId, EntryError> {
        let mut at = ROOT;
        if path.is_empty() {
            return Ok(at);
        }
        let mut walked = 0;
        for name in path.split(|&b| b == b'/') {
            walked += name.len();
            at = match self.tree.child(at, name) {
                Some(id) if self.tree.directory(id).is_some() => id,
                Some(_) => return Err(EntryError::BelowNonDirectory(lossy(&path[..walked]))),
                None => {
                    let directory = Directory { implicit: true, ..Directory::default() };
                    let node = Node {
                        attributes: Attributes::implicit_directory(),
                        kind: Kind::Directory(directory),
                    };
                    let id = self.tree.add(node)?;
                    self.link(at, name, id)?;
                    id
                }
            };
            walked += 1;
        }
        Ok(at)
    }

    fn whiteout(&mut self, parent: NodeId, name: &[u8], removed: &[u8]) -> Result<(), EntryError> {
        if name == OPAQUE {
            if let Some(directory) = self.tree.directory_mut(parent) {
                directory.opaque = true;
            }
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if matches!(removed, b"" | b"." | b"..") {
            return Err(EntryError::BadWhiteout);
        }
        self.charge_name(removed)?;
        self.whiteouts.entry(parent).or_default().insert(removed.into());
        Ok(())
    }

    fn hardlink(
        &mut self,
        parent: NodeId,
        name: &[u8],
        path: &[u8],
        existing: Option<NodeId>,
        target: &[u8],
    ) -> Result<(), EntryError> {
        let target = path::normalise(target).map_err(EntryError::LinkTarget)?;
        if target == path {
            return Err(EntryError::LinkToSelf);
        }
        let id = match self.tree.lookup(&target) {
            Some(id) if self.tree.directory(id).is_some() => {
                return Err(EntryError::LinkToDirectory(lossy(&target)));
            }
            Some(id) if existing == Some(id) => return Ok(()),
            Some(id) => id,
            None => {
                self.charge_name(&target)?;
                let kind = Kind::LowerLink(target.into());
                self.tree
                    .add(Node { attributes: Attributes { mode: 0o777, ..Attributes::default() }, kind })?
            }
        };
        self.link(parent, name, id)
    }

    fn symlink_target(&mut self, target: &[u8]) -> Result<Box<[u8]>, EntryError> {
        if target.is_empty() || target.contains(&0) || target.len() > limits::MAX_PATH {
            return Err(EntryError::SymlinkTarget);
        }
        self.charge_name(target)?;
        Ok(target.into())
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes, EntryError> {
        let bytes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.xattr_bytes += bytes as u64;
        if self.xattr_bytes > limits::MAX_XATTR_BYTES {
            return Err(EntryError::Xattrs);
        }
        // Linux gives every symbolic link these permissions, and overlay copies them.
        let is_symlink = matches!(entry.kind, EntryKind::Symlink(_));
        Ok(Attributes {
            mode: if is_symlink { 0o777 } else { (entry.mode & 0o7777) as u16 },
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.0,
            mtime_nsec: entry.mtime.1,
            xattrs: entry.xattrs.clone(),
        })
    }

    /// Names a node; whatever had the name before loses it, with all that was below.
    fn link(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), EntryError> {
        self.charge_name(name)?;
        if let Some(directory) = self.tree.directory_mut(parent) {
            directory.entries.insert(name.into(), id);
        }
        Ok(())
    }

    fn charge_name(&mut self, name: &[u8]) -> Result<(), EntryError> {
        self.name_bytes += name.len() as u64;
        if self.name_bytes > limits::MAX_NAME_BYTES { Err(EntryError::Names) } else { Ok(()) }
    }
}

fn device(major: u32, minor: u32) -> Result<DeviceNumber, EntryError> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(EntryError::Device(major, minor));
    }
    Ok(DeviceNumber { major, minor })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
