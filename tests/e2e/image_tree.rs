//! A pod sees exactly the tree that an independent tool unpacks from the same image.

use std::fs;
use vial_tests::fixtures;
use vial_tests::host::{Vial, path};

/// What a runtime mounts or writes: no part of the image.
const RUNTIMES_OWN: [&str; 6] = ["/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

#[test]
fn a_debian_image_in_three_layers_equals_what_umoci_unpacks() {
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&fixtures::debian())]).ok();
    let lister = fs::read(fixtures::lister()).expect("the lister is beside the tests");
    let args = ["run", "--rm", "-i", "debian:vial", "python3", "-", "/"];
    let seen = vial.run_with(args.into_iter().chain(RUNTIMES_OWN), &lister).ok();
    let expected = fs::read_to_string(fixtures::debian_tree()).expect("the fixture has umoci's list");
    let difference: Vec<_> = expected.lines().zip(seen.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(difference.is_empty(), "umoci's and the pod's: {difference:#?}");
    assert_eq!(expected.lines().count(), seen.lines().count());
    vial.leaves_nothing();
}

#[test]
fn python_computes() {
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&fixtures::debian())]).ok();
    let out =
        vial.run(["run", "--rm", "debian:vial", "python3", "-c", "print(sum(range(10**5)), 2**100)"]).ok();
    assert_eq!(out, "4999950000 1267650600228229401496703205376\n");
    vial.leaves_nothing();
}
