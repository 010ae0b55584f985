use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::testing::{Head, Tar, layer};

fn merged(layers: &[Tar]) -> Result<Tree, MergeError> {
    let mut merge = Merge::default();
    for tar in layers {
        merge.push(&layer(&tar.clone().end()).unwrap().0)?;
    }
    Ok(merge.finish().0)
}

fn names(tree: &Tree) -> Vec<String> {
    tree.paths().into_iter().skip(1).map(|(path, _)| String::from_utf8(path).unwrap()).collect()
}

#[test]
fn hardlinks_hold_within_and_across_layers() {
    let lower = Tar::default().file("a", b"one").hardlink("b", "a").hardlink("c", "a");
    // A link into the lower layer, though this very layer removes the name it goes by.
    let upper = Tar::default().file(".wh.a", b"").hardlink("d", "a").file("c", b"two").hardlink("e", "c");
    let tree = merged(&[lower, upper]).unwrap();
    assert_eq!(names(&tree), ["b", "c", "d", "e"]);
    let id = |name: &[u8]| tree.lookup(name).unwrap();
    assert_eq!(id(b"b"), id(b"d"));
    assert_eq!(id(b"c"), id(b"e"));
    assert_ne!(id(b"b"), id(b"c"));
}

#[test]
fn hardlinks_to_nothing_and_in_circles_are_refused() {
    for tar in [
        Tar::default().hardlink("a", "gone"),
        Tar::default().hardlink("a", "b").hardlink("b", "a"),
        Tar::default().symlink("s", "d").hardlink("a", "s/x"),
    ] {
        let error = match layer(&tar.end()) {
            Ok((tree, _)) => Merge::default().push(&tree).unwrap_err(),
            Err(error) => panic!("refused too early: {error}"),
        };
        assert!(matches!(error, MergeError::MissingTarget { .. }), "{error}");
    }
    let layers = [Tar::default().dir("d"), Tar::default().hardlink("a", "d")];
    assert!(matches!(merged(&layers), Err(MergeError::DirectoryTarget { .. })));
}

#[test]
fn only_layers_with_data_become_devices() {
    let mut merge = Merge::default();
    for tar in [
        Tar::default().file("a", b"1"),
        Tar::default().file(".wh.x", b""),
        Tar::default().file("b", b"2").file(".wh.a", b""),
    ] {
        merge.push(&layer(&tar.end()).unwrap().0).unwrap();
    }
    let (tree, used) = merge.finish();
    assert_eq!(used, [2]);
    let Kind::File(extent) = tree.node(tree.lookup(b"b").unwrap()).kind else { panic!("a file") };
    assert_eq!(extent.device, 1);
}

#[test]
fn an_implicit_directory_keeps_the_attributes_below() {
    let lower = Tar::default().head(&Head { name: b"d", flag: b'5', mode: 0o700, ..Head::default() });
    let tree = merged(&[lower, Tar::default().file("d/x", b"")]).unwrap();
    assert_eq!(tree.node(tree.lookup(b"d").unwrap()).attributes.mode, 0o700);
}

#[test]
fn a_directory_covers_a_symlink_of_a_lower_layer() {
    let layers = [Tar::default().dir("usr").symlink("lib", "usr"), Tar::default().file("lib/x", b"")];
    assert_eq!(names(&merged(&layers).unwrap()), ["lib", "lib/x", "usr"]);
}

/// What a layer says of a path, beside removals.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spec {
    Directory { mode: u32, opaque: bool },
    File { mode: u32 },
}

#[derive(Debug, Clone, Default)]
struct Layer {
    entries: BTreeMap<String, Spec>,
    whiteouts: BTreeSet<String>,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let spec =
        (0u32..0o777, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(mode, directory, opaque)| {
            if directory { Spec::Directory { mode, opaque } } else { Spec::File { mode } }
        });
    let layer = (prop::collection::btree_map(path(), spec, 0..8), prop::collection::btree_set(path(), 0..4));
    let layer = layer.prop_map(|(mut entries, mut whiteouts)| {
        // Nothing may lie below a file of its own layer.
        let files: Vec<String> = entries
            .iter()
            .filter(|(_, s)| matches!(s, Spec::File { .. }))
            .map(|(p, _)| format!("{p}/"))
            .collect();
        let below = |path: &String| files.iter().any(|file| path.starts_with(file.as_str()));
        entries.retain(|path, _| !below(path));
        whiteouts.retain(|path| !below(path));
        Layer { entries, whiteouts }
    });
    prop::collection::vec(layer, 1..5)
}

