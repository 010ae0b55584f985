//! Disks behind a vhost-user back end, in the pod profile and under its filters: the real process, a back end of the tests' own in this
//! one, and a driver of a few hundred bytes.

// Of its sins the unit tests commit more.
#[allow(dead_code)]
#[path = "../../src/virtio/vhost_user/test_back_end.rs"]
mod test_back_end;

use crate::breaking::code::Code;
use crate::breaking::driver::{Bus, CONFIG, DATA, DISK, RING, STATUS};
use crate::client::{Client, spawn_listening};
use crate::common::{HANG, Process, Vm, inherit, kvm, until};
use crate::http::{Http, spawn_api, spawn_api_to};
use crate::plug::{EJECT, LEAVING, out_word, until_in};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread::JoinHandle;
use test_back_end::{BackEnd, Manners, Sin};
use vmm::api::status::{ExitReason, Record};

/// A driver's status bits and DEVICE_NEEDS_RESET.
const BROKEN: u32 = 0x4f;

/// A pod with one drive, whose back end has `manners`; its end of the connection, and its thread.
fn start(code: &mut Code, manners: &Manners) -> (Vm, Process, Client, UnixStream, JoinHandle<()>) {
    let (front, back) = UnixStream::pair().unwrap();
    let hand = back.try_clone().unwrap();
    let manners = manners.clone();
    let thread = std::thread::spawn(move || BackEnd::new(back, manners).run());
    let mut vm = Vm::new(code.hang().bytes());
    let kernel = File::open(vm.path("kernel")).unwrap();
    let status = OpenOptions::new().append(true).create(true).open(vm.path("status")).unwrap();
    vm.config["boot-source"]["kernel_image_path"] = json!({"fd": inherit(&kernel)});
    vm.config["vial"] = json!({"profile": "pod", "status": {"fd": inherit(&status)}});
    vm.config["drives"] = json!([{"drive_id": "disk", "socket": {"fd": inherit(&front)}}]);
    let (process, client) = spawn_listening(&mut vm);
    (vm, process, client, hand, thread)
}

fn lost(vm: &Vm) -> Vec<(String, String)> {
    let lost = |record| match record {
        Record::DeviceLost { device, detail, .. } => Some((device, detail)),
        _ => None,
    };
    vm.records().into_iter().filter_map(lost).collect()
}

#[test]
fn a_guest_reads_resets_and_reads_again() {
    if !kvm() {
        return;
    }
    let manners = Manners::good(8);
    manners.disk.lock().unwrap()[512..1024].fill(0x5a);
    let mut code = Code::default();
    code.raw(&until(DISK + CONFIG, 8));
    // The second time around the driver takes the rings back from the back end, in a vCPU's thread.
    for _ in 0..2 {
        code.w8(DATA + 0x1000, 0)
            .set_up(DISK, 0, RING)
            .read_request(RING, 1)
            .offer(RING, 0, 0, 1)
            .kick(DISK, 0);
        code.wait(RING.used_index(), 1).expect(DATA + 0x2000, 0).expect(DATA + 0x1000, 0x5a);
    }
    code.w32(DISK + STATUS, 0).power_off();
    let (vm, mut process, _client, _hand, thread) = start(&mut code, &manners);
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    assert_eq!(vm.reason().0, ExitReason::GuestShutdown);
    assert!(lost(&vm).is_empty());
    // The front end has gone, and with it what the back end lives for.
    thread.join().unwrap();
}

#[test]
fn a_pause_takes_the_rings_back_and_a_resume_gives_them() {
    if !kvm() {
        return;
    }
    let manners = Manners::good(8);
    let mut code = Code::default();
    code.set_up(DISK, 0, RING).read_request(RING, 1);
    for count in 1..200 {
        code.offer(RING, (count - 1) % 8, 0, count).kick(DISK, 0).wait(RING.used_index(), count);
    }
    let (vm, mut process, mut client, _hand, _thread) = start(code.power_off(), &manners);
    while client.ask_while_it_lives("pause").and_then(|_| client.ask_while_it_lives("resume")).is_some() {}
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    assert!(lost(&vm).is_empty());
}

