//! What firecracker-go-sdk asks of a VMM, in its order, with its bodies and in the form in which it sends them.
//!
//! Transcribed from its sources (`machine.go`, `handlers.go`, `client/models`) and not recorded, as what `recorded` replays is: it could not
//! be had where this was written. What it adds are bodies in chunks, since its HTTP client streams them, and another order: a `Machine`
//! with a log, metrics, two drives, an interface and a socket device asks in the order of `defaultFcInitHandlerList`; afterwards come the
//! calls of its methods. It keeps one connection.

use crate::common::{SPIN, Vm, kvm};
use crate::http::{Answer, Http, spawn_api};
use crate::tap::Tap;
use serde_json::{Value, json};
use vmm::api::status::ExitReason;

fn ask(http: &mut Http, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\nAccept: application/json\r\n\
         Accept-Encoding: gzip\r\n"
    );
    match body {
        Some(body) => {
            // Its encoder ends documents with a line end.
            let body = format!("{body}\n");
            request += "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n";
            request += &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        }
        None => request += "\r\n",
    }
    http.send(request.as_bytes());
    http.answer().unwrap()
}

#[test]
fn the_go_sdk_starts_changes_and_stops_a_vm() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(SPIN);
    for name in ["root", "data", "log"] {
        std::fs::write(vm.path(name), [0; 4096]).unwrap();
    }
    let (mut child, mut http) =
        spawn_api(&vm, &["--id", "7c0ff0ee-0000-4000-8000-000000000000", "--no-seccomp"]);
    let path = |name: &str| vm.path(name).to_str().unwrap().to_owned();
    // waitForSocket asks until it is answered.
    assert_eq!(ask(&mut http, "GET", "/machine-config", None).status, 200);
    // SAFETY: takes and writes nothing.
    let tap = unsafe { libc::geteuid() } == 0 && std::path::Path::new("/dev/net/tun").exists();
    let name = format!("sdk{}", std::process::id());
    let _there = tap.then(|| Tap::new(&name));
    let limiter = json!({"bandwidth": {"one_time_burst": 5, "refill_time": 100, "size": 1_000_000}});
    let configuration = [
        (
            true,
            "/logger",
            json!({"level": "Debug", "log_path": path("log"), "show_level": true, "show_log_origin": false}),
        ),
        (true, "/metrics", json!({"metrics_path": path("metrics")})),
        (
            true,
            "/machine-config",
            json!({"mem_size_mib": 64, "smt": false, "track_dirty_pages": false, "vcpu_count": 1}),
        ),
        (
            true,
            "/boot-source",
            json!({"boot_args": "console=ttyS0 reboot=k panic=1 pci=off", "kernel_image_path": path("kernel")}),
        ),
        (
            true,
            "/drives/root_drive",
            json!({"drive_id": "root_drive", "is_read_only": false, "is_root_device": true, "path_on_host": path("root")}),
        ),
        (
            true,
            "/drives/0",
            json!({"drive_id": "0", "is_read_only": true, "is_root_device": false, "path_on_host": path("data"), "rate_limiter": limiter}),
        ),
        (
            tap,
            "/network-interfaces/1",
            json!({"guest_mac": "02:00:00:00:00:01", "host_dev_name": name, "iface_id": "1", "rx_rate_limiter": limiter, "tx_rate_limiter": limiter}),
        ),
        (tap, "/mmds/config", json!({"network_interfaces": ["1"]})),
        (true, "/vsock", json!({"guest_cid": 3, "uds_path": path("vsock"), "vsock_id": "1"})),
    ];
    for (there, path, body) in &configuration {
        if *there {
            let answer = ask(&mut http, "PUT", path, Some(body));
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{path} {body}");
        }
        if *path == "/machine-config" {
            // refreshMachineConfiguration.
            let shown = ask(&mut http, "GET", path, None).json();
            assert_eq!(
                (&shown["vcpu_count"], &shown["mem_size_mib"], &shown["smt"]),
                (&json!(1), &json!(64), &json!(false))
            );
        }
    }
    let mut done = |method: &str, path: &str, body: Value| {
        let answer = ask(&mut http, method, path, Some(&body));
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{method} {path} {body}");
    };
    done("PUT", "/actions", json!({"action_type": "InstanceStart"}));
    done("PUT", "/mmds", json!({"latest": {"meta-data": {"ami-id": "ami-1"}}}));
    done("PATCH", "/mmds", json!({"latest": {"meta-data": {"hostname": "h"}}}));
    if tap {
        done("PATCH", "/network-interfaces/1", json!({"iface_id": "1", "rx_rate_limiter": limiter}));
    }
    done("PATCH", "/drives/0", json!({"drive_id": "0", "rate_limiter": limiter}));
    done("PATCH", "/vm", json!({"state": "Paused"}));
    done("PATCH", "/vm", json!({"state": "Resumed"}));
    done("PUT", "/actions", json!({"action_type": "FlushMetrics"}));
    // Shutdown.
    done("PUT", "/actions", json!({"action_type": "SendCtrlAltDel"}));
    let info = ask(&mut http, "GET", "/", None).json();
    for field in ["app_name", "id", "state", "vmm_version"] {
        assert!(info[field].is_string(), "{info}");
    }
    assert!(ask(&mut http, "GET", "/version", None).json()["firecracker_version"].is_string());
    assert_eq!(
        ask(&mut http, "GET", "/mmds", None).json()["latest"]["meta-data"],
        json!({"ami-id": "ami-1", "hostname": "h"})
    );
    let config = ask(&mut http, "GET", "/vm/config", None).json();
    assert_eq!(config["drives"][0]["drive_id"], "root_drive");
    // Its client takes what is refused from `fault_message`.
    let refused = ask(&mut http, "PUT", "/actions", Some(&json!({"action_type": "InstanceStart"})));
    assert_eq!((refused.status, refused.json()["fault_message"].is_string()), (400, true));
    // StopVMM sends SIGTERM.
    // SAFETY: a signal to a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.0.id().cast_signed(), libc::SIGTERM) }, 0);
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}
