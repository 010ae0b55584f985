//! `vial bench`: real starts beside real rivals, and rivals that misbehave.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use vial_tests::host::{Vial, path, signal};

/// A `vial bench` whose temporary files are in a folder of its own.
fn bench(vial: &Vial, folder: &Path, words: &[&str]) -> Command {
    let mut command = vial.command([&["bench"], words].concat());
    command.env("TMPDIR", folder);
    command
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("the bench wrote it")).expect("it is JSON")
}

/// How many samples a contender has in a scenario, and its failures.
fn samples(document: &Value, contender: &str, scenario: &str) -> (usize, Vec<String>) {
    let all = document["startup"].as_array().expect("a list");
    let of = |one: &&Value| one["contender"] == contender && one["scenario"] == scenario;
    let one = all.iter().find(of).unwrap_or_else(|| panic!("{contender} {scenario} is not in {document:#}"));
    let failures = one["failures"].as_array().expect("a list").iter();
    let count = one["samples_ms"].as_array().expect("a list").len();
    (count, failures.map(|failure| failure["reason"].as_str().unwrap_or_default().to_owned()).collect())
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("it is there").next().is_none()
}

#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e bench"]
fn starts_are_measured_beside_runc_and_reported_in_every_form() {
    let vial = Vial::with_busybox();
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [json, html, again] = ["a.json", "a.html", "a.md"].map(|name| out.path().join(name));
    let words = [
        "all",
        "--runs",
        "2",
        "--warmups",
        "0",
        "--against",
        "runc,firecracker",
        "--most",
        "2",
        "--rest",
        "1",
        "--json",
        path(&json),
        "--html",
        path(&html),
    ];
    // A PATH with one rival on it: whoever else is installed here is missing.
    let rivals = tempfile::tempdir().unwrap();
    let runc = ["/usr/bin/runc", "/usr/sbin/runc"].into_iter().find(|path| Path::new(path).exists());
    symlink(runc.expect("tools/test installs it"), rivals.path().join("runc")).unwrap();
    let mut command = bench(&vial, folder.path(), &words);
    command.env("PATH", rivals.path());
    let text = vial.output(command).ok();
    assert!(text.contains("runc") && text.contains("no firecracker on the PATH"), "{text}");
    let document = read(&json);
    for (contender, scenario) in
        [("vial", "exit"), ("vial", "first_byte"), ("runc", "exit"), ("runc", "first_byte")]
    {
        assert_eq!(samples(&document, contender, scenario), (2, vec![]));
    }
    let counts = &document["startup"][0]["counts"][0];
    assert!(counts["syscalls"].as_u64() > Some(100) && counts["tasks"].as_u64() > Some(0), "{counts}");
    let steps = document["boot"][1]["steps"].as_array().expect("a list");
    assert!(steps.iter().any(|step| step["room"] == "kernel") && steps.len() > 20, "{steps:?}");
    let idle = document["density"].as_array().expect("a list");
    assert!(
        idle.iter()
            .all(|one| one["points"][1]["pods"] == 2 && one["points"][1]["pss_kib"].as_u64() > Some(100)),
        "{idle:?}"
    );
    assert!(document["machine"]["kernel"].as_str().is_some_and(|name| !name.is_empty()));
    assert!(fs::read_to_string(&html).unwrap().contains("<svg"));
    // The file alone gives the same report again, and has not changed against itself.
    let shown = vial.output(vial.command(["bench", "report", path(&json), "--markdown", path(&again)])).ok();
    assert_eq!(shown, text);
    assert!(fs::read_to_string(&again).unwrap().contains("| runc"));
    vial.output(vial.command(["bench", "compare", path(&json), path(&json)])).ok();
    assert!(is_empty(folder.path()));
    vial.leaves_nothing();
}

