use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::layout::BLOCK;
use super::{reader, writer};
use crate::tree::{Attributes, DeviceNumber, Directory, Extent, Kind, Node, NodeId, ROOT, Tree, Xattrs};

const DATA_BLOCKS: u32 = 1000;

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop::sample::select(vec![
        "user.a",
        "user.b",
        "trusted.t",
        "security.capability",
        "system.posix_acl_access",
        "system.posix_acl_default",
    ]);
    let value = prop::collection::vec(any::<u8>(), 0..5000);
    prop::collection::btree_map(name.prop_map(|n| n.as_bytes().into()), value.prop_map(Into::into), 0..4)
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let owner = (any::<u32>(), any::<u32>());
    (
        0u16..0o10000,
        owner,
        any::<i64>(),
        0u32..1_000_000_000,
        prop_oneof![3 => Just(Xattrs::new()), 1 => xattrs()],
    )
        .prop_map(|(mode, (uid, gid), mtime, mtime_nsec, xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime,
            mtime_nsec,
            xattrs,
        })
}

fn kind(in_layer: bool) -> impl Strategy<Value = Kind> {
    let file = (0u64..300_000, 1u32..900, 1u16..4).prop_map(move |(size, block, device)| match size {
        0 => Kind::File(Extent::default()),
        _ => Kind::File(Extent { size, device: if in_layer { 0 } else { device }, block }),
    });
    let target = || prop::collection::vec(1u8..=255, 1..4095).prop_map(Into::into);
    let device = || (0u32..1 << 12, 0u32..1 << 20).prop_map(|(major, minor)| DeviceNumber { major, minor });
    let lower = prop_oneof![Just(Kind::Whiteout), target().prop_map(Kind::LowerLink)];
    let lower = if in_layer { lower.boxed() } else { Just(Kind::Socket).boxed() };
    let flags = (any::<bool>(), any::<bool>());
    prop_oneof![
        3 => flags.prop_map(move |(opaque, implicit)| Kind::Directory(Directory {
            opaque: opaque && in_layer, implicit: implicit && in_layer, ..Directory::default()
        })),
        4 => file,
        2 => target().prop_map(Kind::Symlink),
        1 => device().prop_map(Kind::CharDevice),
        1 => device().prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => lower,
    ]
}

/// Nodes that each hang under an earlier directory, some of them twice if they are no directories.
fn tree(in_layer: bool) -> impl Strategy<Value = Tree> {
    let name = prop::collection::vec(prop_oneof![1u8..b'/', b'0'..=255u8], 1..=255)
        .prop_filter("a real name", |name| name != b"." && name != b"..");
    let node =
        (attributes(), kind(in_layer), prop::collection::vec((any::<prop::sample::Index>(), name), 1..3));
    (attributes(), prop::collection::vec(node, 0..60)).prop_map(|(root, nodes)| {
        let mut tree = Tree::new();
        tree.node_mut(ROOT).attributes = root;
        tree.directory_mut(ROOT).unwrap().implicit = false;
        let mut directories = vec![ROOT];
        for (attributes, kind, places) in nodes {
            let is_directory = matches!(kind, Kind::Directory(_));
            let id = tree.add(Node { attributes, kind }).unwrap();
            for (parent, name) in places.into_iter().take(if is_directory { 1 } else { 2 }) {
                let parent = directories[parent.index(directories.len())];
                // An entry that loses its name must not be a directory others were put under.
                tree.directory_mut(parent).unwrap().entries.entry(name.into()).or_insert(id);
            }
            if is_directory && tree.paths().iter().any(|&(_, seen)| seen == id) {
                directories.push(id);
            }
        }
        tree
    })
}

/// Paths, nodes without their children, and which names share a node.
fn shape(tree: &Tree) -> Vec<(Vec<u8>, Node, Vec<u8>)> {
    let mut first: std::collections::HashMap<NodeId, Vec<u8>> = std::collections::HashMap::new();
    let describe = |(path, id): (Vec<u8>, NodeId)| {
        let mut node = tree.node(id).clone();
        if let Kind::Directory(directory) = &mut node.kind {
            directory.entries.clear();
        }
        let same = first.entry(id).or_insert_with(|| path.clone()).clone();
        (path, node, same)
    };
    tree.paths().into_iter().map(describe).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_layer_reads_back_as_it_was(tree in tree(true)) {
        let file = tempfile::tempfile().unwrap();
        let blocks = writer::write_layer(&file, &tree, DATA_BLOCKS, [7; 16]).unwrap();
        prop_assert_eq!(file.metadata().unwrap().len(), u64::from(blocks) * BLOCK);
        let image = reader::read(&file).unwrap();
        prop_assert_eq!(shape(&image.tree), shape(&tree));
    }

    #[test]
    fn a_merged_image_reads_back_as_it_was(tree in tree(false)) {
        let file = tempfile::tempfile().unwrap();
        let devices = [900, 2000, 1500].map(|blocks| writer::Device { tag: format!("{blocks}"), blocks });
        let own = writer::write_merged(&file, &tree, &devices, [7; 16]).unwrap();
        let image = reader::read(&file);
        // Files may end behind their device: then it is the reader that must say so.
        let fits = tree.paths().iter().all(|&(_, id)| match tree.node(id).kind {
            Kind::File(e) if e.size > 0 => {
                u64::from(e.block) + e.size.div_ceil(BLOCK) <= u64::from(devices[usize::from(e.device) - 1].blocks)
            }
            _ => true,
        });
        prop_assert_eq!(image.is_ok(), fits);
        if let Ok(image) = image {
            prop_assert_eq!(shape(&image.tree), shape(&tree));
            let mapped: Vec<u32> = image.devices.iter().map(|device| device.mapped_block).collect();
            prop_assert_eq!(mapped, [own, own + 900, own + 2900]);
        }
    }

    #[test]
    fn a_damaged_image_is_read_or_refused_but_never_panics(
        tree in tree(true),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let file = tempfile::tempfile().unwrap();
        writer::write_layer(&file, &tree, 1, [7; 16]).unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // Past the superblock, which has a checksum.
        for (at, value) in damage {
            let at = BLOCK as usize + at.index(bytes.len() - BLOCK as usize);
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = reader::read(&bytes[..]);
    }
}

#[test]
fn an_empty_tree_is_an_image() {
    let file = tempfile::tempfile().unwrap();
    let mut tree = Tree::new();
    tree.directory_mut(ROOT).unwrap().implicit = false;
    writer::write_merged(&file, &tree, &[], [0; 16]).unwrap();
    assert_eq!(shape(&reader::read(&file).unwrap().tree), shape(&tree));
}

#[test]
fn a_merged_image_has_no_whiteouts() {
    let file = tempfile::tempfile().unwrap();
    let mut tree = Tree::new();
    assert!(matches!(writer::write_merged(&file, &tree, &[], [0; 16]), Err(writer::WriteError::NotMerged)));
    tree.directory_mut(ROOT).unwrap().implicit = false;
    let id = tree.add(Node { attributes: Attributes::default(), kind: Kind::Whiteout }).unwrap();
    tree.directory_mut(ROOT).unwrap().entries.insert(b"w"[..].into(), id);
    assert!(matches!(writer::write_merged(&file, &tree, &[], [0; 16]), Err(writer::WriteError::NotMerged)));
}
