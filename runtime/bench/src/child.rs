//! One start: a program as its user starts it, from the moment before it is spawned to what is waited for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// More output than this of a command that writes a line is rubbish.
const MOST_OUTPUT: usize = 1 << 20;
/// Of a last line that somebody wants to read, this much can be.
const MOST_LINE: usize = 256 << 10;
/// Of what a failed program said, this much is kept.
const MOST_WORDS: usize = 400;
/// Between two tries to reach a server that does not listen yet: how exact that figure can be.
const KNOCK: Duration = Duration::from_millis(1);
/// How long a command that clears away has.
const CLEANING: Duration = Duration::from_secs(60);
/// How long a rival's helper command has in its preparation.
const HELPING: Duration = Duration::from_secs(300);
/// How long a server that takes a connection has to answer on it.
const ANSWERING: Duration = Duration::from_secs(2);
/// How long a program has to end by itself once it was asked to, or once its output was seen.
const PATIENCE: Duration = Duration::from_secs(15);

/// A command line and what it must do.
#[derive(Debug, Clone)]
pub struct Start {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// More environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub folder: Option<PathBuf>,
    /// What is waited for.
    pub until: Until,
}

/// What is waited for, and what proves that it was real.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// The program's end with success, having written exactly this.
    Exit {
        /// Standard output as a whole.
        output: Vec<u8>,
    },
    /// The program's end with success, whatever it wrote.
    AnyExit,
    /// The first byte of this on standard output; nothing else may come before it unless `console`.
    Output {
        /// What the command inside writes.
        marker: Vec<u8>,
        /// Standard output is a machine's console, on which its kernel may speak too.
        console: bool,
    },
    /// An HTTP answer on this port of 127.0.0.1; then the program is asked to end.
    Http {
        /// The port.
        port: u16,
    },
}

/// Why a start did not count.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Somebody wants the whole bench to end.
    #[error("interrupted")]
    Interrupted,
    /// It can't be executed.
    #[error("can't be run: {0}")]
    Spawn(io::Error),
    /// It took too long and was killed.
    #[error("no end after {} s{}", .0.as_secs(), words(.1))]
    TimedOut(Duration, String),
    /// It ended with another status than success.
    #[error("ended with {0}{words}", words = words(.1))]
    Status(ExitStatus, String),
    /// It wrote something else than its command does.
    #[error("wrote {0:?} instead of {1:?}")]
    Output(String, String),
    /// It ended before what was waited for.
    #[error("ended with {0} before that{words}", words = words(.1))]
    Early(ExitStatus, String),
    /// The machine refused something.
    #[error("{0}")]
    System(#[from] io::Error),
}

fn words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Becomes readable when the bench is to end.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a>(pub BorrowedFd<'a>);

impl Stop<'_> {
    /// Whether it is.
    pub fn is_set(self) -> bool {
        wait(&[self.0], Some(Duration::ZERO)).is_ok_and(|ready| ready[0])
    }

    /// Waits so long, or less when the bench is to end.
    pub fn rest(self, time: Duration) {
        let _ = wait(&[self.0], Some(time));
    }
}

/// A program that ended well, and what it had to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// CLOCK_MONOTONIC before it was spawned, microseconds.
    pub began_us: u64,
    /// The same when its end had been seen.
    pub ended_us: u64,
    /// The last line that it wrote on standard error; empty when it wrote none, or one that is too long to be sense.
    pub last_line: String,
}

/// A program that runs, in a process group of its own, which is killed when this is dropped.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    errors: File,
}

impl Start {
    /// Makes it, and gives the milliseconds that it took. A program that did not end by itself is gone afterwards, with its group.
    ///
    /// # Errors
    /// When it did not do what it should within `timeout`.
    pub fn time(&self, timeout: Duration, stop: Stop<'_>) -> Result<f64, Failed> {
        let (mut running, began) = self.spawn()?;
        match &self.until {
            Until::Exit { output } => running.exit(Some(output), began, timeout, stop),
            Until::AnyExit => running.exit(None, began, timeout, stop),
            Until::Output { marker, console } => running.output(marker, *console, began, timeout, stop),
            Until::Http { port } => running.http(*port, began, timeout, stop),
        }
    }

