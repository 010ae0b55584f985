//! Pods of several containers: what they share, what they don't, and what survives what.

use vial_tests::fixtures;
use vial_tests::host::{Vial, path, signal};

fn inspect(vial: &Vial, pod: &str) -> serde_json::Value {
    let pods: serde_json::Value =
        serde_json::from_str(&vial.run(["pod", "inspect", pod]).ok()).expect("JSON");
    pods[0].clone()
}

fn run<'a>(vial: &Vial, pod: &'a str, name: &'a str, command: impl IntoIterator<Item = &'a str>) {
    let args = ["run", "-d", "--pod", pod, "--name", name, "busybox"];
    vial.run(args.into_iter().chain(command)).ok();
}

#[test]
fn containers_of_a_pod_share_its_network_and_its_name_and_nothing_of_their_files() {
    let vial = Vial::with_busybox();
    vial.run(["pod", "create", "house"]).ok();
    assert_eq!(inspect(&vial, "house")["state"], "running");
    run(
        &vial,
        "house",
        "web",
        ["sh", "-c", "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 80 -h /www"],
    );
    let script =
        "until wget -qO- http://127.0.0.1/; do usleep 50000; done; hostname; ls /www; ps | grep -c [h]ttpd";
    let out = vial.run(["run", "--rm", "--pod", "house", "busybox", "sh", "-c", script]);
    assert_eq!(out.stdout, "hello\nhouse\n0\n", "{}", out.stderr);
    assert_eq!(vial.vmm_pids().len(), 1, "one VM for both");
    let containers = inspect(&vial, "house")["containers"].clone();
    assert_eq!(containers.as_array().map(Vec::len), Some(1), "{containers}");
    assert!(vial.run(["ps"]).ok().contains("house"));
    assert!(vial.run(["pod", "ls"]).ok().contains("1/1"));
    vial.leaves_nothing();
}

#[test]
fn a_pod_publishes_ports_for_its_containers_and_they_can_not() {
    let vial = Vial::with_busybox();
    vial.run(["pod", "create", "-p", "8090:80", "house"]).ok();
    vial.run(["run", "-d", "--pod", "house", "-p", "1:1", "busybox", "true"])
        .fails(125, "give it to vial pod create");
    let serve = "mkdir /www; echo page >/www/page; exec httpd -f -p 80 -h /www";
    run(&vial, "house", "web", ["sh", "-c", serve]);
    vial.run(["exec", "web", "sh", "-c", "until netstat -ltn | grep -q :80; do usleep 50000; done"]).ok();
    let out = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "20", "http://127.0.0.1:8090/page"])
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "page\n", "{}", String::from_utf8_lossy(&out.stderr));
    vial.run(["pod", "create", "-p", "8090:81", "other"]).fails(1, "pod house");
    vial.leaves_nothing();
}

#[test]
fn memory_of_one_is_seen_by_another_only_in_the_same_pod() {
    let vial = Vial::new();
    vial.run(["load", "-q", "-i", path(&fixtures::debian())]).ok();
    vial.run(["pod", "create", "house"]).ok();
    let write = "import mmap,os; f=os.open('/dev/shm/note',os.O_CREAT|os.O_RDWR); os.write(f,b'from one\\n')";
    vial.run(["run", "--rm", "--pod", "house", "debian:vial", "python3", "-c", write]).ok();
    let read = ["cat", "/dev/shm/note"];
    let inside = ["run", "--rm", "--pod", "house", "debian:vial"].into_iter().chain(read);
    assert_eq!(vial.run(inside).ok(), "from one\n");
    vial.run(["run", "--rm", "debian:vial"].into_iter().chain(read)).fails(1, "No such file");
    vial.leaves_nothing();
}

#[test]
fn who_breaks_its_limits_hurts_only_itself_and_is_named() {
    let vial = Vial::with_busybox();
    vial.run(["pod", "create", "--memory", "256m", "house"]).ok();
    run(&vial, "house", "quiet", ["sh", "-c", "while :; do echo beat; sleep 1; done"]);
    // Alone: two processes at the limit take each other's program out of memory and read it again for minutes before the kernel gives up.
    let hog = ["run", "--rm", "--pod", "house", "--memory", "32m", "busybox", "sh", "-c", "tail /dev/zero"];
    let out = vial.run(hog);
    assert!(out.stderr.contains("(tail)") && out.stderr.contains("memory limit of 32 MiB"), "{}", out.stderr);
    run(&vial, "house", "goes-on", ["sh", "-c", "tail /dev/zero; exec sleep 1000"]);
    let told = || vial.run(["inspect", "-f", "{{.last_oom}}", "goes-on"]).ok();
    let told = vial_tests::talk::until("the victim is named", || {
        Some(told()).filter(|told| told.contains("(tail)"))
    });
    assert!(told.contains("memory limit of 224 MiB"), "{told}");
    let bomb = ["run", "-d", "--pod", "house", "--name", "bomb", "--pids-limit", "64", "busybox"];
    vial.run(bomb.into_iter().chain(["sh", "-c", "f() { f | f & }; f; while :; do :; done"])).ok();
    run(&vial, "house", "flood", ["yes"]);
    let fill = "dd if=/dev/zero of=/full bs=1M 2>&1 | grep -c 'No space'; dd if=/dev/zero of=/dev/full 2>/dev/null; echo still here";
    let disk = ["run", "--rm", "--pod", "house", "--disk", "64m", "busybox", "sh", "-c", fill];
    assert_eq!(vial.run(disk).ok(), "1\nstill here\n");
    assert_eq!(vial.run(["exec", "quiet", "echo", "well"]).ok(), "well\n");
    vial.run(["rm", "-f", "bomb", "flood"]).ok();
    assert_eq!(vial.run(["exec", "quiet", "echo", "well"]).ok(), "well\n");
    vial.run(["run", "--pod", "house", "--memory", "300m", "busybox", "true"])
        .fails(125, "more than pod house has");
    vial.leaves_nothing();
}

