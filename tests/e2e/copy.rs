//! `vial cp`, also against a container that wants to be somewhere else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use vial_tests::host::{Vial, path, signal};
use vial_tests::talk::until;

/// A container that runs until it is removed.
fn running() -> Vial {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "one", "busybox", "sleep", "100000"]).ok();
    vial
}

#[test]
fn files_and_folders_go_in_and_come_out_as_they_were() {
    let vial = running();
    let here = tempfile::tempdir().expect("a folder");
    let source = here.path().join("src");
    fs::create_dir_all(source.join("sub")).expect("folders");
    let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(source.join("sub/big"), &bytes).expect("a file");
    fs::write(source.join("run"), "#!/bin/sh\necho ran\n").expect("a file");
    fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o755)).expect("permissions");
    symlink("sub/big", source.join("link")).expect("a link");
    symlink("src/run", here.path().join("alias")).expect("a link");

    vial.run(["cp", path(&source), "one:/tmp"]).ok();
    let look = "/tmp/src/run; readlink /tmp/src/link; stat -c %u:%g /tmp/src/run";
    assert_eq!(vial.run(["exec", "one", "sh", "-c", look]).ok(), "ran\nsub/big\n0:0\n");
    let out = here.path().join("out");
    vial.run(["cp", "one:/tmp/src", path(&out)]).ok();
    assert!(fs::read(out.join("sub/big")).expect("it was copied") == bytes);
    assert_eq!(fs::read_link(out.join("link")).expect("a link").to_str(), Some("sub/big"));
    // The contents alone; a single file under a new name; a link followed.
    for _made_and_there in 0..2 {
        vial.run(["cp", &format!("{}/.", path(&source)), "one:/srv"]).ok();
    }
    vial.run(["cp", "-L", path(&here.path().join("alias")), "one:/srv/other"]).ok();
    // Owners only when asked for.
    let look = "/srv/run; /srv/other; chown 12:34 /srv/run";
    assert_eq!(vial.run(["exec", "one", "sh", "-c", look]).ok(), "ran\nran\n");
    vial.run(["cp", "-a", "one:/srv/run", path(&here.path().join("kept"))]).ok();
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(here.path().join("kept")).expect("it is there"));
    assert_eq!(owner, 12);
    vial.leaves_nothing();
}

#[test]
fn what_can_not_be_copied_is_said() {
    let vial = running();
    let here = tempfile::tempdir().expect("a folder");
    let out = here.path().join("out");
    vial.run(["cp", "one:/bin/busybox", "/dev/null"]).fails(1, "neither a file nor a folder");
    vial.run(["cp", "one:/no/such", path(&out)]).fails(1, "/no/such");
    vial.run(["cp", "/no/such", "one:/tmp"]).fails(1, "/no/such");
    vial.run(["cp", "two:/x", path(&out)]).fails(1, "two");
    for [source, destination] in [["", "one:/x"], ["one:", "."], ["one:/x", ""], [".", "one:"]] {
        vial.run(["cp", source, destination]).fails(1, "has no path");
    }
    // A folder never takes a link's place: behind it may be what everything hangs on.
    vial.run(["exec", "one", "sh", "-c", "mkdir /real; ln -s real /way; echo kept > /real/file"]).ok();
    fs::create_dir(here.path().join("way")).expect("a folder");
    fs::write(here.path().join("way/mine"), "x").expect("a file");
    vial.run(["cp", &format!("{}/.", path(here.path())), "one:/"]).fails(1, "symbolic link");
    vial.run(["cp", path(&here.path().join("way")), "one:/"]).fails(1, "symbolic link");
    assert_eq!(vial.run(["exec", "one", "sh", "-c", "readlink /way; ls /way"]).ok(), "real\nfile\n");
    vial.leaves_nothing();
}

#[test]
fn a_tar_goes_through_standard_input_and_output() {
    let vial = running();
    let script = "mkdir -p /a/b; echo deep > /a/b/c; chown 5:6 /a/b/c; ln /a/b/c /a/hard";
    vial.run(["exec", "one", "sh", "-c", script]).ok();
    // Nothing in it is longer than a tar's fields, so all of it is ASCII.
    let tar = vial.run(["cp", "one:/a", "-"]).ok();
    assert!(tar.len() > 1024 && tar.starts_with("a/"));
    vial.run(["exec", "one", "mkdir", "/new"]).ok();
    vial.run_with(["cp", "-", "one:/new"], tar.as_bytes()).ok();
    let seen =
        vial.run(["exec", "one", "sh", "-c", "cat /new/a/b/c /new/a/hard; stat -c %u:%g /new/a/b/c"]).ok();
    assert_eq!(seen, "deep\ndeep\n5:6\n");
    vial.run_with(["cp", "-", "one:/new"], b"this is no tar").fails(1, "in the container");
    vial.run_with(["cp", "-", "one:/absent"], tar.as_bytes()).fails(1, "/absent");
    vial.leaves_nothing();
}

