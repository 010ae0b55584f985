//! A program that runs, watched: its output, its end, and the end that it is given.

use super::{Failed, Stop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// More output than this of a command that writes a line is rubbish.
const MOST_OUTPUT: usize = 1 << 20;
/// Of a last line that somebody wants to read, this much can be.
const MOST_LINE: usize = 256 << 10;
/// Of what a failed program said, this much is kept.
const MOST_WORDS: usize = 400;

/// A program that runs, in a process group of its own, which is killed when this is dropped.
pub struct Running {
    pub child: Child,
    pidfd: OwnedFd,
    errors: File,
}

impl Running {
    /// Spawns a command; gives the moment before that too.
    pub fn spawn(command: &[OsString], stdout: Stdio) -> Result<(Self, Instant), Failed> {
        let (program, args) = command.split_first().ok_or_else(|| {
            Failed::System(io::Error::new(io::ErrorKind::InvalidInput, "an empty command line"))
        })?;
        let errors = bounded()?;
        let mut command = Command::new(program);
        command.args(args).process_group(0).stdin(Stdio::null()).stdout(stdout).stderr(errors.try_clone()?);
        let began = Instant::now();
        let mut child = command.spawn().map_err(Failed::Spawn)?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Self { child, pidfd, errors }, began)),
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = child.wait();
                Err(io::Error::from(error).into())
            }
        }
    }

    /// Becomes readable when the program ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Reads output until `enough` says so or the program has ended, and says when that was.
    pub fn pass(
        &mut self,
        output: &mut Vec<u8>,
        end: Instant,
        timeout: Duration,
        stop: Stop<'_>,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<Instant, Failed> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let out = self.child.stdout.as_ref().map(AsFd::as_fd);
            let mut watched = vec![stop.0, self.pidfd.as_fd()];
            watched.extend(out);
            let ready = wait(&watched, Some(left))?;
            let now = Instant::now();
            if ready[0] {
                return Err(Failed::Interrupted);
            }
            if ready.get(2) == Some(&true) {
                let mut bytes = [0; 16 << 10];
                let count = match &mut self.child.stdout {
                    Some(out) => out.read(&mut bytes)?,
                    None => 0,
                };
                if count == 0 {
                    self.child.stdout = None;
                }
                output.extend_from_slice(&bytes[..count]);
                if output.len() > MOST_OUTPUT {
                    return Err(Failed::Output(shown(output), "a line".into()));
                }
                if count > 0 && enough(output) {
                    return Ok(now);
                }
                continue;
            }
            if ready[1] {
                return Ok(now);
            }
            if left.is_zero() {
                return Err(Failed::TimedOut(timeout, self.said()));
            }
        }
    }

    /// What is in the pipe when the program has ended. Not more: who else holds its other end may keep it for ever.
    pub fn rest_of_output(&mut self, output: &mut Vec<u8>) -> Result<(), Failed> {
        while let Some(out) = &mut self.child.stdout {
            let mut bytes = [0; 16 << 10];
            let there = wait(&[out.as_fd()], Some(Duration::ZERO))?[0];
            let count = if there { out.read(&mut bytes)? } else { 0 };
            if count == 0 || output.len() > MOST_OUTPUT {
                self.child.stdout = None;
            }
            output.extend_from_slice(&bytes[..count]);
        }
        Ok(())
    }

    /// The last line that it wrote on standard error.
    pub fn last_line(&self) -> String {
        let mut text = vec![0; MOST_LINE];
        let (begin, count) = self.end_of_errors(&mut text);
        let text = String::from_utf8_lossy(&text[..count]);
        let text = text.trim_end();
        match text.rsplit_once('\n') {
            Some((_, last)) => last.to_owned(),
            None if begin == 0 => text.to_owned(),
            // It begins before what was read.
            None => String::new(),
        }
    }

    /// The end of what it wrote on standard error.
    pub fn said(&self) -> String {
        let mut text = [0; 4 * MOST_WORDS];
        let (_, count) = self.end_of_errors(&mut text);
        shown_end(&text[..count])
    }

    /// The last of what it wrote on standard error: where that begins, and how much there is.
    fn end_of_errors(&self, text: &mut [u8]) -> (u64, usize) {
        let end = written(&self.errors);
        let begin = end.saturating_sub(text.len() as u64);
        // Both fit into `text`.
        let length = (end - begin) as usize;
        // By place: the position is the program's, which may be writing still.
        (begin, self.errors.read_at(&mut text[..length], begin).unwrap_or(0))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever is left of its group; the program itself is this process's child, and so its number still its own.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::TERM);
            let _ = wait(&[self.pidfd.as_fd()], Some(Duration::from_secs(5)));
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Which of these can be read, waiting so long at most; without a time for ever.
pub fn wait(watched: &[BorrowedFd<'_>], time: Option<Duration>) -> io::Result<Vec<bool>> {
    let end = time.map(|time| Instant::now() + time);
    let mut polled: Vec<PollFd<'_>> =
        watched.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = end.map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            // Both fit: seconds of a timeout that people give, and less than 10^9.
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut polled, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled.iter().map(|one| !one.revents().is_empty()).collect()),
        }
    }
}

/// Foreign bytes for people: control characters escaped, and not too many.
pub fn shown(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST_WORDS)]).into_owned();
    if bytes.len() > MOST_WORDS { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}

fn shown_end(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut last = lines[lines.len().saturating_sub(3)..].join("; ");
    if last.chars().count() > MOST_WORDS {
        last = last.chars().skip(last.chars().count() - MOST_WORDS).collect();
    }
    last.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A file in memory that takes [`MOST_OUTPUT`] bytes and no more: what floods it fails to write, and fills nobody's memory.
pub fn bounded() -> io::Result<File> {
    let file = File::from(memfd_create("output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(MOST_OUTPUT as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW)?;
    Ok(file)
}

/// How much was written to it: its position is shared with whoever writes.
pub fn written(file: &File) -> u64 {
    let mut file = file;
    file.stream_position().unwrap_or(0).min(MOST_OUTPUT as u64)
}
