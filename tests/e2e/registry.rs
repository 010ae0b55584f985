//! Images through a real registry, made and read by other people's tools.

use std::path::Path;
use std::process::Command;
use vial_tests::fixtures;
use vial_tests::host::{Ran, Vial, path};
use vial_tests::registry::{LOGIN, Registry};

#[track_caller]
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    Ran::from(output.unwrap_or_else(|error| panic!("{program}: {error}"))).ok()
}

fn skopeo_push(archive: &Path, target: &str) {
    let source = format!("docker-archive:{}", path(archive));
    let args = [
        "copy",
        "-q",
        "--insecure-policy",
        "--dest-tls-verify=false",
        &source,
        &format!("docker://{target}"),
    ];
    tool("skopeo", &args);
}

/// What umoci unpacks of an image, as one line for each file.
fn unpacked(source: &str, scratch: &Path, more: &[&str]) -> String {
    let (oci, root) = (scratch.join("oci"), scratch.join("root"));
    let target = format!("oci:{}:x", path(&oci));
    let mut args = vec!["copy", "-q", "--insecure-policy", "--src-tls-verify=false"];
    args.extend(more);
    args.extend([source, &target]);
    tool("skopeo", &args);
    tool("umoci", &["raw", "unpack", "--image", &format!("{}:x", path(&oci)), path(&root)]);
    let list = tool("python3", &[path(&fixtures::lister()), path(&root)]);
    for folder in [oci, root] {
        std::fs::remove_dir_all(folder).expect("umoci's folders can be removed");
    }
    list
}

#[test]
fn what_skopeo_pushed_runs_and_what_vial_pushes_skopeo_and_umoci_read() {
    let (vial, registry) = (Vial::new(), Registry::open());
    let name = format!("{}/some/busybox:v1", registry.name);
    skopeo_push(&fixtures::busybox(), &name);
    let ran = vial.run(["run", "--rm", "--insecure", &name, "echo", "pulled"]);
    assert!(ran.stderr.contains("Pulling"), "{}", ran.stderr);
    assert_eq!(ran.ok(), "pulled\n");
    let ran = vial.run(["run", "--rm", "--pull", "always", "--insecure", &name, "true"]);
    assert!(ran.stderr.contains("Already exists"), "{}", ran.stderr);
    ran.ok();

    // An image that Vial loaded itself, so that nothing of it is in that registry.
    vial.run(["load", "-q", "-i", path(&fixtures::busybox())]).ok();
    let other = Registry::open();
    let pushed = format!("{}/mine:v2", other.name);
    vial.run(["tag", "busybox", &pushed]).ok();
    vial.run(["push", "--insecure", &pushed]).ok();
    let before = unpacked(&format!("docker-archive:{}", path(&fixtures::busybox())), registry.dir(), &[]);
    let after = unpacked(&format!("docker://{pushed}"), registry.dir(), &[]);
    assert!(before == after && before.lines().count() > 100, "the pushed tree differs");
    let inspect =
        tool("skopeo", &["inspect", "--tls-verify=false", "--config", &format!("docker://{pushed}")]);
    assert!(inspect.contains("\"Cmd\""), "{inspect}");
    vial.leaves_nothing();
}

