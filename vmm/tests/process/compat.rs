//! Asks the code what it takes of Firecracker's API, and compares the answer with the table of docs/firecracker-compat.md.

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use vmm::http::action::Action;
use vmm::http::{Draft, route::route};

const FACTS: &str = include_str!("firecracker-api.txt");
const BEGIN: &str =
    "<!-- the table begins: `VIAL_WRITE_DOCS=1 cargo test -p vmm --test process compat` writes it -->\n";
const END: &str = "<!-- the table ends -->\n";

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

#[test]
fn the_table_says_what_the_code_takes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/firecracker-compat.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the page has the line before the table");
    let (written, tail) = rest.split_once(END).expect("the page has the line behind the table");
    let table = table();
    if std::env::var_os("VIAL_WRITE_DOCS").is_some() {
        std::fs::write(&page, [head, BEGIN, &table, END, tail].concat()).unwrap();
        return;
    }
    for (written, asked) in written.lines().zip(table.lines()) {
        assert_eq!(
            written, asked,
            "docs/firecracker-compat.md is not what the code does: write its table anew"
        );
    }
    assert_eq!(written.lines().count(), table.lines().count());
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
