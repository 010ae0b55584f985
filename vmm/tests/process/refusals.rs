//! What can't be run is refused with exit code 2 and a message that says what to do.

use crate::common::{HANG, Vm, kvm};
use serde_json::{Value, json};
use std::os::unix::fs::FileTypeExt;
use std::process::Command;
use vmm::api::status::ExitReason;

/// The message about a VM that `change` spoiled.
fn refusal(change: impl FnOnce(&mut Vm)) -> String {
    let mut vm = Vm::new(HANG);
    change(&mut vm);
    let output = vm.run();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()), "{message}");
    let (reason, detail) = vm.reason();
    assert_eq!(reason, ExitReason::BadConfig);
    assert!(message.contains(&detail), "{message} does not contain {detail}");
    message
}

fn set(vm: &mut Vm, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    vm.config.pointer_mut(parent).unwrap()[key] = value;
}

#[test]
fn impossible_machines_are_refused_before_anything_is_opened() {
    for (pointer, value, expected) in [
        ("/machine-config/vcpu_count", json!(0), "give 1 to 32"),
        ("/machine-config/vcpu_count", json!(33), "give 1 to 32"),
        ("/machine-config/mem_size_mib", json!(1), "give 32 to"),
        (
            "/drives",
            json!([{"drive_id": "a", "path_on_host": "/x"}, {"drive_id": "a", "path_on_host": "/y"}]),
            "used twice",
        ),
        ("/vial/profile", json!("pod"), "descriptors only"),
        ("/boot-source/boot_args", json!("x".repeat(3000)), "boot_args"),
    ] {
        let message = refusal(|vm| set(vm, pointer, value));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn lists_in_the_place_of_objects_are_told() {
    let mut vm = Vm::new(HANG);
    set(&mut vm, "/machine-config", json!([1, 32]));
    let output = vm.run();
    assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("`machine-config` is a list, expected an object"), "{message}");
    // Whose only element could be the path of a processor's template.
    vm.config = json!([vm.path("config")]);
    assert_eq!(vm.run().status.code(), Some(ExitReason::BadConfig.code()));
}

#[test]
fn files_that_are_not_there_are_named() {
    if !kvm() {
        return;
    }
    let message = refusal(|vm| std::fs::remove_file(vm.path("kernel")).unwrap());
    assert!(message.contains("could not open the kernel") && message.contains("No such file"), "{message}");
    let message = refusal(|vm| set(vm, "/vial/control", json!({"fd": 999})));
    assert!(message.contains("descriptor 999 for vial.control is not open"), "{message}");
}

#[test]
fn a_wrong_number_never_finds_a_file_of_the_vmm_itself() {
    let mut vm = Vm::new(HANG);
    set(&mut vm, "/vial/control", json!({"fd": 3}));
    std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
    // The lowest free number, which the next file that is opened gets. Closed by the shell, since tests beside this one may
    // be passing theirs on.
    let output = Command::new("sh")
        .args(["-c", "exec \"$0\" --no-api --config-file \"$1\" 3<&-", env!("CARGO_BIN_EXE_vial-vmm")])
        .arg(vm.path("config"))
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("descriptor 3 for vial.control is not open"), "{message}");
    assert_eq!(vm.reason().0, ExitReason::BadConfig);
}

#[test]
fn neither_do_wrong_numbers_of_arguments() {
    let run = |line: &str| {
        let output = Command::new("sh").args(["-c", line, env!("CARGO_BIN_EXE_vial-vmm")]).output().unwrap();
        assert_eq!(output.status.code(), Some(ExitReason::BadConfig.code()));
        String::from_utf8(output.stderr).unwrap()
    };
    for argument in ["--api-fd", "--kvm-fd"] {
        let message = run(&format!("exec \"$0\" {argument} 3 3<&-"));
        assert!(message.contains(&format!("descriptor 3 for {argument} is not open")), "{message}");
    }
    if !kvm() {
        return;
    }
    let message = run("exec \"$0\" --api-fd 3 3</dev/null");
    assert!(message.contains("descriptor 3 is no Unix socket that listens"), "{message}");
    let mut vm = Vm::new(HANG);
    let null = std::fs::File::open("/dev/null").unwrap();
    let fd = crate::common::inherit(&null);
    set(&mut vm, "/vial/control", json!({"fd": fd}));
    std::fs::write(vm.path("config"), vm.config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vial-vmm"))
        .args(["--api-fd", &fd.to_string(), "--config-file"])
        .arg(vm.path("config"))
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("given as --api-fd and for vial.control"), "{message}");
}

#[test]
fn a_kernel_has_a_length_which_a_block_device_has_not() {
    let is_block = |path: &std::path::PathBuf| {
        std::fs::File::open(path).is_ok_and(|file| file.metadata().unwrap().file_type().is_block_device())
    };
    let mut devices = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().path());
    let Some(device) = devices.find(is_block) else {
        return eprintln!("skipped: no block device can be opened here");
    };
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let (_process, mut http) = crate::http::spawn_api(&vm, &[]);
    let why = http.refused("PUT", "/boot-source", &json!({"kernel_image_path": device}).to_string());
    assert!(why.contains("the kernel must be a regular file"), "{why}");
    let both = json!({"kernel_image_path": vm.path("kernel"), "initrd_path": device}).to_string();
    let why = http.refused("PUT", "/boot-source", &both);
    assert!(why.contains("the initrd must be a regular file"), "{why}");
}

