//! Checks a configuration document: a pure function, so that nothing is opened or made for one that can't work.

use crate::api::config::{Drive, FileSource, NetworkInterface, Profile, VmConfig};
use crate::arch::{layout, places::Places};
use linux_loader::loader::Cmdline;
use std::collections::HashSet;

/// Bytes of a document that are read at most.
pub const MAX_DOCUMENT: u64 = 1 << 20;
/// vCPUs of a VM at most.
pub const MAX_VCPUS: u8 = 32;
/// Memory of a VM at least: below it our kernel does not come up.
pub const MIN_MEMORY_MIB: u64 = 32;
/// Memory of a VM at most: a TiB.
pub const MAX_MEMORY_MIB: u64 = 1 << 20;
/// Names of drives and interfaces at most, in bytes.
const MAX_NAME: usize = 64;

/// A document that can't be used. Each message names the field and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of this shape.
    #[error("the configuration is not a VM document")]
    Json(#[source] serde_json::Error),
    /// Too long.
    #[error("the configuration is longer than {MAX_DOCUMENT} bytes")]
    TooLong,
    /// Number of vCPUs.
    #[error("machine-config.vcpu_count is {0}; give 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// Memory.
    #[error("machine-config.mem_size_mib is {0}; give {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Memory(u64),
    /// A name is empty, too long or unprintable.
    #[error("{field} {name:?} is not a name; give 1 to {MAX_NAME} printable ASCII characters")]
    Name {
        /// Which field.
        field: &'static str,
        /// What it says.
        name: String,
    },
    /// A name or number is there twice.
    #[error("{field} {name:?} is used twice; give each its own")]
    Duplicate {
        /// Which field.
        field: &'static str,
        /// What it says.
        name: String,
    },
    /// A drive without file, or with two kinds.
    #[error("drive {0:?} needs exactly one of path_on_host and concat")]
    DriveFiles(String),
    /// A removable drive with what it can't have.
    #[error(
        "drive {0:?} is removable: it starts without a medium, so take away path_on_host, concat and is_root_device"
    )]
    Removable(String),
    /// Two root devices.
    #[error("more than one drive is_root_device; the kernel mounts one")]
    Roots,
    /// A MAC address.
    #[error("guest_mac {0:?} is not a unicast MAC address like 02:00:00:12:34:56")]
    Mac(String),
    /// A context id.
    #[error("vsock.guest_cid is {0}; give 3 to 4294967294 (0 to 2 and 4294967295 are reserved)")]
    Cid(u32),
    /// Devices.
    #[error("{0} devices are too many; this machine has room for {max}", max = Places::MAX)]
    Devices(usize),
    /// A path in the pod profile.
    #[error("{0} is a path, but the pod profile takes descriptors only: give {{\"fd\": N}}")]
    PathInPod(String),
    /// A descriptor number.
    #[error("{field} names descriptor {fd}; give the number of an inherited one, 3 or above")]
    Descriptor {
        /// Which field.
        field: String,
        /// The number.
        fd: i32,
    },
    /// The command line.
    #[error("boot_args can't be used: {0}")]
    CommandLine(String),
}

/// Parses and checks a document.
pub fn parse(document: &[u8]) -> Result<VmConfig, ConfigError> {
    if document.len() as u64 > MAX_DOCUMENT {
        return Err(ConfigError::TooLong);
    }
    serde_json::from_slice(document).map_err(ConfigError::Json)
}

