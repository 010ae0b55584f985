//! kill -9 of anything and a crash of the agent, and what the rest makes of it.

use vial_tests::crash::AgentCode;
use vial_tests::host::{Vial, signal};
use vial_tests::talk::until;

#[test]
fn a_killed_daemon_loses_no_output_and_finds_the_pod_again() {
    let vial = Vial::with_busybox();
    let lines = 20_000;
    let script = format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done; exit 9");
    vial.run(["run", "-d", "--name", "writer", "busybox", "sh", "-c", &script]).ok();
    for _ in 0..3 {
        signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
        // The next command starts a new one.
        vial.run(["ps"]).ok();
    }
    assert_eq!(vial.run(["wait", "writer"]).ok(), "9\n");
    let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    let logged = vial.run(["logs", "writer"]).ok();
    assert_eq!(logged.len(), expected.len());
    assert!(logged == expected, "the log is not what was written");
    vial.leaves_nothing();
}

#[test]
fn a_killed_vmm_is_told_as_such() {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    let vmms = vial.vmm_pids();
    assert_eq!(vmms.len(), 1);
    signal(vmms[0], libc::SIGKILL);
    assert_eq!(vial.run(["wait", "one"]).ok(), "137\n");
    vial.leaves_nothing();
}

#[test]
fn a_pod_that_ended_without_a_daemon_is_told_truthfully() {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    let vmms = vial.vmm_pids();
    assert_eq!(vmms.len(), 1);
    signal(vmms[0], libc::SIGKILL);
    assert_eq!(vial.run(["wait", "one"]).ok(), "137\n");
    vial.leaves_nothing();
}

#[test]
fn a_killed_launcher_is_replaced_and_running_containers_do_not_notice() {
    let vial = Vial::with_busybox();
    vial.run(["run", "-d", "--name", "before", "busybox", "sleep", "1000"]).ok();
    for _ in 0..2 {
        signal(vial.launcher_pid().expect("the daemon has a launcher"), libc::SIGKILL);
        assert_eq!(vial.run(["run", "--rm", "busybox", "echo", "after"]).ok(), "after\n");
    }
    assert_eq!(vial.run(["exec", "before", "echo", "still here"]).ok(), "still here\n");
    let log = std::fs::read_to_string(vial.run_dir().join("daemon.log")).expect("the daemon has a log");
    assert_eq!(log.matches("the launcher was killed").count(), 2, "{log}");
    // A new daemon has a launcher of its own; the old one's successor goes with the old one.
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    assert_eq!(vial.run(["run", "--rm", "busybox", "echo", "again"]).ok(), "again\n");
    vial.run(["rm", "-f", "before"]).ok();
    vial.leaves_nothing();
}

#[test]
fn a_crashed_agent_is_told_as_such() {
    let vial = Vial::with_busybox();
    let code = AgentCode::installed();
    let script = "echo up; sleep 1000";
    vial.run(["run", "-d", "--name", "no", "busybox", "sh", "-c", script]).ok();
    let again = ["--name", "again", "--restart", "on-failure", "busybox", "sh", "-c", script];
    vial.run(["run", "-d"].iter().chain(&again)).ok();
    for name in ["no", "again"] {
        let vmm = vial.vmm_of(name).expect("it has a VM");
        assert_eq!(code.overwrite(vmm), code.pages(), "the guest has each page of the agent once");
        // Whoever wakes the agent sees it die.
        vial.run(["exec", name, "true"]).fails(125, "agent");
    }
    assert_eq!(vial.run(["wait", "no"]).ok(), "255\n");
    let told = vial.run(["inspect", "-f", "{{.State.Error}}", "no"]).ok();
    assert!(told.contains("the guest's kernel panicked"), "{told}");
    until("the restart policy has started the other one", || {
        (vial.run(["exec", "again", "true"]).code == 0).then_some(())
    });
    assert_eq!(vial.run(["inspect", "-f", "{{.RestartCount}}", "again"]).ok(), "1\n");
    assert_eq!(vial.run(["logs", "again"]).ok(), "up\nup\n");
    vial.leaves_nothing();
}
