//! The HTTP API of the real process.

use crate::common::{HANG, SPIN, Vm, kvm, out};
use crate::http::{Http, spawn_api};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use vmm::api::status::ExitReason;

pub fn boot_source(vm: &Vm) -> Value {
    json!({"kernel_image_path": vm.path("kernel")})
}

/// What every test of a running VM needs before InstanceStart.
pub fn configure(vm: &Vm, http: &mut Http) {
    http.ok("PUT", "/machine-config", &json!({"vcpu_count": 2, "mem_size_mib": 32}));
    http.ok("PUT", "/boot-source", &boot_source(vm));
    http.ok("PUT", "/vial", &json!({"status": vm.path("status")}));
}

pub fn start(http: &mut Http) {
    http.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
}

#[test]
fn a_vm_is_configured_started_paused_resumed_and_stopped() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    let (mut child, mut http) = spawn_api(&vm, &["--id", "one"]);
    let info = http.get("/");
    assert_eq!((info["id"].as_str(), info["state"].as_str()), (Some("one"), Some("Not started")));
    assert_eq!(http.get("/machine-config")["mem_size_mib"], 128);
    assert!(http.get("/version")["firecracker_version"].is_string());
    configure(&vm, &mut http);
    http.ok("PUT", "/entropy", &json!({}));
    http.ok("PATCH", "/machine-config", &json!({"vcpu_count": 1}));
    assert_eq!(http.get("/vm/config")["machine-config"]["vcpu_count"], 1);
    start(&mut http);
    assert_eq!(http.get("/")["state"], "Running");
    let devices = http.get("/vial/devices");
    assert_eq!((&devices[0]["type"], &devices[0]["state"]), (&json!(4), &json!("without a driver")));
    for _ in 0..20 {
        http.ok("PATCH", "/vm", &json!({"state": "Paused"}));
        assert_eq!(http.get("/")["state"], "Paused");
        http.ok("PATCH", "/vm", &json!({"state": "Resumed"}));
    }
    http.ok("PUT", "/actions", &json!({"action_type": "SendCtrlAltDel"}));
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    assert_eq!(vm.reason(), (ExitReason::Stopped, "by request".into()));
}

#[test]
fn each_request_has_its_time() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_child, mut http) = spawn_api(&vm, &[]);
    let early = "The requested operation is not supported before starting the microVM.";
    let late = "The requested operation is not supported after starting the microVM.";
    for (method, path, body) in [
        ("PATCH", "/vm", json!({"state": "Paused"})),
        ("PUT", "/actions", json!({"action_type": "SendCtrlAltDel"})),
        ("PUT", "/actions", json!({"action_type": "FlushMetrics"})),
        ("PATCH", "/drives/a", json!({"drive_id": "a"})),
        ("PATCH", "/network-interfaces/a", json!({"iface_id": "a"})),
    ] {
        assert_eq!(http.refused(method, path, &body.to_string()), early, "{method} {path}");
    }
    let start_request = json!({"action_type": "InstanceStart"}).to_string();
    assert!(http.refused("PUT", "/actions", &start_request).contains("without kernel configuration"));
    configure(&vm, &mut http);
    start(&mut http);
    for (path, body) in [
        ("/boot-source", boot_source(&vm)),
        ("/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 32})),
        ("/drives/a", json!({"drive_id": "a", "path_on_host": vm.path("kernel")})),
        ("/network-interfaces/a", json!({"iface_id": "a", "host_dev_name": "t"})),
        ("/vsock", json!({"guest_cid": 3, "uds_path": vm.path("v")})),
        ("/entropy", json!({})),
        ("/actions", json!({"action_type": "InstanceStart"})),
    ] {
        assert_eq!(http.refused("PUT", path, &body.to_string()), late, "{path}");
    }
}

