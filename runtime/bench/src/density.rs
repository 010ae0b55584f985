//! `vial bench density`: idle pods, one after the other, until a bound; and what all of them together take.

use crate::child::{Stop, output_of};
use crate::contender::{Contender, Ground};
use crate::machine::kib;
use crate::result::{Density, DensityPoint};
use crate::startup::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// No more than this.
    pub most: u32,
    /// No more when less than this share of memory is available, 0 to 1.
    pub leave: f64,
    /// How long those that run are left alone to see what they use at rest.
    pub rest: Duration,
}

/// Sizes of everything that runs, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    pss: u64,
    private: u64,
    shared: u64,
    shared_file: u64,
    processes: u32,
}

/// Measures one contender.
///
/// # Errors
/// In words: why there is not one point.
pub fn measure(
    contender: &dyn Contender,
    ground: &Ground<'_>,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Density, String> {
    let name = contender.about().name;
    watch.begin(&format!("idle pods of {name}"), u64::from(options.most));
    let mut pods = Vec::new();
    let mut density = Density {
        contender: name.to_owned(),
        points: vec![],
        cpu_percent_per_pod: None,
        rest_s: options.rest.as_secs_f64(),
        ended: String::new(),
    };
    settle(ground.stop);
    let (before, memory_before) = (sum(), meminfo());
    let known: BTreeSet<u32> = pids();
    density.ended = loop {
        if ground.stop.is_set() {
            break "interrupted".into();
        }
        if pods.len() as u32 >= options.most {
            break format!("{} were asked for", options.most);
        }
        let memory = meminfo();
        if memory.available < options.leave * memory.total {
            break format!("less than {:.0} % of the machine's memory was left", options.leave * 100.0);
        }
        let id = format!("vial-bench-{}-idle-{}", std::process::id(), pods.len());
        pods.push(id.clone());
        let started = contender.idle(&id).and_then(|line| output_of(&line, ground.stop).map(|_| ()));
        if let Err(reason) = started {
            contender.clear(&id);
            pods.pop();
            break reason;
        }
        watch.step(&format!("{} run", pods.len()));
        if is_point(pods.len(), options.most) {
            settle(ground.stop);
            let point = point(pods.len(), before, sum(), &memory_before, &meminfo());
            if point.processes < point.pods {
                break format!(
                    "they do not stay: after {} starts there are {} more processes",
                    point.pods, point.processes
                );
            }
            density.points.push(point);
        }
    };
    let measured = density.points.last().map_or(0, |point| point.pods as usize);
    if measured < pods.len() && !ground.stop.is_set() {
        settle(ground.stop);
        let point = point(pods.len(), before, sum(), &memory_before, &meminfo());
        density.points.extend((point.processes >= point.pods).then_some(point));
    }
    if !density.points.is_empty() && !ground.stop.is_set() {
        watch.begin(&format!("{} of {name} at rest", pods.len()), 1);
        density.cpu_percent_per_pod = Some(at_rest(&known, options.rest, ground.stop) / pods.len() as f64);
    }
    watch.begin(&format!("removing those of {name}"), pods.len() as u64);
    for id in &pods {
        contender.clear(id);
        watch.step(id);
    }
    if density.points.is_empty() { Err(density.ended) } else { Ok(density) }
}

/// 1, 2, 5, 10, 20, 50, …, and the last.
fn is_point(count: usize, most: u32) -> bool {
    let mut scale = 1;
    while scale * 10 <= count {
        scale *= 10;
    }
    [1, 2, 5].iter().any(|step| step * scale == count) || count as u64 == u64::from(most)
}

/// What a start leaves running for a moment (a helper that ends, a guest that still boots) is not what a pod costs.
fn settle(stop: Stop<'_>) {
    stop.rest(Duration::from_secs(2));
}

struct Memory {
    total: f64,
    available: f64,
    cached: f64,
}

fn meminfo() -> Memory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name| kib(&text, name).unwrap_or(0) as f64;
    Memory { total: of("MemTotal"), available: of("MemAvailable"), cached: of("Cached") }
}

