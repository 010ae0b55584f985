//! Starting a daemon for a command line: found if one listens, started detached if none does; one winner among many.
//!
//! The command line holds the start lock, looks again, and spawns `vial daemon --detached` with a pipe as its standard output. The child
//! leaves the caller's session, closes what it inherited, and says `ready` on the pipe when its socket listens, or why it can't.
//! Nobody polls. `unsafe` is here for one system call, close_range.

use crate::paths::{Paths, named};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// What the child says when its socket listens.
const READY: &str = "ready\n";
/// Seconds that a daemon may take to start; recovery of many pods comes after it listens.
const PATIENCE_S: i64 = 30;
/// Upper bound of what a child may say instead, in bytes.
const MAX_COMPLAINT: u64 = 8 << 10;

/// Why there is no daemon to talk to.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket or its folder is not for this user.
    #[error("vial needs to be run as root (try sudo): {0}")]
    NotRoot(io::Error),
    /// Something with a file.
    #[error("cannot start the daemon: {0}")]
    Io(#[from] io::Error),
    /// It started and gave up.
    #[error("the daemon could not start: {message}")]
    Failed {
        /// In its own words.
        message: String,
    },
    /// It does not say a word.
    #[error("the daemon did not get ready within {PATIENCE_S} s; see {log}")]
    Silent {
        /// Where its standard error goes.
        log: String,
    },
}

impl StartError {
    fn from_io(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::NotRoot(error) } else { Self::Io(error) }
    }
}

/// Connects to the daemon if one listens.
///
/// # Errors
/// When its socket is not for this user, or can't be reached for another reason than that nobody listens.
pub fn connect(paths: &Paths) -> Result<Option<UnixStream>, StartError> {
    let socket = paths.socket();
    match UnixStream::connect(&socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(StartError::from_io(named(error, "connect to", &socket))),
    }
}

/// Connects to the daemon, and starts one if none listens.
///
/// # Errors
/// When that does not work.
pub fn connect_or_start(paths: &Paths) -> Result<UnixStream, StartError> {
    if let Some(stream) = connect(paths)? {
        return Ok(stream);
    }
    paths.make().map_err(StartError::from_io)?;
    let path = paths.start_lock();
    let lock = open_private(&path).map_err(StartError::from_io)?;
    lock.lock().map_err(|error| named(error, "lock", &path))?;
    // Somebody else may have started one while this one waited.
    if let Some(stream) = connect(paths)? {
        return Ok(stream);
    }
    spawn(paths)?;
    connect(paths)?.ok_or_else(|| StartError::Silent { log: paths.daemon_log().display().to_string() })
}

fn spawn(paths: &Paths) -> Result<(), StartError> {
    let (mut said, pipe) = io::pipe()?;
    let log = paths.daemon_log();
    let stderr = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", "--detached"]).stdin(Stdio::null()).stdout(pipe);
    command.stderr(stderr.map_err(|error| named(error, "open", &log))?);
    let mut child = command.spawn()?;
    // The builder holds the other end of the pipe; without this there would be no end to read when the child dies.
    drop(command);

    let mut text = String::new();
    loop {
        let deadline = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&said, PollFlags::IN)], Some(&deadline)).map_err(io::Error::from)? == 0 {
            // A silent daemon must not win a lock later, when nobody expects it.
            child.kill()?;
            child.wait()?;
            return Err(StartError::Silent { log: log.display().to_string() });
        }
        let mut buffer = [0; 1024];
        let count = said.read(&mut buffer)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if text.starts_with(READY) {
            return Ok(());
        }
        if count == 0 || text.len() as u64 > MAX_COMPLAINT {
            child.wait()?;
            let message = match text.trim() {
                "" => format!("it ended without a word; see {}", log.display()),
                words => words.to_owned(),
            };
            return Err(StartError::Failed { message });
        }
    }
}

fn open_private(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| named(error, "open", path))
}

/// The lock that one daemon holds as long as it lives.
#[derive(Debug)]
pub struct DaemonLock(#[expect(dead_code, reason = "held, not used")] File);

impl DaemonLock {
    /// Takes it. A detached daemon waits for one that is just ending; the command line behind it bounds that.
    ///
    /// # Errors
    /// When another daemon has it and `wait` is false.
    pub fn take(paths: &Paths, wait: bool) -> io::Result<Self> {
        let path = paths.lock();
        let file = open_private(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) if wait => {
                file.lock().map_err(|error| named(error, "lock", &path))?;
                Ok(Self(file))
            }
            Err(std::fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!(
                    "a daemon is running already on {}; stop it with: vial daemon stop",
                    paths.run.display()
                ),
            )),
            Err(std::fs::TryLockError::Error(error)) => Err(named(error, "lock", &path)),
        }
    }

    /// Waits until no daemon holds it.
    ///
    /// # Errors
    /// When the lock can't be opened.
    pub fn wait_free(paths: &Paths) -> io::Result<()> {
        let file = open_private(&paths.lock())?;
        file.lock()
    }
}

/// Leaves the caller's session and folder and closes its descriptors. Before anything else in the process.
///
/// # Errors
/// When the system refuses.
pub fn leave_caller() -> io::Result<()> {
    // SAFETY: called first in main, before this process has opened anything: every descriptor from 3 on is the caller's,
    // and no object of this process owns one of them.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if closed < 0 {
        return Err(io::Error::last_os_error());
    }
    // Fails only for a process group leader, which is then alone already.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    std::env::set_current_dir("/")
}

/// Says on standard output that the socket listens, then gives that pipe up.
///
/// # Errors
/// When /dev/null can't be opened.
pub fn say_ready() -> io::Result<()> {
    say(READY)
}

/// Says instead why there will be no daemon.
///
/// # Errors
/// When /dev/null can't be opened.
pub fn say_failed(why: &str) -> io::Result<()> {
    say(&format!("{why}\n"))
}

fn say(text: &str) -> io::Result<()> {
    // Whoever asked may be gone; the daemon goes on.
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}
