//! Real kubectls that log, exec, attach, cp and port-forward: each version that is on this machine. Commands run here, not in pods.
#![allow(clippy::unwrap_used, reason = "what fails here has failed")]

#[path = "../common/mod.rs"]
mod common;
mod local;

use common::{Server, kubectls};
use local::Local;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vial_orchestrator::decode::Decoded;
use vial_orchestrator::engine::{Engine, Patch, Target, WriteOptions};
use vial_orchestrator::kinds::Kind;

/// A pod of which the status says what a node would.
fn declare(engine: &Engine, name: &str, containers: &[&str], states: serde_json::Value, phase: &str) {
    let kind = Kind::by_path("", "v1", "pods").unwrap();
    let target = |subresource| Target { kind, namespace: "default", name, subresource };
    let list: Vec<_> =
        containers.iter().map(|name| json!({"name": name, "image": "i", "stdin": true})).collect();
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": list}});
    let options = WriteOptions::default();
    let collection = Target { name: "", ..target("") };
    engine.create(collection, Decoded { value: pod, duplicates: Vec::new() }, &options).unwrap();
    let status = Patch::Merge(json!({"status": {"phase": phase, "containerStatuses": states}}));
    engine.patch(target("status"), &status, &options).unwrap();
}

fn pods(engine: &Engine) {
    let state = |name: &str, state| {
        json!({"name": name, "ready": true, "restartCount": 1, "image": "i", "imageID": "", "state": state,
            "containerID": "local://1", "lastState": {"terminated": {"exitCode": 1, "containerID": "local://0"}}})
    };
    let running = || json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    declare(engine, "p", &["c"], json!([state("c", running())]), "Running");
    declare(engine, "two", &["c", "d"], json!([state("c", running())]), "Running");
    let waiting = json!({"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
        "state": {"waiting": {"reason": "ContainerCreating"}}});
    declare(engine, "waits", &["c"], json!([waiting]), "Pending");
}

struct Fixture {
    server: Server,
    local: Arc<Local>,
}

impl Fixture {
    fn start() -> Self {
        let local = Arc::new(Local::default());
        let server = Server::start_with(local.clone());
        pods(&server.engine);
        Self { server, local }
    }

    /// Runs kubectl with these words.
    fn run(&self, kubectl: &Path, words: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(kubectl, words).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // Both ways at once: neither waits for the other to be read.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        output
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(words)
            .env_clear()
            .env("KUBECONFIG", &self.server.kubeconfig)
            .env("HOME", self.server.folder.path())
            .env("TERM", "dumb")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.server.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// 10 MiB in which every piece is another.
fn megabytes() -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..10 << 20).map(|_| next()).collect()
}

#[test]
fn every_kubectl_runs_commands_and_reads_logs() {
    let fixture = Fixture::start();
    let big = megabytes();
    for kubectl in kubectls() {
        let version = kubectl.display();
        let run = |words: &[&str], input: &[u8]| fixture.run(&kubectl, words, input);
        let expect = |words: &[&str], code: i32, expected: &str| {
            let output = run(words, b"");
            let text = text(&output);
            assert!(
                output.status.code() == Some(code) && text.contains(expected),
                "{version} {words:?}: {text}"
            );
        };
        expect(&["exec", "p", "--", "echo", "well done"], 0, "well done");
        expect(&["exec", "p", "--", "sh", "-c", "echo bad >&2; exit 7"], 7, "bad");
        expect(&["exec", "p", "--", "no-such-command"], 1, "cannot run no-such-command");
        expect(&["exec", "two", "-c", "d", "--", "true"], 1, "container not found (\"d\")");
        expect(&["exec", "p", "-c", "x", "--", "true"], 1, "container x is not valid for pod p");
        expect(&["exec", "none", "--", "true"], 1, "not found");
        // Bytes of all kinds, as many as no buffer holds, there and back.
        let back = run(&["exec", "-i", "p", "--", "cat"], &big);
        assert!(
            back.status.success() && back.stdout == big,
            "{version}: {}",
            String::from_utf8_lossy(&back.stderr)
        );
        // Input that nobody reads is no reason to wait.
        let unread = run(&["exec", "-i", "p", "--", "sh", "-c", "exit 3"], &big[..1 << 20]);
        assert_eq!(unread.status.code(), Some(3), "{version}: {}", text(&unread));
        let attached = run(&["attach", "-i", "p"], b"typed");
        assert!(text(&attached).contains("attached\ntyped"), "{version}: {}", text(&attached));
        expect(&["logs", "p"], 0, "c local://1 tail=None times=false since=false");
        expect(
            &["logs", "p", "-p", "--tail=3", "--timestamps"],
            0,
            "c local://0 tail=Some(3) times=true since=false",
        );
        expect(&["logs", "p", "--since=5m", "--limit-bytes=5"], 0, "c loc");
        expect(&["logs", "two", "-c", "c"], 0, "c local://1");
        expect(&["logs", "waits"], 1, "is waiting to start: ContainerCreating");
        copies(&fixture, &kubectl, &big);
        terminal(&fixture, &kubectl);
        followed(&fixture, &kubectl);
    }
}

