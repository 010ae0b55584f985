//! Gives every target the inputs that were kept for it, and each of them cut and damaged a little.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use vial_hostile::TARGETS;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = corpora().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_is_survived() {
    for (name, target) in TARGETS {
        let files = inputs(name);
        assert!(!files.is_empty(), "{name} has no inputs");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            // Not only whole: a connection breaks anywhere, and bits flip.
            for variant in [bytes.clone(), bytes[..bytes.len() / 2].to_vec(), damaged(&bytes)] {
                assert!(
                    catch_unwind(|| target(&variant)).is_ok(),
                    "{name} does not survive {}",
                    file.display()
                );
            }
        }
    }
}

fn damaged(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().enumerate().map(|(at, byte)| if at % 97 == 41 { byte ^ 0x15 } else { *byte }).collect()
}

#[test]
fn every_target_has_a_fuzzer_and_every_corpus_a_target() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folder = |path: &str| fs::read_dir(corpora().join(path)).unwrap().map(|entry| entry.unwrap().path());
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let fuzzers: BTreeSet<String> = folder("targets").map(|path| stem(&path)).collect();
    assert_eq!(fuzzers, names);
    // What tools build in there is not a corpus.
    let others = ["targets", "target", "artifacts", "corpus", "coverage"];
    let corpora: BTreeSet<String> = folder(".")
        .filter(|path| path.is_dir())
        .map(|path| stem(&path))
        .filter(|name| !others.contains(&name.as_str()))
        .collect();
    assert_eq!(corpora, names);
}
