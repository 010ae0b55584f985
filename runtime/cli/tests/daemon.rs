//! The command line and its daemon on a machine that need not run VMs: starting, racing, stopping, and errors in words.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vial"));
        command.args(args).env("VIAL_DATA_DIR", self.path("data")).env("VIAL_RUN_DIR", self.path("run"));
        // No VMM, kernel or agent: whatever needs a VM must say so.
        command.env("VIAL_LIB_DIR", self.path("lib"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, args: &[&str], code: i32, says: &str) {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr:?} lacks {says:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.run(&["daemon", "stop"]);
    }
}

/// A tar with one file, by hand: enough of a root file system for an image.
fn tiny_tar(path: &Path) {
    let root = path.with_extension("d");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/sh"), b"#!").unwrap();
    let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(path).arg(".").status().unwrap();
    assert!(status.success());
}

#[test]
fn many_at_once_start_one_daemon() {
    let home = Home::new();
    let children: Vec<_> = (0..12)
        .map(|_| home.command(&["images"]).stdout(std::process::Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let log = std::fs::read_to_string(home.path("run/daemon.log")).unwrap();
    assert_eq!(log.matches("the daemon is ready").count(), 1, "{log}");
    // A second one in the foreground is refused, and the first one goes on.
    home.fails(&["daemon"], 1, "running already");
    assert!(home.ok(&["daemon", "status"]).contains("running"));
}

#[test]
fn a_stopped_daemon_is_gone_and_the_next_command_starts_another() {
    let home = Home::new();
    home.ok(&["images"]);
    assert!(home.path("run/vial.sock").exists());
    home.ok(&["daemon", "stop"]);
    assert!(!home.path("run/vial.sock").exists());
    assert_eq!(home.run(&["daemon", "status"]).status.code(), Some(1));
    home.ok(&["ps"]);
    home.ok(&["daemon", "stop"]);
    home.ok(&["daemon", "stop"]);
}

#[test]
fn a_killed_daemon_is_replaced() {
    let home = Home::new();
    home.ok(&["images"]);
    let pid = daemon_of(&home);
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    home.ok(&["images"]);
    assert!(!home.ok(&["daemon", "status"]).contains(&format!("pid {pid},")));
}

#[test]
fn images_come_show_and_go() {
    let home = Home::new();
    let tar = home.path("root.tar");
    tiny_tar(&tar);
    let tar = tar.to_str().unwrap();
    home.ok(&["import", "-c", r#"CMD ["/bin/sh"]"#, tar, "tiny"]);
    assert!(home.ok(&["images"]).contains("tiny"));
    assert!(home.ok(&["images", "--json"]).contains("\"names\""));
    assert!(home.ok(&["inspect", "tiny"]).contains("/bin/sh"));
    // The daemon's end changes nothing for them.
    home.ok(&["daemon", "stop"]);
    assert!(home.ok(&["images"]).contains("tiny"));
    home.ok(&["rmi", "tiny"]);
    assert!(!home.ok(&["images"]).contains("tiny"));
}

/// The daemon's process id.
fn daemon_of(home: &Home) -> String {
    let status = home.ok(&["daemon", "status"]);
    status.split("pid ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().to_owned()
}

#[test]
fn what_is_saved_is_loaded_again_as_the_same_image() {
    let home = Home::new();
    let (tar, archive) = (home.path("root.tar"), home.path("archive.tar"));
    tiny_tar(&tar);
    home.ok(&["import", "-c", "CMD sh", tar.to_str().unwrap(), "tiny"]);
    let id = home.ok(&["images", "-q"]);
    let archive = archive.to_str().unwrap();
    home.ok(&["save", "-o", archive, "tiny"]);
    let piped = home.run(&["save", "tiny"]).stdout;
    assert!(piped == std::fs::read(archive).unwrap());
    home.ok(&["rmi", "tiny"]);
    assert_eq!(home.ok(&["load", "-i", archive]), "Loaded image: tiny:latest\n");
    assert_eq!(home.ok(&["images", "-q"]), id);

    home.fails(&["save", "-o", archive, "tniy"], 1, "did you mean tiny?");
    home.fails(&["save", "-o", "/no/such/folder/x", "tiny"], 1, "/no/such/folder/x");
    home.fails(&["save", "-o", "/dev/full", "tiny"], 1, "No space");
    assert!(piped == std::fs::read(archive).unwrap());
}

#[test]
fn a_daemon_that_dies_while_it_saves_leaves_no_archive() {
    let home = Home::new();
    let root = home.path("root");
    std::fs::create_dir_all(&root).unwrap();
    // More than all buffers on the way.
    std::fs::write(root.join("large"), vec![7; 16 << 20]).unwrap();
    let tar = home.path("root.tar");
    let made = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
    assert!(made.success());
    home.ok(&["import", tar.to_str().unwrap(), "large"]);
    let pipe = home.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for to in [vec!["save", "large"], vec!["save", "-o", pipe.to_str().unwrap(), "large"]] {
        let direct = to.len() == 2;
        let mut save = home.command(&to);
        save.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut save = save.spawn().unwrap();
        let mut out: Box<dyn std::io::Read> = match direct {
            true => Box::new(save.stdout.take().unwrap()),
            false => Box::new(std::fs::File::open(&pipe).unwrap()),
        };
        out.read_exact(&mut [0; 1 << 20]).unwrap();
        assert!(Command::new("kill").args(["-9", &daemon_of(&home)]).status().unwrap().success());
        std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        let ended = save.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && words.contains("broke off"), "{words}");
    }
}

#[test]
fn errors_say_what_and_what_next() {
    let home = Home::new();
    home.fails(&["run", "--rm", "--pull", "never", "busybox", "true"], 125, "vial load -i FILE");
    let tar = home.path("root.tar");
    tiny_tar(&tar);
    home.ok(&["import", "-c", "CMD sh", tar.to_str().unwrap(), "tiny"]);
    home.fails(&["run", "--rm", "tniy", "true"], 125, "did you mean tiny?");
    home.fails(&["rmi", "tniy"], 1, "did you mean tiny?");
    home.fails(&["run", "--memory", "1k", "tiny", "true"], 125, "6 MiB");
    home.fails(&["run", "--memory", "1000g", "tiny", "true"], 125, "this machine has");
    home.fails(&["run", "--memory", "9999g", "tiny", "true"], 125, "1 TiB");
    home.fails(&["run", "tiny", ""], 125, "the command is an empty text");
    home.fails(&["run", "--cpus", "64", "tiny", "true"], 125, "0.01 to 32");
    home.fails(&["run", "-w", "tmp", "tiny", "true"], 125, "absolute");
    home.fails(&["run", "--name", "-", "tiny"], 125, "not possible as a name");
    home.fails(&["run", "--no-such-option", "tiny"], 125, "no-such-option");
    // No VMM is installed here.
    home.fails(&["run", "--rm", "tiny", "true"], 125, "VIAL_LIB_DIR");
    home.fails(&["logs", "web"], 1, "no container is called web");
    home.fails(&["kill", "-s", "NOPE", "web"], 1, "NOPE is no signal");
    home.fails(&["inspect", "web"], 1, "vial images");
    home.fails(&["load", "-i", "/no/such/file"], 1, "/no/such/file");
    home.fails(&["load", "-i", "/etc/passwd"], 1, "/etc/passwd");
    // None of it left a container or its files.
    assert_eq!(home.ok(&["ps", "-aq"]), "");
    assert_eq!(std::fs::read_dir(home.path("data/logs")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(home.path("data/upper")).unwrap().count(), 0);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let home = Home::new();
    std::fs::create_dir_all(home.path("data")).unwrap();
    std::fs::write(home.path("data/vial.db"), b"this is no database, and longer than a header of one hundred bytes, which is what SQLite looks at first of all").unwrap();
    home.fails(&["images"], 1, "the store does not work");
}

/// An answer of the API to a request as it is on the wire: status and body.
fn asked(home: &Home, request: &str) -> (u16, serde_json::Value) {
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(home.path("run/vial.sock")).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {request:?}: {answer}")))
}

#[test]
fn every_error_of_the_api_is_json() {
    let home = Home::new();
    home.ok(&["images"]);
    let end = "HTTP/1.1\r\nHost: vial\r\nConnection: close\r\n";
    let long = "x".repeat(1 << 20);
    let too_long = format!("POST /v1/containers {end}Content-Length: {}\r\n\r\n\"{long}\"", long.len() + 2);
    for (request, status, kind, says) in [
        (format!("GET /v1/containers?all=perhaps {end}\r\n"), 400, "invalid_argument", "all"),
        (format!("GET /v1/nothing {end}\r\n"), 404, "invalid_argument", "no such path"),
        (format!("GET /v2/containers {end}\r\n"), 404, "invalid_argument", "no such path"),
        (format!("PUT /v1/containers {end}Content-Length: 0\r\n\r\n"), 405, "invalid_argument", "method"),
        (too_long, 413, "invalid_argument", "length limit"),
        (format!("POST /v1/containers {end}Content-Length: 2\r\n\r\n[]"), 400, "invalid_argument", "body"),
        (
            format!("POST /v1/containers/run {end}Content-Length: 0\r\n\r\n"),
            400,
            "invalid_argument",
            "upgrade",
        ),
        (format!("GET /v1/containers/web {end}\r\n"), 404, "no_such_container", "web"),
        (format!("GET /v1/images/%ff {end}\r\n"), 400, "invalid_argument", "UTF-8"),
        (
            format!("POST /v1/images/load?path=etc {end}Content-Length: 0\r\n\r\n"),
            400,
            "invalid_argument",
            "not absolute",
        ),
        (format!("POST /v1/images/import {end}Content-Length: 0\r\n\r\n"), 400, "invalid_argument", "name"),
    ] {
        let (found, body) = asked(&home, &request);
        let line = request.lines().next().unwrap();
        assert_eq!(found, status, "{line}: {body}");
        assert_eq!(body["kind"], kind, "{line}: {body}");
        assert!(body["message"].as_str().unwrap().contains(says), "{line}: {body}");
    }
}

#[test]
fn inspect_has_dockers_names() {
    let home = Home::new();
    let tar = home.path("root.tar");
    tiny_tar(&tar);
    home.ok(&["import", "-c", "CMD sh", "-c", "ENV A=b", tar.to_str().unwrap(), "tiny"]);
    let shown: serde_json::Value = serde_json::from_str(&home.ok(&["inspect", "tiny"])).unwrap();
    let image = &shown[0];
    assert_eq!(image["RepoTags"], serde_json::json!(["tiny:latest"]));
    assert_eq!(image["Config"]["Env"], serde_json::json!(["A=b"]));
    assert_eq!(image["Os"], "linux");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert!(image["Id"].as_str().unwrap().starts_with("sha256:"));
    for name in image.as_object().unwrap().keys() {
        assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
    }
}
