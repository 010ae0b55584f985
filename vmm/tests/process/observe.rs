//! The log, the metrics and the boot timer of the real process.

use crate::breaking::{self, driver::Bus};
use crate::common::{HANG, Vm, inherit, kvm, out};
use crate::http::spawn_api;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Command;

/// `mov byte [0xc0000000], 123`.
const BOOTED: &[u8] = &[0xc6, 0x05, 0, 0, 0, 0xc0, 123];

fn lines(vm: &Vm, name: &str) -> Vec<String> {
    std::fs::read_to_string(vm.path(name)).unwrap().lines().map(str::to_owned).collect()
}

fn metrics(vm: &Vm) -> Vec<Value> {
    lines(vm, "metrics").iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn log_and_metrics_come_in_firecrackers_form() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(&[BOOTED, &out(0x80, 1), HANG].concat());
    let (mut child, mut http) =
        spawn_api(&vm, &["--id", "one", "--boot-timer", "--start-time-us", "1", "--start-time-cpu-us", "0"]);
    http.ok(
        "PUT",
        "/logger",
        &json!({"log_path": vm.path("log"), "level": "Info", "show_level": true, "show_log_origin": true}),
    );
    http.ok("PUT", "/metrics", &json!({"metrics_path": vm.path("metrics")}));
    let again = json!({"metrics_path": vm.path("metrics")}).to_string();
    assert!(http.refused("PUT", "/metrics", &again).contains("somewhere already"));
    assert!(
        http.refused("PUT", "/logger", &json!({"log_path": vm.path("none/log")}).to_string())
            .contains("No such file")
    );
    assert!(http.refused("PUT", "/logger", &json!({"level": "Loud"}).to_string()).contains("not a level"));
    http.ok("PUT", "/mmds", &json!({"secret": "tell nobody"}));
    http.refused("PUT", "//mmds", &json!({"secret": "tell nobody"}).to_string());
    http.ok("PUT", "/boot-source", &json!({"kernel_image_path": vm.path("kernel")}));
    http.ok("PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    http.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    // The guest may not have come to its port yet: a pause makes progress and not just time pass.
    loop {
        http.ok("PATCH", "/vm", &json!({"state": "Paused"}));
        http.ok("PATCH", "/vm", &json!({"state": "Resumed"}));
        http.ok("PUT", "/actions", &json!({"action_type": "FlushMetrics"}));
        let seen: u64 = metrics(&vm).iter().map(|line| line["vcpu"]["exit_io_out"].as_u64().unwrap()).sum();
        if seen == 1 {
            break;
        }
    }
    let text = http.ask("GET", "/vial/metrics", "");
    assert!(text.body.contains("vial_latencies_us_pause_vm "), "{}", text.body);
    assert!(text.body.contains("vial_vcpu_exit_io_out_total 1\n"), "{}", text.body);
    assert!(text.body.contains("vial_put_api_requests_metrics_fails_total 1\n"), "{}", text.body);
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    child.0.wait().unwrap();
    let first = &metrics(&vm)[0];
    assert!(first["utc_timestamp_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(first["put_api_requests"]["metrics_count"], 2);
    assert!(first["api_server"]["process_startup_time_us"].as_u64().unwrap() > 0);
    let log = lines(&vm, "log");
    let line = log.iter().find(|line| line.contains("Guest-boot-time = ")).unwrap();
    assert!(line.contains(" [one:vcpu0:INFO:") && line.contains("CPU ms"), "{line}");
    let request = log.iter().find(|line| line.contains("PUT request on \"/boot-source\" with body")).unwrap();
    assert!(request.contains("[one:api:INFO:vmm/src/http/mod.rs:"), "{request}");
    assert!(log.iter().any(|line| line.contains("ERROR") && line.contains("somewhere already")));
    assert!(log.iter().all(|line| !line.contains("tell nobody")));
    assert!(log.last().unwrap().contains("The VM has ended: Stopped"));
}

#[test]
fn devices_count_what_they_do_on_either_bus() {
    if !kvm() {
        return;
    }
    for bus in [Bus::Mmio, Bus::Pci] {
        let mut vm = breaking::vm(bus, |code| {
            code.out(0x64, 0xd1).input(0x64).prove_life();
        });
        vm.config["metrics"] = json!({"metrics_path": vm.path("metrics")});
        assert_eq!(vm.end(), vmm::api::status::ExitReason::GuestShutdown);
        let line = &metrics(&vm)[0];
        assert_eq!(
            (&line["entropy"]["entropy_event_count"], &line["entropy"]["entropy_bytes"]),
            (&json!(1), &json!(16))
        );
        assert_eq!(
            line["i8042"],
            json!({"read_count": 1, "write_count": 0, "reset_count": 0, "missed_write_count": 1})
        );
        // A read of the disk and a request for entropy.
        assert_eq!(line["interrupts"]["triggers"], 2, "{bus:?}");
        assert_eq!(line["interrupts"]["config_updates"].as_u64().unwrap() > 0, bus == Bus::Pci);
        assert_eq!(line["signals"], json!({"sighup": 0}));
        assert_eq!(line["vsock"]["conns_added"], 0);
        assert!(line["block"]["queue_event_count"].as_u64() > Some(0));
        // What is not there has no figures.
        assert_eq!((&line["mmds"], &line["balloon"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn memory_and_balloon_have_their_groups() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&out(0x600, 0x34));
    vm.config["metrics"] = json!({"metrics_path": vm.path("metrics")});
    vm.config["memory-hotplug"] = json!({"total_size_mib": 1024});
    vm.config["balloon"] = json!({"amount_mib": 0, "deflate_on_oom": false});
    assert_eq!(vm.end(), vmm::api::status::ExitReason::GuestShutdown);
    let line = &metrics(&vm)[0];
    for (group, name) in [("balloon", "inflate_count"), ("memory_hotplug", "plug_count")] {
        assert_eq!(line[group][name], 0, "{group}.{name}");
    }
}

#[test]
fn a_configuration_without_an_api_logs_and_measures_too() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(&out(0x600, 0x34));
    vm.config["logger"] = json!({"log_path": vm.path("log"), "level": "Debug", "module": "vmm::process"});
    vm.config["metrics"] = json!({"metrics_path": vm.path("metrics")});
    assert_eq!(vm.end(), vmm::api::status::ExitReason::GuestShutdown);
    assert_eq!(metrics(&vm).len(), 1);
    assert!(lines(&vm, "log").last().unwrap().contains("The VM has ended: GuestShutdown"));
}

#[test]
fn named_pipes_are_written_to_without_a_reader_and_with_one() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(&out(0x600, 0x34));
    for name in ["log", "metrics"] {
        assert!(Command::new("mkfifo").arg(vm.path(name)).status().unwrap().success());
    }
    let path = |name: &str| vm.path(name).to_str().unwrap().to_owned();
    let arguments = ["--log-path".to_owned(), path("log"), "--metrics-path".to_owned(), path("metrics")];
    assert_eq!(vm.run_with(&arguments).status.code(), Some(0));
    // Opened for writing too, so that the open does not wait for a writer; what the process has written is kept until then.
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(vm.path("log")).unwrap();
    inherit(&reader);
    assert_eq!(vm.run_with(&arguments).status.code(), Some(0));
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert!(line.contains("[anonymous-instance:main] Running vial-vmm v"), "{line}");
}

#[test]
fn a_guest_can_not_flood_the_log() {
    if !kvm() {
        return;
    }
    // `mov ecx, 5000`, the write, `loop` back to it.
    let code = [&[0xb9, 0x88, 0x13, 0, 0][..], BOOTED, &[0xe2, 0xf7], &out(0x600, 0x34)].concat();
    let vm = Vm::new(&code);
    let log = vm.path("log").to_str().unwrap().to_owned();
    let output = vm.run_with(&["--boot-timer".into(), "--log-path".into(), log]);
    assert_eq!(output.status.code(), Some(0));
    let count = lines(&vm, "log").iter().filter(|line| line.contains("Guest-boot-time")).count();
    // Ten at once; a second may have passed on a slow machine.
    assert!((10..100).contains(&count), "{count} lines");
}
