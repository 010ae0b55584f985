//! Client libraries against the real server. Those that this machine has not are named, and the tests pass.
#![allow(clippy::unwrap_used, reason = "what fails here has failed")]

mod common;

use common::Server;
use std::path::Path;
use std::process::Command;

/// Pythons that may have the client: one that is named, the usual one, the system's.
fn python() -> Option<String> {
    let named = std::env::var("VIAL_PYTHON").ok();
    named.into_iter().chain(["python3".into(), "/usr/bin/python3".into()]).find(|python| {
        let has = Command::new(python).args(["-c", "import kubernetes"]).output();
        has.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn the_python_client_lists_watches_creates_patches_and_applies() {
    let Some(python) = python() else {
        eprintln!("skipped: there is no Python with the package `kubernetes` here");
        return;
    };
    let server = Server::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_client.py");
    let output = Command::new(python).arg(script).arg(&server.kubeconfig).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("all is well"), "{text}");
}
