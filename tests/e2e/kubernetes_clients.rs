//! Whole clients against pods that run: what each can do, one thing after the other. The lists are scripts, to be run by hand with other versions too.

use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use vial_tests::host::{Ran, Vial, kubectl, path};

/// What a client needs: a pod's image, and a kubeconfig.
fn prepared(vial: &Vial) -> TempDir {
    for name in ["busybox:1", "busybox:2"] {
        vial.run(["tag", "busybox:latest", name]).ok();
    }
    let folder = tempfile::tempdir().expect("a folder");
    vial.run(["kubeconfig", "-o", path(&folder.path().join("config"))]).ok();
    folder
}

/// To its end: each of its steps has a limit of its own.
fn run(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it can be run");
    let ran = Ran::from(output);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// Streams have a test of their own (`kubernetes_streams`), which shares its one pod.
#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e kubernetes"]
fn kubectl_rolls_out_and_back_makes_jobs_and_ends_all_in_each_way() {
    let Some(program) = kubectl() else {
        eprintln!("skipped: there is no kubectl here");
        return;
    };
    let vial = Vial::with_busybox();
    let folder = prepared(&vial);
    let mut verbs = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("kubectl/verbs"));
    verbs.arg(program).arg("rolled").env("KUBECONFIG", folder.path().join("config"));
    println!("{}", run(verbs));
    vial.leaves_nothing();
}

#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e kubernetes"]
fn the_python_client_runs_commands_and_follows_logs() {
    let python = std::env::var("VIAL_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".into());
    let has = Command::new(&python).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no Python with the package `kubernetes` here");
        return;
    }
    let vial = Vial::with_busybox();
    let folder = prepared(&vial);
    let mut client = Command::new(python);
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/python_streams.py"));
    client.arg(folder.path().join("config"));
    assert!(run(client).contains("all is well"));
    vial.leaves_nothing();
}

/// The only client here that speaks WebSockets for a port.
#[test]
#[ignore = "long: VIAL_E2E_LONG=1 tools/test --e2e kubernetes"]
fn kube_rs_lists_watches_patches_and_speaks_with_a_pod() {
    let Some(program) = std::env::var_os("VIAL_KUBE_RS") else {
        eprintln!("skipped: tests/kube-rs is not built here");
        return;
    };
    let vial = Vial::with_busybox();
    let folder = prepared(&vial);
    let mut client = Command::new(program);
    client.env("KUBECONFIG", folder.path().join("config"));
    assert!(run(client).contains("all is well"));
    vial.leaves_nothing();
}
