//! One start: a program as its user starts it, from the moment before it is spawned to what is waited for.

mod ear;
mod helper;
mod running;

pub use ear::Ear;
pub use helper::{HELPING, output_of, patient_output_of, quietly};

use running::{Running, shown, wait};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two tries to reach a server that does not listen yet: how exact that figure can be.
const KNOCK: Duration = Duration::from_millis(1);
/// How long a server that takes a connection has to answer on it.
const ANSWERING: Duration = Duration::from_secs(2);
/// How long a program has to end by itself once it was asked to, or once its output was seen.
const PATIENCE: Duration = Duration::from_secs(15);

/// A command line and what it must do.
#[derive(Debug, Clone)]
pub struct Start {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// What is waited for.
    pub until: Until,
}

/// What is waited for, and what proves that it was real.
#[derive(Debug, Clone)]
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
    /// The agent's introduction at this ear, whole; then the program is killed.
    Heard(Arc<Ear>),
    /// A moment, in ms from the spawn, that the program tells of at its end, which must be with success and without output; or why it told none.
    Told(fn(&Told) -> Result<f64, String>),
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

impl Start {
    /// Makes it, and gives the milliseconds that it took. A program that did not end by itself is gone afterwards, with its group.
    ///
    /// # Errors
    /// When it did not do what it should within `timeout`.
    pub fn time(&self, timeout: Duration, stop: Stop<'_>) -> Result<f64, Failed> {
        if let Until::Told(moment) = self.until {
            let told = self.told(timeout, stop)?;
            return moment(&told).map_err(|why| Failed::System(io::Error::other(why)));
        }
        let (mut running, began) = Running::spawn(&self.command, Stdio::piped())?;
        match &self.until {
            Until::Exit { output } => running.exit(Some(output), began, timeout, stop),
            Until::AnyExit | Until::Told(_) => running.exit(None, began, timeout, stop),
            Until::Output { marker, console } => running.output(marker, *console, began, timeout, stop),
            Until::Http { port } => running.http(*port, began, timeout, stop),
            Until::Heard(ear) => running.heard(ear, began, timeout, stop),
        }
    }

    /// Makes it to its end, whatever it is else to be waited for, and gives what it said last.
    ///
    /// # Errors
    /// As [`Self::time`].
    pub fn told(&self, timeout: Duration, stop: Stop<'_>) -> Result<Told, Failed> {
        let began_us = monotonic_us();
        let (mut running, began) = Running::spawn(&self.command, Stdio::piped())?;
        running.exit(Some(&[]), began, timeout, stop)?;
        let ended_us = monotonic_us();
        Ok(Told { began_us, ended_us, last_line: running.last_line() })
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
        // Servers that are a first process often ignore SIGTERM; the contender clears what is left.
        self.kill()?;
        Ok(took)
    }

    fn heard(&mut self, ear: &Ear, began: Instant, timeout: Duration, stop: Stop<'_>) -> Result<f64, Failed> {
        let left = (began + timeout).saturating_duration_since(Instant::now());
        let ready = wait(&[stop.0, self.pidfd(), ear.as_fd()], Some(left))?;
        match ready[..] {
            [true, ..] => return Err(Failed::Interrupted),
            [_, _, true] => {}
            [_, true, _] => return Err(Failed::Early(self.child.wait()?, self.said())),
            _ => return Err(Failed::TimedOut(timeout, self.said())),
        }
        ear.hear(ANSWERING)?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        self.kill()?;
        Ok(took)
    }

    /// Its end is no part of the figure.
    fn kill(&mut self) -> io::Result<()> {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait().map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Ready;
    use agent_protocol::frame::{MAX_HEADER, encode};
    use rustix::pipe::pipe;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Command;

    const SECOND: Duration = Duration::from_secs(1);

    fn sh(script: &str, until: Until) -> Start {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        Start { command, until }
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
        assert!(flood.contains("ended with"), "{flood}");
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
    fn an_agent_is_timed_to_its_introduction_and_nobody_else_is_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("v.sock");
        let ear = || Until::Heard(Arc::new(Ear::beside(&device).unwrap()));
        let introduced = |said: Vec<u8>| {
            let until = ear();
            let mut agent = UnixStream::connect(folder.path().join("v.sock_1026")).unwrap();
            agent.write_all(&said).unwrap();
            time(&sh("sleep 9", until), 9 * SECOND)
        };
        let ready = Ready { protocol: 1, build: "1".into(), kernel: "6".into(), uptime_us: 1 };
        let ready = encode(&ready, MAX_HEADER).unwrap();
        let took = introduced(ready.clone()).unwrap();
        assert!(took < 5000.0, "{took}");
        introduced(ready[..ready.len() - 1].to_vec()).unwrap_err();
        introduced(b"\xff\xff\xff\xff".to_vec()).unwrap_err();
        introduced(b"\x02\0\0\0{}".to_vec()).unwrap_err();
        assert!(time(&sh("exit 3", ear()), 9 * SECOND).unwrap_err().contains("before that"));
        assert!(time(&sh("sleep 9", ear()), SECOND / 5).unwrap_err().contains("no end"));
        assert!(Ear::beside(Path::new("/no/such/folder/v.sock")).is_err());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "the socket goes with the ear");
    }

    #[test]
    fn a_moment_that_a_program_tells_of_is_its_figure() {
        let told = |script| {
            time(
                &sh(script, Until::Told(|told| told.last_line.parse().map_err(|_| "no number".into()))),
                9 * SECOND,
            )
        };
        assert_eq!(told("echo 2.5 >&2").unwrap(), 2.5);
        assert!(told("echo two >&2").unwrap_err().contains("no number"));
        assert!(told("echo 2.5 >&2; exit 1").unwrap_err().contains("exit status"));
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
