//! What the machine itself is made of, seen by Linux in it: `vial-vmm` alone, without launcher or daemon.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use vial_tests::fixtures;
use vial_tests::host::Vial;

/// The installed VMM, or another part beside it.
fn part(name: &str) -> PathBuf {
    let program = std::fs::canonicalize(Vial::program()).expect("the program is installed");
    program.parent().and_then(Path::parent).expect("it is in a bin folder").join("lib/vial").join(name)
}

/// A script as a word of the kernel's command line.
fn script(lines: &[&str]) -> String {
    format!("script={}", lines.join(";").replace(' ', "${IFS}"))
}

/// Runs a VM to its end; what it wrote to its consoles.
fn run(folder: &Path, config: &Value) -> String {
    let document = folder.join("config.json");
    std::fs::write(&document, config.to_string()).expect("the folder is writable");
    let mut command = Command::new(part("vial-vmm"));
    let output =
        command.args(["--no-api", "--config-file"]).arg(&document).output().expect("the VMM can be run");
    let console = std::fs::read(folder.join("console")).unwrap_or_default();
    let text = String::from_utf8_lossy(&[console, output.stdout].concat()).replace('\r', "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{text}");
    text
}

#[test]
fn debians_own_kernel_and_initrd_boot_from_debians_own_disk() {
    let folder = tempfile::tempdir_in("/var/lib/vial").expect("there is a disk");
    let disk = folder.path().join("disk");
    std::fs::copy(fixtures::folder().join("debian-cloud.ext4"), &disk).expect("the disk has room");
    let script = script(&["uname -r", "nproc", "mount|grep vda", "echo o>/proc/sysrq-trigger", "sleep 9"]);
    let text = run(
        folder.path(),
        &json!({
            "boot-source": {
                "kernel_image_path": fixtures::folder().join("debian-cloud.vmlinuz"),
                "initrd_path": fixtures::folder().join("debian-cloud.initrd"),
                "boot_args": format!("console=ttyS0 quiet panic=-1 init=/vial-test {script}"),
            },
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
            "drives": [{"drive_id": "root", "path_on_host": disk, "is_root_device": true}],
            "serial": {},
        }),
    );
    assert!(text.contains("-cloud-amd64\n2\n/dev/vda on / type ext4 (rw"), "{text}");
}
