//! Real kubectls against the real server: each version that is on this machine. Without any the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "what fails here has failed")]

mod common;

use common::{Server, kubectls};
use std::process::Command;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n";
/// What is tried without pods that run.
const VERBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kubectl/verbs");

#[test]
fn every_kubectl_declares_shows_changes_and_removes_objects() {
    for kubectl in kubectls() {
        let server = Server::start();
        let version = kubectl.file_name().unwrap().to_string_lossy().into_owned();
        let expect = |line: &str, input: &str, expected: &str| {
            let (worked, output) = server.run(&kubectl, line, input);
            assert!(
                worked && output.contains(expected),
                "{version} {line}: {expected:?} is not in\n{output}"
            );
            output
        };
        let refuse = |line: &str, input: &str, expected: &str| {
            let (worked, output) = server.run(&kubectl, line, input);
            assert!(
                !worked && output.contains(expected),
                "{version} {line}: {expected:?} is not in\n{output}"
            );
        };
        expect("create -f -", NODE, "node/here created");
        expect("top nodes", "", "1500m");
        expect("run p --image=busybox", "", "pod/p created");
        expect("top pods --containers", "", "250m");
        expect("top pod p", "", "64Mi");
        refuse("top pod none", "", "not found");
        // Everything else that it can.
        let verbs = Command::new(VERBS)
            .arg(&kubectl)
            .arg("declared")
            .env("KUBECONFIG", &server.kubeconfig)
            .output()
            .unwrap();
        assert!(verbs.status.success(), "{version}: {}", String::from_utf8_lossy(&verbs.stdout));
    }
}

#[test]
fn nothing_is_told_to_who_has_no_certificate() {
    let server = Server::start();
    let url = format!("https://{}/api/v1/namespaces", server.address);
    let Ok(output) = Command::new("curl").args(["-sk", &url]).output() else {
        eprintln!("skipped: there is no curl here");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"code\":401") && text.contains("vial kubeconfig"), "{text}");
}
