//! Hosts in trouble: files that are no files, that shrink while they are in use, disks without room, descriptors that run out, a TAP that
//! is taken away, clients that leave in the middle.

use crate::api::configure;
use crate::breaking::code::Code;
use crate::breaking::driver::{DATA, DISK, RING, Ring, SOCKETS, WRITE};
use crate::client::{Client, spawn_listening};
use crate::common::{
    HANG, Process, SPIN, Vm, flags, full_listener, inherit, kvm, out, peak_memory_kib, terminate,
};
use crate::http::{spawn_api, spawn_api_to};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use vmm::api::status::ExitReason;

/// How long a VMM has used processors, in ticks of 10 ms.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.0.id())).unwrap().count()
}

/// From now on it may use so many of the numbers that it does not use.
fn leave_descriptors(process: &Process, count: usize) {
    let used = |number: &u64| std::fs::exists(format!("/proc/{}/fd/{number}", process.0.id())).unwrap();
    let most = (0..).filter(|number| !used(number)).nth(count).unwrap();
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    let pid = process.0.id().cast_signed();
    // SAFETY: the call reads one rlimit, and the old one is not asked for.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// Stops it by request; it must have kept its peace, and its size.
fn stops(mut process: Process, client: &mut Client) {
    client.ask("stop");
    let (code, _) = peak_memory_kib(&process.0);
    assert_eq!(code, Some(ExitReason::Stopped.code()));
    let mut said = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.len() < 1000, "{said}");
}

