//! What declared pods and the machine use, for `kubectl top`. Processor time is a share between two looks: the last one, or one a second ago.

use super::observe::{self, CONTAINER};
use crate::live::Phase;
use crate::state::Shared;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinSet, spawn_blocking};
use vial_orchestrator::chrono::Utc;
use vial_orchestrator::http::metrics::{Answer, Metrics, PodUsage, Usage};
use vial_sandbox::Task;

/// Shortest time that a share is of.
const WINDOW: Duration = Duration::from_secs(1);
/// An agent that does not answer in this time is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Units of /proc/stat (USER_HZ, part of Linux' ABI), microseconds each.
const TICK_US: u64 = 10_000;

/// Processor time at a moment, both in microseconds; whatever the clock, it is the same for two looks at one thing.
#[derive(Clone, Copy)]
struct Look {
    at_us: u64,
    cpu_us: u64,
    bytes: u64,
}

/// Looks of before, by the container's id; the machine's has none.
pub struct Measures {
    daemon: Shared,
    before: Mutex<HashMap<String, Look>>,
}

struct Found {
    uid: String,
    name: String,
    id: String,
    task: Task,
}

impl Measures {
    /// Of this daemon's pods.
    pub fn of(daemon: &Shared) -> Self {
        Self { daemon: daemon.clone(), before: Mutex::default() }
    }

    /// The share since the look before, which is then forgotten if it is long enough ago; nothing, if there was none.
    fn share(&self, id: &str, now: Look) -> Option<Usage> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        // Another boot has another clock.
        let old = before.get(id).copied().filter(|old| old.at_us <= now.at_us && old.cpu_us <= now.cpu_us);
        let passed = Duration::from_micros(now.at_us - old.map_or(now.at_us, |old| old.at_us));
        let Some(old) = old.filter(|_| passed >= WINDOW) else {
            if old.is_none() {
                before.insert(id.to_owned(), now);
            }
            return None;
        };
        before.insert(id.to_owned(), now);
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let nanocores = (now.cpu_us - old.cpu_us).saturating_mul(1_000_000_000) / micros;
        Some(Usage { nanocores, bytes: now.bytes, window: passed, at: Utc::now() })
    }

    async fn running(&self) -> Vec<Found> {
        let daemon = self.daemon.clone();
        let there = spawn_blocking(move || observe::look(&daemon)).await;
        let Ok(Ok(there)) = there else { return Vec::new() };
        let mut found = Vec::new();
        for (uid, records) in there.containers {
            for record in records {
                let Some(live) = self.daemon.live(&record.id) else { continue };
                let Phase::Running(task) = live.phase() else { continue };
                let name = record.request.labels.get(CONTAINER).cloned().unwrap_or_default();
                found.push(Found { uid: uid.clone(), name, id: record.id.to_string(), task });
            }
        }
        found
    }

    /// The shares of those that were looked at before, and the others.
    async fn measure(&self, of: Vec<Found>) -> (Vec<(Found, Usage)>, Vec<Found>) {
        let mut asked = JoinSet::new();
        for found in of {
            asked.spawn(async move {
                let stats = tokio::time::timeout(PATIENCE, found.task.stats()).await;
                (found, stats.ok().and_then(Result::ok))
            });
        }
        let (mut measured, mut others) = (Vec::new(), Vec::new());
        while let Some(answer) = asked.join_next().await {
            let Ok((found, Some(stats))) = answer else { continue };
            let bytes = stats.memory_bytes.saturating_sub(stats.inactive_file_bytes);
            let look = Look { at_us: stats.at_us, cpu_us: stats.cpu_usec, bytes };
            match self.share(&found.id, look) {
                Some(usage) => measured.push((found, usage)),
                None => others.push(found),
            }
        }
        (measured, others)
    }
}

impl Metrics for Measures {
    fn pods(&self) -> Answer<'_, Vec<PodUsage>> {
        Box::pin(async {
            let running = self.running().await;
            {
                let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
                before.retain(|id, _| id.is_empty() || running.iter().any(|found| found.id == *id));
            }
            let (mut measured, others) = self.measure(running).await;
            if !others.is_empty() {
                // The second look of those that had no first.
                tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
                measured.extend(self.measure(others).await.0);
            }
            let mut pods: HashMap<String, Vec<(String, Usage)>> = HashMap::new();
            for (found, usage) in measured {
                pods.entry(found.uid).or_default().push((found.name, usage));
            }
            pods.into_iter()
                .map(|(uid, mut containers)| {
                    containers.sort_by(|one, other| one.0.cmp(&other.0));
                    PodUsage { uid, containers }
                })
                .collect()
        })
    }

    fn machine(&self) -> Answer<'_, Option<Usage>> {
        Box::pin(async {
            if let Some(usage) = self.share("", machine()?) {
                return Some(usage);
            }
            tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
            self.share("", machine()?)
        })
    }
}

/// The machine now.
fn machine() -> Option<Look> {
    let (stat, meminfo) =
        (std::fs::read_to_string("/proc/stat").ok()?, std::fs::read_to_string("/proc/meminfo").ok()?);
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    look(&stat, &meminfo, &uptime)
}

/// From /proc/stat, /proc/meminfo and /proc/uptime (proc(5)). What a guest had is in `user` already.
fn look(stat: &str, meminfo: &str, uptime: &str) -> Option<Look> {
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user, nice, system, then idle and iowait, irq, softirq, steal.
    let busy: u64 = [0, 1, 2, 5, 6].into_iter().filter_map(|index| ticks.get(index)).sum();
    let field = |name| super::facts::field(meminfo, name);
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some(Look {
        at_us: (seconds * 1e6) as u64,
        cpu_us: busy.saturating_mul(TICK_US),
        bytes: field("MemTotal:").saturating_sub(field("MemAvailable:")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_proc() {
        let stat = "cpu  100 1 50 9999 7 2 3 0 0 0\ncpu0 1 2 3\n";
        let found = look(stat, "MemTotal: 1000 kB\nMemAvailable: 400 kB\n", "12.50 3.0\n").unwrap();
        assert_eq!((found.at_us, found.cpu_us, found.bytes), (12_500_000, 1_560_000, 600 << 10));
        assert!(look("", "", "").is_none() && machine().is_some());
    }
}