/// Checks what a document says.
pub fn check(config: &VmConfig) -> Result<(), ConfigError> {
    let machine = &config.machine_config;
    if !(1..=MAX_VCPUS).contains(&machine.vcpu_count) {
        return Err(ConfigError::Vcpus(machine.vcpu_count));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&machine.mem_size_mib) {
        return Err(ConfigError::Memory(machine.mem_size_mib));
    }
    check_names("drive_id", config.drives.iter().map(|drive| &drive.drive_id))?;
    check_names("iface_id", config.network_interfaces.iter().map(|net| &net.iface_id))?;
    for drive in &config.drives {
        if drive.is_removable {
            if drive.path_on_host.is_some() || !drive.concat.is_empty() || drive.is_root_device {
                return Err(ConfigError::Removable(drive.drive_id.clone()));
            }
        } else if drive.path_on_host.is_some() != drive.concat.is_empty() {
            return Err(ConfigError::DriveFiles(drive.drive_id.clone()));
        }
    }
    if config.drives.iter().filter(|drive| drive.is_root_device).count() > 1 {
        return Err(ConfigError::Roots);
    }
    for net in &config.network_interfaces {
        mac(net, "")?;
    }
    if let Some(vsock) = &config.vsock {
        if !(3..u32::MAX).contains(&vsock.guest_cid) {
            return Err(ConfigError::Cid(vsock.guest_cid));
        }
        let mut ports = HashSet::new();
        if let Some(twice) = vsock.host_ports.iter().find(|host| !ports.insert(host.port)) {
            return Err(ConfigError::Duplicate { field: "vsock.host_ports", name: twice.port.to_string() });
        }
    }
    let devices = device_count(config);
    if devices > Places::MAX as usize {
        return Err(ConfigError::Devices(devices));
    }
    check_sources(config)?;
    command_line(config).map(drop)
}

/// How many virtio devices a document asks for.
fn device_count(config: &VmConfig) -> usize {
    config.drives.len()
        + config.network_interfaces.len()
        + usize::from(config.vsock.is_some())
        + usize::from(config.entropy.is_some())
        + usize::from(config.vial.console.is_some())
}

fn check_names<'a>(field: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for name in names {
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > MAX_NAME || !printable {
            return Err(ConfigError::Name { field, name: name.clone() });
        }
        if !seen.insert(name) {
            return Err(ConfigError::Duplicate { field, name: name.clone() });
        }
    }
    Ok(())
}

/// Every source of a document with a name for messages.
pub fn sources(config: &VmConfig) -> Vec<(String, FileSource)> {
    let boot = &config.boot_source;
    let mut all = vec![("boot-source.kernel_image_path".to_owned(), boot.kernel_image_path.clone())];
    let mut add = |name: String, source: Option<&FileSource>| {
        all.extend(source.map(|source| (name, source.clone())));
    };
    add("boot-source.initrd_path".into(), boot.initrd_path.as_ref());
    for Drive { drive_id, path_on_host, concat, .. } in &config.drives {
        add(format!("drive {drive_id:?}"), path_on_host.as_ref());
        concat.iter().for_each(|part| add(format!("drive {drive_id:?}"), Some(part)));
    }
    for net in &config.network_interfaces {
        add(format!("interface {:?}", net.iface_id), Some(&net.host_dev_name));
    }
    if let Some(vsock) = &config.vsock {
        add("vsock.uds_path".into(), Some(&vsock.uds_path));
        for host in &vsock.host_ports {
            add(format!("vsock.host_ports {}", host.port), Some(&FileSource::Fd { fd: host.fd }));
        }
    }
    let vial = &config.vial;
    if let Some(console) = &vial.console {
        add("vial.console.input".into(), console.input.as_ref());
        add("vial.console.output".into(), console.output.as_ref());
    }
    add("vial.control".into(), vial.control.as_ref());
    add("vial.status".into(), vial.status.as_ref());
    all
}

/// Descriptors are numbers above the standard ones, each used once, since each has one owner; pods have nothing else.
fn check_sources(config: &VmConfig) -> Result<(), ConfigError> {
    let mut taken = HashSet::new();
    for (field, source) in sources(config) {
        match source {
            FileSource::Path(_) if config.vial.profile == Profile::Pod => {
                return Err(ConfigError::PathInPod(field));
            }
            FileSource::Path(_) => {}
            FileSource::Fd { fd } if fd < 3 => return Err(ConfigError::Descriptor { field, fd }),
            FileSource::Fd { fd } if !taken.insert(fd) => {
                return Err(ConfigError::Duplicate { field: "descriptor", name: fd.to_string() });
            }
            FileSource::Fd { .. } => {}
        }
    }
    Ok(())
}