    /// Makes it to its end, whatever it is else to be waited for, and gives what it said last.
    ///
    /// # Errors
    /// As [`Self::time`].
    pub fn told(&self, timeout: Duration, stop: Stop<'_>) -> Result<Told, Failed> {
        let began_us = monotonic_us();
        let (mut running, began) = self.spawn()?;
        running.exit(Some(&[]), began, timeout, stop)?;
        let ended_us = monotonic_us();
        Ok(Told { began_us, ended_us, last_line: running.last_line() })
    }

    fn spawn(&self) -> Result<(Running, Instant), Failed> {
        let (program, args) = self.command.split_first().ok_or_else(|| {
            Failed::System(io::Error::new(io::ErrorKind::InvalidInput, "an empty command line"))
        })?;
        let errors = bounded()?;
        let mut command = Command::new(program);
        command.args(args).envs(self.env.iter().cloned()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let began = Instant::now();
        let child = command.spawn().map_err(Failed::Spawn)?;
        let pid = Pid::from_child(&child);
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                return Err(io::Error::from(error).into());
            }
        };
        Ok((Running { child, pidfd, errors }, began))
    }
}

/// CLOCK_MONOTONIC, microseconds: what programs tell of themselves is on it.
fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is negative, and the sum is far from overflow.
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