#[test]
fn what_is_no_file_is_refused_wherever_a_file_is_named() {
    if !kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let _socket = UnixListener::bind(path("socket")).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    for bad in [path("missing"), path("pipe"), path("socket"), path("folder"), "/dev/null".into(), "".into()]
    {
        for (part, document) in [
            ("boot-source", json!({"kernel_image_path": bad})),
            ("drives", json!([{"drive_id": "disk", "path_on_host": bad}])),
            ("drives", json!([{"drive_id": "disk", "concat": [bad]}])),
        ] {
            let mut vm = Vm::new(HANG);
            vm.config[part] = document;
            let output = vm.run();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()), "{bad:?} as {part}: {said}");
            assert_eq!(vm.reason().0, ExitReason::BadConfig);
            assert!(said.lines().count() == 1 && said.contains(bad.to_str().unwrap()), "{bad:?}: {said}");
        }
    }
    // Places to listen at, and to write to.
    for (field, bad) in
        [("control", path("folder")), ("control", path("missing/x")), ("status", path("folder"))]
    {
        let mut vm = Vm::new(HANG);
        vm.config["vial"][field] = json!(bad);
        let output = vm.run();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()), "{field}: {said}");
        assert!(said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    // Root may read anything.
    let root = std::fs::File::open("/proc/1/environ").is_ok();
    if !kvm() || !root {
        return;
    }
    let vm = Vm::new(HANG);
    std::fs::set_permissions(vm.folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(vm.path("kernel"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
    let device = std::fs::File::options().read(true).write(true).open("/dev/kvm").unwrap();
    // The program lies where nobody else may look.
    std::fs::copy(env!("CARGO_BIN_EXE_vial-vmm"), vm.path("vial-vmm")).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(vm.path("vial-vmm"))
        .args(["--no-api", "--kvm-fd", &inherit(&device).to_string(), "--config-file"])
        .arg(vm.path("config"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()), "{said}");
    assert!(said.contains("kernel") && said.contains("Permission denied"), "{said}");
}

/// Reads `sector` of the disk again and again until that fails, then powers off.
fn reads_until_it_fails(sector: u64) -> Vec<u8> {
    let mut code = Code::default();
    code.set_up(DISK, 0, RING).read_request(RING, sector);
    code.w64(RING.available() + 4, 0).w64(RING.available() + 12, 0);
    code.repeat_while(DATA + 0x2000, 0, |code| {
        code.increment(RING.available() + 2)
            .kick(DISK, 0)
            .wait_for_copy(RING.used_index(), RING.available() + 2);
    });
    code.expect(DATA + 0x2000, 1).prove_life();
    code.bytes().to_vec()
}

#[test]
fn a_disk_that_shrinks_while_it_is_in_use_fails_its_reads_and_not_the_vm() {
    if !kvm() {
        return;
    }
    for engine in ["Sync", "Async"] {
        let mut vm = Vm::new(&reads_until_it_fails(100));
        std::fs::write(vm.path("disk"), [0; 64 << 10]).unwrap();
        vm.config["drives"] =
            json!([{"drive_id": "disk", "path_on_host": vm.path("disk"), "io_engine": engine}]);
        vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
        vm.config["entropy"] = json!({});
        let (process, mut client) = spawn_listening(&mut vm);
        assert_eq!(client.ask("info")["state"], "running");
        std::fs::File::options().write(true).open(vm.path("disk")).unwrap().set_len(4096).unwrap();
        let (code, _) = peak_memory_kib(&process.0);
        assert_eq!(code, Some(0), "{engine}: {:?}", vm.reason());
    }
}

#[test]
fn without_room_on_the_host_writes_fail_and_the_vm_goes_on() {
    if !kvm() {
        return;
    }
    // A write of a sector beyond what files may be long here, until it fails.
    let mut code = Code::default();
    code.set_up(DISK, 0, RING).read_request(RING, 0).header(1, 100);
    code.descriptor(RING, 1, (DATA + 0x1000).into(), 512, 1, 2);
    code.offer(RING, 0, 0, 1).kick(DISK, 0).wait(RING.used_index(), 1).expect(DATA + 0x2000, 1).prove_life();
    // A thread that writes itself gets a signal for it too, which the kernel does not send for a ring's writes.
    for engine in ["Async", "Sync"] {
        let mut vm = Vm::new(code.bytes());
        std::fs::File::create(vm.path("disk")).unwrap().set_len(64 << 10).unwrap();
        vm.config["drives"] =
            json!([{"drive_id": "disk", "path_on_host": vm.path("disk"), "io_engine": engine}]);
        vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
        vm.config["entropy"] = json!({});
        // Nothing that is told fits either.
        vm.config["vial"] = json!({"status": "/dev/full", "console": {"output": "/dev/full"}});
        std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
        let child = Command::new("sh")
            // Eight blocks of 512 bytes.
            .args(["-c", "ulimit -f 8; exec \"$0\" --no-api --config-file \"$1\""])
            .arg(env!("CARGO_BIN_EXE_vial-vmm"))
            .arg(vm.path("config"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (code, _) = peak_memory_kib(&Process(child).0);
        assert_eq!(code, Some(0), "{engine}");
    }
}

#[test]
fn clients_beyond_the_last_descriptor_are_turned_away_and_nothing_spins() {
    if !kvm() {
        return;
    }
    let mut code = Code::default();
    code.negotiate(DISK, 0);
    for queue in 0..3 {
        code.place(DISK, queue, Ring(0x40_0000 + queue * 0x1_0000)).w32(DISK + 0x44, 1);
    }
    code.w32(DISK + 0x70, 15).hang();
    let mut vm = Vm::new(code.bytes());
    vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
    let control = UnixListener::bind(vm.path("ready")).unwrap();
    vm.config["vial"]["control"] = json!({"fd": inherit(&control)});
    std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
    let child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 48; exec \"$0\" --no-api --config-file \"$1\"",
            env!("CARGO_BIN_EXE_vial-vmm"),
        ])
        .arg(vm.path("config"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let process = Process(child);
    let mut first = Client::connect(&vm.path("ready"));
    assert_eq!(first.ask("info")["state"], "running");
    let mut clients: Vec<_> = (0..100).map(|_| UnixStream::connect(vm.path("vsock")).unwrap()).collect();
    // The last of them is turned away: it reads an end.
    let mut last = clients.pop().unwrap();
    let _ = last.write(b"CONN");
    assert!(!matches!(last.read(&mut [0; 1]), Ok(1..)));
    let before = ticks(&process);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(ticks(&process) - before < 25, "it goes round and round");
    drop(clients);
    stops(process, &mut first);
}

#[test]
fn clients_of_the_api_beyond_the_last_descriptor_are_turned_away_and_nothing_spins() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (process, mut http) = spawn_api(&vm, &[]);
    assert_eq!(http.get("/")["state"], "Not started");
    leave_descriptors(&process, 0);
    // The next one is turned away: it reads an end.
    let mut next = UnixStream::connect(vm.path("api")).unwrap();
    assert!(!matches!(next.read(&mut [0; 1]), Ok(1..)));
    let before = ticks(&process);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(ticks(&process) - before < 5, "it goes round and round");
    assert_eq!(http.get("/")["state"], "Not started");
}

#[test]
fn a_guest_that_connects_without_end_leaves_descriptors_to_the_api() {
    if !kvm() {
        return;
    }
    // A request for port 5000 from port after port; then a sign of life on the serial port.
    let mut code = Code::default();
    code.w64(DATA, 3).w64(DATA + 8, 2).w32(DATA + 16, 1).w32(DATA + 20, 5000);
    code.w32(DATA + 24, 0).w32(DATA + 28, 1 << 16 | 1).w64(DATA + 32, 0).w32(DATA + 40, 0);
    code.set_up(SOCKETS, 1, RING).descriptor(RING, 0, DATA.into(), 44, 0, 0);
    code.w64(RING.available() + 4, 0).w64(RING.available() + 12, 0);
    code.times(200, |code| {
        code.increment(DATA + 16).increment(RING.available() + 2).kick(SOCKETS, 1);
        code.wait_for_copy(RING.used_index(), RING.available() + 2);
    });
    code.out(0x3f8, b'!').hang();
    let mut vm = Vm::new(code.bytes());
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    vm.config["drives"] = json!([{"drive_id": "disk", "path_on_host": vm.path("disk")}]);
    vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
    vm.config["serial"] = json!({});
    let ready = UnixListener::bind(vm.path("ready")).unwrap();
    vm.config["vial"]["control"] = json!({"fd": inherit(&ready)});
    std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
    let port = UnixListener::bind(vm.path("vsock_5000")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_vial-vmm")]);
    command.args(["--no-api", "--config-file"]).arg(vm.path("config"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    process.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    port.accept().unwrap();
    // Half of them are for others; so all that may connect are served.
    let mut clients: Vec<_> = (0..16).map(|_| Client::connect(&vm.path("ready"))).collect();
    assert!(clients.iter_mut().all(|client| client.ask("info")["state"] == "running"));
    let limit = json!({"action": "update_drive", "drive_id": "disk",
        "rate_limiter": {"ops": {"size": 1, "refill_time": 1000}}});
    assert_eq!(clients[0].ask_with(&limit, &[])["state"], "running");
    assert_eq!(clients[0].ask("pause")["state"], "paused");
    stops(process, &mut clients[0]);
}

#[test]
fn a_limit_that_the_host_has_no_timers_for_is_refused() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    let ops = json!({"ops": {"size": 1, "refill_time": 1000}});
    let limited = |limiter| json!({"action": "update_drive", "drive_id": "free", "rate_limiter": limiter});
    vm.config["drives"] = json!([
        {"drive_id": "bound", "path_on_host": vm.path("disk"), "is_read_only": true, "rate_limiter": ops},
        {"drive_id": "free", "path_on_host": vm.path("disk"), "is_read_only": true, "num_queues": 4},
    ]);
    let (process, mut client) = spawn_listening(&mut vm);
    assert_eq!(client.ask("info")["state"], "running");
    // That of the first drive is there already, whether it will be needed or not.
    let timers = || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", process.0.id())).unwrap();
        let is_timer = |link: &PathBuf| link.to_str() == Some("anon_inode:[timerfd]");
        links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).filter(is_timer).count()
    };
    let before = timers();
    assert_eq!(before, 1);
    // Enough to answer with, too few for four queues.
    leave_descriptors(&process, 3);
    let answer = client.ask_with(&limited(&ops), &[]);
    assert!(answer["fault_message"].as_str().unwrap().contains("limiter can't be made"), "{answer}");
    assert_eq!((timers(), client.ask("info")["state"].as_str()), (before, Some("running")));
    stops(process, &mut client);
}

#[test]
fn control_clients_that_leave_in_the_middle_leave_nothing() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let (process, mut client) = spawn_listening(&mut vm);
    client.ask("info");
    let before = descriptors(&process);
    for round in 0..300 {
        let mut stream = UnixStream::connect(vm.path("ready")).unwrap();
        // Before a word, in the middle of one, with an answer under way, with a megabyte of rubbish.
        let _ = match round % 4 {
            0 => Ok(()),
            1 => stream.write_all(b"{\"action\":\"in"),
            2 => stream.write_all(b"{\"action\":\"pause\"}\n{\"action\":\"resume\"}\n"),
            _ => stream.write_all(&[b'x'; 8192]),
        };
    }
    // One that is answered after all of them: theirs were read before.
    let mut after = Client::connect(&vm.path("ready"));
    after.ask("resume");
    assert_eq!(after.ask("info")["state"], "running");
    // The last of them may have left with the loop on its way to them: each answer is one more round of it. One descriptor is the new client's;
    // another may be the copy that its answer goes out through, which is closed when the answer is here already.
    for _ in 0..100 {
        if descriptors(&process) <= before + 2 {
            break;
        }
        after.ask("info");
    }
    assert!(descriptors(&process) <= before + 2, "{} after {before}", descriptors(&process));
    stops(process, &mut after);
}

#[test]
fn a_tap_that_is_taken_away_leaves_the_vm_running_without_it() {
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    let name = format!("vt{}", std::process::id());
    let made = ip(&["tuntap", "add", &name, "mode", "tap", "vnet_hdr"]);
    if !kvm() || !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no TAP can be made here");
        return;
    }
    let mut code = Code::default();
    let ring = |queue: u32| Ring(0x40_0000 + queue * 0x1_0000);
    code.negotiate(DISK, 0);
    for queue in 0..2 {
        code.place(DISK, queue, ring(queue)).w32(DISK + 0x44, 1);
    }
    code.w32(DISK + 0x70, 15)
        .descriptor(ring(0), 0, DATA.into(), 2048, WRITE, 0)
        .offer(ring(0), 0, 0, 1)
        .kick(DISK, 0);
    // Frames without end.
    code.descriptor(ring(1), 0, (DATA + 0x1000).into(), 100, 0, 0);
    code.w64(ring(1).available() + 4, 0).w64(ring(1).available() + 12, 0);
    code.times(2000, |code| {
        code.increment(ring(1).available() + 2).kick(DISK, 1);
        code.wait_for_copy(ring(1).used_index(), ring(1).available() + 2);
    });
    code.hang();
    let mut vm = Vm::new(code.bytes());
    vm.config["network-interfaces"] = json!([{"iface_id": "eth0", "host_dev_name": name}]);
    let (process, mut client) = spawn_listening(&mut vm);
    assert_eq!(client.ask("info")["state"], "running");
    ip(&["link", "set", &name, "up"]).unwrap();
    assert!(ip(&["link", "delete", &name]).unwrap().success());
    assert_eq!(client.ask("info")["state"], "running");
    let before = ticks(&process);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let spent = ticks(&process) - before;
    assert_eq!(client.ask("info")["state"], "running");
    // Some are the guest's, which sends its frames.
    assert!(spent < 80, "it goes round and round: {spent}");
    stops(process, &mut client);
}

#[test]
fn a_start_never_waits_for_a_listener_that_nobody_serves() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let full = vm.path("full");
    let _listener = full_listener(&full);
    let (mut process, mut http) = spawn_api(&vm, &[]);
    configure(&vm, &mut http);
    let start = json!({"action_type": "InstanceStart"}).to_string();
    http.ok("PUT", "/vsock", &json!({"guest_cid": 3, "uds_path": full}));
    let why = http.refused("PUT", "/actions", &start);
    assert!(why.contains("another process listens at"), "{why}");
    http.ok("PUT", "/vsock", &json!({"guest_cid": 3, "uds_path": vm.path("vsock")}));
    http.ok("PUT", "/drives/d", &json!({"drive_id": "d", "is_root_device": false, "socket": full}));
    let why = http.refused("PUT", "/actions", &start);
    assert!(why.contains("it is busy"), "{why}");
    terminate(&process);
    assert_eq!(process.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));

    let output = Command::new(env!("CARGO_BIN_EXE_vial-vmm")).arg("--api-sock").arg(&full).output().unwrap();
    assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("another process listens at"), "{message}");
}

