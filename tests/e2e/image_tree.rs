//! A pod sees exactly the tree that an independent tool unpacks from the same image.

use std::collections::BTreeSet;
use std::fs;
use vial_tests::fixtures;
use vial_tests::host::{Vial, path};

/// What a runtime mounts or writes: no part of the image.
const RUNTIMES_OWN: [&str; 6] = ["/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

fn of_the_image(list: &str) -> BTreeSet<&str> {
    let own = |line: &&str| !RUNTIMES_OWN.iter().any(|path| line.contains(&format!("\"path\": \"{path}")));
    list.lines().filter(own).collect()
}

#[test]
fn a_debian_image_in_three_layers_equals_what_umoci_unpacks() {
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&fixtures::debian())]).ok();
    let lister = fs::read(fixtures::lister()).expect("the lister is beside the tests");
    let args = ["run", "--rm", "-i", "debian:vial", "python3", "-", "/", "/proc", "/sys", "/dev"];
    let seen = vial.run_with(args, &lister).ok();
    let expected = fs::read_to_string(fixtures::debian_tree()).expect("the fixture has umoci's list");
    let (seen, expected) = (of_the_image(&seen), of_the_image(&expected));
    assert!(expected.len() > 3000, "the list is too short to be Debian's");
    let missing: Vec<_> = expected.difference(&seen).take(5).collect();
    let added: Vec<_> = seen.difference(&expected).take(5).collect();
    assert!(
        missing.is_empty() && added.is_empty(),
        "only umoci has {missing:#?}, only the pod has {added:#?}"
    );
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
