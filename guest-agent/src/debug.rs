//! Words for a person at the console, only with `vial.debug` on the kernel command line.

use std::sync::OnceLock;

/// Says it, if anybody wants to hear it.
pub fn say(message: impl FnOnce() -> String) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        std::fs::read_to_string("/proc/cmdline")
            .is_ok_and(|line| line.split_whitespace().any(|w| w == "vial.debug"))
    });
    if *wanted {
        eprintln!("vial-agent: {}", message());
    }
}