#[test]
fn a_back_end_that_makes_events_wait_holds_up_nothing() {
    if !kvm() {
        return;
    }
    // Calls, then kicks.
    for request in [13, 12] {
        let mut code = Code::default();
        for _ in 0..2 {
            code.set_up(DISK, 0, RING).read_request(RING, 1).offer(RING, 0, 0, 1).kick(DISK, 0);
            code.wait(RING.used_index(), 1).w32(DISK + STATUS, 0);
        }
        code.set_up(DISK, 0, RING).hang();
        let (vm, mut process, mut client, _hand, _thread) =
            start(&mut code, &Manners::bad(request, Sin::Wait));
        for action in ["pause", "resume", "pause", "resume", "stop"] {
            assert_eq!(client.ask(action)["error"], serde_json::Value::Null, "{action}");
        }
        process.0.wait().unwrap();
        assert_eq!(vm.reason().0, ExitReason::Stopped);
        assert!(lost(&vm).is_empty());
    }
}

#[test]
fn a_back_end_that_goes_costs_the_device_and_not_the_vm() {
    if !kvm() {
        return;
    }
    let mut code = Code::default();
    // Until the device asks for a reset (bit 6 of its status); then it gets one, and is broken still.
    code.set_up(DISK, 0, RING).raw(&until(DISK + STATUS, BROKEN));
    code.w32(DISK + STATUS, 0).set_up(DISK, 0, RING).raw(&until(DISK + STATUS, BROKEN)).power_off();
    let (vm, mut process, mut client, hand, thread) = start(&mut code, &Manners::good(8));
    assert_eq!(client.ask("info")["state"], "running");
    hand.shutdown(std::net::Shutdown::Both).unwrap();
    thread.join().unwrap();
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    assert_eq!(vm.reason().0, ExitReason::GuestShutdown);
    assert_eq!(lost(&vm), [("block disk".to_owned(), "its back end is gone".to_owned())]);
}

#[test]
fn a_back_end_that_lies_at_a_reset_is_hung_up_on() {
    if !kvm() {
        return;
    }
    let mut code = Code::default();
    // With an answer the driver knows that the back end has the rings.
    code.set_up(DISK, 0, RING).read_request(RING, 1).offer(RING, 0, 0, 1).kick(DISK, 0);
    code.wait(RING.used_index(), 1).w32(DISK + STATUS, 0);
    code.set_up(DISK, 0, RING).raw(&until(DISK + STATUS, BROKEN)).power_off();
    let (vm, mut process, _client, _hand, thread) = start(&mut code, &Manners::bad(11, Sin::Stray));
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    thread.join().unwrap();
    let [(_, detail)] = &lost(&vm)[..] else { panic!("{:?}", vm.records()) };
    assert!(detail.contains("something else"), "{detail}");
}

#[test]
fn what_can_not_be_is_said_before_the_guest_runs() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let end = |vm: &Vm, says: &str| {
        assert_eq!(vm.end(), ExitReason::BadConfig);
        assert!(vm.reason().1.contains(says), "{}", vm.reason().1);
    };
    let socket = vm.path("socket");
    vm.config["drives"] = json!([{"drive_id": "d", "socket": socket}]);
    end(&vm, "is it running?");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = |manners: Manners| {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || BackEnd::new(listener.accept().unwrap().0, manners).run())
    };
    let back_end = serve(Manners { features: 0, ..Manners::good(8) });
    end(&vm, "protocol features");
    back_end.join().unwrap();
    let back_end = serve(Manners { queues: 1, ..Manners::good(8) });
    vm.config["file-systems"] = json!([]);
    vm.config["drives"][0]["num_queues"] = json!(3);
    end(&vm, "serves 1");
    back_end.join().unwrap();
    let memory = vm.path("memory");
    File::create(&memory).unwrap().set_len(32 << 20).unwrap();
    vm.config["machine-config"]["memory_backing"] = json!({"private_file": memory});
    end(&vm, "\"shared\"");
}

