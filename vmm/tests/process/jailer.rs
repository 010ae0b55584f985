//! `vial-jailer` as root: what the process that it starts sees and is.

use crate::common::{SPIN, Vm, kvm};
use crate::http::Http;
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const JAILER: &str = env!("CARGO_BIN_EXE_vial-jailer");

pub fn root() -> bool {
    // SAFETY: takes and writes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: a jail needs root");
    }
    root
}

/// The VMM is linked statically when it is installed; the one of these tests is not, so its libraries are put where it looks for them.
pub fn put_libraries(jail: &Path) {
    let libraries = Command::new("ldd").arg(env!("CARGO_BIN_EXE_vial-vmm")).output().unwrap();
    for word in String::from_utf8(libraries.stdout).unwrap().split_whitespace() {
        if word.starts_with('/') {
            let place = jail.join(word.trim_start_matches('/'));
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(word, place).unwrap();
        }
    }
}

/// A jail's root with everything in it that the VMM needs.
fn jail(vm: &Vm) -> PathBuf {
    let jail = vm.path("vial-vmm").join("one/root");
    put_libraries(&jail);
    std::fs::copy(vm.path("kernel"), jail.join("kernel")).unwrap();
    jail
}

fn jailer(vm: &Vm, options: &[&str]) -> Command {
    let mut command = Command::new(JAILER);
    command
        .args([
            "--id",
            "one",
            "--exec-file",
            env!("CARGO_BIN_EXE_vial-vmm"),
            "--uid",
            "12345",
            "--gid",
            "12346",
        ])
        .arg("--chroot-base-dir")
        .arg(vm.path(""))
        .args(options)
        // A line that says that the API is there, so that nobody has to ask again and again.
        .args(["--", "--level", "info", "--no-seccomp"])
        .env("SECRET", "1");
    command
}

#[test]
fn a_limit_that_linux_refuses_is_named() {
    if !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    let output = jailer(&vm, &["--resource-limit", "no-file=99999999999"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("no-file=99999999999") && message.contains("nr_open is the most"), "{message}");
    assert!(!message.contains("needs root"), "{message}");
    // One that others may have, to a caller who may not raise any.
    let order = jailer(&vm, &["--resource-limit", "no-file=200"]);
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 100 && exec setpriv --bounding-set=-sys_resource \"$@\"", "sh"])
        .arg(order.get_program())
        .args(order.get_args())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("no-file=200") && message.contains("CAP_SYS_RESOURCE"), "{message}");
    assert!(!message.contains("nr_open"), "{message}");
}

#[test]
fn a_file_size_limit_that_the_jailers_own_file_exceeds_is_told() {
    if !root() {
        return;
    }
    for options in [&["--resource-limit", "fsize=1"][..], &["--resource-limit", "fsize=1", "--new-pid-ns"]] {
        let vm = Vm::new(SPIN);
        let jail = jail(&vm);
        let output = jailer(&vm, options).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("write the process id") && message.contains("File too large"), "{message}");
        assert!(!jail.join("vial-vmm.pid").exists(), "half a number is another process's");
    }
}

#[test]
fn a_network_namespace_that_is_a_pipe_is_refused_and_not_waited_for() {
    if !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    rustix::fs::mkfifoat(rustix::fs::CWD, vm.path("fifo"), rustix::fs::Mode::RWXU).unwrap();
    let output = jailer(&vm, &["--netns", vm.path("fifo").to_str().unwrap()]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("enter the network namespace"), "{message}");
}

#[test]
fn a_jailed_vmm_serves_its_api_and_sees_nothing_else() {
    if !kvm() || !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    let jail = jail(&vm);
    let inherited = std::fs::File::open("/etc/passwd").unwrap();
    crate::common::inherit(&inherited);
    let mut child = jailer(&vm, &["--resource-limit", "no-file=200"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("The API is served") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended");
    }
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    for field in ["Uid:\t12345\t12345\t12345\t12345", "Gid:\t12346\t12346\t12346\t12346", "Groups:\t \n"] {
        assert!(status.contains(field), "{status}");
    }
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 200 ")),
        "{limits}"
    );
    assert_eq!(std::fs::read(proc.join("environ")).unwrap(), b"");
    let place = |path: PathBuf| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).unwrap();
    assert_eq!(place(proc.join("root")), place(jail.clone()));
    let open: Vec<_> = std::fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap())
        .collect();
    assert!(!open.contains(&"/etc/passwd".into()), "{open:?}");
    let mut http = Http::connect(&jail.join("run/firecracker.socket"));
    assert_eq!(http.get("/")["id"], "one");
    http.ok("PUT", "/boot-source", &json!({"kernel_image_path": "/kernel"}));
    http.ok("PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    let outside = json!({"drive_id": "a", "path_on_host": vm.path("kernel")}).to_string();
    assert!(http.refused("PUT", "/drives/a", &outside).contains("No such file"));
    http.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    assert_eq!(child.wait().unwrap().code(), Some(13));
}

