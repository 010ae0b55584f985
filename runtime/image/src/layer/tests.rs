use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;

use super::*;
use crate::testing::{Head, Tar, gzip, layer};
use crate::tree::Kind;

fn refusal(tar: Vec<u8>) -> String {
    layer(&tar).expect_err("the layer is refused").to_string()
}

#[test]
fn hostile_entries_are_refused_by_name() {
    let plain = Tar::default;
    let part = "n".repeat(256);
    let deep = "d/".repeat(2100) + "f";
    for (tar, entry, reason) in [
        (plain().file("../../etc/passwd", b""), "../../etc/passwd", "\"..\""),
        (plain().file("a/../../b", b""), "a/../../b", "\"..\""),
        (plain().symlink("a", "/etc").file("a/passwd", b"x"), "a/passwd", "below \"a\""),
        (plain().file("a", b"").dir("a/b"), "a/b", "below \"a\""),
        (plain().hardlink("a", "../../etc/shadow"), "a", "\"..\""),
        (plain().hardlink("a", "a"), "a", "hardlink to itself"),
        (plain().dir("d").hardlink("a", "d"), "a", "hardlink to a directory"),
        (plain().file("/", b"").symlink("/", "x"), "/", "root directory"),
        (plain().file(&part, b""), &part, "more than 255"),
        (plain().file(&deep, b""), &deep, "more than 4095"),
        (plain().file("a/.wh.", b""), "a/.wh.", "whiteout of nothing"),
        (plain().file("a/.wh...", b""), "a/.wh...", "whiteout of nothing"),
        (plain().symlink("s", ""), "s", "target is empty"),
        (
            plain().head(&Head { name: b"c", flag: b'3', device: (4096, 0), ..Head::default() }),
            "c",
            "out of range",
        ),
    ] {
        let error = refusal(tar.end());
        assert!(error.contains(reason) && error.contains(&format!("{entry:?}")), "{error}");
    }
}

#[test]
fn absolute_names_become_relative() {
    let (tree, _) = layer(&Tar::default().file("/etc//./x", b"1").end()).unwrap();
    assert!(tree.lookup(b"etc/x").is_some());
}

#[test]
fn symlinks_out_of_the_tree_are_data() {
    let (tree, _) = layer(&Tar::default().symlink("s", "../../../etc/shadow").end()).unwrap();
    let node = tree.node(tree.lookup(b"s").unwrap());
    assert_eq!(node.kind, Kind::Symlink(b"../../../etc/shadow"[..].into()));
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let tar = Tar::default()
        .dir("a")
        .file("a/x", b"1")
        .file("a", b"now a file")
        .dir("b")
        .file("b/x", b"1")
        .dir("b");
    let (tree, _) = layer(&tar.end()).unwrap();
    assert!(matches!(tree.node(tree.lookup(b"a").unwrap()).kind, Kind::File(_)));
    assert!(tree.lookup(b"b/x").is_some(), "a directory met twice keeps its entries");
}

#[test]
fn a_whiteout_never_hides_its_own_layer() {
    for tar in [
        Tar::default().file(".wh.a", b"").dir("a").file("a/x", b"").file(".wh.b", b""),
        Tar::default().file(".wh.b", b"").dir("a").file("a/x", b"").file(".wh.a", b""),
    ] {
        let (tree, _) = layer(&tar.end()).unwrap();
        let a = tree.directory(tree.lookup(b"a").unwrap()).unwrap();
        assert!(a.opaque && a.entries.len() == 1);
        assert_eq!(tree.node(tree.lookup(b"b").unwrap()).kind, Kind::Whiteout);
    }
}

#[test]
fn a_hundred_thousand_entries_are_taken() {
    let tar = (0..100_000).fold(Tar::default(), |mut tar, i| {
        let name = format!("{:03}/{i}", i % 1000);
        tar.0.extend_from_slice(&crate::testing::header(&Head { name: name.as_bytes(), ..Head::default() }));
        tar
    });
    let (tree, _) = layer(&tar.end()).unwrap();
    assert_eq!(tree.len(), 1 + 1000 + 100_000);
}

