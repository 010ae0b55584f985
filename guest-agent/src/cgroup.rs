//! A container's cgroup (version 2), below `/pods`: made before the container, so that its device rules hold from the first instruction.

use crate::devices::{self, Rule};
use crate::sys::watch::watch_urgent;
use agent_protocol::{MAX_PROCESSES, Stats};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const MOUNT: &str = "/sys/fs/cgroup";
/// The cgroup above all containers; the agent itself stays in the root, which no limit can touch.
const PODS: &str = "pods";
/// The controllers that a container's limits may need.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Makes `/pods` and hands the controllers down to it.
///
/// # Errors
/// When cgroup2 is not mounted.
pub fn prepare() -> io::Result<()> {
    let pods = Path::new(MOUNT).join(PODS);
    hand_down(Path::new(MOUNT));
    fs::create_dir_all(&pods)?;
    hand_down(&pods);
    Ok(())
}

/// Sets the most memory that all containers together may use, in bytes.
///
/// # Errors
/// When the kernel has no memory controller.
pub fn limit_all(memory: u64) -> io::Result<()> {
    fs::write(Path::new(MOUNT).join(PODS).join("memory.max"), memory.to_string())
}

/// The memory limit of a cgroup that is named as the kernel's log does, in bytes; 0 without one.
pub fn memory_limit(group: &str) -> u64 {
    let below = Path::new(group.trim_start_matches('/'));
    // The log's names are a container's to choose, where it may make cgroups.
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return 0;
    }
    let limit = fs::read_to_string(Path::new(MOUNT).join(below).join("memory.max"));
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn hand_down(cgroup: &Path) {
    for controller in CONTROLLERS {
        // A kernel without a controller makes only the limits that need it fail, and those say so themselves.
        let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// One container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The path of a container's cgroup as the OCI spec names it.
    pub fn spec_path(container: &str) -> PathBuf {
        Path::new("/").join(PODS).join(container)
    }

    /// Makes the cgroup and puts the device rules in force.
    ///
    /// # Errors
    /// When either fails; nothing is left then.
    pub fn create(container: &str, rules: &[Rule]) -> io::Result<Self> {
        let cgroup = Self { path: Path::new(MOUNT).join(PODS).join(container) };
        fs::create_dir(&cgroup.path)?;
        let directory = fs::File::open(&cgroup.path)?;
        if let Err(error) = devices::enforce(directory.as_fd(), rules) {
            let _ = fs::remove_dir(&cgroup.path);
            return Err(io::Error::new(
                error.kind(),
                format!("the device rules can't be put in force: {error}"),
            ));
        }
        Ok(cgroup)
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// When it is gone or full.
    pub fn join(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
    }

    /// Kills every process in it and below.
    pub fn kill(&self) {
        // It may be gone already, and then nothing is left to kill.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Waits until no process is in it.
    ///
    /// # Errors
    /// When its events can't be read.
    pub async fn emptied(&self) -> io::Result<()> {
        let events = Watched::open(&self.path.join("cgroup.events"))?;
        while events.value("populated")? != 0 {
            events.changed().await?;
        }
        Ok(())
    }

    /// How many processes the OOM killer has killed in it.
    pub fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events")).map(|text| value(&text, "oom_kill")).unwrap_or(0)
    }

    /// Calls `tell` with the number of kills whenever the OOM killer may have struck, until dropped or the cgroup is gone.
    pub async fn watch_oom(&self, tell: impl Fn(u64)) -> io::Result<()> {
        let events = Watched::open(&self.path.join("memory.events"))?;
        loop {
            tell(events.value("oom_kill")?);
            events.changed().await?;
        }
    }

    /// What the container uses now.
    pub fn stats(&self) -> Stats {
        let read = |file: &str| fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let number = |file: &str| read(file).trim().parse().unwrap_or(0);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // The VM is the pod's network namespace.
        let (received_bytes, sent_bytes) = traffic(&fs::read_to_string("/proc/net/dev").unwrap_or_default());
        Stats {
            memory_bytes: number("memory.current"),
            cpu_usec: value(&read("cpu.stat"), "usage_usec"),
            pids: number("pids.current"),
            at_us: (now.tv_sec as u64) * 1_000_000 + (now.tv_nsec as u64) / 1_000,
            inactive_file_bytes: value(&read("memory.stat"), "inactive_file"),
            // "max" is no number.
            memory_limit_bytes: number("memory.max"),
            read_bytes: sum(&read("io.stat"), "rbytes="),
            written_bytes: sum(&read("io.stat"), "wbytes="),
            received_bytes,
            sent_bytes,
        }
    }

    /// The processes in it and below, by the agent's numbers; no more than are listed.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut todo = vec![self.path.clone()];
        while let Some(folder) = todo.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            if found.len() >= MAX_PROCESSES {
                break;
            }
            let below = fs::read_dir(&folder).into_iter().flatten().flatten();
            todo.extend(below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
        }
        found.truncate(MAX_PROCESSES);
        found.sort_unstable();
        found
    }

    /// Removes it with everything that the container's processes made below it.
    ///
    /// # Errors
    /// When a process is still in it.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The number behind a key in a file of `key value` lines.
fn value(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or(0)
}

/// The sum of what stands behind a key in a file of lines of `key=value` words.
fn sum(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

/// Bytes received and sent over all links but the loopback, from `/proc/net/dev`.
fn traffic(text: &str) -> (u64, u64) {
    let links = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let numbers = |line: &str| -> Option<(u64, u64)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.first()?.parse().ok()?, words.get(8)?.parse().ok()?))
    };
    links.filter_map(|(_, line)| numbers(line)).fold((0, 0), |(r, s), (a, b)| (r + a, s + b))
}

/// A cgroup file that the kernel marks as urgent data when it changes.
struct Watched {
    file: AsyncFd<OwnedFd>,
}

impl Watched {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: watch_urgent(fs::File::open(path)?.into())? })
    }

    /// Reads a value; the read also arms the next notification.
    fn value(&self, key: &str) -> io::Result<u64> {
        let mut buffer = [0; 1024];
        let n = rustix::io::pread(self.file.get_ref(), &mut buffer, 0)?;
        Ok(value(&String::from_utf8_lossy(&buffer[..n]), key))
    }

    async fn changed(&self) -> io::Result<()> {
        self.file.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 7\n";
        assert_eq!(value(text, "oom_kill"), 2);
        assert_eq!(value(text, "kill"), 0);
        assert_eq!(value("rubbish", "oom"), 0);
    }

    #[test]
    fn traffic_and_disks_are_sums() {
        let io = "254:0 rbytes=5 wbytes=7 rios=1\n254:16 rbytes=10 wbytes=x\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes=")), (15, 7));
        let net =
            "Inter-|   Receive\n face |bytes\n    lo: 9 9 9 9 9 9 9 9 9 9\n  eth0: 100 1 0 0 0 0 0 0 200 2\n";
        assert_eq!(traffic(net), (100, 200));
        assert_eq!(traffic("eth0: 1 2\nrubbish"), (0, 0));
    }
}
