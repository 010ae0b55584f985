//! Documents through the HTTP API: refused, changed, shown.

use crate::api::{boot_source, configure, start};
use crate::common::{HANG, SPIN, Vm, kvm};
use crate::http::spawn_api;
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn bad_documents_are_refused_and_change_nothing() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_child, mut http) = spawn_api(&vm, &[]);
    let before = http.get("/vm/config");
    let (pipe, folder) = (vm.path("pipe"), vm.path(""));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let none = vm.path("none");
    let (odd, empty) = (vm.path("odd"), vm.path("empty"));
    std::fs::write(&odd, [0; 1000]).unwrap();
    std::fs::write(&empty, []).unwrap();
    let drive = |path: &Value| json!({"drive_id": "a", "path_on_host": path});
    for (path, body, expected) in [
        ("/boot-source", json!({}), "missing field `kernel_image_path`"),
        ("/boot-source", json!([]), "deserializing"),
        ("/boot-source", json!({"kernel_image_path": 3}), "expected a path or {\"fd\": N}"),
        ("/vsock", json!({"guest_cid": 3, "uds_path": ""}), "vsock.uds_path is empty"),
        ("/vial", json!({"control": ""}), "vial.control is empty"),
        ("/boot-source", json!({"kernel_image_path": none}), "No such file"),
        ("/boot-source", json!({"kernel_image_path": folder}), "regular file"),
        ("/boot-source", json!({"kernel_image_path": pipe}), "regular file"),
        ("/boot-source", json!({"kernel_image_path": {"fd": 4}}), "can't be named through the API"),
        ("/boot-source", json!({"kernel_image_path": vm.path("kernel"), "initrd_path": none}), "the initrd"),
        (
            "/boot-source",
            json!({"kernel_image_path": vm.path("kernel"), "boot_args": "x".repeat(3000)}),
            "boot_args",
        ),
        ("/machine-config", json!({"vcpu_count": 0, "mem_size_mib": 64}), "give 1 to 32"),
        ("/machine-config", json!({"vcpu_count": 300, "mem_size_mib": 64}), "deserializing"),
        ("/machine-config", json!({"vcpu_count": -1, "mem_size_mib": 64}), "deserializing"),
        ("/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 1u64 << 60}), "mem_size_mib"),
        ("/machine-config", json!({"vcpu_count": 1}), "missing field `mem_size_mib`"),
        ("/drives/a", drive(&json!(none)), "No such file"),
        ("/drives/a", drive(&json!(pipe)), "regular file"),
        ("/drives/a", json!({"drive_id": "a", "concat": [none]}), "No such file"),
        ("/drives/a", json!({"drive_id": "b", "path_on_host": "/x"}), "does not match"),
        ("/drives/a", json!({"drive_id": "a", "path_on_host": "/x", "frob": 1}), "unknown field `frob`"),
        ("/network-interfaces/a", json!({"iface_id": "a", "host_dev_name": ""}), "TAP"),
        ("/network-interfaces/a", json!({"iface_id": "a", "host_dev_name": "vial-absent"}), "is it there"),
        ("/drives/a", json!({"drive_id": "a", "concat": [odd, odd]}), "drive \"a\" can't be used"),
        ("/pmem/a", json!({"id": "a", "path_on_host": empty}), "it is empty"),
        (
            "/machine-config",
            json!({"vcpu_count": 1, "mem_size_mib": 64, "memory_backing": {"private_file": odd}}),
            "has 1000 bytes",
        ),
        (
            "/boot-source",
            json!({"kernel_image_path": vm.path("kernel"), "boot_args": "a\nb"}),
            "printable ASCII",
        ),
        ("/network-interfaces/a", json!({"iface_id": "a", "host_dev_name": "a".repeat(99)}), "TAP"),
        ("/vsock", json!({"guest_cid": 1, "uds_path": "/x"}), "guest_cid"),
        (
            "/vsock",
            json!({"guest_cid": 3, "uds_path": "/x", "host_ports": [{"port": 1, "fd": 3}]}),
            "through the API",
        ),
        ("/vial", json!({"control": {"fd": 3}}), "through the API"),
        ("/mmds/config", json!({"network_interfaces": []}), "is empty"),
        ("/mmds/config", json!({"network_interfaces": ["none"]}), "does not correspond to any existing"),
        ("/mmds/config", json!({"network_interfaces": ["e"], "ipv4_address": "1.2.3.4"}), "not link local"),
        ("/entropy", json!({"frob": 1}), "unknown field"),
        ("/snapshot/create", json!({"snapshot_path": "/x", "mem_file_path": "/y"}), "no snapshots"),
        ("/nowhere", json!({}), "Invalid request method and/or path: PUT nowhere."),
    ] {
        let why = http.refused("PUT", path, &body.to_string());
        assert!(why.contains(expected), "{path} {body}: {why}");
    }
    assert_eq!(http.get("/vm/config"), before);
}