fn point(pods: usize, before: Sum, now: Sum, memory_before: &Memory, memory: &Memory) -> DensityPoint {
    DensityPoint {
        pods: pods as u32,
        pss_kib: now.pss.saturating_sub(before.pss),
        private_kib: now.private.saturating_sub(before.private),
        shared_kib: now.shared.saturating_sub(before.shared),
        shared_file_kib: now.shared_file.saturating_sub(before.shared_file),
        available_fallen_kib: (memory_before.available - memory.available) as i64,
        cached_grown_kib: (memory.cached - memory_before.cached) as i64,
        processes: now.processes.saturating_sub(before.processes),
    }
}

/// Everything that runs but this process: what a pod costs may be a daemon's growth.
fn sum() -> Sum {
    let own = std::process::id();
    let mut sum = Sum::default();
    for pid in pids().into_iter().filter(|pid| *pid != own) {
        // Kernel threads have none, and what has just ended has none any more.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps")) else { continue };
        if text.is_empty() {
            continue;
        }
        add(&mut sum, &text);
    }
    sum
}

/// Adds a process (`proc_pid_smaps(5)`).
fn add(sum: &mut Sum, smaps: &str) {
    sum.processes += 1;
    let mut of_file = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        if !name.ends_with(':') {
            // The head of a mapping: addresses, rights, offset, device, inode, path.
            of_file = line.split_ascii_whitespace().nth(5).is_some_and(|path| path.starts_with('/'));
            continue;
        }
        let Ok(value) = value.parse::<u64>() else { continue };
        match name {
            "Pss:" => sum.pss += value,
            "Private_Clean:" | "Private_Dirty:" => sum.private += value,
            "Shared_Clean:" | "Shared_Dirty:" => {
                sum.shared += value;
                sum.shared_file += if of_file { value } else { 0 };
            }
            _ => {}
        }
    }
}

fn pids() -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Percent of one processor that those use who have come since `known`.
fn at_rest(known: &BTreeSet<u32>, time: Duration, stop: Stop<'_>) -> f64 {
    let ticks = || -> BTreeMap<u32, u64> {
        let new = pids().into_iter().filter(|pid| !known.contains(pid) && *pid != std::process::id());
        let of = |pid: u32| Some((pid, used(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
        new.filter_map(of).collect()
    };
    let before = ticks();
    let began = std::time::Instant::now();
    stop.rest(time);
    let took = began.elapsed().as_secs_f64();
    let after = ticks();
    let grown: u64 =
        after.iter().map(|(pid, now)| now.saturating_sub(before.get(pid).copied().unwrap_or(0))).sum();
    let a_second = rustix::param::clock_ticks_per_second() as f64;
    100.0 * grown as f64 / a_second / took.max(0.001)
}

/// Ticks in user and system mode (`proc_pid_stat(5)`, fields 14 and 15); the name before them may hold anything.
fn used(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let of = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(of(14)? + of(15)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_spread_over_orders_of_magnitude() {
        let points: Vec<usize> = (1..=130).filter(|count| is_point(*count, 130)).collect();
        assert_eq!(points, [1, 2, 5, 10, 20, 50, 100, 130]);
    }

    #[test]
    fn mappings_are_summed_and_files_told_apart() {
        let smaps = "\
55d0-55d1 r-xp 00000000 08:01 7 /usr/bin/x y
Rss: 100 kB
Pss: 30 kB
Shared_Clean: 90 kB
Private_Clean: 10 kB
VmFlags: rd ex
7f00-7f01 rw-p 00000000 00:00 0
Pss: 8 kB
Shared_Dirty: 5 kB
Private_Dirty: 4 kB
7f02-7f03 rw-p 00000000 00:00 0 [stack]
Private_Dirty: 2 kB
";
        let mut sum = Sum::default();
        add(&mut sum, smaps);
        assert_eq!(sum, Sum { pss: 38, private: 16, shared: 95, shared_file: 90, processes: 1 });
    }

    #[test]
    fn a_process_with_a_foul_name_is_read() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        assert_eq!(used(&format!("7 (a) b (c) {rest}")), Some(42));
        assert_eq!(used("7 (x"), None);
    }
}