#[test]
fn kernels_that_are_none_are_explained() {
    if !kvm() {
        return;
    }
    for (contents, expected) in [
        (b"#!/bin/sh\n".to_vec(), "not an ELF file"),
        (Vec::new(), "it is empty"),
        (crate::common::kernel(HANG)[..4096].to_vec(), "truncated"),
        ([vec![0; 0x202], b"HdrS".to_vec(), vec![0; 100]].concat(), "bzImage"),
    ] {
        let message = refusal(|vm| std::fs::write(vm.path("kernel"), contents).unwrap());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_does_not_fit_into_memory_says_so() {
    if !kvm() {
        return;
    }
    let message = refusal(|vm| {
        let path = vm.path("initrd");
        std::fs::File::create(&path).unwrap().set_len(40 << 20).unwrap();
        set(vm, "/boot-source/initrd_path", json!(path));
    });
    assert!(message.contains("raise mem_size_mib"), "{message}");
    let message = refusal(|vm| {
        // By its header alone: what this process holds in memory counts as its children's, whose memory other tests measure.
        let mut kernel = crate::common::kernel(HANG);
        kernel[64 + 40..64 + 48].copy_from_slice(&(32u64 << 20).to_le_bytes());
        std::fs::write(vm.path("kernel"), kernel).unwrap();
    });
    assert!(message.contains("raise mem_size_mib"), "{message}");
}

#[test]
fn arguments_and_documents_that_make_no_sense_are_refused() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vial-vmm")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&["--no-api"]);
    assert_eq!((code, message.contains("--config-file")), (Some(2), true));
    let (code, message) = run(&["--no-api", "--config-file", "/does/not/exist"]);
    assert_eq!((code, message.contains("No such file")), (Some(2), true), "{message}");
    let (code, message) = run(&["--config-fd", "77"]);
    assert_eq!((code, message.contains("descriptor 77")), (Some(2), true), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    std::fs::write(&path, "{\"boot-source\": 3}").unwrap();
    let (code, message) = run(&["--no-api", "--config-file", path.to_str().unwrap()]);
    assert_eq!((code, message.contains("not a VM document")), (Some(2), true), "{message}");
}

#[test]
fn something_else_than_kvm_is_noticed() {
    let vm = Vm::new(HANG);
    let null = std::fs::File::open("/dev/null").unwrap();
    let output = vm.run_with(&["--kvm-fd".into(), crate::common::inherit(&null).to_string()]);
    assert_eq!(output.status.code(), Some(ExitReason::InternalError.code()));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not /dev/kvm"));
}

#[test]
fn a_named_pipe_without_a_writer_is_refused_instead_of_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for pointer in ["/boot-source/kernel_image_path", "/boot-source/initrd_path"] {
        let message = refusal(|vm| set(vm, pointer, json!(pipe)));
        assert!(message.contains("regular file"), "{message}");
    }
    let message = refusal(|vm| set(vm, "/drives", json!([{"drive_id": "a", "path_on_host": pipe}])));
    assert!(message.contains("regular file"), "{message}");
}

#[test]
fn only_a_socket_gives_way_to_a_socket() {
    if !kvm() {
        return;
    }
    let mut vm = Vm::new(HANG);
    let path = vm.path("precious");
    std::fs::write(&path, "mine").unwrap();
    let link = vm.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for field in ["vsock", "control"] {
        for path in [&path, &link] {
            vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
            match field {
                "vsock" => vm.config["vsock"]["uds_path"] = json!(path),
                _ => vm.config["vial"]["control"] = json!(path),
            }
            assert_eq!(vm.end(), ExitReason::BadConfig);
            assert!(vm.reason().1.contains("is there and no socket"), "{:?}", vm.reason());
        }
    }
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_vial-vmm")).arg("--api-sock").arg(&path).output();
    assert!(String::from_utf8(output.unwrap().stderr).unwrap().contains("is there and no socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    // Without a path it would be an abstract one, which all users reach.
    for field in ["vsock", "control"] {
        vm.config["vsock"] = json!({"guest_cid": 3, "uds_path": vm.path("vsock")});
        vm.config["vial"]["control"] = json!(vm.path("control"));
        match field {
            "vsock" => vm.config["vsock"]["uds_path"] = json!(""),
            _ => vm.config["vial"]["control"] = json!(""),
        }
        assert_eq!(vm.end(), ExitReason::BadConfig);
        assert!(vm.reason().1.contains("is empty; give the socket a path"), "{:?}", vm.reason());
    }
}

#[test]
fn metadata_that_is_not_there_is_named() {
    if !kvm() {
        return;
    }
    let vm = Vm::new(HANG);
    let output = vm.run_with(&["--metadata".into(), "/none".into()]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("could not read the metadata from \"/none\""), "{message}");
}
