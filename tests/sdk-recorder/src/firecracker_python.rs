//! firecracker-python, in a process and a network namespace of its own.

use crate::stage::Stage;
use std::path::Path;
use std::process::Command;

pub fn run(stage: &Stage, python: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/firecracker_python.py");
    let status = Command::new("unshare")
        .arg("--net")
        .arg(python)
        .arg(script)
        .arg(stage.at(""))
        .status()
        .expect("util-linux is installed");
    assert!(status.success(), "{status}");
    stage.found(&[
        ("kernel", "kernel"),
        ("vms/recorded/rootfs/disk", "disk"),
        ("vms/recorded/logs/recorded.log", "empty"),
    ]);
    stage.tap_was("tap_recorded");
}