#[test]
fn a_standard_output_that_nobody_reads_holds_nothing_up() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let output = writer.try_clone().unwrap().into();
    let (mut process, mut http) = spawn_api_to(&vm, &["--level", "Debug"], output);
    // More than a pipe holds.
    for _ in 0..1000 {
        http.get("/");
    }
    let text = http.ask("GET", "/vial/metrics", "").body;
    let lost =
        text.lines().find(|line| line.contains("_missed_log_count") && !line.starts_with('#')).unwrap();
    assert!(!lost.ends_with(" 0"), "{lost}");
    // The serial port writes there too.
    configure(&vm, &mut http);
    http.ok("PUT", "/serial", &json!({}));
    http.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    assert_eq!(flags(&writer) & libc::O_NONBLOCK, 0, "whoever shares the pipe would not expect it");
    terminate(&process);
    assert_eq!(process.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let whole = |line: &str| line.contains(" [anonymous-instance:");
    assert!(text.lines().count() > 100 && text.lines().all(whole), "{text}");
}

#[test]
fn a_standard_error_that_nobody_reads_does_not_keep_a_vm_from_ending() {
    if !kvm() {
        return;
    }
    let (_reader, mut writer) = std::io::pipe().unwrap();
    vmm::sys::set_nonblocking(&writer).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    // SAFETY: the command takes a number.
    let result =
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags(&writer) & !libc::O_NONBLOCK) };
    assert_eq!(result, 0);
    let vm = Vm::new(&[&out(0x505, 1), HANG].concat());
    let mut process = Process(vm.command().stderr(writer).spawn().unwrap());
    assert_eq!(process.0.wait().unwrap().code(), Some(ExitReason::GuestPanic.code()));
}