#[test]
fn slots_come_back_and_run_out() {
    let vial = Vial::with_busybox();
    vial.run(["pod", "create", "--containers", "2", "house"]).ok();
    run(&vial, "house", "one", ["sleep", "1000"]);
    for turn in 0..5 {
        let own = format!("echo {turn} >/own; ls /own /other 2>/dev/null; cat /own");
        let out = vial.run(["run", "--rm", "--pod", "house", "busybox", "sh", "-c", &own]).ok();
        assert_eq!(out, format!("/own\n{turn}\n"));
    }
    run(&vial, "house", "two", ["sleep", "1000"]);
    vial.run(["run", "--pod", "house", "busybox", "true"])
        .fails(125, "as many containers as it was made for");
    vial.run(["rm", "-f", "two"]).ok();
    // A container that is there keeps its files from one start to the next, in whatever slot.
    vial.run(["run", "--pod", "house", "--name", "again", "busybox", "sh", "-c", "echo x >>/x; cat /x"]).ok();
    assert_eq!(vial.run(["start", "-a", "again"]).ok(), "x\nx\n");
    vial.leaves_nothing();
}

#[test]
fn a_killed_daemon_finds_every_container_of_a_pod_again() {
    let vial = Vial::with_busybox();
    vial.run(["pod", "create", "house"]).ok();
    let lines = 5000;
    let script = format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done; exit 9");
    run(&vial, "house", "idle", ["sleep", "1000"]);
    run(&vial, "house", "writer", ["sh", "-c", &script]);
    for _ in 0..2 {
        signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
        vial.run(["ps"]).ok();
    }
    assert_eq!(vial.run(["wait", "writer"]).ok(), "9\n");
    let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    assert!(vial.run(["logs", "writer"]).ok() == expected, "the log is not what was written");
    assert_eq!(vial.run(["exec", "idle", "echo", "well"]).ok(), "well\n");
    // One that ended while no daemon was there, and the slot that it had.
    run(&vial, "house", "short", ["sleep", "1"]);
    signal(vial.daemon_pid().expect("the daemon runs"), libc::SIGKILL);
    vial.run(["exec", "idle", "sleep", "2"]).ok();
    assert_eq!(vial.run(["wait", "short"]).ok(), "0\n");
    assert_eq!(vial.run(["run", "--rm", "--pod", "house", "busybox", "echo", "in"]).ok(), "in\n");
    vial.leaves_nothing();
}

#[test]
fn a_pod_whose_vm_is_killed_tells_it_of_all_and_comes_back_for_who_is_to_be_restarted() {
    let vial = Vial::with_busybox();
    vial.run(["pod", "create", "house"]).ok();
    run(&vial, "house", "mortal", ["sleep", "1000"]);
    vial.run([
        "run",
        "-d",
        "--pod",
        "house",
        "--name",
        "phoenix",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    signal(vial.vmm_pids()[0], libc::SIGKILL);
    assert_eq!(vial.run(["wait", "mortal"]).ok(), "137\n");
    // The exec waits until the restart is done.
    let alive = || vial.run(["exec", "phoenix", "echo", "risen"]);
    let mut out = alive();
    while out.code != 0 {
        out = alive();
    }
    assert_eq!(out.stdout, "risen\n");
    assert_eq!(vial.vmm_pids().len(), 1);
    assert!(vial.run(["ps", "-a"]).ok().contains("Exited (137)"));
    vial.leaves_nothing();
}

#[test]
fn a_pod_is_stopped_started_and_removed_with_its_containers() {
    let vial = Vial::with_busybox();
    let trap = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    vial.run(["pod", "create", "house"]).ok();
    run(&vial, "house", "one", ["sh", "-c", trap]);
    run(&vial, "house", "two", ["sh", "-c", trap]);
    vial.run(["pod", "create", "house"]).fails(1, "in use by another pod");
    vial.run(["pod", "rm", "house"]).fails(1, "vial pod stop house");
    assert_eq!(vial.run(["pod", "stop", "house"]).ok(), "house\n");
    assert_eq!(vial.vmm_pids().len(), 0);
    assert_eq!(inspect(&vial, "house")["state"], "stopped");
    for name in ["one", "two"] {
        assert_eq!(vial.run(["wait", name]).ok(), "3\n");
        assert_eq!(vial.run(["logs", name]).ok(), "up\nbye\n");
    }
    vial.run(["pod", "start", "house"]).ok();
    assert_eq!(vial.run(["exec", "two", "hostname"]).ok(), "house\n");
    vial.run(["pause", "two"]).fails(1, "shares its VM");
    vial.run(["pod", "rm", "-f", "house"]).ok();
    assert_eq!(vial.run(["ps", "-aq"]).ok(), "");
    vial.run(["pod", "inspect", "house"]).fails(1, "no pod is called house");
    vial.run(["run", "--pod", "hause", "busybox"]).fails(125, "no pod is called hause");
    vial.leaves_nothing();
}
