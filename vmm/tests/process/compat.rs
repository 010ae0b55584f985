//! Asks the code what it takes of Firecracker's API and which of its figures it has, and compares the answers with the tables of
//! docs/firecracker-compat.md.

use crate::common::{HANG, Vm, kvm};
use crate::http::spawn_api;
use crate::tap::Tap;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use vmm::http::action::Action;
use vmm::http::{Draft, route::route};

const FACTS: &str = include_str!("firecracker-api.txt");
const BEGIN: &str =
    "<!-- the table begins: `VIAL_WRITE_DOCS=1 cargo test -p vmm --test process compat` writes it -->\n";
const END: &str = "<!-- the table ends -->\n";
const NAMES: &str = include_str!("firecracker-metrics.txt");
const NAMES_BEGIN: &str =
    "<!-- the names begin: `VIAL_WRITE_DOCS=1 cargo test -p vmm --test process compat` writes them -->\n";
const NAMES_END: &str = "<!-- the names end -->\n";

/// Whether a request is understood and, if it is a document, fits into a draft that has an interface already.
fn verdict(method: &str, path: &str, body: Option<&Value>) -> Result<(), String> {
    let text = body.map(Value::to_string).unwrap_or_default();
    match route(method, path, text.as_bytes()).map_err(|fault| fault.message)? {
        Action::Lacking(what) => Err(format!("not here: {what}")),
        Action::Configure(document) => {
            let mut draft = Draft::default();
            let net = br#"{"iface_id":"n","host_dev_name":"tap0"}"#;
            if let Ok(Action::Configure(first)) = route("PUT", "/network-interfaces/n", net) {
                draft.apply(*first).unwrap();
            }
            draft.apply(*document).map_err(|fault| fault.message)
        }
        _ => Ok(()),
    }
}

/// A reason short enough for a table.
fn reason(message: &str) -> String {
    let last = message.rsplit(" error: ").next().unwrap_or(message);
    let last = last.split("request: ").last().unwrap_or(last);
    let last = last.split(", expected").next().unwrap_or(last);
    last.split(" at line").next().unwrap_or(last).trim_end_matches('.').replace('|', "\\|")
}

fn table() -> String {
    let mut text = String::from("| Request | Field | |\n|---|---|---|\n");
    let mut current: Option<(&str, &str, Option<Value>)> = None;
    for line in FACTS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, verdict) = if let Some(field) = line.strip_prefix("  ") {
            let (name, value) = field.split_once(' ').unwrap();
            let (method, path, body) = current.as_ref().unwrap();
            let mut body = body.clone().unwrap();
            body[name] = serde_json::from_str(value).unwrap();
            (format!("| | `{name}`: `{value}` |"), verdict(method, path, Some(&body)))
        } else {
            let mut parts = line.splitn(3, ' ');
            let (method, path, body) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let json = (body != "-").then(|| serde_json::from_str(body).unwrap());
            let verdict = verdict(method, path, json.as_ref());
            current = Some((method, path, json));
            let body = if body == "-" { String::new() } else { format!(" `{body}`") };
            (format!("| {method} {path}{body} | |"), verdict)
        };
        let name = name.replace(
            "\"bitmap\":\"0b0000000000000000000000000000000000000000000000000000000000000000\"",
            "…",
        );
        let verdict = verdict.map_or_else(|message| format!("no, {}", reason(&message)), |()| "yes".into());
        writeln!(text, "{name} {verdict} |").unwrap();
    }
    text
}

/// Makes sure that what the page has between two lines is `text`; or writes it there.
fn agrees(begin: &str, end: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/firecracker-compat.md");
    // Two tables are on one page, and tests run side by side.
    static PAGE: Mutex<()> = Mutex::new(());
    let _page = PAGE.lock();
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(begin).expect("the page has the line before the table");
    let (written, tail) = rest.split_once(end).expect("the page has the line behind the table");
    if std::env::var_os("VIAL_WRITE_DOCS").is_some() {
        std::fs::write(&path, [head, begin, text, end, tail].concat()).unwrap();
        return;
    }
    for (written, asked) in written.lines().zip(text.lines()) {
        assert_eq!(
            written, asked,
            "docs/firecracker-compat.md is not what the code does: write its tables anew"
        );
    }
    assert_eq!(written.lines().count(), text.lines().count());
}

