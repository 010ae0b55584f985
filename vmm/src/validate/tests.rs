use super::command_line::disk_letters;
use super::*;
use crate::api::config::NetworkInterface;
use proptest::prelude::*;
use serde_json::{Value, json};

fn minimal() -> Value {
    json!({"boot-source": {"kernel_image_path": "/vmlinux"}})
}

/// The minimal document with `change` made to it.
fn with(change: impl FnOnce(&mut Value)) -> Result<VmConfig, ConfigError> {
    let mut document = minimal();
    change(&mut document);
    let config = parse(document.to_string().as_bytes())?;
    check(&config).map(|()| config)
}

#[test]
fn a_kernel_is_enough() {
    with(|_| ()).unwrap();
}

#[test]
fn each_mistake_has_its_own_message() {
    let message = |pointer: &str, value: Value| {
        let error = with(|document| document[pointer] = value).unwrap_err();
        error.to_string()
    };
    for (field, value, expected) in [
        ("machine-config", json!({"vcpu_count": 0, "mem_size_mib": 128}), "vcpu_count is 0; give 1 to 32"),
        ("machine-config", json!({"vcpu_count": 33, "mem_size_mib": 128}), "vcpu_count is 33"),
        ("machine-config", json!({"vcpu_count": 1, "mem_size_mib": 16}), "mem_size_mib is 16"),
        ("drives", json!([{"drive_id": "a"}]), "exactly one of path_on_host, concat and socket"),
        ("drives", json!([{"drive_id": "a", "is_removable": true, "path_on_host": "/x"}]), "is removable"),
        ("drives", json!([{"drive_id": "a", "is_removable": true, "concat": ["/x"]}]), "is removable"),
        ("drives", json!([{"drive_id": "a", "is_removable": true, "is_root_device": true}]), "is removable"),
        ("drives", json!([{"drive_id": "a", "path_on_host": "/x", "socket": "/s"}]), "exactly one of"),
        ("drives", json!([{"drive_id": "a", "socket": "/s", "is_read_only": true}]), "is its back end's"),
        ("drives", json!([{"drive_id": "a", "socket": "/s", "io_engine": "Sync"}]), "is its back end's"),
        ("file-systems", json!([{"tag": "", "socket": "/s"}]), "is not a name"),
        ("file-systems", json!([{"tag": "x".repeat(37), "socket": "/s"}]), "1 to 36"),
        ("file-systems", json!([{"tag": "a", "socket": "/s", "num_queues": 0}]), "num_queues is 0"),
        ("file-systems", json!([{"tag": "a", "socket": "/s"}, {"tag": "a", "socket": "/t"}]), "used twice"),
        ("drives", json!([{"drive_id": "", "path_on_host": "/x"}]), "is not a name"),
        (
            "drives",
            json!([{"drive_id": "a", "path_on_host": "/x"}, {"drive_id": "a", "path_on_host": "/y"}]),
            "\"a\" is used twice",
        ),
        (
            "drives",
            json!([{"drive_id": "a", "path_on_host": "/x", "rate_limiter": {"ops": {"size": 1, "refill_time": 4294967296u64}}}]),
            "drive \"a\": rate_limiter.ops.refill_time is 4294967296 ms",
        ),
        ("vsock", json!({"guest_cid": 2, "uds_path": "/x"}), "guest_cid is 2"),
        ("vial", json!({"profile": "pod"}), "kernel_image_path is a path"),
        ("vial", json!({"control": {"fd": 1}}), "descriptor 1"),
        ("vial", json!({"control": {"fd": 7}, "status": {"fd": 7}}), "\"7\" is used twice"),
        (
            "network-interfaces",
            json!([{"iface_id": "e", "host_dev_name": "t", "guest_mac": "01:00:00:00:00:00"}]),
            "not a unicast MAC",
        ),
        (
            "network-interfaces",
            json!([
                {"iface_id": "e", "host_dev_name": "t", "guest_mac": "02:00:00:00:00:AA"},
                {"iface_id": "f", "host_dev_name": "u", "guest_mac": "02:00:00:00:00:aa"},
            ]),
            "The MAC address is already in use: 02:00:00:00:00:aa",
        ),
        (
            "network-interfaces",
            json!([{"iface_id": "e", "host_dev_name": "t"}, {"iface_id": "f", "host_dev_name": "t"}]),
            "host_dev_name \"t\" is used twice",
        ),
        ("boot-source", json!({"kernel_image_path": "/k", "boot_args": "é"}), "printable ASCII"),
        ("boot-source", json!({"kernel_image_path": "/k", "boot_args": "a\nb"}), "printable ASCII"),
        (
            "boot-source",
            json!({"kernel_image_path": "/k", "boot_args": "x".repeat(2048)}),
            "the 2047 bytes that",
        ),
        (
            "boot-source",
            json!({"kernel_image_path": "/k", "boot_args": "x".repeat(3000)}),
            "the 2047 bytes that",
        ),
        ("memory-hotplug", json!({"total_size_mib": 1024, "block_size_mib": 3}), "block_size_mib is 3"),
        ("memory-hotplug", json!({"total_size_mib": 1024, "slot_size_mib": 64}), "slot_size_mib is 64"),
        ("memory-hotplug", json!({"total_size_mib": 1000}), "total_size_mib is 1000; give a multiple"),
        ("vsock", json!({"guest_cid": 3, "uds_path": ""}), "vsock.uds_path is empty"),
    ] {
        let message = message(field, value);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn memory_that_is_guarded_for_vhost_is_unplugged_under_no_thread_of_a_drive() {
    let taken = |memory: bool, vhost: bool, threads: u8| {
        with(|document| {
            let mut net = json!({"iface_id": "e", "host_dev_name": "t"});
            if vhost {
                net["vhost_net"] = json!("/dev/vhost-net");
            }
            if memory {
                document["memory-hotplug"] = json!({"total_size_mib": 1024});
            }
            document["network-interfaces"] = json!([net]);
            document["drives"] = json!([{"drive_id": "d", "path_on_host": "/d", "io_threads": threads}]);
        })
    };
    for (memory, vhost, threads) in [(false, true, 1), (true, false, 1), (true, true, 0)] {
        taken(memory, vhost, threads).unwrap();
    }
    let message = taken(true, true, 1).unwrap_err().to_string();
    assert!(message.contains("vhost_net") && message.contains("take one of them away"), "{message}");
}

#[test]
fn unknown_fields_and_rubbish_are_not_documents() {
    assert!(matches!(with(|document| document["drivez"] = json!([])), Err(ConfigError::Json(_))));
    assert!(matches!(parse(b"\xff{"), Err(ConfigError::Json(_))));
    assert!(matches!(parse(&vec![b' '; 2 << 20]), Err(ConfigError::TooLong)));
}

#[test]
fn the_root_device_goes_before_what_init_gets() {
    let config = with(|document| {
        document["boot-source"]["boot_args"] = json!("quiet -- --verbose");
        document["drives"] = json!([
            {"drive_id": "a", "path_on_host": "/a"},
            {"drive_id": "b", "concat": ["/b"], "is_root_device": true},
        ]);
    });
    let config = config.unwrap();
    assert_eq!(command_line(&config).unwrap(), "quiet root=/dev/vda ro -- --verbose");
    assert_eq!(config.drives.iter().map(|drive| drive.drive_id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(command_line(&with(|_| ()).unwrap()).unwrap(), "");
    let partition = |id: &str| {
        let drive = json!([{"drive_id": "a", "path_on_host": "/a", "is_root_device": true, "partuuid": id}]);
        with(|document| document["drives"] = drive)
    };
    assert_eq!(command_line(&partition("0eaa91a0-01").unwrap()).unwrap(), "root=PARTUUID=0eaa91a0-01 rw");
    assert!(matches!(partition("a init=/bin/sh"), Err(ConfigError::Name { field: "partuuid", .. })));
}

#[test]
fn what_firecracker_has_as_an_option_may_be_null() {
    with(|document| {
        *document = json!({
            "boot-source": {"kernel_image_path": "/k", "boot_args": null, "initrd_path": null},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "cpu_template": null},
            "drives": [{
                "drive_id": "a", "path_on_host": "/a", "is_root_device": false, "is_read_only": null, "partuuid": null,
                "io_engine": null, "socket": null,
                "rate_limiter": {"bandwidth": null, "ops": {"size": 1, "refill_time": 1, "one_time_burst": null}},
            }],
            "network-interfaces": [{
                "iface_id": "n", "host_dev_name": "t", "guest_mac": null, "rx_rate_limiter": null, "tx_rate_limiter": null,
            }],
            "vsock": {"guest_cid": 3, "uds_path": "/v", "vsock_id": null},
            "entropy": {"rate_limiter": null},
            "pmem": [{"id": "p", "path_on_host": "/p", "rate_limiter": null}],
            "mmds-config": {"network_interfaces": ["n"], "ipv4_address": null},
            "logger": {"log_path": null, "level": null, "show_level": null, "show_log_origin": null, "module": null},
            "serial": {"serial_out_path": null, "rate_limiter": null},
            "balloon": null,
        });
    })
    .unwrap();
}

#[test]
fn disks_have_the_names_that_linux_gives_them() {
    assert_eq!([0, 25, 26, 63].map(disk_letters), ["a", "z", "aa", "bl"]);
}

#[test]
fn there_is_room_for_64_devices_and_no_more() {
    let drives = |count: usize| {
        let drive = |n: usize| json!({"drive_id": n.to_string(), "is_removable": true});
        with(|document| document["drives"] = (0..count).map(drive).collect())
    };
    drives(64).unwrap();
    assert!(matches!(drives(65), Err(ConfigError::Devices { count: 65, most: 64 })));
}

#[test]
fn derived_addresses_are_local_unicast_and_differ_by_vm() {
    let net: NetworkInterface =
        serde_json::from_value(json!({"iface_id": "eth0", "host_dev_name": "tap0"})).unwrap();
    let (one, two) = (mac(&net, "one").unwrap(), mac(&net, "two").unwrap());
    assert_ne!(one, two);
    assert_eq!(one[0], 2);
}

proptest! {
    #[test]
    fn any_bytes_are_a_document_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(config) = parse(&bytes) {
            let _ = check(&config);
        }
    }

    #[test]
    fn any_values_in_known_fields_are_accepted_or_refused(
        vcpus: u8,
        memory: u64,
        args in ".{0,80}",
        id in ".{0,80}",
        guest_mac in "[0-9a-f:]{0,20}",
        fds in proptest::collection::vec(-2i32..9, 0..5),
    ) {
        let concat: Vec<_> = fds.iter().map(|fd| json!({"fd": fd})).collect();
        let _ = with(|document| {
            document["boot-source"]["boot_args"] = json!(args);
            document["machine-config"] = json!({"vcpu_count": vcpus, "mem_size_mib": memory});
            document["drives"] = json!([{"drive_id": id, "concat": concat}]);
            document["network-interfaces"] =
                json!([{"iface_id": id, "host_dev_name": "t", "guest_mac": guest_mac}]);
        });
    }
}