#[test]
fn zero_blocks_and_holes_take_no_room() {
    let mut data = vec![0u8; 3 << 20];
    data[2 << 20] = 1;
    let records = [
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.map", "1099511627000,5"),
        ("GNU.sparse.size", "1099511627776"),
    ];
    let tar = Tar::default().file("zeros", &data).pax(&records).file("sparse", b"bytes").end();
    let (tree, file) = layer(&tar).unwrap();
    assert!(
        file.metadata().unwrap().blocks() * 512 < 256 << 10,
        "{} blocks",
        file.metadata().unwrap().blocks()
    );
    let Kind::File(extent) = tree.node(tree.lookup(b"sparse").unwrap()).kind else { panic!("a file") };
    assert_eq!(extent.size, 1 << 40);
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, u64::from(extent.block) * BLOCK + 1_099_511_627_000).unwrap();
    assert_eq!(&bytes, b"bytes");
}

#[test]
fn files_beyond_the_limits_are_refused() {
    let map = format!("{},0", limits::MAX_FILE);
    let size = (limits::MAX_FILE + 1).to_string();
    let one =
        [("GNU.sparse.major", "0"), ("GNU.sparse.map", map.as_str()), ("GNU.sparse.size", size.as_str())];
    assert!(refusal(Tar::default().pax(&one).file("s", b"").end()).contains("more than 2199023255552"));
    let size = limits::MAX_FILE.to_string();
    let records = [("GNU.sparse.major", "0"), ("GNU.sparse.map", ""), ("GNU.sparse.size", size.as_str())];
    let many = (0..5).fold(Tar::default(), |tar, i| tar.pax(&records).file(&format!("s{i}"), b""));
    assert!(refusal(many.end()).contains("beyond"));
}

#[test]
fn a_bomb_is_stopped() {
    struct Zeros;
    impl Read for Zeros {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            out.fill(0);
            Ok(out.len())
        }
    }
    // 1 GiB of one file's zeros in 1 MB.
    let head = crate::testing::header(&Head { size: 1 << 30, ..Head::default() });
    let source = io::Read::chain(&head[..], Zeros.take(1 << 30));
    let file = tempfile::tempfile().unwrap();
    let error = write(
        flate2::read::GzEncoder::new(source, flate2::Compression::default()),
        &file,
        &tempfile::tempfile().unwrap(),
        &mut |_| {},
    );
    assert!(matches!(error, Err(LayerError::Stream(StreamError::Bomb))), "{error:?}");
}

#[test]
fn a_broken_stream_is_named_as_such() {
    let tar = Tar::default().file("a", &[7; 100_000]).end();
    let mut broken = gzip(&tar);
    broken.truncate(broken.len() / 2);
    let error = refusal(broken);
    assert!(error.contains("can't be read or decompressed"), "{error}");
}

#[test]
fn every_compression_gives_the_same_layer() {
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let tar = Tar::default().file("a", &data).end();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let totals = [tar.clone(), gzip(&tar), zstd].map(|bytes| {
        let file = tempfile::tempfile().unwrap();
        let written = write(&bytes[..], &file, &tempfile::tempfile().unwrap(), &mut |_| {}).unwrap();
        assert_eq!(written.totals.digest, Digest::of(&bytes));
        assert_eq!(written.totals.length, bytes.len() as u64);
        written.totals.diff_id
    });
    assert_eq!(totals, [Digest::of(&tar); 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_tar_leaves_the_tree(
        entries in prop::collection::vec(
            ("(\\.\\./|/|a/|b/|\\./|\\.wh\\.){0,3}[ab.]{0,3}", 0u8..5, "(\\.\\./|/|a/|b/){0,3}[ab.]{0,3}"),
            0..12,
        )
    ) {
        let tar = entries.iter().fold(Tar::default(), |tar, (name, kind, target)| match kind {
            0 => tar.file(name, b"data"),
            1 => tar.dir(name),
            2 => tar.symlink(name, target),
            3 => tar.hardlink(name, target),
            _ => tar.head(&Head { name: name.as_bytes(), flag: b'6', ..Head::default() }),
        });
        if let Ok((tree, _)) = layer(&tar.end()) {
            for (path, _) in tree.paths() {
                for part in path.split(|&b| b == b'/').filter(|_| !path.is_empty()) {
                    prop_assert!(!matches!(part, b"" | b"." | b".."), "{:?}", String::from_utf8_lossy(&path));
                }
            }
        }
    }
}
