//! Whom the OOM killer killed, and at which limit: from the guest's kernel log, checked against each container's own count of kills.
//!
//! The log is read when a container's count has grown and not before: the kernel writes the line first. A line without a kill that was
//! counted is told to nobody, so even a line that was forged would name nobody who was not hit.

mod line;
#[cfg(test)]
mod tests;

use crate::reaper::Reaper;
use crate::{cgroup, own_stats};
use agent_protocol::{OomLimit, OomVictim};
use line::{Line, Victim, parse};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

const LOG: &str = "/dev/kmsg";
/// A record is at most 2 KiB (PRINTK_MESSAGE_MAX); a shorter buffer would be refused.
const RECORD: usize = 8 << 10;
/// The ring holds 64 KiB: it can't be that there are more, unless the kernel writes faster than it can be read.
const MAX_RECORDS: usize = 4096;
/// Victims whose kill has not been counted yet. The kernel tells ten in five seconds at most.
const MAX_WAITING: usize = 64;

/// Reads the kernel's log for kills.
#[derive(Debug)]
pub struct Ooms {
    reaper: Rc<Reaper>,
    log: RefCell<Option<File>>,
    /// Read, but not yet counted by the container: its id, the guest's process id, and what is told.
    waiting: RefCell<VecDeque<(String, u32, OomVictim)>>,
}

impl Ooms {
    /// Nothing read yet. The reaper knows the last of processes that were killed.
    pub fn new(reaper: Rc<Reaper>) -> Self {
        Self { reaper, log: RefCell::default(), waiting: RefCell::default() }
    }

    /// The victims of a container's next `kills` kills, as far as the kernel has told them.
    pub fn victims(&self, container: &str, kills: u64) -> Vec<OomVictim> {
        // A log that can't be read tells nothing; the kills are told all the same.
        let _ = self.read();
        let mut waiting = self.waiting.borrow_mut();
        let mut left = usize::try_from(kills).unwrap_or(usize::MAX);
        let mut found = Vec::new();
        waiting.retain(|(id, _, victim)| {
            let wanted = left > 0 && id == container;
            if wanted {
                left -= 1;
                found.push(victim.clone());
            }
            !wanted
        });
        found
    }

    /// Forgets what has not been told of a container that is gone: another one may get its name.
    pub fn forget(&self, container: &str) {
        self.waiting.borrow_mut().retain(|(id, ..)| id != container);
    }

    fn read(&self) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        if log.is_none() {
            *log = Some(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(LOG)?);
        }
        let Some(log) = log.as_mut() else { return Ok(()) };
        let mut record = vec![0; RECORD];
        for _ in 0..MAX_RECORDS {
            match log.read(&mut record) {
                Ok(n) => {
                    if let Some(line) = parse(&record[..n]) {
                        self.note(&line);
                    }
                }
                // Records were overwritten before they were read; the next read goes on with the oldest that is left.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note(&self, line: &Line<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        match line {
            Line::Spared(pid) => waiting.retain(|(_, known, _)| known != pid),
            Line::Victim(victim) => {
                if waiting.len() == MAX_WAITING {
                    waiting.pop_front();
                }
                waiting.push_back((victim.container.to_owned(), victim.pid, self.describe(victim)));
            }
        }
    }

    fn describe(&self, victim: &Victim<'_>) -> OomVictim {
        let (limit, limit_bytes) = match victim.limited {
            None => (OomLimit::Vm, own_stats::read().memory_total_bytes),
            Some(group) => {
                let own = group.starts_with("/pods/");
                (if own { OomLimit::Container } else { OomLimit::Pod }, cgroup::memory_limit(group))
            }
        };
        let inner = Marks::read(victim.pid)
            .inner(victim.container)
            .or_else(|| self.reaper.killed(victim.pid)?.inner(victim.container));
        OomVictim { pid: inner.unwrap_or(victim.pid), name: victim.name.to_owned(), limit, limit_bytes }
    }
}

/// The kernel's files about a process that say whose it is.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    cgroup: String,
    status: String,
}

impl Marks {
    /// Reads them; empty when the process is gone.
    pub fn read(pid: u32) -> Self {
        let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        Self { cgroup: text("cgroup"), status: text("status") }
    }

    /// The process's id as its container sees it, if it is that container's, and not another one that got the number.
    fn inner(&self, container: &str) -> Option<u32> {
        let path = self.cgroup.lines().find_map(|line| line.strip_prefix("0::/pods/"))?;
        // A group that is removed has a word behind its path.
        let of = path.split(['/', ' ']).next()?;
        let ids = self.status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        // One number for each namespace, the innermost last.
        (of == container).then(|| ids.split_whitespace().last()?.parse().ok())?
    }
}
