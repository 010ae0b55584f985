use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::testing::{Head, Tar, header, seal};

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            let bytes = reader.data()?;
            if bytes.is_empty() {
                break;
            }
            data.extend_from_slice(bytes);
            let count = bytes.len();
            reader.consume(count);
        }
        found.push((entry, data));
    }
    Ok(found)
}

#[test]
fn names_of_any_length_are_read() {
    let long = "d/".repeat(200) + "f";
    let tar = Tar::default().file(&long, b"x").symlink("s", &"t".repeat(300)).end();
    let found = entries(&tar).unwrap();
    assert_eq!(found[0].0.path, long.as_bytes());
    assert_eq!(found[0].1, b"x");
    assert_eq!(found[1].0.kind, EntryKind::Symlink(vec![b't'; 300]));
}

#[test]
fn a_cut_anywhere_is_truncation_or_an_end_between_entries() {
    let tar = Tar::default().file("a", &[1; 700]).file("b", b"y").0;
    for cut in 0..tar.len() {
        match entries(&tar[..cut]) {
            Ok(found) => {
                assert!(cut == 1536 && found.len() == 1, "cut at {cut} gave {} entries", found.len())
            }
            Err(TarError::Truncated) => {}
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_seen() {
    let mut tar = Tar::default().file("a", b"x").end();
    tar[3] ^= 1;
    assert!(matches!(entries(&tar), Err(TarError::Checksum)));
}

#[test]
fn headers_before_an_entry_are_bounded() {
    let huge = Head { flag: b'L', size: limits::MAX_SPECIAL_HEADER + 1, ..Head::default() };
    assert!(matches!(entries(&Tar::default().head(&huge).0), Err(TarError::SpecialHeader(_))));
    let chain = (0..100).fold(Tar::default(), |tar, _| tar.pax(&[("path", "a")]));
    assert!(matches!(entries(&chain.end()), Err(TarError::Pax(_))));
    let endless = Head { size: u64::MAX / 4, ..Head::default() };
    assert!(entries(&Tar::default().head(&endless).0).is_err());
}

#[test]
fn maps_of_sparse_files_are_checked() {
    let sparse = |runs: &str, real: &str, stored: usize| {
        let records = [
            ("GNU.sparse.major", "0"),
            ("GNU.sparse.minor", "1"),
            ("GNU.sparse.map", runs),
            ("GNU.sparse.size", real),
        ];
        let tar = Tar::default().pax(&records).file("s", &vec![7; stored]).end();
        entries(&tar).map(|found| (found[0].0.size, found[0].0.sparse.clone()))
    };
    assert_eq!(sparse("10,5,100,5", "1000", 10).unwrap(), (1000, Some(vec![(10, 5), (100, 5)])));
    for (runs, real, stored) in [
        ("10,5,12,5", "1000", 10),              // overlapping
        ("10,5", "12", 5),                      // beyond the end
        ("10,5", "1000", 6),                    // more stored than mapped
        ("10,18446744073709551615", "1000", 5), // overflow
        ("10", "1000", 5),                      // odd
        ("0,5", "9000000000000000000", 5),      // huge
    ] {
        assert!(sparse(runs, real, stored).is_err(), "{runs}");
    }
}

#[test]
fn what_gnu_tar_writes_is_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = dir.path().join("sparse");
    let mut file = std::fs::File::create(&sparse).unwrap();
    let mut expected = vec![0u8; 900_000];
    for run in 0..40 {
        // Enough runs that the old format needs extension blocks.
        let at = run * 20_480;
        expected[at..at + 5].copy_from_slice(b"bytes");
        std::os::unix::fs::FileExt::write_all_at(&file, b"bytes", at as u64).unwrap();
    }
    file.set_len(900_000).unwrap();
    file.flush().unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=0.0"],
    ] {
        let output = Command::new("tar")
            .args(["-c", "--sparse"])
            .args(format)
            .arg("-C")
            .arg(dir.path())
            .arg("sparse")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        let found = entries(&output.stdout).unwrap();
        let (entry, data) = &found[0];
        assert_eq!((entry.path.as_slice(), entry.size), (&b"sparse"[..], 900_000), "{format:?}");
        let mut seen = vec![0u8; entry.size as usize];
        let mut rest = data.as_slice();
        for &(offset, length) in entry.sparse.as_ref().unwrap() {
            let (run, later) = rest.split_at(length as usize);
            seen[offset as usize..][..run.len()].copy_from_slice(run);
            rest = later;
        }
        assert!(seen == expected, "{format:?}");
        assert!(data.len() < 400_000, "{format:?}: the archive was not sparse");
    }
}

proptest! {
    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = entries(&bytes);
    }

    #[test]
    fn headers_with_rubbish_never_panic(
        flag in prop::sample::select(&b"01234567xgLKSDVX\0"[..]),
        at in 0usize..512,
        junk in prop::collection::vec(any::<u8>(), 0..64),
        body in prop::collection::vec(any::<u8>(), 0..1500),
        size in 0u64..2000,
    ) {
        let mut block = header(&Head { flag, size, ..Head::default() });
        let end = (at + junk.len()).min(512);
        block[at..end].copy_from_slice(&junk[..end - at]);
        seal(&mut block);
        let _ = entries(&[&block[..], &body].concat());
    }
}
