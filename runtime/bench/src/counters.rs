//! What the whole machine does during a start: kernel counters that do not drift with its speed.
//!
//! System-wide, on each processor, because parts of a start happen in daemons that are no children of the command that is timed: what else
//! runs is counted too, so a quiet machine is needed, as for times. Sources: perf events (`perf_event_open(2)`) on tracepoints, and
//! `/proc/vmstat`. Counting a tracepoint slows what passes it, so starts are counted that are not timed.

use crate::result::Counts;
use perf_event::events::{Software, Tracepoint};
use perf_event::{Builder, Counter};
use std::io;
use std::path::Path;

/// Where tracefs is mounted, the newer place first.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Open counters.
#[derive(Debug)]
pub struct Counters {
    tasks: Option<OnAll>,
    execs: Option<OnAll>,
    syscalls: Option<OnAll>,
    vm_exits: Option<OnAll>,
    page_faults: Option<OnAll>,
    /// Why some are missing.
    pub missing: Vec<String>,
}

/// A counter for each processor.
#[derive(Debug)]
struct OnAll(Vec<Counter>);

impl Counters {
    /// Opens what can be opened here.
    pub fn open() -> Self {
        let cpus = online(&std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default());
        let folder = TRACEFS.iter().map(|dir| Path::new(dir).join("events")).find(|dir| dir.is_dir());
        let mut missing = Vec::new();
        let mut point = |what: &str, name: &str| {
            let opened = match &folder {
                None => Err(io::Error::other(
                    "tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)",
                )),
                Some(folder) => OnAll::tracepoint(&folder.join(name), &cpus),
            };
            opened.map_err(|error| missing.push(format!("{what}: {}", reason(&error)))).ok()
        };
        let tasks = point("processes", "sched/sched_process_fork");
        let execs = point("programs", "sched/sched_process_exec");
        let syscalls = point("system calls", "raw_syscalls/sys_enter");
        let vm_exits = point("VM exits", "kvm/kvm_exit");
        let page_faults = OnAll::open(&cpus, || Builder::new(Software::PAGE_FAULTS));
        let page_faults =
            page_faults.map_err(|error| missing.push(format!("page faults: {}", reason(&error)))).ok();
        Self { tasks, execs, syscalls, vm_exits, page_faults, missing }
    }

    /// Where they stand now.
    pub fn read(&mut self) -> Counts {
        let of = |counter: &mut Option<OnAll>| counter.as_mut().and_then(OnAll::read);
        Counts {
            tasks: of(&mut self.tasks),
            execs: of(&mut self.execs),
            syscalls: of(&mut self.syscalls),
            vm_exits: of(&mut self.vm_exits),
            page_faults: of(&mut self.page_faults),
            read_kib: std::fs::read_to_string("/proc/vmstat").ok().and_then(|text| paged_in(&text)),
        }
    }
}

impl OnAll {
    fn tracepoint(folder: &Path, cpus: &[usize]) -> io::Result<Self> {
        let text = std::fs::read_to_string(folder.join("id"))?;
        let id = text.trim().parse().map_err(io::Error::other)?;
        Self::open(cpus, || Builder::new(Tracepoint::with_id(id)))
    }

    fn open(cpus: &[usize], make: impl Fn() -> Builder<'static>) -> io::Result<Self> {
        let one = |cpu: &usize| {
            let mut builder = make();
            // The points lie in the kernel, and what it does for somebody belongs to the start.
            builder.any_pid().one_cpu(*cpu).include_kernel().include_hv().enabled(true);
            builder.build()
        };
        Ok(Self(cpus.iter().map(one).collect::<io::Result<_>>()?))
    }

    fn read(&mut self) -> Option<u64> {
        self.0.iter_mut().map(|counter| counter.read().ok()).sum()
    }
}

/// What happened between two readings.
pub fn between(before: &Counts, after: &Counts) -> Counts {
    let grown = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
    Counts {
        tasks: grown(before.tasks, after.tasks),
        execs: grown(before.execs, after.execs),
        syscalls: grown(before.syscalls, after.syscalls),
        vm_exits: grown(before.vm_exits, after.vm_exits),
        page_faults: grown(before.page_faults, after.page_faults),
        read_kib: grown(before.read_kib, after.read_kib),
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "needs root".into(),
        io::ErrorKind::NotFound => "this kernel has no such point".into(),
        _ => error.to_string(),
    }
}

/// `0-3,6` as numbers (`Documentation/admin-guide/cputopology.rst`).
fn online(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            // More than Linux knows is a damaged file.
            cpus.extend(first..=last.min(first + 8192));
        }
    }
    cpus
}

/// `pgpgin`: KiB that were read from disks.
fn paged_in(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("pgpgin "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed() {
        assert_eq!(online("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(online(""), [0; 0]);
        assert_eq!(online("0-99999999999").len(), 8193);
    }

    #[test]
    fn what_is_missing_before_or_after_is_missing_between() {
        let before = Counts { tasks: Some(5), read_kib: Some(1), ..Counts::default() };
        let after = Counts { tasks: Some(9), syscalls: Some(3), read_kib: Some(1), ..Counts::default() };
        let expected = Counts { tasks: Some(4), read_kib: Some(0), ..Counts::default() };
        assert_eq!(between(&before, &after), expected);
        assert_eq!(paged_in("nr_free_pages 1\npgpgin 77\npgpgout 3\n"), Some(77));
    }
}
