//! One container's life, by the commands that a person uses.

use vial_tests::host::{Vial, path};
use vial_tests::talk::Talk;

#[test]
fn run_prints_the_guests_kernel_and_leaves_nothing() {
    let vial = Vial::with_busybox();
    let guest = vial.run(["run", "--rm", "busybox", "uname", "-r"]).ok();
    assert!(guest.starts_with("6.12."), "{guest}");
    assert_eq!(vial.run(["ps", "-aq"]).ok(), "");
    vial.leaves_nothing();
}

#[test]
fn exit_statuses_are_dockers() {
    let vial = Vial::with_busybox();
    assert_eq!(vial.run(["run", "--rm", "busybox", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(vial.run(["run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).code, 137);
    vial.run(["run", "--rm", "busybox", "no-such-command"]).fails(127, "no-such-command");
    vial.run(["run", "--rm", "busybox", "/etc"]).fails(126, "/etc");
    vial.run(["run", "--rm", "no-such-image", "true"]).fails(125, "no-such-image");
    vial.leaves_nothing();
}

#[test]
fn options_of_run_reach_the_process() {
    let vial = Vial::with_busybox();
    let script = "echo $GREETING; pwd; id -u; id -g; hostname";
    let args = ["run", "--rm", "-e", "GREETING=hello", "-w", "/tmp", "-u", "7:8", "--hostname", "vessel"];
    let out = vial.run(args.into_iter().chain(["busybox", "sh", "-c", script])).ok();
    assert_eq!(out, "hello\n/tmp\n7\n8\nvessel\n");
    vial.leaves_nothing();
}

#[test]
fn a_file_of_variables_reaches_the_process() {
    let vial = Vial::with_busybox();
    let file = vial.data().join("variables");
    std::fs::write(&file, "# a comment\nA=from the file\n\nB=replaced\nC=a=b\n")
        .expect("a file can be written");
    let args = ["run", "--rm", "--env-file", path(&file), "-e", "B=by an option", "busybox", "sh", "-c"];
    let out = vial.run(args.into_iter().chain(["echo $A; echo $B; echo $C"])).ok();
    assert_eq!(out, "from the file\nby an option\na=b\n");
    vial.run(["run", "--rm", "--env-file", "/no/such/file", "busybox", "true"]).fails(125, "/no/such/file");
    vial.leaves_nothing();
}

#[test]
fn logs_are_followed_to_the_containers_end() {
    let vial = Vial::with_busybox();
    let script = "trap 'echo three; exit 4' TERM; mkfifo /go; echo one; read line < /go; echo $line; while :; do sleep 0.1; done";
    vial.run(["run", "-d", "--name", "teller", "busybox", "sh", "-c", script]).ok();
    let mut follow = Talk::start(&vial, &["logs", "-f", "teller"]);
    follow.says("one\n");
    vial.run(["exec", "teller", "sh", "-c", "echo two > /go"]).ok();
    follow.says("two\n");
    // Without -f it ends where the log does so far.
    assert_eq!(vial.run(["logs", "teller"]).ok(), "one\ntwo\n");
    vial.run(["kill", "-s", "TERM", "teller"]).ok();
    let followed = follow.ended();
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "one\ntwo\nthree\n"));
    assert_eq!(vial.run(["wait", "teller"]).ok(), "4\n");
    // Of one that has ended there is nothing to wait for.
    assert_eq!(vial.run(["logs", "-f", "teller"]).ok(), followed.stdout);
    vial.leaves_nothing();
}

#[test]
fn entrypoint_replaces_the_images() {
    let vial = Vial::with_busybox();
    let out = vial.run(["run", "--rm", "--entrypoint", "echo", "busybox", "a", "b"]).ok();
    assert_eq!(out, "a b\n");
    vial.leaves_nothing();
}

#[test]
fn a_detached_container_can_be_listed_read_entered_and_stopped() {
    let vial = Vial::with_busybox();
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let id = vial.run(["run", "-d", "--name", "worker", "busybox", "sh", "-c", script]).ok();
    assert_eq!(id.trim().len(), 64);
    assert!(vial.run(["ps"]).ok().contains("worker"));
    assert_eq!(vial.run(["exec", "worker", "cat", "/proc/1/comm"]).ok(), "sh\n");
    assert_eq!(vial.run(["exec", "worker", "sh", "-c", "exit 5"]).code, 5);
    assert_eq!(vial.run_with(["exec", "-i", "worker", "wc", "-c"], b"12345").ok().trim(), "5");
    vial.run(["exec", "worker", "no-such-command"]).fails(127, "no-such-command");
    vial.run(["stop", "worker"]).ok();
    assert_eq!(vial.run(["wait", "worker"]).ok(), "3\n");
    assert_eq!(vial.run(["logs", "worker"]).ok(), "ready\nbye\n");
    assert!(!vial.run(["ps"]).ok().contains("worker"));
    assert!(vial.run(["ps", "-a"]).ok().contains("worker"));
    vial.run(["rm", "worker"]).ok();
    vial.leaves_nothing();
}

#[test]
fn a_name_in_use_is_refused() {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    vial.run(["run", "--name", "one", "busybox", "true"]).fails(125, "one");
    vial.run(["rm", "one"]).fails(1, "running");
    vial.run(["rm", "-f", "one"]).ok();
    vial.leaves_nothing();
}

#[test]
fn kill_sends_the_signal_that_was_asked_for() {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    vial.run(["kill", "one"]).ok();
    assert_eq!(vial.run(["wait", "one"]).ok(), "137\n");
    vial.run(["kill", "one"]).fails(1, "not running");
    vial.leaves_nothing();
}

#[test]
fn memory_over_the_limit_is_killed_and_said() {
    let vial = Vial::with_busybox();
    let script = "tail /dev/zero";
    let ran = vial.run(["run", "--name", "hog", "--memory", "32m", "busybox", "sh", "-c", script]);
    assert_eq!(ran.code, 137, "{ran:?}");
    assert!(vial.run(["inspect", "hog"]).ok().contains("\"OOMKilled\": true"));
    vial.leaves_nothing();
}

#[test]
fn what_a_container_writes_is_gone_with_it() {
    let vial = Vial::with_busybox();
    vial.run(["run", "--rm", "busybox", "sh", "-c", "echo x > /mark; cat /mark"]).ok();
    assert_ne!(vial.run(["run", "--rm", "busybox", "cat", "/mark"]).code, 0);
    vial.leaves_nothing();
}

#[test]
fn every_part_of_a_start_tells_its_steps_on_one_clock() {
    let vial = Vial::with_busybox();
    let ran = vial.run(["run", "--rm", "--timing=json", "busybox", "sh", "-c", "echo words >&2; exit 3"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let mut lines = ran.stderr.lines();
    let told: serde_json::Value =
        serde_json::from_str(lines.next_back().unwrap_or_default()).expect("the last line is JSON");
    assert_eq!((lines.next_back(), &told["code"]), (Some("words"), &3.into()));
    println!("{told:#}");
    let steps = told["steps"].as_array().expect("a list");
    let at = |name: &str| {
        let step = steps.iter().find(|step| step["step"] == name);
        step.and_then(|step| step["at_us"].as_u64()).unwrap_or_else(|| panic!("no {name}: {told}"))
    };
    let number = |name: &str| told[name].as_u64().expect("a number");
    let mut times = vec![number("main_us"), number("request_us"), number("daemon_us")];
    times.extend(
        [
            "image resolved",
            "writable layer ready",
            "VM files open",
            "launcher: order read",
            "launcher: process cloned",
            "VMM: ProcessStart",
            "VMM: FirstRun",
            "kernel: clock running",
            "kernel: processors up",
            "kernel: devices probed",
            "kernel: init executed",
            "agent: started",
            "agent: mounts done",
            "agent: listening",
            "agent: introduced",
            "agent: connected",
            "agent: sandbox applied",
            "agent: root mounted",
            "agent: container created",
            "agent: command started",
        ]
        .map(at),
    );
    times.extend([at("command ended"), at("VM gone"), number("end_us")]);
    assert!(times.is_sorted(), "{times:?} in {told}");
    let guests = steps.iter().filter(|step| step.get("within_us").is_some());
    assert!(guests.clone().count() > 12, "{told}");
    // A table has them too, and only those who asked for it get any.
    let table = vial.run(["run", "--rm", "--timing", "busybox", "true"]);
    assert!(table.stderr.contains("kernel: init executed") && table.stderr.contains(" ±"), "{table:?}");
    assert_eq!(vial.run(["run", "--rm", "busybox", "true"]).stderr, "");
    vial.leaves_nothing();
}