/// The MAC address of an interface: the one given, or one derived from its name and the VM's (FNV-1a), locally
/// administered.
pub fn mac(net: &NetworkInterface, vm: &str) -> Result<[u8; 6], ConfigError> {
    let Some(text) = &net.guest_mac else {
        let hash =
            vm.bytes().chain([0]).chain(net.iface_id.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        return Ok([2, a, b, c, d, e]);
    };
    let bad = || ConfigError::Mac(text.clone());
    let parts: Vec<u8> = text
        .split(':')
        .map(|part| match part.len() {
            2 if part.bytes().all(|byte| byte.is_ascii_hexdigit()) => u8::from_str_radix(part, 16).ok(),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(bad)?;
    let address: [u8; 6] = parts.try_into().map_err(|_| bad())?;
    // Bit 0 of the first byte marks groups (IEEE 802).
    if address[0] & 1 != 0 || address == [0; 6] { Err(bad()) } else { Ok(address) }
}

/// The kernel command line: `boot_args`, and the root device if a drive is one. It goes before `--`, behind which the
/// kernel passes everything to init.
pub fn command_line(config: &VmConfig) -> Result<String, ConfigError> {
    let failed = |error: linux_loader::cmdline::Error| ConfigError::CommandLine(error.to_string());
    let args = config.boot_source.boot_args.as_deref().unwrap_or("").trim();
    let mut line = match args {
        "" => Cmdline::new(layout::CMDLINE_MAX),
        args => Cmdline::try_from(args, layout::CMDLINE_MAX),
    }
    .map_err(failed)?;
    if let Some(index) = config.drives.iter().position(|drive| drive.is_root_device) {
        let letters = disk_letters(index);
        let drive = &config.drives[index];
        let mode = if drive.is_read_only || !drive.concat.is_empty() { "ro" } else { "rw" };
        line.insert_str(format!("root=/dev/vd{letters} {mode}")).map_err(failed)?;
    }
    let line = line.as_cstring().map_err(failed)?;
    line.into_string().map_err(|error| ConfigError::CommandLine(error.to_string()))
}

/// What follows `vd` in the name that Linux gives to its disk number `index`: `a` to `z`, then `aa` and so on. There are at most
/// [`Places::MAX`] disks, so two letters are enough.
fn disk_letters(index: usize) -> String {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    let first = (index / 26).checked_sub(1).map(letter);
    first.into_iter().chain([letter(index)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (
                "machine-config",
                json!({"vcpu_count": 0, "mem_size_mib": 128}),
                "vcpu_count is 0; give 1 to 32",
            ),
            ("machine-config", json!({"vcpu_count": 33, "mem_size_mib": 128}), "vcpu_count is 33"),
            ("machine-config", json!({"vcpu_count": 1, "mem_size_mib": 16}), "mem_size_mib is 16"),
            ("drives", json!([{"drive_id": "a"}]), "exactly one of path_on_host and concat"),
            (
                "drives",
                json!([{"drive_id": "a", "is_removable": true, "path_on_host": "/x"}]),
                "is removable",
            ),
            ("drives", json!([{"drive_id": "a", "is_removable": true, "concat": ["/x"]}]), "is removable"),
            (
                "drives",
                json!([{"drive_id": "a", "is_removable": true, "is_root_device": true}]),
                "is removable",
            ),
            ("drives", json!([{"drive_id": "", "path_on_host": "/x"}]), "is not a name"),
            (
                "drives",
                json!([{"drive_id": "a", "path_on_host": "/x"}, {"drive_id": "a", "path_on_host": "/y"}]),
                "\"a\" is used twice",
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
        ] {
            let message = message(field, value);
            assert!(message.contains(expected), "{message}");
        }
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
        assert_eq!(command_line(&config.unwrap()).unwrap(), "quiet root=/dev/vdb ro -- --verbose");
        assert_eq!(command_line(&with(|_| ()).unwrap()).unwrap(), "");
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
        assert!(matches!(drives(65), Err(ConfigError::Devices(65))));
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
}
