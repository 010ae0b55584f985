//! A container's life beyond its first end: made, started, stopped, started again, paused, renamed, restarted by its policy.

use vial_tests::host::{Vial, signal};

fn status(vial: &Vial, name: &str) -> String {
    let text = vial.run(["inspect", name]).ok();
    let value: serde_json::Value = serde_json::from_str(&text).expect("inspect prints JSON");
    value[0]["State"]["Status"].as_str().expect("a state").to_owned()
}

#[test]
fn what_a_container_wrote_is_there_when_it_is_started_again() {
    let vial = Vial::with_busybox();
    // Without a sync: the guest's own shutdown must write it out.
    let script = "echo run >>/runs; cat /runs | wc -l; hostname; exit $(cat /runs | wc -l)";
    let made =
        ["create", "--name", "again", "--hostname", "same", "-e", "A=1", "busybox", "sh", "-c", script];
    let id = vial.run(made).ok();
    assert_eq!(status(&vial, "again"), "created");
    assert_eq!(vial.vmm_pids().len(), 0, "what is only made has no VM");
    let first = vial.run(["start", "-a", "again"]).fails(1, "");
    assert_eq!(first.stdout, "1\nsame\n");
    let second = vial.run(["start", "-a", "again"]).fails(2, "");
    assert_eq!(second.stdout, "2\nsame\n", "only what this start wrote");
    assert_eq!(vial.run(["start", "again"]).ok(), "again\n");
    assert_eq!(vial.run(["wait", "again"]).ok(), "3\n");
    assert_eq!(vial.run(["logs", "again"]).ok(), "1\nsame\n2\nsame\n3\nsame\n", "the log is of all of them");
    assert_eq!(vial.run(["ps", "-aq"]).ok().trim(), &id[..12], "it is the same container");
    // A new name, and the old one is free.
    vial.run(["rename", "again", "other"]).ok();
    vial.run(["start", "again"]).fails(1, "no container is called again");
    vial.run(["create", "--name", "again", "busybox", "true"]).ok();
    vial.run(["rename", "other", "again"]).fails(1, "in use");
    vial.leaves_nothing();
}

#[test]
fn restart_ends_it_and_starts_it() {
    let vial = Vial::with_busybox();
    let script = "trap 'echo asked; exit 0' TERM; echo begin; while :; do sleep 0.1; done";
    vial.run(["run", "-d", "--name", "rr", "busybox", "sh", "-c", script]).ok();
    let before = vial.vmm_pids();
    vial.run(["start", "rr"]).ok();
    assert_eq!(vial.vmm_pids(), before, "one that runs is left alone");
    vial.run(["restart", "rr"]).ok();
    assert_ne!(vial.vmm_pids(), before, "its VM is another one");
    assert_eq!(status(&vial, "rr"), "running");
    vial.run(["stop", "rr"]).ok();
    assert_eq!(vial.run(["logs", "rr"]).ok(), "begin\nasked\nbegin\nasked\n");
    vial.leaves_nothing();
}

#[test]
fn a_paused_container_stands_still_over_a_lost_daemon() {
    let vial = Vial::with_busybox();
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done";
    vial.run(["run", "-d", "--name", "pp", "busybox", "sh", "-c", script]).ok();
    vial.run(["pause", "pp"]).ok();
    assert_eq!(status(&vial, "pp"), "paused");
    vial.run(["exec", "pp", "true"]).fails(125, "paused");
    vial.run(["pause", "pp"]).fails(1, "paused");
    assert!(vial.run(["ps"]).ok().contains("(Paused)"));
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    assert_eq!(status(&vial, "pp"), "paused", "the VMM knows it, not the daemon");
    let before = vial.run(["logs", "pp"]).ok();
    assert_eq!(vial.run(["logs", "pp"]).ok(), before);
    vial.run(["unpause", "pp"]).ok();
    vial.run(["exec", "pp", "true"]).ok();
    assert_eq!(status(&vial, "pp"), "running");
    vial.run(["unpause", "pp"]).fails(1, "not paused");
    // Whatever asks a paused container to end gets its way.
    vial.run(["pause", "pp"]).ok();
    vial.run(["stop", "-t", "1", "pp"]).ok();
    assert_eq!(status(&vial, "pp"), "exited");
    vial.run(["start", "pp"]).ok();
    vial.run(["pause", "pp"]).ok();
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    vial.run(["kill", "pp"]).ok();
    assert_eq!(vial.run(["wait", "pp"]).ok(), "137\n");
    vial.leaves_nothing();
}

#[test]
fn restart_policies_are_followed() {
    let vial = Vial::with_busybox();
    let count = "echo x >>/runs; n=$(cat /runs | wc -l)";
    let script = format!("{count}; echo $n; [ $n = 3 ] && exit 0; exit 9");
    vial.run(["run", "-d", "--name", "ff", "--restart", "on-failure:5", "busybox", "sh", "-c", &script]).ok();
    // Follows one start; the last is known by its status.
    while vial.run(["wait", "ff"]).ok() != "0\n" {}
    assert_eq!(vial.run(["logs", "ff"]).ok(), "1\n2\n3\n");
    let text = vial.run(["inspect", "ff"]).ok();
    assert!(text.contains("\"RestartCount\": 2"), "{text}");

    // Synced, for a VM that is killed is a machine that loses its power.
    let script = format!("{count}; sync; echo $n; [ $n = 1 ] && exit 0; sleep 1000");
    vial.run(["run", "-d", "--name", "aa", "--restart", "unless-stopped", "busybox", "sh", "-c", &script])
        .ok();
    vial.run(["run", "-d", "--name", "nn", "busybox", "true"]).ok();
    vial.run(["wait", "nn"]).ok();
    // Its VM is killed while no daemon is there: the next one starts it again.
    while vial.run(["exec", "aa", "true"]).code != 0 {}
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    vial.vmm_pids().into_iter().for_each(|pid| signal(pid, libc::SIGKILL));
    while vial.run(["exec", "aa", "true"]).code != 0 {}
    assert_eq!(vial.run(["logs", "aa"]).ok(), "1\n2\n3\n");
    assert_eq!(status(&vial, "nn"), "exited", "without a policy it stays");
    // Stopped by hand it stays so, over a new daemon too.
    vial.run(["stop", "-t", "0", "aa"]).ok();
    vial.run(["daemon", "stop"]).ok();
    assert_eq!(status(&vial, "aa"), "exited");
    vial.run(["run", "--rm", "--restart", "always", "busybox", "true"]).fails(125, "not both");
    vial.leaves_nothing();
}
