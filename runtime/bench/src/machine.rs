//! The machine that is measured on, from what its kernel tells.

use crate::result::{Machine, MachineKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Looks at the machine. `busy` is the share of processor time that was used just before ([`busy`]).
pub fn describe(busy: f64) -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let meminfo = text("/proc/meminfo");
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Machine {
        kind: kind(&cpuinfo, &hypervisor()),
        cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_kib: kib(&meminfo, "MemTotal").unwrap_or(0),
        available_kib: kib(&meminfo, "MemAvailable").unwrap_or(0),
        kernel: uname.release().to_string_lossy().into_owned(),
        os: os_name(&text("/etc/os-release")),
        kvm_module: ["kvm_intel", "kvm_amd"]
            .into_iter()
            .find(|name| Path::new("/sys/module").join(name).exists())
            .map(str::to_owned),
        mitigations: files(Path::new("/sys/devices/system/cpu/vulnerabilities")),
        governors: governors(),
        huge_pages: chosen(&text("/sys/kernel/mm/transparent_hugepage/enabled")),
        load: text("/proc/loadavg").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
        busy,
    }
}

/// The share of all processors' time that was used between two readings of `/proc/stat`.
pub fn busy(before: &str, after: &str) -> f64 {
    let (Some((idle, whole)), Some((idle_then, whole_then))) = (times(after), times(before)) else {
        return 0.0;
    };
    let whole = whole.saturating_sub(whole_then);
    if whole == 0 {
        return 0.0;
    }
    1.0 - idle.saturating_sub(idle_then) as f64 / whole as f64
}

/// Idle and all ticks (`proc_stat(5)`): user nice system idle iowait irq softirq steal; guest time is in user already.
fn times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

/// The value of a line of `/proc/meminfo`, KiB.
pub fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn kind(cpuinfo: &str, signature: &str) -> MachineKind {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    match () {
        () if signature == "TCGTCGTCGTCG" || cpuinfo.contains("QEMU TCG") => MachineKind::Emulated,
        () if flags.split(' ').any(|flag| flag == "hypervisor") => MachineKind::Nested,
        () => MachineKind::BareMetal,
    }
}

/// Who says that it runs this processor (`CPUID 0x40000000`); means something only below a hypervisor.
fn hypervisor() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
        let bytes = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    String::new()
}

fn os_name(release: &str) -> String {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "unknown".into(), |name| name.trim_matches('"').to_owned())
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), text.trim().to_owned()))
    };
    entries.filter_map(read).collect()
}

fn governors() -> Vec<String> {
    let entries = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let governor = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("cpufreq/scaling_governor")).ok()?;
        Some(text.trim().to_owned())
    };
    entries.filter_map(governor).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulated_nested_and_real_machines_are_told_apart() {
        let info =
            |model: &str, flags: &str| format!("processor : 0\nmodel name : {model}\nflags : fpu {flags}\n");
        let real = info("AMD EPYC 9B14", "svm");
        assert_eq!(kind(&real, "\u{1}"), MachineKind::BareMetal);
        assert_eq!(kind(&info("AMD EPYC 9B14", "hypervisor svm"), "KVMKVMKVM"), MachineKind::Nested);
        assert_eq!(kind(&info("QEMU TCG CPU version 2.5+", "svm"), ""), MachineKind::Emulated);
        assert_eq!(kind(&info("AMD EPYC 9B14", "svm"), "TCGTCGTCGTCG"), MachineKind::Emulated);
    }

    #[test]
    fn the_share_of_used_time_is_between_two_readings() {
        let before = "cpu  100 0 100 800 0 0 0 0 0 0\n";
        let after = "cpu  150 0 150 1200 100 0 0 0 9 0\ncpu0 1 2 3\n";
        // 600 ticks, of which 500 idle or waiting for a disk.
        assert!((busy(before, after) - 100.0 / 600.0).abs() < 1e-9);
        assert!(busy("", after).abs() < 1e-9 && busy(after, after).abs() < 1e-9);
    }

    #[test]
    fn kernel_files_are_read() {
        assert_eq!(kib("MemTotal:       16384 kB\nMemFree: 7 kB\n", "MemTotal"), Some(16384));
        assert_eq!(kib("MemTotal: many kB\n", "MemTotal"), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert!(describe(0.0).cpus > 0);
    }
}
