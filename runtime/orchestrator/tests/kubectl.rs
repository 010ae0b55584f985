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

/// Whoever runs pods does not matter here: the controllers have done what they can.
fn settle(server: &Server) {
    while server.engine.control().unwrap().0 {}
}

#[test]
fn an_undo_takes_back_a_template_and_leaves_what_is_noted() {
    for kubectl in kubectls() {
        let server = Server::start();
        let run = |line: &str, input: &str| {
            let (worked, output) = server.run(&kubectl, line, input);
            assert!(worked, "{} {line}: {output}", kubectl.display());
            settle(&server);
            output
        };
        run("create deployment web --image=one", "");
        run("annotate deployment web team=x", "");
        run("set image deployment/web one=two", "");
        run("rollout undo deployment/web", "");
        let deployment = run("get deployment web -o yaml", "");
        assert!(deployment.contains("team: x") && deployment.contains("image: one"), "{deployment}");
        let told = run("describe deployment web", "");
        assert!(told.contains("Scaled up replica set web-") && told.contains(" from 0 to 1"), "{told}");
    }
}

#[test]
fn a_pod_that_is_held_back_is_shown_so() {
    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {schedulingGates: [{name: x.io/y}], containers: [{name: c, image: x}]}\n";
    for kubectl in kubectls() {
        let server = Server::start();
        let (worked, output) = server.run(&kubectl, "create -f -", POD);
        assert!(worked, "{}: {output}", kubectl.display());
        let (_, shown) = server.run(&kubectl, "get pods", "");
        assert!(shown.contains("SchedulingGated"), "{}: {shown}", kubectl.display());
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
