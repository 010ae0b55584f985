//! `vial vm`: a kernel, an initrd, a disk, a console; no daemon.

use vial_tests::fixtures;
use vial_tests::host::{Vial, path, signal};
use vial_tests::talk::Talk;

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
    let inspected = vial.run(["vm", "inspect", "sleeper"]).ok();
    assert!(inspected.lines().any(|line| line.starts_with("device     console: ")), "{inspected}");
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
    vial.run(args).ok();
    assert!(std::fs::read(&disk).expect("the disk can be read").starts_with(b"hello\n"));
    vial.leaves_nothing();
}

#[test]
fn a_disk_that_a_vm_may_write_to_is_no_other_vms() {
    let vial = Vial::new();
    let disk = vial.data().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file can be written");
    let (initrd, read_only) = (fixtures::busybox_initrd(), format!("{},ro", path(&disk)));
    let with = |script: &str, more: &[&str]| {
        let append = format!("console=hvc0 quiet panic=-1 script={script}");
        let args = ["vm", "run", "--initrd", path(&initrd), "--append", &append];
        vial.run(args.iter().chain(more))
    };
    let (sleep, off) = ("sleep${IFS}1000", "poweroff${IFS}-f");
    with(sleep, &["--disk", path(&disk), "-d", "--name", "first"]).ok();
    with(off, &["--disk", path(&disk)]).fails(125, "in use by another VM");
    with(off, &["--disk", &read_only]).fails(125, "in use by another VM that may write to it");
    vial.run(["vm", "kill", "first"]).ok();
    with(off, &["--disk", path(&disk), "--disk", &read_only]).fails(125, "is given twice");
    with(off, &["--disk", &read_only, "--disk", &read_only]).ok();
    vial.leaves_nothing();
}

#[test]
fn debian_boots_from_a_disk_to_a_login_and_goes_by_the_power_button() {
    let vial = Vial::new();
    let disk = vial.data().join("debian.ext4");
    let copied = std::process::Command::new("cp")
        .arg("--sparse=always")
        .args([fixtures::debian_disk(), disk.clone()])
        .status();
    assert!(copied.expect("cp can be run").success());
    let mut guest = Talk::start(
        &vial,
        &[
            "vm",
            "run",
            "--name",
            "bottle",
            "--disk",
            path(&disk),
            "--memory",
            "512m",
            "--append",
            "quiet systemd.show_status=0",
        ],
    );
    guest.says("bottle login: ");
    let typed = std::io::Write::write_all(guest.input(), b"root\n");
    typed.expect("the console takes keys");
    guest.says("# ");
    std::io::Write::write_all(guest.input(), b"cat /proc/1/comm; mount -t ext4\n")
        .expect("the console takes keys");
    guest.says("/dev/vda on / type ext4 (rw,relatime)\r\n");
    vial.run(["vm", "stop", "--time", "60", "bottle"]).ok();
    let ended = guest.ended();
    assert!(ended.stdout.contains("systemd\r\n"), "{ended:?}");
    // 0 is a guest that powered off by itself; one that must be ended has another status.
    assert_eq!(ended.code, 0, "{ended:?}");
    let checked =
        std::process::Command::new("e2fsck").args(["-fn", path(&disk)]).output().expect("e2fsck can be run");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    vial.leaves_nothing();
}

#[test]
fn a_vm_goes_with_its_command_whatever_ends_that() {
    for (number, code) in [(libc::SIGINT, 13), (libc::SIGTERM, 13), (libc::SIGKILL, 137)] {
        let vial = Vial::new();
        let initrd = fixtures::busybox_initrd();
        let append = "quiet panic=-1 script=echo${IFS}ready;sleep${IFS}1000";
        let mut guest = Talk::start(&vial, &["vm", "run", "--initrd", path(&initrd), "--append", append]);
        guest.says("ready\r\n");
        signal(guest.pid(), number);
        let ended = guest.ended();
        // The shell in it knows no power button, so the VM was ended.
        assert_eq!(ended.code, code, "{ended:?}");
        vial.comes_to_leave_nothing();
    }
}