/// Both ways by tar.
fn copies(fixture: &Fixture, kubectl: &Path, bytes: &[u8]) {
    let folder = fixture.server.folder.path();
    let (there, back) = (folder.join("there"), folder.join("back"));
    std::fs::write(folder.join("source"), bytes).unwrap();
    std::fs::create_dir_all(&there).unwrap();
    let _ = std::fs::remove_file(&back);
    let remote = format!("p:{}/copy", there.display());
    for words in [["cp", "source", &remote], ["cp", &remote, "back"]] {
        let output = fixture.run(kubectl, &words, b"");
        assert!(output.status.success(), "{} {words:?}: {}", kubectl.display(), text(&output));
    }
    assert!(std::fs::read(&back).unwrap() == bytes, "{}: what came back is another", kubectl.display());
}

/// `script` gives kubectl a terminal here.
fn terminal(fixture: &Fixture, kubectl: &Path) {
    let inside = |line: &str| {
        let line = format!("stty cols 97 rows 31; {} {line}", kubectl.display());
        fixture.run(Path::new("script"), &["-qefc", &line, "/dev/null"], b"")
    };
    let output = inside("exec -it p -- show-sizes");
    assert!(text(&output).contains("97 columns, 31 rows"), "{}: {}", kubectl.display(), text(&output));
    let output = inside("exec -it p -- 'test -t 0 && test -t 1 && exit 9'");
    assert_eq!(output.status.code(), Some(9), "{}: {}", kubectl.display(), text(&output));
}

/// A client that follows and goes is missed.
fn followed(fixture: &Fixture, kubectl: &Path) {
    let mut child = fixture.command(kubectl, &["logs", "-f", "p"]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines.take(2).map(Result::unwrap).collect();
    assert_eq!(seen[1], "and more", "{}", kubectl.display());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fixture.local.followed.load(Ordering::SeqCst) > 0);
}

/// Answers with what it was sent, once that has ended.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut bytes) = (stream.unwrap(), Vec::new());
                stream.read_to_end(&mut bytes).unwrap();
                // A client that is gone has no ear.
                let _ = stream.write_all(&bytes);
            });
        }
    });
    port
}

#[test]
fn every_kubectl_forwards_ports() {
    let (fixture, port, bytes) = (Fixture::start(), echo(), megabytes());
    for kubectl in kubectls() {
        let version = kubectl.display();
        let mut child =
            fixture.command(&kubectl, &["port-forward", "pod/p", &format!(":{port}")]).spawn().unwrap();
        // Kept: a kubectl that can't print dies.
        let (mut line, mut lines) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
        lines.read_line(&mut line).unwrap();
        let local: u16 = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{version}: {line:?}"));
        let through = |bytes: Vec<u8>| {
            move || {
                let mut stream = TcpStream::connect(("127.0.0.1", local)).unwrap();
                let mut writing = stream.try_clone().unwrap();
                let sent = bytes.clone();
                let writer = std::thread::spawn(move || {
                    writing.write_all(&sent).unwrap();
                    writing.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                writer.join().unwrap();
                back == bytes
            }
        };
        let several: Vec<_> =
            (0..4).map(|n| std::thread::spawn(through(bytes[n..n + (1 << 20)].to_vec()))).collect();
        for one in several {
            assert!(one.join().unwrap(), "{version}: what came back is another");
        }
        assert!(through(bytes.clone())(), "{version}: what came back is another");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// What kubectl can't do here says so.
#[test]
fn what_is_not_there_is_refused() {
    let fixture = Fixture::start();
    for kubectl in kubectls() {
        let output = fixture.run(&kubectl, &["exec", "two", "--", "true"], b"");
        assert!(
            text(&output).contains("Defaulting container name to c")
                || text(&output).contains("Defaulted container"),
            "{}",
            text(&output)
        );
        let output =
            fixture.run(&kubectl, &["port-forward", "pod/waits", "1:1", "--pod-running-timeout=1s"], b"");
        assert!(!output.status.success(), "{}", text(&output));
        let output = fixture.run(&kubectl, &["debug", "p", "--image=i"], b"");
        let said = text(&output);
        let is_old =
            said.contains("unknown command") || said.contains("could not find the requested resource");
        assert!(
            is_old || said.contains("ephemeral containers are disabled"),
            "{}: {said}",
            kubectl.display()
        );
        assert!(!output.status.success());
    }
}