#[test]
fn a_container_that_swaps_links_gets_no_copy_out_of_itself() {
    let vial = running();
    // /x/way is a folder and a link to the guest's own root in turns, as fast as it can.
    let script = "mkdir -p /x/real; ln -s ../../../../../../run/vial /x/trap; cd /x; while :; do \
                  mv -T real way; mv -T way real; mv -T trap way; mv -T way trap; done 2>/dev/null";
    vial.run(["exec", "one", "sh", "-c", &format!("({script}) </dev/null >/dev/null 2>&1 &")]).ok();
    let here = tempfile::tempdir().expect("a folder");
    fs::write(here.path().join("mark"), "planted").expect("a file");
    for n in 0..6 {
        // Either is right: it was a folder at that moment, or it was not there.
        vial.run(["cp", path(&here.path().join("mark")), "one:/x/way/mark"]);
        vial.run(["cp", "one:/x/way", path(&here.path().join(format!("out{n}")))]);
    }
    // What the guest's own folder holds was never seen: the container's secret-bearing state would be there.
    for n in 0..6 {
        let out = here.path().join(format!("out{n}"));
        assert!(!out.join("containers").exists() && !out.join("runtime").exists(), "led out of the root");
    }
    assert_eq!(vial.run(["exec", "one", "true"]).code, 0, "the agent lives");
    vial.leaves_nothing();
}

#[test]
fn a_tar_from_a_container_makes_no_device_and_no_set_user_id_file_here() {
    let vial = running();
    let script =
        "mkdir /bad; mknod /bad/null c 1 3; cp /bin/busybox /bad/su; chmod 4755 /bad/su; ln -s /etc /bad/etc";
    vial.run(["exec", "one", "sh", "-c", script]).ok();
    let here = tempfile::tempdir().expect("a folder");
    let ran = vial.run(["cp", "one:/bad", path(here.path())]);
    assert!(ran.code == 0 && ran.stderr.contains("left out"), "{ran:?}");
    let bad = here.path().join("bad");
    assert!(!bad.join("null").exists());
    assert_eq!(fs::metadata(bad.join("su")).expect("it is there").permissions().mode() & 0o7777, 0o755);
    assert!(bad.join("etc").is_symlink());
    vial.leaves_nothing();
}

#[test]
fn names_in_a_container_do_not_steer_the_terminal() {
    let vial = running();
    let here = tempfile::tempdir().expect("a folder");
    let name = "$(printf '\\033]0;pwn\\007\\033[31mRED')";
    vial.run(["exec", "one", "sh", "-c", &format!("mkdir -p \"/q/{name}/z\"")]).ok();
    let out = here.path().join("out");
    vial.run(["cp", "one:/q/.", path(&out)]).ok();
    vial.run(["exec", "one", "sh", "-c", &format!("rm -r /q/*; echo > \"/q/{name}\"")]).ok();
    let told = vial.run(["cp", "one:/q/.", path(&out)]).stderr;
    assert!(told.contains("RED") && !told.contains(['\u{1b}', '\u{7}']), "{told:?}");
    let rubbish: Vec<u8> = (0..64_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let told = vial.run_with(["cp", "-", "one:/q"], &rubbish).stderr;
    let control = |c: char| c.is_control() && c != '\n';
    assert!(told.contains("in the container") && !told.contains(control), "{told:?}");
    vial.leaves_nothing();
}

#[test]
fn a_lost_daemon_is_named_and_leaves_no_half_of_a_file() {
    let vial = running();
    vial.run(["exec", "one", "sh", "-c", "truncate -s 6G /big"]).ok();
    let here = tempfile::tempdir().expect("a folder");
    let out = here.path().join("big");
    fs::write(&out, "old").expect("a file");
    let copy = vial.spawn(["cp", "one:/big", path(&out)], Stdio::null());
    // It is under way when something of it is on its way to the disk.
    until("the copy has begun", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", copy.id())).ok()?;
        fds.flatten()
            .find(|fd| fs::metadata(fd.path()).is_ok_and(|file| file.is_file() && file.len() > 1 << 20))
    });
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    vial.wait(copy).fails(1, "daemon");
    assert_eq!(fs::read_to_string(&out).expect("it is there"), "old");
    assert_eq!(fs::read_dir(here.path()).expect("a folder").count(), 1);
    vial.leaves_nothing();
}

#[test]
fn a_copy_whose_client_is_killed_ends_in_the_container_too() {
    let vial = running();
    // Far more than anybody reads on.
    vial.run(["exec", "one", "truncate", "-s", "500G", "/big"]).ok();
    // Nobody reads it here, so it waits.
    let mut copy = vial.spawn(["cp", "one:/big", "-"], Stdio::null());
    let helpers = || vial.run(["top", "one"]).ok().lines().count() - 2;
    until("the copy has begun", || (helpers() == 1).then_some(()));
    copy.kill().expect("it runs");
    copy.wait().expect("it was ours");
    until("its helper is gone", || (helpers() == 0).then_some(()));
    vial.leaves_nothing();
}
