//! Archives and names that are broken or hostile: a clear error each, and a store as before.

use std::fs;
use vial_tests::fixtures;
use vial_tests::host::{Vial, path};

#[test]
fn a_truncated_archive_is_refused_and_leaves_no_image() {
    let vial = Vial::new();
    let whole = fs::read(fixtures::busybox()).expect("the fixture can be read");
    let broken = vial.data().join("broken.tar");
    fs::write(&broken, &whole[..whole.len() / 2]).expect("a file can be written");
    let ran = vial.run(["load", "-i", path(&broken)]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(vial.run(["images", "-q"]).ok(), "");
    fs::remove_file(broken).expect("the test's own file");
    vial.leaves_nothing();
}

#[test]
fn a_flipped_byte_in_a_layer_is_found() {
    let vial = Vial::new();
    let mut bytes = fs::read(fixtures::busybox()).expect("the fixture can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    let ran = vial.run_with(["load", "-i", "-"], &bytes);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(vial.run(["images", "-q"]).ok(), "");
    vial.leaves_nothing();
}

#[test]
fn rubbish_is_no_archive() {
    let vial = Vial::new();
    let ran = vial.run_with(["load", "-i", "-"], &[0x5a; 100_000]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("can't be loaded"), "{ran:?}");
    vial.leaves_nothing();
}

#[test]
fn a_missing_file_is_named() {
    let vial = Vial::new();
    vial.run(["load", "-i", "/no/such/file.tar"]).fails(1, "/no/such/file.tar");
    vial.leaves_nothing();
}

#[test]
fn unknown_words_are_answered_with_help() {
    let vial = Vial::new();
    assert_ne!(vial.run(["rnu"]).code, 0);
    vial.run(["logs", "nobody"]).fails(1, "nobody");
    vial.run(["rmi", "nothing"]).fails(1, "nothing");
    vial.leaves_nothing();
}