#[test]
fn bad_http_is_refused_or_cut_off_and_harms_nobody() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_child, mut http) = spawn_api(&vm, &["--http-api-max-payload-size", "1000"]);
    let another = || Http::connect(&vm.path("api"));
    // As long as is allowed, and one byte more: announced, and in chunks that announce nothing.
    let fits = format!("\"{}\"", "x".repeat(998));
    assert_eq!(http.ask("PUT", "/mmds", &fits).status, 204);
    let mut long = another();
    let answer = long.ask("PUT", "/mmds", &format!("{fits} "));
    let too_long = "{ \"error\": \"Request payload with size 1001 is larger than the limit of 1000 allowed by server.\\n\
        All previous unanswered requests will be dropped.\" }";
    assert_eq!((answer.status, answer.body.as_str()), (400, too_long));
    assert!(long.answer().is_none());
    let mut chunked = another();
    chunked.send(b"PUT /mmds HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        chunked.send(format!("190\r\n{}\r\n", "x".repeat(400)).as_bytes());
    }
    assert!(chunked.answer().unwrap().error().contains("larger than the limit"));
    for rubbish in [
        b"\r\n\r\n\x00\xff\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 40_000]].concat(),
        b"PUT /mmds HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
    ] {
        let mut client = another();
        // The server may have closed before all of it is out.
        let _ = std::io::Write::write_all(client.0.get_mut(), &rubbish);
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(
            answer.error().ends_with("\nAll previous unanswered requests will be dropped."),
            "{answer:?}"
        );
        assert!(client.answer().is_none());
    }
    // Gone in the middle of a head, of a body, before the answer.
    for piece in ["GET / HT", "PUT /mmds HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", "GET / HTTP/1.1\r\n\r\n"] {
        another().send(piece.as_bytes());
    }
    // More connections than there are: one is told so, and when one ends there is room again.
    let mut silent: Vec<_> = (0..9).map(|_| another()).collect();
    assert_eq!(http.get("/")["state"], "Not started");
    let mut one_more = another();
    let answer = one_more.answer().unwrap();
    assert_eq!((answer.status, answer.error().as_str()), (503, "Too many open connections"));
    drop(silent.pop());
    assert_eq!(http.get("/")["state"], "Not started");
    another().get("/");
    // Two requests at once are answered in their order.
    http.send(b"GET /version HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert!(http.answer().unwrap().json()["firecracker_version"].is_string());
    assert!(http.answer().unwrap().json()["state"].is_string());
}

#[test]
fn a_start_that_fails_is_told_and_can_be_tried_again_as_long_as_nothing_was_made() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (mut child, mut http) = spawn_api(&vm, &[]);
    configure(&vm, &mut http);
    let start_request = json!({"action_type": "InstanceStart"}).to_string();
    std::fs::rename(vm.path("kernel"), vm.path("moved")).unwrap();
    let why = http.refused("PUT", "/actions", &start_request);
    assert!(why.starts_with("Start microvm error: could not open the kernel"), "{why}");
    // What only KVM can tell, or a file that has shrunk since it was named.
    std::fs::rename(vm.path("moved"), vm.path("kernel")).unwrap();
    let zeroes = format!("0b{}", "0".repeat(64));
    for (change, expected) in [
        (json!({"msr_modifiers": [{"addr": "0x12345678", "bitmap": zeroes}]}), "KVM refused MSR 0x12345678"),
        (
            json!({"cpuid_modifiers": [{"leaf": "0x7fffffff", "subleaf": "0x0", "flags": 0, "modifiers": []}]}),
            "leaf 0x7fffffff",
        ),
        (json!({"kvm_capabilities": ["4000000"]}), "capability 4000000"),
    ] {
        http.ok("PUT", "/cpu-config", &change);
        let why = http.refused("PUT", "/actions", &start_request);
        assert!(why.starts_with("Start microvm error: ") && why.contains(expected), "{why}");
    }
    http.ok("PUT", "/cpu-config", &json!({}));
    std::fs::write(vm.path("memory"), [0; 4096]).unwrap();
    std::fs::File::options().write(true).open(vm.path("memory")).unwrap().set_len(32 << 20).unwrap();
    let memory = |backing: Value| json!({"vcpu_count": 1, "mem_size_mib": 32, "memory_backing": backing});
    http.ok("PUT", "/machine-config", &memory(json!({"private_file": vm.path("memory")})));
    std::fs::write(vm.path("memory"), [0; 4096]).unwrap();
    let why = http.refused("PUT", "/actions", &start_request);
    assert!(why.contains("has 4096 bytes"), "{why}");
    http.ok("PUT", "/machine-config", &memory(json!("anonymous")));
    assert_eq!(http.get("/")["state"], "Not started");
    // A kernel that is none is found out when the process is confined already: it says why and ends.
    std::fs::write(vm.path("kernel"), "#!/bin/sh\n").unwrap();
    let why = http.refused("PUT", "/actions", &start_request);
    assert!(why.contains("not an ELF file"), "{why}");
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::BadConfig.code()));
    assert_eq!(vm.reason().0, ExitReason::BadConfig);
}

