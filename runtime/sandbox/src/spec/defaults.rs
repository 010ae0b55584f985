//! What every container gets unless it says otherwise: Docker's choices, so that an image that works there works here.
//! Source: moby `oci/defaults.go` and `daemon/pkg/oci/caps/defaults.go`.

use serde_json::{Value, json};

/// `PATH` of a container whose image has none.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `TERM` of a process with a terminal that has none.
pub const TERM: &str = "TERM=xterm";

/// The fourteen capabilities.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Paths that a container sees empty.
pub const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that a container may not write.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `capabilities` of a process. The inheritable and ambient sets stay empty, so a user other than root has none in effect.
pub fn capabilities() -> Value {
    json!({ "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES })
}

/// `rlimits` of a process.
pub fn rlimits() -> Value {
    json!([{ "type": "RLIMIT_NOFILE", "hard": 1_048_576, "soft": 1_048_576 }])
}

/// File systems of a container beside its root.
pub fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    json!([
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
    ])
}

/// The device cgroup's rules: any node may be made, only these may be opened. So the raw disks stay closed although
/// CAP_MKNOD is there.
pub fn devices() -> Value {
    let allow = |major: i64, minor: Option<i64>| match minor {
        Some(minor) => {
            json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" })
        }
        None => json!({ "allow": true, "type": "c", "major": major, "access": "rwm" }),
    };
    json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "b", "access": "m" },
        allow(1, Some(3)), // null
        allow(1, Some(5)), // zero
        allow(1, Some(7)), // full
        allow(1, Some(8)), // random
        allow(1, Some(9)), // urandom
        allow(5, Some(0)), // tty
        allow(5, Some(1)), // console
        allow(5, Some(2)), // ptmx
        allow(136, None),  // pts
    ])
}