#[test]
fn the_configuration_shows_what_changed_while_the_vm_runs() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    for name in ["one", "two"] {
        std::fs::write(vm.path(name), [0; 4096]).unwrap();
    }
    let (_child, mut http) = spawn_api(&vm, &[]);
    configure(&vm, &mut http);
    let limiter = json!({"ops": {"size": 10, "refill_time": 1}});
    let drive = json!({"drive_id": "a", "path_on_host": vm.path("one"), "rate_limiter": limiter});
    http.ok("PUT", "/drives/a", &drive);
    http.ok("PUT", "/pmem/p", &json!({"id": "p", "path_on_host": vm.path("one")}));
    http.ok(
        "PUT",
        "/balloon",
        &json!({"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1}),
    );
    start(&mut http);
    let before = http.get("/vm/config");
    assert_eq!((&before["drives"][0]["partuuid"], &before["vsock"]), (&Value::Null, &Value::Null));
    let change =
        json!({"bandwidth": {"size": 1000, "refill_time": 100}, "ops": {"size": 0, "refill_time": 0}});
    http.ok(
        "PATCH",
        "/drives/a",
        &json!({"drive_id": "a", "path_on_host": vm.path("two"), "rate_limiter": change}),
    );
    http.ok("PATCH", "/pmem/p", &json!({"id": "p", "rate_limiter": change}));
    http.ok("PATCH", "/balloon", &json!({"amount_mib": 3}));
    http.ok("PATCH", "/balloon/statistics", &json!({"stats_polling_interval_s": 5}));
    let mut expected = before;
    let shown = json!({"bandwidth": {"size": 1000, "refill_time": 100, "one_time_burst": null}, "ops": null});
    expected["drives"][0]["path_on_host"] = json!(vm.path("two"));
    expected["drives"][0]["rate_limiter"] = shown.clone();
    expected["pmem"][0]["rate_limiter"] = shown;
    expected["balloon"]["amount_mib"] = 3.into();
    expected["balloon"]["stats_polling_interval_s"] = 5.into();
    assert_eq!(http.get("/vm/config"), expected);
}

#[test]
fn a_bus_that_is_full_is_told_with_the_device_that_has_no_place() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_child, mut http) = spawn_api(&vm, &["--enable-pci"]);
    let drive = |index: u32| json!({"drive_id": format!("d{index}"), "is_removable": true});
    for index in 0..31 {
        http.ok("PUT", &format!("/drives/d{index}"), &drive(index));
    }
    let why = http.refused("PUT", "/drives/d31", &drive(31).to_string());
    assert!(why.contains("32 devices are too many; this machine has room for 31"), "{why}");
    http.ok("PUT", "/boot-source", &boot_source(&vm));
    http.ok("PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    start(&mut http);
}

#[test]
fn deprecated_fields_are_told_in_a_header_and_nameless_vms_have_a_name() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_child, mut http) = spawn_api(&vm, &[]);
    assert_eq!(http.get("/")["id"], "anonymous-instance");
    let mut head = |id: Value| {
        let body = json!({"guest_cid": 3, "uds_path": vm.path("v"), "vsock_id": id}).to_string();
        http.send(format!("PUT /vsock HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            std::io::BufRead::read_line(&mut http.0, &mut head).unwrap();
        }
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
        head
    };
    assert!(head(json!("v")).to_ascii_lowercase().contains("\r\ndeprecation: true\r\n"));
    assert!(!head(Value::Null).to_ascii_lowercase().contains("deprecation"));
}