#[test]
fn a_pid_namespace_leaves_the_process_id_in_the_jail() {
    if !kvm() || !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    let jail = jail(&vm);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = jailer(&vm, &["--new-pid-ns"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let id: i32 = std::fs::read_to_string(jail.join("vial-vmm.pid")).unwrap().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    // SAFETY: a signal to the process that was just made, which nobody else waits for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGKILL) }, 0);
    // Its end of the pipe closes with it.
    reader.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_jail_has_one_vm_at_a_time() {
    if !kvm() || !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    let jail = jail(&vm);
    let id = || std::fs::read_to_string(jail.join("vial-vmm.pid")).unwrap().parse::<i32>().unwrap();
    let mut before = 0;
    for _ in 0..2 {
        let started = jailer(&vm, &["--new-pid-ns"]).stdout(Stdio::null()).status().unwrap();
        assert_eq!(started.code(), Some(0));
        let first = id();
        assert_ne!(first, before);
        // A client that did not hear of it, and tries again.
        let output = jailer(&vm, &["--new-pid-ns"]).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("runs in the jail") && id() == first, "{message}");
        let process = rustix::process::Pid::from_raw(first).unwrap();
        let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).unwrap();
        // Readable when all of its threads are gone, and with them its lock.
        let mut gone = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut gone, None).unwrap();
        before = first;
    }
}

#[test]
fn a_daemon_has_a_session_without_a_leader_and_is_found_by_its_file() {
    if !kvm() || !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    let jail = jail(&vm);
    // As a shell starts it: the leader of its group.
    let mut child = jailer(&vm, &["--daemonize"]).process_group(0).spawn().unwrap();
    let jailer = child.id();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // Nobody can wait for what is nobody's child.
    let file = jail.join("vial-vmm.pid");
    let id: i32 = loop {
        if let Ok(id) = std::fs::read_to_string(&file).unwrap_or_default().parse() {
            break id;
        }
        std::thread::yield_now();
    };
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let session: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap();
    assert!(session != id && session != jailer.cast_signed() && session != 0, "{stat}");
    assert_eq!(std::fs::read_link(format!("/proc/{id}/fd/1")).unwrap(), Path::new("/dev/null"));
    // SAFETY: a signal to the process that was just made.
    assert_eq!(unsafe { libc::kill(id, libc::SIGKILL) }, 0);
}

#[test]
fn what_can_not_be_jailed_is_told() {
    let run = |arguments: &[&str]| {
        let output = Command::new(JAILER).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&["--id", "one"]);
    assert_eq!((code, message.contains("--exec-file is needed")), (Some(2), true), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().to_str().unwrap();
    let none = folder.path().join("none");
    for (program, base, expected) in [
        ("/none", base, "could not find \"/none\""),
        ("/tmp", base, "--exec-file \"/tmp\" is no file"),
        (JAILER, none.to_str().unwrap(), "could not find the folder of jails"),
        (JAILER, JAILER, "is no folder"),
    ] {
        let (code, message) = run(&[
            "--id",
            "one",
            "--exec-file",
            program,
            "--uid",
            "1",
            "--gid",
            "1",
            "--chroot-base-dir",
            base,
        ]);
        assert_eq!((code, message.contains(expected)), (Some(1), true), "{message}");
    }
    // Nothing was made for what can't be.
    assert!(!none.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_jail_that_is_used_again_can_not_lead_the_jailer_astray() {
    if !kvm() || !root() {
        return;
    }
    let vm = Vm::new(SPIN);
    let jail = jail(&vm);
    let victim = vm.path("victim");
    std::fs::write(&victim, "mine").unwrap();
    // What a former tenant may leave in the place of what the jailer makes.
    for name in ["vial-vmm", "vial-vmm.pid", "old_root"] {
        std::os::unix::fs::symlink(&victim, jail.join(name)).unwrap();
    }
    std::fs::create_dir(jail.join("dev")).unwrap();
    std::fs::hard_link(&victim, jail.join("dev/kvm")).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = jailer(&vm, &["--new-pid-ns"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let id: i32 = std::fs::read_to_string(jail.join("vial-vmm.pid")).unwrap().parse().unwrap();
    // SAFETY: a signal to the process that was just made, which nobody else waits for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGKILL) }, 0);
    reader.read_to_end(&mut Vec::new()).unwrap();
    let left = std::fs::metadata(&victim).unwrap();
    assert_eq!((left.uid(), std::fs::read_to_string(&victim).unwrap().as_str()), (0, "mine"));
    // A folder that is a link is not gone into.
    std::fs::remove_dir_all(jail.join("run")).unwrap();
    std::os::unix::fs::symlink("/dev", jail.join("run")).unwrap();
    let output = jailer(&vm, &[]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("links are not followed"), "{message}");
}

#[test]
fn a_program_that_needs_a_linker_is_told_so() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(JAILER);
    command.args(["--id", "one", "--exec-file", "/bin/sh", "--uid", "12345", "--gid", "12346"]);
    let output = command.arg("--chroot-base-dir").arg(folder.path()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("give a static program"), "{message}");
}