#[test]
fn memory_out_of_reach_ends_the_vm_with_a_record() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let (mut process, mut client) = spawn_listening(&mut vm);
    assert_eq!(client.ask("info")["state"], "running");
    // SAFETY: it is our child, which was not waited for.
    assert_eq!(unsafe { libc::kill(process.0.id().cast_signed(), libc::SIGSEGV) }, 0);
    assert_eq!(process.0.wait().unwrap().code(), Some(ExitReason::InternalError.code()));
    let (reason, detail) = vm.reason();
    assert!(reason == ExitReason::InternalError && detail.contains("SIGSEGV"), "{detail}");
}

#[test]
fn guest_memory_that_is_cut_off_ends_the_vm_with_a_record() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    let file = File::create(&path).unwrap();
    file.set_len(32 << 20).unwrap();
    vm.config["machine-config"]["memory_backing"] = json!({"private_file": path});
    let (mut process, mut client) = spawn_listening(&mut vm);
    // The guest would find its end too, and KVM tells of that in another way.
    assert_eq!(client.ask("pause")["state"], "paused");
    file.set_len(0).unwrap();
    assert_eq!(client.ask_while_it_lives("new_generation"), None);
    assert_eq!(process.0.wait().unwrap().code(), Some(ExitReason::InternalError.code()));
    let (reason, detail) = vm.reason();
    assert!(reason == ExitReason::InternalError && detail.contains("SIGBUS"), "{detail}");
    let mut said = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("SIGBUS") && said.lines().count() == 1, "{said}");

    // The guest finds it, which KVM tells in its own words.
    let mut vm = Vm::new(SPIN);
    file.set_len(32 << 20).unwrap();
    vm.config["machine-config"]["memory_backing"] = json!({"private_file": path});
    let (mut process, mut client) = spawn_listening(&mut vm);
    assert_eq!(client.ask("info")["state"], "running");
    file.set_len(0).unwrap();
    assert_eq!(process.0.wait().unwrap().code(), Some(ExitReason::InternalError.code()));
    assert_eq!(vm.reason().0, ExitReason::InternalError);
}
