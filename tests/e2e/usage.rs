//! What containers use, and what runs in them.

use vial_tests::host::Vial;

#[test]
fn stats_and_top_tell_of_a_busy_container() {
    let vial = Vial::with_busybox();
    let script = "sleep 1000 & while :; do :; done";
    vial.run(["run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", script]).ok();
    let table = vial.run(["stats", "--no-stream"]).ok();
    let line = table.lines().nth(1).expect("a line for the container");
    assert!(line.contains("busy") && line.contains("/ 67.1MB"), "{table}");
    let percent = line.split_whitespace().find_map(|word| word.strip_suffix('%')?.parse::<f64>().ok());
    assert!(percent.expect("a percentage") > 1.0, "it computes without end: {table}");

    let json = vial.run(["stats", "--no-stream", "--json", "busy"]).ok();
    let seen: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(seen[0]["memory_limit_bytes"], 64 << 20);
    assert_eq!(seen[0]["pids"], 2);

    let json = vial.run(["top", "--json", "busy", "-ef"]).ok();
    let seen: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let (shell, sleep) = (&seen[0], &seen[1]);
    assert_eq!((&shell["pid"], &shell["ppid"]), (&1.into(), &0.into()), "{json}");
    assert_eq!((&sleep["ppid"], &sleep["command"]), (&1.into(), &"sleep 1000".into()), "{json}");
    assert!(vial.run(["top", "busy"]).ok().contains("sleep 1000"));

    vial.run(["rm", "-f", "busy"]).ok();
    assert_eq!(vial.run(["stats", "--no-stream"]).ok().lines().count(), 1);
    vial.run(["stats", "--no-stream", "busy"]).fails(1, "busy");
    vial.leaves_nothing();
}