impl Running {
    fn exit(
        &mut self,
        wanted: Option<&[u8]>,
        began: Instant,
        timeout: Duration,
        stop: Stop<'_>,
    ) -> Result<f64, Failed> {
        let mut output = Vec::new();
        let end = self.pass(&mut output, began + timeout, timeout, stop, |_| false)?;
        let took = (end - began).as_secs_f64() * 1000.0;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(Failed::Status(status, self.said()));
        }
        self.rest_of_output(&mut output)?;
        match wanted {
            Some(wanted) if output != wanted => Err(Failed::Output(shown(&output), shown(wanted))),
            _ => Ok(took),
        }
    }

    fn output(
        &mut self,
        marker: &[u8],
        console: bool,
        began: Instant,
        timeout: Duration,
        stop: Stop<'_>,
    ) -> Result<f64, Failed> {
        let mut output = Vec::new();
        let seen = |output: &[u8]| {
            if console { output.windows(marker.len()).any(|part| part == marker) } else { !output.is_empty() }
        };
        let at = self.pass(&mut output, began + timeout, timeout, stop, seen)?;
        if !seen(&output) {
            let status = self.child.wait()?;
            return Err(Failed::Early(status, self.said()));
        }
        // Not in the figure, but it must be the command that wrote, and it must end well.
        self.pass(&mut output, Instant::now() + PATIENCE, PATIENCE, stop, |_| false)?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(Failed::Status(status, self.said()));
        }
        self.rest_of_output(&mut output)?;
        if !console && output != marker {
            return Err(Failed::Output(shown(&output), shown(marker)));
        }
        Ok((at - began).as_secs_f64() * 1000.0)
    }

    fn http(&mut self, port: u16, began: Instant, timeout: Duration, stop: Stop<'_>) -> Result<f64, Failed> {
        let end = began + timeout;
        let mut output = Vec::new();
        let took = loop {
            if answers(port, end) {
                break began.elapsed().as_secs_f64() * 1000.0;
            }
            // The pause between two tries is spent looking for its end.
            let until = (Instant::now() + KNOCK).min(end);
            match self.pass(&mut output, until, timeout, stop, |_| false) {
                Ok(_) => {
                    let status = self.child.wait()?;
                    return Err(Failed::Early(status, self.said()));
                }
                Err(Failed::TimedOut(..)) if Instant::now() < end => {}
                Err(other) => return Err(other),
            }
        };
        // Its end is no part of the figure, and servers that are a first process often ignore SIGTERM; the contender clears what is left.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait()?;
        Ok(took)
    }

    /// Reads output until `enough` says so or the program has ended, and says when that was.
    fn pass(
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
    fn rest_of_output(&mut self, output: &mut Vec<u8>) -> Result<(), Failed> {
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
    fn last_line(&self) -> String {
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
    fn said(&self) -> String {
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

/// Whether a web server answers there.
fn answers(port: u16, end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now()).clamp(KNOCK, ANSWERING);
    let ask = || -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut connection = TcpStream::connect_timeout(&address, left)?;
        connection.set_read_timeout(Some(left))?;
        connection.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut begin = [0; 7];
        connection.read_exact(&mut begin)?;
        Ok(&begin == b"HTTP/1.")
    };
    ask().unwrap_or(false)
}

fn wait(watched: &[BorrowedFd<'_>], time: Option<Duration>) -> io::Result<Vec<bool>> {
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
fn shown(bytes: &[u8]) -> String {
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

/// Runs a helper command of a contender's set-up and gives its output.
///
/// # Errors
/// In words: which command, and what it said.
pub fn output_of(
    command: &[OsString],
    env: &[(OsString, OsString)],
    stop: Stop<'_>,
) -> Result<String, String> {
    let line = || command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    run_helper(command, env, HELPING, stop).map_err(|error| format!("{}: {error}", line()))
}

/// The same for what may take as long as it likes: a pull, the copy of a large image.
///
/// # Errors
/// In words.
pub fn patient_output_of(command: &[OsString], stop: Stop<'_>) -> Result<String, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let line = || command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    run_helper(command, &[], DAY, stop).map_err(|error| format!("{}: {error}", line()))
}

fn run_helper(
    command: &[OsString],
    env: &[(OsString, OsString)],
    time: Duration,
    stop: Stop<'_>,
) -> Result<String, Failed> {
    let (program, args) = command.split_first().ok_or_else(|| {
        Failed::System(io::Error::new(io::ErrorKind::InvalidInput, "an empty command line"))
    })?;
    let (out, errors) = (bounded()?, bounded()?);
    let child = Command::new(program)
        .args(args)
        .envs(env.iter().cloned())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(errors.try_clone()?)
        .spawn()
        .map_err(Failed::Spawn)?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(io::Error::from)?;
    let mut running = Running { child, pidfd, errors };
    running.pass(&mut Vec::new(), Instant::now() + time, time, stop, |_| false)?;
    let status = running.child.wait()?;
    if !status.success() {
        return Err(Failed::Status(status, running.said()));
    }
    let mut text = vec![0; usize::try_from(written(&out)).unwrap_or(0)];
    out.read_exact_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A file in memory that takes [`MOST_OUTPUT`] bytes and no more: what floods it fails to write, and fills nobody's memory.
fn bounded() -> io::Result<File> {
    let file = File::from(memfd_create("output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(MOST_OUTPUT as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW)?;
    Ok(file)
}

/// How much was written to it: its position is shared with whoever writes.
fn written(file: &File) -> u64 {
    let mut file = file;
    file.stream_position().unwrap_or(0).min(MOST_OUTPUT as u64)
}

/// Runs a command whose failure is nobody's loss: most often there is nothing to be removed. It is not ended by a stop, since it clears away, but
/// by its time.
pub fn quietly(command: &[OsString]) {
    let Some((program, args)) = command.split_first() else { return };
    let mut quiet = Command::new(program);
    quiet.args(args).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else { return };
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty())
        .is_ok_and(|fd| wait(&[fd.as_fd()], Some(CLEANING)).is_ok_and(|ready| ready[0]));
    if !ended {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use std::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    fn sh(script: &str, until: Until) -> Start {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        Start { command, env: vec![], folder: None, until }
    }

    fn time(start: &Start, timeout: Duration) -> Result<f64, String> {
        let (stop, _open) = pipe().unwrap();
        start.time(timeout, Stop(stop.as_fd())).map_err(|error| error.to_string())
    }

    fn exit(output: &str) -> Until {
        Until::Exit { output: output.into() }
    }

    fn marker(console: bool) -> Until {
        Until::Output { marker: b"here\n".to_vec(), console }
    }

    #[test]
    fn an_end_with_success_counts_and_others_are_told_with_their_words() {
        assert!(time(&sh("true", exit("")), 9 * SECOND).unwrap() > 0.0);
        let failed = time(&sh("echo no such luck >&2; exit 3", exit("")), 9 * SECOND).unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.contains("no such luck"), "{failed}");
        let killed = time(&sh("kill -9 $$", exit("")), 9 * SECOND).unwrap_err();
        assert!(killed.contains("signal: 9"), "{killed}");
        let start = Start { command: vec!["/nowhere/at-all".into()], ..sh("", exit("")) };
        assert!(time(&start, SECOND).unwrap_err().contains("can't be run"));
    }

    #[test]
    fn rubbish_does_not_count() {
        let wrong = time(&sh("echo \x1b[2Jrubbish", exit("")), 9 * SECOND).unwrap_err();
        assert!(wrong.contains("\\u{1b}") && wrong.contains("rubbish"), "{wrong}");
        assert!(time(&sh("echo not; echo here", marker(false)), 9 * SECOND).unwrap_err().contains("not"));
        // As much as it likes on standard error: it is not kept.
        let flood = time(&sh("yes >&2", exit("")), 9 * SECOND).unwrap_err();
        assert!(flood.contains("ended with") || flood.contains("no end"), "{flood}");
        let flood = time(&sh("yes", exit("")), 9 * SECOND).unwrap_err();
        assert!(flood.contains("bytes)"), "{flood}");
    }

    #[test]
    fn the_first_byte_is_timed_and_not_the_end() {
        let took = time(&sh("echo here; sleep 1", marker(false)), 9 * SECOND).unwrap();
        assert!(took < 1000.0, "{took}");
        let took = time(&sh("echo kernel; sleep 0.2; echo here", marker(true)), 9 * SECOND).unwrap();
        assert!(took >= 200.0, "{took}");
        assert!(time(&sh("exit 0", marker(true)), 9 * SECOND).unwrap_err().contains("before that"));
    }

    #[test]
    fn what_hangs_is_killed_with_all_that_it_started() {
        let mark = format!("{}.5", 40_000 + std::process::id());
        let failed = time(&sh(&format!("sleep {mark} & sleep {mark}"), exit("")), SECOND / 5).unwrap_err();
        assert!(failed.contains("no end"), "{failed}");
        // A shell that was told to end and does not.
        time(&sh(&format!("trap '' TERM; sleep {mark}"), exit("")), SECOND / 5).unwrap_err();
        let left = Command::new("pgrep").args(["-f", &format!("sleep {mark}")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    }

    #[test]
    fn an_output_that_somebody_else_keeps_open_does_not_hang() {
        let took = time(&sh("sleep 7 & exit 0", exit("")), 9 * SECOND).unwrap();
        assert!(took < 5000.0, "{took}");
    }

    #[test]
    fn a_stop_ends_a_start() {
        let (stop, open) = pipe().unwrap();
        rustix::io::write(&open, b"x").unwrap();
        let failed = sh("sleep 9", exit("")).time(9 * SECOND, Stop(stop.as_fd())).unwrap_err();
        assert!(matches!(failed, Failed::Interrupted));
    }

    #[test]
    fn a_server_is_timed_to_its_first_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            // The first comes too early and is turned away, as port forwarders do.
            drop(listener.accept().unwrap());
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        });
        assert!(time(&sh("sleep 9", Until::Http { port }), 9 * SECOND).unwrap() > 0.0);
        server.join().unwrap();
        let early = time(&sh("exit 0", Until::Http { port }), 9 * SECOND).unwrap_err();
        assert!(early.contains("before that"), "{early}");
        assert!(time(&sh("sleep 9", Until::Http { port }), SECOND / 5).unwrap_err().contains("no end"));
    }
}
