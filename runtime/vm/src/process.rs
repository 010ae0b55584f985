//! Recognising a process again, after the program that started it was replaced.
//!
//! A process id alone may have been given to another process meanwhile; with its start time and the boot's id it can't be mistaken.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Which process it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its id in the namespace of the program that started it.
    pub pid: i32,
    /// When it was started: clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl ProcessRecord {
    /// The record of the calling process.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn current() -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Self { pid, start_time: start_time(&open_proc()?, pid)?, boot_id: boot_id()? })
    }

    /// A descriptor for the process if it is still the same and alive.
    ///
    /// # Errors
    /// When /proc or pidfd_open fail for another reason than the process being gone.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid.max(0)) else { return Ok(None) };
        // The descriptor first, then the start time: if that still fits, the descriptor is of the same process.
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        match start_time(&open_proc()?, self.pid) {
            Ok(time) if time == self.start_time && !has_ended(pidfd.as_fd())? => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the process is alive; a process that can't be looked at counts as alive.
    pub fn is_alive(&self) -> bool {
        !matches!(self.open(), Ok(None))
    }
}

/// Whether the process of a pidfd is gone.
///
/// # Errors
/// When poll fails.
pub fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    wait_readable(pidfd, PollFlags::IN, Some(0))
}

/// Waits for an event on a descriptor for up to so many milliseconds; none waits for ever.
pub(crate) fn wait_readable(fd: impl AsFd, events: PollFlags, within_ms: Option<u32>) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, events)];
    let timeout =
        within_ms.map(|ms| Timespec { tv_sec: (ms / 1000).into(), tv_nsec: (ms % 1000 * 1_000_000).into() });
    loop {
        match poll(&mut fds, timeout.as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Kills the process of a pidfd; that it is gone already is no error.
///
/// # Errors
/// When the caller may not.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The /proc folder; the launcher keeps it open because its own tree has none.
pub(crate) fn open_proc() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc", OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?)
}

/// When a process was started, in clock ticks since boot.
pub(crate) fn start_time(proc: impl AsFd, pid: i32) -> io::Result<u64> {
    let fd =
        rustix::fs::openat(proc, format!("{pid}/stat"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(fd).take(4096).read_to_string(&mut text)?;
    parse_start_time(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "odd /proc/<pid>/stat"))
}

/// Field 22 of a stat line; the second field is a name in brackets that may contain anything, brackets and blanks too.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The id of this boot of the host.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn finds_the_start_time_behind_odd_names() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse_start_time(line), Some(12345));
        assert_eq!(parse_start_time("7 (x"), None);
    }

    #[test]
    fn recognises_itself_and_not_its_successor() {
        let me = ProcessRecord::current().unwrap();
        assert!(me.open().unwrap().is_some());
        assert!(ProcessRecord { start_time: me.start_time + 1, ..me.clone() }.open().unwrap().is_none());
        assert!(ProcessRecord { boot_id: "another".into(), ..me }.open().unwrap().is_none());
    }

    #[test]
    fn sees_a_process_end() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let record = ProcessRecord {
            pid,
            start_time: start_time(open_proc().unwrap(), pid).unwrap(),
            boot_id: boot_id().unwrap(),
        };
        let fd = record.open().unwrap().expect("it runs");
        kill(&fd).unwrap();
        assert!(wait_readable(&fd, PollFlags::IN, None).unwrap());
        assert!(!record.is_alive());
        child.wait().unwrap();
        assert!(!record.is_alive());
        kill(&fd).unwrap();
    }
}