#[test]
fn clients_of_the_api_name_sockets() {
    if !kvm() {
        return;
    }
    let manners = Manners::good(8);
    let mut code = Code::default();
    // The driver sees the disk grow.
    code.set_up(DISK, 0, RING).raw(&until(DISK + CONFIG, 16)).power_off();
    let vm = Vm::new(code.bytes());
    let (mut process, mut api) = spawn_api(&vm, &[]);
    let listener = UnixListener::bind(vm.path("disk")).unwrap();
    let (back, disk) = (manners.clone(), manners.disk.clone());
    std::thread::spawn(move || BackEnd::new(listener.accept().unwrap().0, back).run());
    let fs = UnixListener::bind(vm.path("fs")).unwrap();
    std::thread::spawn(move || BackEnd::new(fs.accept().unwrap().0, Manners::good(0)).run());

    api.ok("PUT", "/boot-source", &json!({"kernel_image_path": vm.path("kernel")}));
    let fault =
        |api: &mut Http, path: &str, body: serde_json::Value| api.refused("PUT", path, &body.to_string());
    let nowhere = json!({"drive_id": "d", "is_root_device": false, "socket": vm.path("nowhere")});
    assert!(fault(&mut api, "/drives/d", nowhere).contains("is it running?"));
    let no_socket = json!({"tag": "t", "socket": vm.path("kernel")});
    assert!(fault(&mut api, "/vial/file-systems/t", no_socket).contains("could not connect"));
    api.ok("PUT", "/drives/d", &json!({"drive_id": "d", "is_root_device": false, "socket": vm.path("disk")}));
    api.ok("PUT", "/vial/file-systems/t", &json!({"tag": "t", "socket": vm.path("fs")}));
    api.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    let devices = api.get("/vial/devices");
    assert_eq!((&devices[0]["name"], &devices[1]["name"]), (&json!("block d"), &json!("fs t")));
    let refused = api.refused("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"/x"}"#);
    assert!(refused.contains("its vhost-user back end's"), "{refused}");
    disk.lock().unwrap().resize(16 * 512, 0);
    api.ok("PATCH", "/drives/d", &json!({"drive_id": "d"}));
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_that_is_refused_has_not_connected_to_a_back_end() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_process, mut api) = spawn_api(&vm, &[]);
    let listener = UnixListener::bind(vm.path("disk")).unwrap();
    listener.set_nonblocking(true).unwrap();
    api.ok("PUT", "/boot-source", &json!({"kernel_image_path": vm.path("kernel")}));
    api.ok("PUT", "/drives/d", &json!({"drive_id": "d", "is_root_device": false, "socket": vm.path("disk")}));
    let start = json!({"action_type": "InstanceStart"}).to_string();
    for (what, path, body) in [
        ("vsock", "/vsock", json!({"guest_cid": 3, "uds_path": vm.path("none/v")})),
        ("status", "/vial", json!({"status": vm.path("none/status")})),
    ] {
        api.ok("PUT", path, &body);
        let why = api.refused("PUT", "/actions", &start);
        assert!(why.contains("No such file"), "{what}: {why}");
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{what}");
        api.ok("PUT", "/vsock", &json!({"guest_cid": 3, "uds_path": vm.path("vsock")}));
    }
    api.ok("PUT", "/vial", &json!({}));
    listener.set_nonblocking(false).unwrap();
    std::thread::spawn(move || BackEnd::new(listener.accept().unwrap().0, Manners::good(8)).run());
    api.ok("PUT", "/actions", &serde_json::from_str(&start).unwrap());
}

