//! Lays layers over each other, as overlayfs would show them: the rules of the OCI image specification.

use std::collections::HashMap;

use crate::tree::{Directory, Kind, Node, NodeId, ROOT, Tree, TreeError};

/// Why layers can't be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A hardlink to a file of a lower layer that is not there.
    #[error("entry {link:?} is a hardlink to {target:?}, which is in no layer below")]
    MissingTarget {
        /// The hardlink.
        link: String,
        /// Where it points.
        target: String,
    },
    /// A hardlink to a directory of a lower layer.
    #[error("entry {link:?} is a hardlink to the directory {target:?} of a layer below")]
    DirectoryTarget {
        /// The hardlink.
        link: String,
        /// Where it points.
        target: String,
    },
    /// Bounds.
    #[error("the image has {0}")]
    Tree(#[from] TreeError),
}

/// The merged tree in the making.
#[derive(Debug, Default)]
pub struct Merge {
    tree: Tree,
    layers: u16,
}

impl Merge {
    /// Lays the next layer on top. Its files become files of device 1 for the first layer, 2 for the second …
    pub fn push(&mut self, layer: &Tree) -> Result<(), MergeError> {
        self.layers += 1;
        // Hardlinks into lower layers mean those layers as they were, whatever this layer removes.
        let mut merged_ids = self.lower_links(layer)?;
        let mut open = vec![(ROOT, ROOT)];
        self.lay_directory(ROOT, layer.node(ROOT));
        while let Some((lower, upper)) = open.pop() {
            let Some(directory) = layer.directory(upper) else { continue };
            for (name, &id) in &directory.entries {
                let node = layer.node(id);
                let existing = self.tree.child(lower, name);
                let merged = match &node.kind {
                    Kind::Whiteout => {
                        self.name(lower, name, None);
                        continue;
                    }
                    Kind::Directory(_) => {
                        let merged = self.lower_directory(existing)?;
                        self.lay_directory(merged, node);
                        open.push((merged, id));
                        merged
                    }
                    _ => match merged_ids.get(&id) {
                        Some(&merged) => merged,
                        None => {
                            let merged = self.tree.add(self.on_device(node))?;
                            merged_ids.insert(id, merged);
                            merged
                        }
                    },
                };
                self.name(lower, name, Some(merged));
            }
        }
        Ok(())
    }

    /// The merged tree, and the layers (counted from 0) that it takes data from, in the order of its devices.
    pub fn finish(mut self) -> (Tree, Vec<usize>) {
        let mut used = vec![false; usize::from(self.layers)];
        let mut open = vec![ROOT];
        let mut files = Vec::new();
        while let Some(id) = open.pop() {
            match &mut self.tree.node_mut(id).kind {
                Kind::Directory(directory) => {
                    (directory.opaque, directory.implicit) = (false, false);
                    open.extend(directory.entries.values());
                }
                Kind::File(extent) if extent.size > 0 => {
                    used[usize::from(extent.device) - 1] = true;
                    files.push(id);
                }
                _ => {}
            }
        }
        let layers: Vec<usize> = (0..used.len()).filter(|&layer| used[layer]).collect();
        let mut device_of = vec![0u16; used.len()];
        for (index, &layer) in layers.iter().enumerate() {
            device_of[layer] = index as u16 + 1;
        }
        // A file with two names is in the list twice.
        files.sort_unstable();
        files.dedup();
        for id in files {
            if let Kind::File(extent) = &mut self.tree.node_mut(id).kind {
                extent.device = device_of[usize::from(extent.device) - 1];
            }
        }
        (self.tree, layers)
    }

    fn lower_links(&self, layer: &Tree) -> Result<HashMap<NodeId, NodeId>, MergeError> {
        let mut found = HashMap::new();
        let is_link = |id| matches!(layer.node(id).kind, Kind::LowerLink(_));
        if !(0..layer.len() as NodeId).any(is_link) {
            return Ok(found);
        }
        for (path, id) in layer.paths() {
            let Kind::LowerLink(target) = &layer.node(id).kind else { continue };
            let (link, text) = (lossy(&path), lossy(target));
            match self.tree.lookup(target) {
                None => return Err(MergeError::MissingTarget { link, target: text }),
                Some(lower) if self.tree.directory(lower).is_some() => {
                    return Err(MergeError::DirectoryTarget { link, target: text });
                }
                Some(lower) => found.insert(id, lower),
            };
        }
        Ok(found)
    }

    /// The directory that has the name below, or a new one in place of whatever else has it.
    fn lower_directory(&mut self, existing: Option<NodeId>) -> Result<NodeId, MergeError> {
        if let Some(id) = existing.filter(|&id| self.tree.directory(id).is_some()) {
            return Ok(id);
        }
        let attributes = crate::tree::Attributes::implicit_directory();
        Ok(self.tree.add(Node { attributes, kind: Kind::Directory(Directory::default()) })?)
    }

    fn lay_directory(&mut self, lower: NodeId, upper: &Node) {
        let Kind::Directory(directory) = &upper.kind else { return };
        if !directory.implicit {
            self.tree.node_mut(lower).attributes = upper.attributes.clone();
        }
        if let Some(lower) = self.tree.directory_mut(lower).filter(|_| directory.opaque) {
            lower.entries.clear();
        }
    }

    fn on_device(&self, node: &Node) -> Node {
        let mut node = node.clone();
        if let Kind::File(extent) = &mut node.kind {
            extent.device = if extent.size > 0 { self.layers } else { 0 };
        }
        node
    }

    fn name(&mut self, directory: NodeId, name: &[u8], id: Option<NodeId>) {
        let Some(directory) = self.tree.directory_mut(directory) else { return };
        match id {
            Some(id) => directory.entries.insert(name.into(), id),
            None => directory.entries.remove(name),
        };
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