#[test]
fn a_guarded_registry_wants_its_ca_and_a_login() {
    let (vial, registry) = (Vial::new(), Registry::guarded());
    let (user, password) = LOGIN;
    let ca = registry.ca();
    let with = |args: &[&str]| -> Ran {
        let mut command = vial.command(args);
        command.env("DOCKER_CONFIG", registry.dir()).stdin(std::process::Stdio::null());
        command.output().expect("vial can be run").into()
    };
    vial.run(["load", "-q", "-i", path(&fixtures::busybox())]).ok();
    let name = format!("{}/app", registry.name);
    vial.run(["tag", "busybox", &name]).ok();
    with(&["push", &name]).fails(1, "--tls-ca");
    with(&["push", "--tls-ca", path(&ca), &name]).fails(1, "vial login");
    with(&["login", "--tls-ca", path(&ca), "-u", user, "-p", "wrong", &registry.name])
        .fails(1, "credentials");
    with(&["login", "--tls-ca", path(&ca), "-u", user, "-p", password, &registry.name]).ok();
    with(&["push", "--tls-ca", path(&ca), &name]).ok();
    let credentials = format!("{user}:{password}");
    let list = unpacked(&format!("docker://{name}"), registry.dir(), &["--src-creds", &credentials]);
    assert!(list.contains("bin/busybox"), "{list}");
    for image in [&name, "busybox"] {
        with(&["rmi", image]).ok();
    }
    with(&["pull", "--tls-ca", path(&ca), &name]).ok();
    assert_eq!(with(&["run", "--rm", &name, "echo", "in"]).ok(), "in\n");
    with(&["logout", &registry.name]).ok();
    with(&["pull", "--tls-ca", path(&ca), &name]).fails(1, "vial login");
    vial.leaves_nothing();
}

#[test]
fn what_buildah_built_and_pushed_runs() {
    let (vial, registry) = (Vial::new(), Registry::open());
    let name = format!("{}/built:v1", registry.name);
    // Its own folders: it must not find or leave anything on this machine. vfs, since overlay can't lie on every file system.
    let (root, run) = (registry.dir().join("storage"), registry.dir().join("storage-run"));
    let buildah = |args: &[&str]| {
        let own = ["--root", path(&root), "--runroot", path(&run), "--storage-driver", "vfs"];
        tool("buildah", &own.into_iter().chain(args.iter().copied()).collect::<Vec<_>>())
    };
    let busybox = tool("sh", &["-c", "command -v busybox"]);
    let container = buildah(&["from", "scratch"]);
    let container = container.trim();
    buildah(&["copy", "-q", container, busybox.trim(), "/bin/busybox"]);
    buildah(&["config", "--entrypoint", r#"["/bin/busybox"]"#, "--cmd", "echo built", container]);
    buildah(&["commit", "-q", container, "built"]);
    buildah(&["push", "-q", "--tls-verify=false", "built", &format!("docker://{name}")]);
    assert_eq!(vial.run(["run", "--rm", "--insecure", &name]).ok(), "built\n");
    vial.leaves_nothing();
}

/// `VIAL_TEST_WEB_SECONDS` makes the load longer: 10 000 requests take a minute or two in the emulated host.
#[test]
fn nginx_from_a_registry_serves_pages_through_a_published_port() {
    let (vial, registry) = (Vial::new(), Registry::open());
    let name = format!("{}/web/nginx:1", registry.name);
    let source = format!("oci-archive:{}", path(&fixtures::nginx()));
    let target = format!("docker://{name}");
    tool("skopeo", &["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &source, &target]);
    vial.run(["pull", "-q", "--insecure", &name]).ok();
    vial.run(["run", "-d", "--name", "web", "-p", "8085:80", &name]).ok();
    vial.run(["exec", "web", "sh", "-c", "until [ -s /run/nginx.pid ]; do sleep 0.1; done"]).ok();
    let page = "http://127.0.0.1:8085/";
    assert_eq!(tool("curl", &["-sS", "--max-time", "20", page]), "<h1>served by a pod</h1>\n");
    let seconds = std::env::var("VIAL_TEST_WEB_SECONDS").unwrap_or_else(|_| "3".into());
    let load = tool("wrk", &["-t1", "-c8", "--timeout", "20s", &format!("-d{seconds}s"), page]);
    println!("{load}");
    assert!(load.contains("requests in") && !load.contains("errors") && !load.contains("Non-2xx"), "{load}");
    vial.run(["stop", "web"]).ok();
    assert_eq!(vial.run(["wait", "web"]).ok(), "0\n", "SIGQUIT is nginx' word for an end in order");
    vial.leaves_nothing();
}