fn tar(layer: &Layer) -> Tar {
    let mut tar = Tar::default();
    for (path, spec) in &layer.entries {
        let (flag, mode) = match spec {
            Spec::Directory { mode, .. } => (b'5', *mode),
            Spec::File { mode } => (b'0', *mode),
        };
        tar = tar.head(&Head { name: path.as_bytes(), flag, mode, ..Head::default() });
        if matches!(spec, Spec::Directory { opaque: true, .. }) {
            tar = tar.file(&format!("{path}/.wh..wh..opq"), b"");
        }
    }
    for path in &layer.whiteouts {
        let (parent, name) =
            path.rsplit_once('/').map_or((String::new(), path.as_str()), |(p, n)| (format!("{p}/"), n));
        tar = tar.file(&format!("{parent}.wh.{name}"), b"");
    }
    tar
}

/// Overlay semantics said the plain way, over whole paths: first what a layer hides, then what it has.
fn model(layers: &[Layer]) -> BTreeMap<String, (bool, u32)> {
    let mut state: BTreeMap<String, (bool, u32)> = BTreeMap::new();
    let remove_below = |state: &mut BTreeMap<String, (bool, u32)>, path: &str| {
        state.retain(|other, _| !other.starts_with(&format!("{path}/")));
    };
    for layer in layers {
        for path in &layer.whiteouts {
            // The name goes, unless this layer has a directory there: then only what was in it.
            remove_below(&mut state, path);
            let own = layer.entries.contains_key(path)
                || layer.entries.keys().chain(&layer.whiteouts).any(|p| p.starts_with(&format!("{path}/")));
            if !own {
                state.remove(path);
            }
        }
        for (path, spec) in &layer.entries {
            if matches!(spec, Spec::Directory { opaque: true, .. }) {
                remove_below(&mut state, path);
            }
        }
        let mut place = |path: &str, directory: bool, mode: Option<u32>| {
            let existing = state.get(path).copied();
            let stays = directory && existing.is_some_and(|(directory, _)| directory);
            if !stays {
                remove_below(&mut state, path);
            }
            let kept = existing.filter(|_| stays).map_or(0o755, |(_, mode)| mode);
            state.insert(path.to_owned(), (directory, mode.unwrap_or(kept)));
        };
        // Parents sort before what is in them.
        let mut all: BTreeMap<&str, Option<Spec>> = BTreeMap::new();
        for path in layer.entries.keys().chain(&layer.whiteouts) {
            all.extend(path.match_indices('/').map(|(at, _)| (&path[..at], None)));
        }
        all.extend(layer.entries.iter().map(|(path, spec)| (path.as_str(), Some(*spec))));
        for (path, spec) in all {
            match spec {
                None => place(path, true, None),
                Some(Spec::Directory { mode, .. }) => place(path, true, Some(mode)),
                Some(Spec::File { mode }) => place(path, false, Some(mode)),
            }
        }
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn merging_is_what_an_overlay_shows(layers in layers()) {
        let tars: Vec<Tar> = layers.iter().map(tar).collect();
        let tree = merged(&tars).unwrap();
        let seen: BTreeMap<String, (bool, u32)> = tree
            .paths()
            .into_iter()
            .skip(1)
            .map(|(path, id)| {
                let node = tree.node(id);
                let directory = matches!(node.kind, Kind::Directory(_));
                (String::from_utf8(path).unwrap(), (directory, u32::from(node.attributes.mode)))
            })
            .collect();
        prop_assert_eq!(seen, model(&layers));
    }
}
