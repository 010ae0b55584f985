//! What a VM is made from: its document and its kernel.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use vmm::api::config::MmdsConfig;
use vmm::http::action::Action;
use vmm::http::{Draft, route::route};
use vmm::mmds::{Store, Wire};
use vmm::{kernel as kernels, validate};

const RAM: Range<u64> = 0x10_0000..0x800_0000;

/// A kernel: what is loaded comes from inside of the file and goes inside of memory.
pub fn kernel(bytes: &[u8]) {
    let length = bytes.len() as u64;
    let head = &bytes[..bytes.len().min(kernels::HEAD)];
    let Ok(kernel) = kernels::parse(head, length, &RAM) else { return };
    for segment in kernel.segments() {
        assert!(segment.address >= RAM.start && segment.address + segment.memory_len <= RAM.end);
        assert!(segment.offset + segment.file_len <= length);
        assert!(segment.file_len <= segment.memory_len);
    }
    assert!(kernel.end() <= RAM.end);
    let elf = match kernel {
        kernels::Kernel::Elf(elf) => elf,
        kernels::Kernel::BzImage(image) => return assert!(RAM.contains(&image.entry)),
    };
    if let Some(notes) = &elf.notes {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let notes = &bytes[place(notes.start)..place(notes.end).max(place(notes.start))];
        if let Some(entry) = elf.pvh_entry(notes) {
            assert!(RAM.contains(&entry));
        }
    }
}

/// A VM's document: what is accepted passes through JSON unchanged, and its parts can be had.
pub fn config(bytes: &[u8]) {
    let Ok(config) = validate::parse(bytes) else { return };
    let text = serde_json::to_vec(&config).unwrap();
    assert_eq!(serde_json::to_vec(&validate::parse(&text).unwrap()).unwrap(), text);
    if validate::check(&config).is_err() {
        return;
    }
    let _ = validate::sources(&config);
    for net in &config.network_interfaces {
        validate::mac(net, "vm").expect("a checked address is one");
    }
    validate::command_line(&config).expect("a checked command line is one");
}

/// Requests to a VM's API, one a line: `METHOD PATH BODY`. What a draft takes in makes a document that is one, and the metadata
/// document stays within its limit.
pub fn api(bytes: &[u8]) {
    const LIMIT: usize = 1000;
    let (mut draft, mut mmds) = (Draft::default(), Store::new(LIMIT));
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let mut next = || parts.next().unwrap_or_default();
        let (method, path, body) = (next(), next(), next());
        let (method, path) = (String::from_utf8_lossy(method), String::from_utf8_lossy(path));
        let Ok(action) = route(&method, &path, body) else { continue };
        match action {
            Action::Configure(document) => {
                let before = draft.clone();
                if draft.apply(*document).is_err() {
                    assert_eq!(draft, before);
                }
            }
            Action::PutMmds(document) => drop(mmds.put(document)),
            Action::PatchMmds(patch) => drop(mmds.patch(&patch)),
            _ => {}
        }
    }
    assert!(mmds.document().to_string().len() <= LIMIT);
    let _ = (mmds.text("/latest/meta-data"), mmds.json("/"), draft.document());
    if let Ok(config) = draft.config() {
        validate::check(&config).unwrap();
        let text = serde_json::to_vec(&config).unwrap();
        assert_eq!(serde_json::to_vec(&validate::parse(&text).unwrap()).unwrap(), text);
    }
}

/// Frames of a guest to the metadata service, each behind a byte of its length: it bears them, and what it makes of them is bounded.
pub fn metadata(mut bytes: &[u8]) {
    let config = MmdsConfig {
        version: Default::default(),
        network_interfaces: vec!["n".into()],
        ipv4_address: None,
        imds_compat: false,
    };
    let mut store = Store::new(1000);
    store.put(serde_json::json!({"a": {"b": "c"}})).unwrap();
    let now = Instant::now();
    let mut wire = Wire::new(&config, Arc::new(Mutex::new(store)), 1, now).unwrap();
    let mut made = 0;
    for _ in 0..200 {
        let Some((length, rest)) = bytes.split_first() else { break };
        let (frame, rest) = rest.split_at(rest.len().min((*length).into()));
        bytes = rest;
        if wire.takes(frame) {
            wire.receive(frame.to_vec(), now);
        }
        while wire.next(now).is_some() {
            made += 1;
        }
    }
    assert!(made < 20_000);
}
