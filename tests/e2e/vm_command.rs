//! `vial vm`: a kernel, an initrd, a disk, a console; no daemon.

use std::process::Stdio;
use vial_tests::fixtures;
use vial_tests::host::{Vial, path};

/// Boots busybox's shell script from the fixtures' initrd: the rest of the command line after `--` is its script.
fn boot(vial: &Vial, script: &str, more: &[&str]) -> vial_tests::host::Ran {
    let initrd = fixtures::busybox_initrd();
    let append = format!("console=hvc0 quiet panic=-1 script={script}");
    let mut args = vec!["vm", "run", "--initrd", path(&initrd), "--append", &append];
    args.extend(more);
    vial.run(args)
}

#[test]
fn a_guest_that_powers_off_ends_with_success() {
    let vial = Vial::new();
    let ran = boot(&vial, "echo${IFS}from${IFS}$(uname${IFS}-r);poweroff${IFS}-f", &[]);
    assert!(ran.stdout.contains("from 6.12."), "{ran:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
    vial.leaves_nothing();
}

#[test]
fn a_guest_that_panics_is_told_as_a_panic() {
    let vial = Vial::new();
    let ran = boot(&vial, "echo${IFS}c>/proc/sysrq-trigger", &[]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("panic"), "{ran:?}");
    vial.leaves_nothing();
}

#[test]
fn all_vcpus_come_up() {
    let vial = Vial::new();
    let ran = boot(&vial, "nproc;poweroff${IFS}-f", &["--cpus", "2"]);
    assert!(ran.stdout.lines().any(|line| line.trim() == "2"), "{ran:?}");
    vial.leaves_nothing();
}

#[test]
fn a_hanging_guest_can_be_listed_and_killed() {
    let vial = Vial::new();
    let initrd = fixtures::busybox_initrd();
    let append = "console=hvc0 quiet panic=-1 script=sleep${IFS}1000";
    let args = ["vm", "run", "-d", "--name", "sleeper", "--initrd", path(&initrd), "--append", append];
    vial.run(args).ok();
    assert!(vial.run(["vm", "ls"]).ok().contains("sleeper"));
    vial.run(["vm", "kill", "sleeper"]).ok();
    assert!(!vial.run(["vm", "ls"]).ok().contains("running"));
    vial.leaves_nothing();
}

#[test]
fn a_kernel_that_is_missing_or_no_elf_is_named() {
    let vial = Vial::new();
    let initrd = fixtures::busybox_initrd();
    let with = |kernel| vial.run(["vm", "run", "--initrd", path(&initrd), "--kernel", kernel]);
    with("/no/such/kernel").fails(125, "/no/such/kernel");
    let text = vial.data().join("text");
    std::fs::write(&text, "not a kernel").expect("a file can be written");
    with(path(&text)).fails(2, "ELF");
    vial.leaves_nothing();
}

#[test]
fn a_disk_is_seen_written_and_kept() {
    let vial = Vial::new();
    let disk = vial.data().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file can be written");
    let initrd = fixtures::busybox_initrd();
    let append = "console=hvc0 quiet panic=-1 script=echo${IFS}hello>/dev/vda;sync;poweroff${IFS}-f";
    let args = ["vm", "run", "--initrd", path(&initrd), "--append", append, "--disk", path(&disk)];
    let output = vial.command(args).stdin(Stdio::null()).output().expect("vial runs");
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read(&disk).expect("the disk can be read").starts_with(b"hello\n"));
    vial.leaves_nothing();
}