#[test]
fn the_metadata_document_lives_before_and_after_the_start() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    std::fs::write(vm.path("metadata"), r#"{"a": {"b": 1}}"#).unwrap();
    let metadata = vm.path("metadata");
    let (_child, mut http) =
        spawn_api(&vm, &["--metadata", metadata.to_str().unwrap(), "--mmds-size-limit", "40"]);
    assert_eq!(http.get("/mmds"), json!({"a": {"b": 1}}));
    http.ok("PATCH", "/mmds", &json!({"a": {"b": null, "c": 2}}));
    assert_eq!(http.ask("PUT", "/mmds", &json!("x".repeat(40)).to_string()).status, 413);
    configure(&vm, &mut http);
    start(&mut http);
    assert_eq!(http.get("/mmds"), json!({"a": {"c": 2}}));
    http.ok("PUT", "/mmds", &json!({"d": 3}));
    assert_eq!(http.get("/mmds"), json!({"d": 3}));
}

#[test]
fn documents_of_any_shape_and_size_come_and_go_and_the_end_is_recorded() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    let (mut child, mut http) = spawn_api(&vm, &[]);
    configure(&vm, &mut http);
    let zeroes = |count: usize| format!("[{}]", vec!["0"; count].join(","));
    let cpus = format!("{{{}\"cpuid_modifiers\":[]}}", " ".repeat(46_000));
    for _ in 0..5 {
        assert_eq!(http.ask("PUT", "/cpu-config", &cpus).status, 204);
    }
    start(&mut http);
    assert_eq!(http.ask("PUT", "/mmds", &zeroes(25_001)).status, 204);
    for count in (3_000..6_000).step_by(100).chain([25_001, 1, 25_001]) {
        assert_eq!(http.ask("PUT", "/mmds", &zeroes(count)).status, 204, "{count}");
    }
    // More connections than there may be, and a document that is there at the end.
    let crowd: Vec<_> = (0..12).map(|_| Http::connect(&vm.path("api"))).collect();
    drop(crowd);
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    assert_eq!(vm.reason(), (ExitReason::Stopped, "by request".into()));
}

