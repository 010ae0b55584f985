//! The processes of a container, from the kernel's files about them.
//!
//! Names and command lines are the container's own words: bounded here, made harmless where they are shown.

use agent_protocol::ProcessInfo;
use std::collections::HashMap;
use std::fs;
use std::io::Read;

/// Longest command line that is told, in bytes.
const MAX_COMMAND: usize = 256;
/// Microseconds in one of the ticks in which the kernel tells processor time (USER_HZ is 100 everywhere).
const TICK_US: u64 = 10_000;

/// Reads what is known of these. One that ends meanwhile is left out.
pub fn read(pids: &[i32]) -> Vec<ProcessInfo> {
    let text = |pid: i32, name: &str| -> Option<String> {
        let mut bytes = Vec::new();
        // Not the process's to choose but for its command line, whose length only its memory bounds.
        fs::File::open(format!("/proc/{pid}/{name}")).ok()?.take(16 << 10).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let known = pids.iter().filter_map(|&pid| {
        let (stat, status, command) = (text(pid, "stat")?, text(pid, "status")?, text(pid, "cmdline")?);
        Some((pid, describe(&stat, &status, &command)?))
    });
    with_parents(known.collect())
}

/// Puts the container's numbers of parents in the place of the agent's.
fn with_parents(known: Vec<(i32, ProcessInfo)>) -> Vec<ProcessInfo> {
    let inside: HashMap<u32, u32> = known.iter().map(|(pid, info)| (pid.unsigned_abs(), info.pid)).collect();
    let inner = |(_, info): (i32, ProcessInfo)| {
        let ppid = inside.get(&info.ppid).copied().unwrap_or(0);
        ProcessInfo { ppid, ..info }
    };
    known.into_iter().map(inner).collect()
}

/// From `stat`, `status` and `cmdline` (proc(5)); the parent's number is still the agent's.
fn describe(stat: &str, status: &str, command: &str) -> Option<ProcessInfo> {
    // The name in brackets may hold anything, brackets too.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let word = |key: &str, n: usize| line(key).and_then(|rest| rest.split_whitespace().nth(n));
    let number = |text: Option<&str>| text.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let mut words = command.trim_end_matches('\0').replace('\0', " ");
    if words.is_empty() {
        words = format!("[{name}]");
    }
    let end = (0..=words.len().min(MAX_COMMAND)).rev().find(|end| words.is_char_boundary(*end))?;
    words.truncate(end);
    Some(ProcessInfo {
        // One number for each namespace, the innermost last.
        pid: line("NSpid")?.split_whitespace().last()?.parse().ok()?,
        ppid: fields.get(1)?.parse().ok()?,
        uid: u32::try_from(number(word("Uid", 1))).unwrap_or(0),
        state: fields.first()?.chars().take(1).collect(),
        threads: u32::try_from(number(word("Threads", 0))).unwrap_or(0),
        cpu_usec: ticks(11).saturating_add(ticks(12)).saturating_mul(TICK_US),
        resident_bytes: number(word("VmRSS", 0)).saturating_mul(1024),
        command: words,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "321 (a) (b c) S 300 321 321 34816 321 4194304 100 0 0 0 25 5 0 0 20 0 2 0 100 0";
    const STATUS: &str = "Name:\ta\nUid:\t0\t7\t7\t7\nVmRSS:\t    1024 kB\nThreads:\t2\nNSpid:\t321\t9\n";

    #[test]
    fn a_process_is_described_as_its_container_sees_it() {
        let info = describe(STAT, STATUS, "sh\0-c\0x y\0").unwrap();
        assert_eq!((info.pid, info.ppid, info.uid, info.threads), (9, 300, 7, 2));
        assert_eq!((info.state.as_str(), info.command.as_str()), ("S", "sh -c x y"));
        assert_eq!((info.cpu_usec, info.resident_bytes), (300_000, 1 << 20));
        assert_eq!(describe(STAT, STATUS, "").unwrap().command, "[a) (b c]");
    }

    #[test]
    fn parents_outside_are_nobody() {
        let of = |pid, ppid| ProcessInfo { pid, ppid, ..ProcessInfo::default() };
        let seen = with_parents(vec![(300, of(1, 44)), (321, of(9, 300))]);
        assert_eq!((seen[0].ppid, seen[1].ppid), (0, 1));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(stat in ".{0,80}", status in ".{0,80}", command in "(\\PC|\0){0,400}") {
            if let Some(info) = describe(&stat, &status, &command) {
                prop_assert!(info.command.len() <= MAX_COMMAND);
            }
            prop_assert!(describe(STAT, STATUS, &command).unwrap().command.len() <= MAX_COMMAND);
        }
    }
}