#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e bench"]
fn rivals_that_fail_hang_or_write_rubbish_are_told_and_do_not_count() {
    let vial = Vial::with_busybox();
    let (folder, rivals) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // They can be prepared: their first `run` is crun's. What they do then is their own.
    for (name, then) in
        [("runc", "sleep 1000"), ("crun", "printf 'rub\\033[31mbish'"), ("runsc", "echo broken >&2; exit 3")]
    {
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in\n*' run '*) if mkdir {0}/{name}-ran 2>/dev/null; then exec /usr/bin/crun \"$@\"; fi; {then} ;;\n*) exec /usr/bin/crun \"$@\" ;;\nesac\n",
            path(rivals.path())
        );
        let file = rivals.path().join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let json = rivals.path().join("a.json");
    let words = [
        "startup",
        "--runs",
        "1",
        "--warmups",
        "0",
        "--until",
        "exit",
        "--timeout",
        "30",
        "--against",
        "runc,crun,runsc",
        "--json",
        path(&json),
    ];
    let mut command = bench(&vial, folder.path(), &words);
    command.env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", path(rivals.path())));
    vial.output(command).ok();
    let document = read(&json);
    assert_eq!(samples(&document, "vial", "exit"), (1, vec![]));
    for (name, word) in [("runc", "no end after 30 s"), ("crun", "rub\\u{1b}[31mbish"), ("runsc", "broken")] {
        let (count, failures) = samples(&document, name, "exit");
        assert!(count == 0 && failures.len() == 1 && failures[0].contains(word), "{name}: {failures:?}");
    }
    assert!(is_empty(folder.path()));
    vial.leaves_nothing();
}

#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e bench"]
fn agents_of_pods_and_of_other_vmms_are_heard() {
    let vial = Vial::with_busybox();
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = out.path().join("a.json");
    let words = [
        "startup",
        "--runs",
        "2",
        "--warmups",
        "0",
        "--until",
        "agent",
        "--against",
        "vial-vm,vial-vmm,qemu-microvm,runc",
        "--json",
        path(&json),
    ];
    let text = vial.output(bench(&vial, folder.path(), &words)).ok();
    let document = read(&json);
    for contender in ["vial", "vial-vmm", "qemu-microvm"] {
        assert_eq!(samples(&document, contender, "agent"), (2, vec![]), "{contender}: {text}");
    }
    for (contender, why) in [("vial-vm", "no socket device"), ("runc", "there is no VM")] {
        let told = document["contenders"].as_array().unwrap().iter().find(|one| one["name"] == contender);
        assert!(told.unwrap()["notes"].to_string().contains(why), "{contender}: {text}");
    }
    assert!(is_empty(folder.path()));
    vial.leaves_nothing();
}

#[test]
fn ctrl_c_gives_what_was_measured_and_leaves_nothing() {
    let vial = Vial::with_busybox();
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = out.path().join("a.json");
    let words = [
        "startup",
        "--runs",
        "1000",
        "--warmups",
        "0",
        "--against",
        "runc",
        "--until",
        "exit",
        "--json",
        path(&json),
    ];
    let mut command = bench(&vial, folder.path(), &words);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let process = child.id() as i32;
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    vial.within_limit(process, || {
        assert!(said.any(|line| line.contains("to the exit of")), "it never began");
        signal(process, libc::SIGINT);
        assert!(said.any(|line| line.contains("ending")), "it did not say that it ends");
        said.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    });
    assert_eq!(read(&json)["interrupted"], true);
    assert!(is_empty(folder.path()));
    assert!(!vial.run(["ps", "-a"]).ok().contains("vial-bench-"));
    vial.leaves_nothing();
}

#[test]
fn mistakes_cost_no_measurement() {
    let vial = Vial::with_busybox();
    vial.run(["bench", "startup", "--against", "rnuc"]).fails(1, "there is no contender \"rnuc\"");
    vial.run(["bench", "startup", "--until", "http"]).fails(1, "--server-image");
    vial.run(["bench", "startup", "--json", "/no/such/folder/a.json"]).fails(1, "/no/such/folder/a.json");
    vial.run(["bench", "startup", "--image", "no-such-image:1", "--against", "vial"])
        .fails(1, "no-such-image");
    vial.run(["bench", "compare", "/etc/passwd", "/etc/passwd"]).fails(1, "/etc/passwd");
    vial.leaves_nothing();
}
