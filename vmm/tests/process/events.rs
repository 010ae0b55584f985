//! Devices that come and go through the HTTP API, and the stream of events that tells of it.

use crate::common::{HANG, Vm, kvm, until};
use crate::http::{Http, spawn_api};
use crate::plug::{ARRIVED, BLOCK, EJECT, LEAVING, SECOND, out_word, until_in};
use serde_json::{Value, json};
use std::io::{BufRead, Read};
use vmm::api::status::ExitReason;

/// A client of the event stream.
struct Events(Http);

impl Events {
    fn open(vm: &Vm) -> Self {
        let mut http = Http::connect(&vm.path("api"));
        http.send(b"GET /vial/events HTTP/1.1\r\n\r\n");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(http.0.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        Self(http)
    }

    /// The lines of the next chunk; none is the end.
    fn next(&mut self) -> Vec<Value> {
        let mut size = String::new();
        self.0.0.read_line(&mut size).unwrap();
        let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
        self.0.0.read_exact(&mut chunk).unwrap();
        let text = String::from_utf8(chunk).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What is told from now on until the chunk with the event of this name: the names.
    fn until(&mut self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        while !names.iter().any(|told| told == name) {
            let lines = self.next();
            assert!(!lines.is_empty(), "it ended without {name}: {names:?}");
            names.extend(lines.iter().map(|line| line["event"].as_str().unwrap().to_owned()));
        }
        names
    }
}

fn start(vm: &Vm, http: &mut Http) {
    http.ok("PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 32}));
    http.ok("PUT", "/boot-source", &json!({"kernel_image_path": vm.path("kernel")}));
    http.ok("PUT", "/drives/first", &json!({"drive_id": "first", "is_removable": true}));
    http.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
}

fn drive(vm: &Vm, id: &str) -> Value {
    json!({"drive_id": id, "path_on_host": vm.path("disk"), "is_root_device": false})
}

#[test]
fn devices_come_and_go_and_everyone_hears_of_it() {
    if !kvm() {
        return;
    }
    let once =
        [until_in(ARRIVED, 1 << 2), until(SECOND, BLOCK), until_in(LEAVING, 1 << 2), out_word(EJECT, 1 << 2)];
    let vm = Vm::new(&[&once.concat()[..], HANG].concat());
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    let (mut child, mut http) = spawn_api(&vm, &["--enable-pci"]);
    let mut events = Events::open(&vm);
    assert!(http.refused("DELETE", "/drives/first", "").contains("before starting"));
    start(&vm, &mut http);
    http.ok("PUT", "/drives/second", &drive(&vm, "second"));
    assert_eq!(http.get("/vm/config")["drives"][1]["drive_id"], "second");
    assert_eq!(http.get("/vial/devices").as_array().unwrap().len(), 2);
    assert!(http.refused("PUT", "/drives/second", &drive(&vm, "second").to_string()).contains("already"));
    assert_eq!(http.ask("DELETE", "/drives/second", "").status, 204);
    assert_eq!(http.get("/vm/config")["drives"][1], Value::Null);
    assert!(http.refused("DELETE", "/drives/second", "").contains("no drive"));
    // Files and descriptors that can't be.
    let none = json!({"drive_id": "second", "path_on_host": vm.path("none")});
    assert!(http.refused("PUT", "/drives/second", &none.to_string()).contains("No such file"));
    let descriptor = json!({"drive_id": "second", "path_on_host": {"fd": 5}});
    assert!(http.refused("PUT", "/drives/second", &descriptor.to_string()).contains("through the API"));
    let links = crate::tap::Links::watch();
    let tap = json!({"iface_id": "eth9", "host_dev_name": "no-such-tap"});
    assert!(http.refused("PUT", "/network-interfaces/eth9", &tap.to_string()).contains("TAP"));
    assert!(!links.saw("no-such-tap"), "it was made for a moment");
    // One that never lets go keeps nobody else waiting, and a client that is gone is no harm.
    http.ok("PUT", "/pmem/p", &json!({"id": "p", "path_on_host": vm.path("disk")}));
    let limit = json!({"id": "p", "rate_limiter": {"ops": {"size": 1, "refill_time": 1000}}});
    http.ok("PATCH", "/pmem/p", &limit);
    let mut other = Http::connect(&vm.path("api"));
    other.send(b"DELETE /pmem/p HTTP/1.1\r\n\r\n");
    while http.get("/vial/devices")[1]["asked_for"] != true {}
    drop(other);
    let mut other = Http::connect(&vm.path("api"));
    other.send(b"DELETE /pmem/p HTTP/1.1\r\n\r\n");
    http.ok("PATCH", "/vm", &json!({"state": "Paused"}));
    http.ok("PATCH", "/vm", &json!({"state": "Resumed"}));
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    assert_eq!(other.answer().unwrap().status, 500, "the VM has ended");
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    let milestone = "milestone";
    let told = ["plugged", "unplugged", "plugged", "paused", "resumed", "exit"];
    assert_eq!(events.until("exit"), [[milestone; 5].to_vec(), told.to_vec()].concat());
    assert_eq!(events.next(), Vec::<Value>::new());
}

#[test]
fn without_a_bus_nothing_comes_and_streams_are_few() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    let (mut child, mut http) = spawn_api(&vm, &[]);
    let mut streams: Vec<Events> = (0..4).map(|_| Events::open(&vm)).collect();
    assert_eq!(http.ask("GET", "/vial/events", "").status, 503);
    // Gone in the middle: there is room for another.
    streams.pop();
    while http.ask("GET", "/", "").status != 200 {}
    streams.push(Events::open(&vm));
    start(&vm, &mut http);
    let late = http.refused("PUT", "/drives/second", &drive(&vm, "second").to_string());
    assert!(late.contains("not supported after starting"), "{late}");
    assert!(http.refused("DELETE", "/drives/first", "").contains("--enable-pci"));
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    for mut stream in streams {
        stream.until("exit");
        assert!(stream.next().is_empty());
    }
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
}

#[test]
fn who_reads_nothing_until_the_end_is_told_what_he_missed_and_how_it_ended() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (mut child, mut http) = spawn_api(&vm, &[]);
    let (mut slow, mut late) = (Events::open(&vm), Events::open(&vm));
    start(&vm, &mut http);
    // More than the socket, the server and its memory of events hold.
    for _ in 0..1000 {
        http.ok("PATCH", "/vm", &json!({"state": "Paused"}));
        http.ok("PATCH", "/vm", &json!({"state": "Resumed"}));
    }
    // Who begins to read has the rest without anything new happening.
    late.until("missed");
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    // There may be several gaps: on a busy machine the first comes before the socket is full. Each is told once.
    let told_once = |names: &[String]| !names.windows(2).any(|two| two[0] == "missed" && two[1] == "missed");
    assert!(told_once(&late.until("exit")));
    assert!(late.next().is_empty());
    assert_eq!(child.0.wait().unwrap().code(), Some(ExitReason::Stopped.code()));
    let names = slow.until("exit");
    assert!(names.contains(&"missed".to_owned()) && told_once(&names), "{names:?}");
    assert!(slow.next().is_empty());
}
