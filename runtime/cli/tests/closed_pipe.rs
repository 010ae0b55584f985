//! Output that nobody reads any more is an error in words, not a panic: `vial vm ls | true`.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::process::Command;

#[test]
fn a_closed_pipe_is_a_plain_error() {
    let dir = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 7] = [
        &["doctor"],
        &["doctor", "--json"],
        &["doctor", "--check", "kvm"],
        &["vm", "ls"],
        &["vm", "ls", "--json"],
        &["completion", "bash"],
        &["daemon", "status"],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_vial"))
            .args(args)
            .env("VIAL_DATA_DIR", dir.path().join("data"))
            .env("VIAL_RUN_DIR", dir.path().join("run"))
            .stdout(writer)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("cannot write to standard output: "), "{args:?}: {stderr}");
    }
}

#[test]
fn a_closed_standard_error_is_no_panic_either() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Command::new(env!("CARGO_BIN_EXE_vial"))
        .args(["vm", "kill", "nobody"])
        .env("VIAL_RUN_DIR", dir.path().join("run"))
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(ended.code(), Some(1));
}
