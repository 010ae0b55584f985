//! Capabilities as masks, bit n for capability number n (linux/capability.h).

use oci_spec::runtime::{Capabilities, Capability};

/// A set of capabilities.
pub type CapMask = u64;

/// CAP_DAC_READ_SEARCH.
pub const CAP_DAC_READ_SEARCH: CapMask = 1 << 2;
/// CAP_SYS_MODULE.
pub const CAP_SYS_MODULE: CapMask = 1 << 16;
/// CAP_SYS_RAWIO.
pub const CAP_SYS_RAWIO: CapMask = 1 << 17;
/// CAP_SYS_CHROOT.
pub const CAP_SYS_CHROOT: CapMask = 1 << 18;
/// CAP_SYS_PTRACE.
pub const CAP_SYS_PTRACE: CapMask = 1 << 19;
/// CAP_SYS_PACCT.
pub const CAP_SYS_PACCT: CapMask = 1 << 20;
/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: CapMask = 1 << 21;
/// CAP_SYS_BOOT.
pub const CAP_SYS_BOOT: CapMask = 1 << 22;
/// CAP_SYS_NICE.
pub const CAP_SYS_NICE: CapMask = 1 << 23;
/// CAP_SYS_TIME.
pub const CAP_SYS_TIME: CapMask = 1 << 25;
/// CAP_SYS_TTY_CONFIG.
pub const CAP_SYS_TTY_CONFIG: CapMask = 1 << 26;
/// CAP_SYSLOG.
pub const CAP_SYSLOG: CapMask = 1 << 34;
/// CAP_PERFMON.
pub const CAP_PERFMON: CapMask = 1 << 38;
/// CAP_BPF.
pub const CAP_BPF: CapMask = 1 << 39;

/// Every capability, in the order of the numbers.
const ORDER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The mask of a set from an OCI spec.
pub fn mask(set: &Capabilities) -> CapMask {
    ORDER.iter().enumerate().filter(|(_, capability)| set.contains(capability)).map(|(n, _)| 1 << n).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_use_the_kernels_numbers() {
        let of = |capability| mask(&Capabilities::from([capability]));
        assert_eq!(of(Capability::Chown), 1);
        assert_eq!(of(Capability::SysAdmin), CAP_SYS_ADMIN);
        assert_eq!(of(Capability::Mknod), 1 << 27);
        assert_eq!(of(Capability::Syslog), CAP_SYSLOG);
        assert_eq!(of(Capability::CheckpointRestore), 1 << 40);
        assert_eq!(mask(&Capabilities::new()), 0);
    }
}