#[test]
fn a_drive_that_the_guest_lets_go_of_is_not_changed_any_more() {
    if !kvm() {
        return;
    }
    let mut code = Code::on(Bus::Pci);
    code.set_up(DISK, 0, RING).read_request(RING, 1).offer(RING, 0, 0, 1).kick(DISK, 0);
    // Says when it has set up what it has to.
    code.wait(RING.used_index(), 1).out(0x3f8, b'!');
    code.raw(&until_in(LEAVING, 1 << 1)).raw(&out_word(EJECT, 1 << 1)).hang();
    let vm = Vm::new(code.bytes());
    let (mut process, mut api) = spawn_api_to(&vm, &["--enable-pci"], Stdio::piped());
    let listener = UnixListener::bind(vm.path("disk")).unwrap();
    let thread = std::thread::spawn(move || {
        let back = listener.accept().unwrap().0;
        let hand = back.try_clone().unwrap();
        (hand, std::thread::spawn(|| BackEnd::new(back, Manners::bad(11, Sin::Mute)).run()))
    });
    api.ok("PUT", "/vial", &json!({"status": vm.path("status")}));
    api.ok("PUT", "/serial", &json!({}));
    api.ok("PUT", "/boot-source", &json!({"kernel_image_path": vm.path("kernel")}));
    api.ok("PUT", "/drives/d", &json!({"drive_id": "d", "is_root_device": false, "socket": vm.path("disk")}));
    api.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    let (hand, back_end) = thread.join().unwrap();
    process.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mut other = Http::connect(&vm.path("api"));
    other.send(b"DELETE /drives/d HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // Until a vCPU waits for the back end to give its rings back.
    while api.get("/vial/devices")[0]["state"] != "busy" {}
    let why = api.refused("PATCH", "/drives/d", r#"{"drive_id":"d"}"#);
    assert!(why.contains("drive \"d\" is being unplugged"), "{why}");
    assert!(lost(&vm).is_empty());
    hand.shutdown(std::net::Shutdown::Both).unwrap();
    back_end.join().unwrap();
    assert_eq!(other.answer().unwrap().status, 204);
    api.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    process.0.wait().unwrap();
}

#[test]
fn neither_a_list_nor_a_resume_waits_for_a_reset() {
    if !kvm() {
        return;
    }
    let mut code = Code::default();
    code.set_up(DISK, 0, RING).read_request(RING, 1).offer(RING, 0, 0, 1).kick(DISK, 0);
    code.wait(RING.used_index(), 1).w32(DISK + STATUS, 0).hang();
    let vm = Vm::new(code.bytes());
    let (mut process, mut api) = spawn_api(&vm, &[]);
    let listener = UnixListener::bind(vm.path("disk")).unwrap();
    let thread = std::thread::spawn(move || {
        let back = listener.accept().unwrap().0;
        let hand = back.try_clone().unwrap();
        (hand, std::thread::spawn(|| BackEnd::new(back, Manners::bad(11, Sin::Mute)).run()))
    });
    api.ok("PUT", "/vial", &json!({"status": vm.path("status")}));
    api.ok("PUT", "/boot-source", &json!({"kernel_image_path": vm.path("kernel")}));
    api.ok("PUT", "/drives/d", &json!({"drive_id": "d", "is_root_device": false, "socket": vm.path("disk")}));
    api.ok("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    let (hand, back_end) = thread.join().unwrap();
    // The guest's registers are busy too, but for no longer than an exit takes; a reset is for seconds.
    let mut busy = 0;
    while busy < 3 {
        let device = &api.get("/vial/devices")[0];
        assert_eq!(device["name"], "block d");
        assert!(lost(&vm).is_empty());
        busy = if device["state"] == "busy" { busy + 1 } else { 0 };
    }
    api.ok("PATCH", "/vm", &json!({"state": "Resumed"}));
    assert!(lost(&vm).is_empty());
    hand.shutdown(std::net::Shutdown::Both).unwrap();
    back_end.join().unwrap();
    api.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    process.0.wait().unwrap();
    assert_eq!(lost(&vm), [("block d".to_owned(), "its back end is gone".to_owned())]);
}
