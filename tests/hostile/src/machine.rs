//! What a VM is made from: its document and its kernel.

use std::ops::Range;
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
