//! The log: lines for people, in Firecracker's form. Off until somebody configures it, and then its reader is never waited for.

mod budget;
mod line;

use crate::api::config::{LogLevel, Logger};
use crate::line_writer::LineWriter;
use crate::sys;
use budget::Budget;
use line::Line;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Firecracker's name for a VM without one.
pub const ANONYMOUS: &str = "anonymous-instance";

/// How much is written; a number of its own, so that a line that nobody wants costs one load.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Off as u8);
static LOST: AtomicU64 = AtomicU64::new(0);
static TARGET: Mutex<Target> = Mutex::new(Target::new());

struct Target {
    file: Option<LineWriter>,
    id: String,
    show_level: bool,
    show_origin: bool,
    module: String,
    // For lines that a guest can bring about.
    budget: Option<Budget>,
}

impl Target {
    const fn new() -> Self {
        Self {
            file: None,
            id: String::new(),
            show_level: false,
            show_origin: false,
            module: String::new(),
            budget: None,
        }
    }
}

/// Where in this program a line comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// `module_path!()`.
    pub module: &'static str,
    /// `file!()`.
    pub file: &'static str,
    /// `line!()`.
    pub line: u32,
}

/// Names the VM in every line. To be called once, before anything is logged.
pub fn name(id: &str) {
    lock().id = id.to_owned();
}

/// Takes over settings; absent ones stay. The first that come switch the log on, at Info, to the standard output unless they name a
/// file. To be called before system calls are filtered.
///
/// # Errors
/// The file can't be opened; nothing has changed then.
pub fn configure(logger: &Logger) -> io::Result<()> {
    let file = logger.log_path.as_deref().map(open).transpose()?;
    let mut target = lock();
    match file {
        Some(file) => target.file = Some(LineWriter::new(file)),
        None if target.file.is_none() => {
            target.file = Some(LineWriter::shared(sys::standard_output()?)?);
        }
        None => {}
    }
    target.show_level = logger.show_level.unwrap_or(target.show_level);
    target.show_origin = logger.show_log_origin.unwrap_or(target.show_origin);
    if let Some(module) = &logger.module {
        target.module.clone_from(module);
    }
    let first = target.budget.is_none();
    target.budget.get_or_insert_with(|| Budget::new(Instant::now()));
    drop(target);
    if let Some(level) = logger.level.or(first.then_some(LogLevel::Info)) {
        LEVEL.store(level as u8, Ordering::Relaxed);
    }
    Ok(())
}

/// Opens a file or a named pipe for lines; a pipe needs no reader, since it is opened for reading too.
///
/// # Errors
/// What open(2) says.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Whether lines of `level` are written.
pub fn enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Lines that could not be written, since nobody reads the pipe or the disk is full, or were too many.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Writes a line; [`crate::log!`] looks first whether anybody wants it.
pub fn write(level: LogLevel, origin: Origin, message: &dyn std::fmt::Display) {
    emit(&mut lock(), level, origin, message);
}

/// The same for what a guest can bring about as often as it likes: ten lines at once, then one a second.
pub fn write_limited(level: LogLevel, origin: Origin, message: &dyn std::fmt::Display) {
    let mut target = lock();
    if target.budget.as_mut().is_some_and(|budget| budget.take(Instant::now())) {
        emit(&mut target, level, origin, message);
    } else {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

fn emit(target: &mut Target, level: LogLevel, origin: Origin, message: &dyn std::fmt::Display) {
    if !origin.module.starts_with(&target.module) {
        return;
    }
    let thread = std::thread::current();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = Line {
        seconds: now.as_secs(),
        nanoseconds: now.subsec_nanos(),
        id: &target.id,
        thread: thread.name().unwrap_or("?"),
        level: target.show_level.then_some(level),
        origin: target.show_origin.then_some((origin.file, origin.line)),
        message: &message.to_string(),
    };
    let line = line.to_string();
    // None: nobody has configured it.
    if target.file.as_mut().is_some_and(|file| file.write(line.as_bytes()).is_err()) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Target> {
    crate::lock::lock(&TARGET)
}

/// Writes a line of a [`LogLevel`], named without its type: `log!(Info, "{count} of them")`.
#[macro_export]
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        $crate::log!(@ write, $level, $($message)+)
    };
    (limited $level:ident, $($message:tt)+) => {
        $crate::log!(@ write_limited, $level, $($message)+)
    };
    (@ $write:ident, $level:ident, $($message:tt)+) => {
        if $crate::log::enabled($crate::api::config::LogLevel::$level) {
            let origin = $crate::log::Origin { module: module_path!(), file: file!(), line: line!() };
            $crate::log::$write($crate::api::config::LogLevel::$level, origin, &format_args!($($message)+));
        }
    };
}
