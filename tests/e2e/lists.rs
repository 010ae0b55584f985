//! What is shown of containers and their logs, in every form, and what is cleared away.

use vial_tests::host::Vial;

#[test]
fn lists_templates_logs_and_prune_agree() {
    let vial = Vial::with_busybox();
    // To one stream: between two, which line comes first is nobody's promise.
    let script = "echo one; echo three";
    vial.run(["run", "--name", "lister", "-l", "tier=front", "busybox", "sh", "-c", script]).ok();
    vial.run(["create", "--name", "idle", "busybox", "true"]).ok();

    assert_eq!(
        vial.run(["inspect", "-f", "{{.State.Status}} {{.Config.Labels.tier}}", "lister"]).ok(),
        "exited front\n"
    );
    vial.run(["inspect", "-f", "{{.Nope}}", "lister"]).fails(1, "there is no field Nope");
    assert_eq!(
        vial.run(["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok(),
        "idle created\nlister exited\n"
    );
    let table = vial.run(["ps", "-a", "--format", r"table {{.Names}}\t{{.State}}"]).ok();
    assert_eq!(table, "NAMES    STATE\nidle     created\nlister   exited\n");
    for (filter, expected) in [
        ("label=tier=front", "lister\n"),
        ("status=created", "idle\n"),
        ("exited=0", "lister\n"),
        ("name=^idle$", "idle\n"),
    ] {
        assert_eq!(
            vial.run(["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]).ok(),
            expected,
            "{filter}"
        );
    }
    assert_eq!(vial.run(["ps", "-l", "--format", "{{.Names}}"]).ok(), "idle\n");

    assert_eq!(vial.run(["logs", "-n", "1", "lister"]).ok(), "three\n");
    assert_eq!(vial.run(["logs", "--until", "2020-01-01", "lister"]).ok(), "");
    let timed = vial.run(["logs", "-t", "--since", "1h", "lister"]);
    assert!(
        timed.stdout.lines().all(|line| line.starts_with("20") && line.contains("Z ")),
        "{}",
        timed.stdout
    );
    assert_eq!(timed.stdout.lines().count(), 2);

    let usage: serde_json::Value =
        serde_json::from_str(&vial.run(["system", "df", "--json"]).ok()).expect("JSON");
    assert_eq!(usage["containers"].as_array().map(Vec::len), Some(2));
    assert!(usage["images_size"].as_u64() > Some(1 << 20));
    vial.run(["container", "prune"]).fails(1, "-f");
    assert!(vial.run(["system", "prune", "-a", "-f"]).ok().contains("Deleted container: lister"));
    assert_eq!(vial.run(["ps", "-aq"]).ok() + &vial.run(["images", "-q"]).ok(), "");
    vial.leaves_nothing();
}

/// A container that writes without end costs the host no more than its log's bound, and goes on.
#[test]
fn a_flooded_log_keeps_its_bounds_and_its_end() {
    let vial = Vial::with_busybox();
    let script = "yes 0123456789abcdef | head -c 3000000; echo; echo the end";
    let bounds = ["--log-opt", "max-size=256k", "--log-opt", "max-file=2"];
    let run =
        ["run", "-d", "--name", "flood"].into_iter().chain(bounds).chain(["busybox", "sh", "-c", script]);
    vial.run(run).ok();
    assert_eq!(vial.run(["wait", "flood"]).ok(), "0\n");
    let usage: serde_json::Value =
        serde_json::from_str(&vial.run(["system", "df", "--json"]).ok()).expect("JSON");
    let log = usage["containers"][0]["log"].as_u64().expect("a size");
    // Two files, each up to one record over its size.
    assert!(log <= 2 * (256 << 10) + 2 * (128 << 10), "{log}");
    let shown = vial.run(["logs", "flood"]);
    assert!(shown.stdout.ends_with("the end\n"));
    assert!(shown.stderr.contains("missing here"), "what was given up is told: {}", shown.stderr);
    vial.leaves_nothing();
}