#[test]
fn the_table_says_what_the_code_takes() {
    agrees(BEGIN, END, &table());
}

/// Names of Firecracker's figures that a VM with every device has not, by group.
fn missing(figures: &Value) -> String {
    let mut text = String::from("| Group | Names |\n|---|---|\n");
    for line in NAMES.lines().filter(|line| !line.starts_with('#')) {
        let (group, names) = line.split_once(' ').unwrap();
        let missing = names.split(' ').filter(|name| figures[group].get(name).is_none());
        let missing: Vec<_> = missing.map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            writeln!(text, "| `{group}` | {} |", missing.join(", ")).unwrap();
        }
    }
    text
}

#[test]
fn the_page_names_every_figure_that_is_missing() {
    // SAFETY: takes and writes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !kvm() || !root || !Path::new("/dev/net/tun").exists() {
        return;
    }
    let vm = Vm::new(HANG);
    let name = format!("names{}", std::process::id());
    let tap = Tap::new(&name);
    let (mut child, mut http) = spawn_api(&vm, &["--start-time-us", "1", "--start-time-cpu-us", "0"]);
    std::fs::write(vm.path("disk"), [0; 4096]).unwrap();
    for (path, document) in [
        ("/metrics", json!({"metrics_path": vm.path("metrics")})),
        ("/boot-source", json!({"kernel_image_path": vm.path("kernel")})),
        ("/machine-config", json!({"vcpu_count": 1, "mem_size_mib": 32})),
        ("/serial", json!({"serial_out_path": vm.path("serial")})),
        ("/drives/d", json!({"drive_id": "d", "path_on_host": vm.path("disk")})),
        ("/pmem/p", json!({"id": "p", "path_on_host": vm.path("disk")})),
        ("/network-interfaces/n", json!({"iface_id": "n", "host_dev_name": name})),
        ("/mmds/config", json!({"network_interfaces": ["n"]})),
        ("/vsock", json!({"guest_cid": 3, "uds_path": vm.path("vsock")})),
        ("/hotplug/memory", json!({"total_size_mib": 1024})),
        ("/balloon", json!({"amount_mib": 0, "deflate_on_oom": false})),
        ("/entropy", json!({})),
        ("/actions", json!({"action_type": "InstanceStart"})),
    ] {
        http.ok("PUT", path, &document);
    }
    http.ok("PATCH", "/vm", &json!({"state": "Paused"}));
    http.ok("PATCH", "/vm", &json!({"state": "Resumed"}));
    http.ok("PUT", "/vial/actions", &json!({"action_type": "Stop"}));
    child.0.wait().unwrap();
    drop(tap);
    let lines = std::fs::read_to_string(vm.path("metrics")).unwrap();
    let figures: Value = serde_json::from_str(lines.lines().next_back().unwrap()).unwrap();
    agrees(NAMES_BEGIN, NAMES_END, &missing(&figures));
}

#[test]
fn every_document_of_firecrackers_is_a_document_here() {
    // Whatever is refused is refused by name and not because the path is unknown.
    for line in FACTS.lines().filter(|line| !line.starts_with(['#', ' ']) && !line.is_empty()) {
        let mut parts = line.splitn(3, ' ');
        let (method, path, body) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let body = if body == "-" { "" } else { body };
        if let Err(fault) = route(method, path, body.as_bytes()) {
            assert!(
                !fault.message.contains("Invalid request method and/or path"),
                "{line}: {}",
                fault.message
            );
        }
    }
}