#[test]
fn a_drive_gets_another_file_while_the_vm_runs() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    for name in ["one", "two"] {
        std::fs::write(vm.path(name), [0; 4096]).unwrap();
    }
    let (_child, mut http) = spawn_api(&vm, &[]);
    configure(&vm, &mut http);
    http.ok("PUT", "/drives/a", &json!({"drive_id": "a", "is_removable": true}));
    http.ok("PUT", "/drives/c", &json!({"drive_id": "c", "concat": [vm.path("one"), vm.path("two")]}));
    start(&mut http);
    for name in ["one", "two"] {
        http.ok("PATCH", "/drives/a", &json!({"drive_id": "a", "path_on_host": vm.path(name)}));
    }
    let limits = json!({"bandwidth": {"size": 1000, "refill_time": 100}, "ops": {"size": 10, "one_time_burst": 5, "refill_time": 1}});
    http.ok("PATCH", "/drives/a", &json!({"drive_id": "a", "rate_limiter": limits}));
    let wrong = json!({"drive_id": "a", "rate_limiter": {"ops": {"size": 1}}}).to_string();
    assert!(http.refused("PATCH", "/drives/a", &wrong).contains("missing field `refill_time`"));
    let stranger = json!({"iface_id": "e", "rx_rate_limiter": limits}).to_string();
    assert!(http.refused("PATCH", "/network-interfaces/e", &stranger).contains("no interface \"e\""));
    let patch = |id: &str, path| json!({"drive_id": id, "path_on_host": path}).to_string();
    assert!(http.refused("PATCH", "/drives/a", &patch("a", vm.path("none"))).contains("No such file"));
    assert!(http.refused("PATCH", "/drives/b", &patch("b", vm.path("one"))).contains("no drive \"b\""));
    let nothing = json!({"drive_id": "a"}).to_string();
    assert!(http.refused("PATCH", "/drives/a", &nothing).contains("nothing to change"));
    // Of several files, and only for reading: it may have several others, or one that can't be written.
    http.ok("PATCH", "/drives/c", &json!({"drive_id": "c", "concat": [vm.path("two")]}));
    assert_eq!(http.get("/vm/config")["drives"][1]["concat"], json!([vm.path("two")]));
    std::fs::set_permissions(vm.path("one"), std::fs::Permissions::from_mode(0o444)).unwrap();
    http.ok("PATCH", "/drives/c", &json!({"drive_id": "c", "path_on_host": vm.path("one")}));
    http.ok("PATCH", "/drives/c", &json!({"drive_id": "c", "concat": [vm.path("one"), vm.path("two")]}));
    let both =
        json!({"drive_id": "c", "concat": [vm.path("one")], "path_on_host": vm.path("two")}).to_string();
    assert!(http.refused("PATCH", "/drives/c", &both).contains("exactly one of"));
    let several = json!({"drive_id": "a", "concat": [vm.path("one"), vm.path("two")]}).to_string();
    assert!(http.refused("PATCH", "/drives/a", &several).contains("may be written to"));
    let many = json!({"drive_id": "c", "concat": vec![vm.path("one"); 241]}).to_string();
    assert!(http.refused("PATCH", "/drives/c", &many).contains("240"));
}

#[test]
fn a_configuration_file_starts_at_once_and_the_api_serves_what_runs() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
    let config = vm.path("config");
    let (mut child, mut http) = spawn_api(&vm, &["--config-file", config.to_str().unwrap()]);
    assert_eq!(http.get("/")["state"], "Running");
    assert_eq!(http.get("/vm/config")["vial"]["profile"], "api");
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn all_devices_are_on_a_pci_bus_if_the_command_line_says_so() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    let (_child, mut http) = spawn_api(&vm, &["--enable-pci"]);
    configure(&vm, &mut http);
    assert_eq!(http.get("/vm/config")["vial"]["transport"], "pci");
    start(&mut http);
    let (_child, mut http) = {
        std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
        let config = vm.path("config");
        std::fs::remove_file(vm.path("api")).unwrap();
        spawn_api(&vm, &["--enable-pci", "--config-file", config.to_str().unwrap()])
    };
    assert_eq!(http.get("/vm/config")["vial"]["transport"], "pci");
}

#[test]
fn the_end_of_the_guest_is_the_end_of_the_api() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(&out(0x600, 0x34));
    let (mut child, mut http) = spawn_api(&vm, &[]);
    configure(&vm, &mut http);
    start(&mut http);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(http.answer().is_none());
    assert_eq!(vm.reason().0, ExitReason::GuestShutdown);
}

#[test]
fn the_apis_threads_are_confined() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    let (child, mut http) = spawn_api(&vm, &[]);
    let modes = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.0.id())).unwrap();
        let mut modes: Vec<(String, String)> = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
            .map(|status| {
                let field =
                    |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
                (field("Name:"), field("Seccomp:"))
            })
            .filter(|(name, _)| name != "loader" && !name.starts_with("kvm-"))
            .collect();
        modes.sort();
        modes
    };
    let list = |modes: &[(&str, &str)]| -> Vec<(String, String)> {
        modes.iter().map(|(name, mode)| ((*name).to_owned(), (*mode).to_owned())).collect()
    };
    http.get("/");
    assert_eq!(modes(), list(&[("api", "2"), ("vial-vmm", "0")]));
    configure(&vm, &mut http);
    start(&mut http);
    assert_eq!(modes(), list(&[("api", "2"), ("vcpu0", "2"), ("vcpu1", "2"), ("vial-vmm", "2")]));
}
