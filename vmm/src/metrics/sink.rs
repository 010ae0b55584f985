//! Where metrics go, and the clock that says when.

use super::Figures;
use crate::line_writer::LineWriter;
use crate::sys;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vmm_sys_util::timerfd::TimerFd;

/// Between two lines, as in Firecracker.
const INTERVAL: Duration = Duration::from_secs(60);

/// A file or named pipe that gets a line of JSON now and then.
#[derive(Debug)]
pub struct Sink {
    file: LineWriter,
    last: Figures,
    due: Arc<AtomicBool>,
    /// Lines that could not be written.
    lost: u64,
}

/// The clock, in the event loop.
pub struct Tick {
    timer: TimerFd,
    due: Arc<AtomicBool>,
}

impl Sink {
    /// Opens `path`; the clock runs from now on.
    ///
    /// # Errors
    /// The file or the timer can't be had.
    pub fn open(path: &Path) -> io::Result<(Self, Tick)> {
        let file = crate::log::open(path)?;
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        sys::set_nonblocking(&timer)?;
        timer.reset(INTERVAL, Some(INTERVAL)).map_err(io::Error::from)?;
        let due = Arc::new(AtomicBool::new(false));
        let sink =
            Self { file: LineWriter::new(file), last: Figures::default(), due: Arc::clone(&due), lost: 0 };
        Ok((sink, Tick { timer, due }))
    }

    /// Whether the clock wants a line.
    pub fn is_due(&self) -> bool {
        self.due.swap(false, Ordering::Relaxed)
    }

    /// Device `id` is gone, and what it had counted after the last line with it.
    pub fn forget(&mut self, group: &'static str, id: &str) {
        self.last.forget(group, id);
    }

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Nobody reads the pipe, or the disk is full: the counts stay for the next line.
    pub fn write(&mut self, figures: Figures) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let document = figures.since(&self.last, u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        // What was begun will be ended, so its counts are told.
        match self.file.write(format!("{document}\n").as_bytes()) {
            Ok(()) => {
                self.last = figures;
                Ok(())
            }
            Err(error) => {
                self.lost += 1;
                Err(error)
            }
        }
    }
}

impl MutEventSubscriber for Tick {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // A timer can be watched, and this one is not yet.
        let _ = ops.add(Events::new(&self.timer, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        // It has run out, so this does not wait.
        if self.timer.wait().is_ok() {
            self.due.store(true, Ordering::Relaxed);
        }
    }
}
