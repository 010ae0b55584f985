//! Writes the status records. The last one is written before the process ends, and there is exactly one of its kind.

use crate::api::status::{Event, ExitReason, Record, Step};
use crate::feed::Feed;
use crate::last_words;
use crate::lock::lock;
use crate::sys::{self, monotonic_us};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Appends records to the status file; without one, records go nowhere. Clones share the file.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    feed: Option<Feed>,
    ended: bool,
}

impl Status {
    /// Records go to `file`.
    pub fn new(file: Option<File>) -> Self {
        last_words::record_at(file.as_ref());
        Self(Arc::new(Mutex::new(Inner { file, feed: None, ended: false })))
    }

    /// From now on records go to `file`: clients of the API name it when the process lives already.
    pub fn redirect(&self, file: Option<File>) {
        let mut inner = lock(&self.0);
        last_words::record_at(file.as_ref());
        inner.file = file;
    }

    /// Tells `feed` too, and more than the file gets.
    pub fn feed(&self, feed: Feed) {
        lock(&self.0).feed = Some(feed);
    }

    /// Tells the readers of the feed, if there is one.
    pub fn tell(&self, event: impl FnOnce(u64) -> Event) {
        let inner = lock(&self.0);
        if let Some(feed) = &inner.feed {
            feed.push(&line(&event(monotonic_us())), false);
        }
    }

    /// Tells the readers of the feed why the VM ends, while there is still somebody who serves them. The record follows.
    pub fn announce(&self, reason: ExitReason, detail: &str) {
        let inner = lock(&self.0);
        if let Some(feed) = &inner.feed {
            let (detail, at_us) = (detail.to_owned(), monotonic_us());
            feed.push(&line(&Record::Exit { reason, detail, at_us }), true);
        }
    }

    /// Says that `step` was reached now.
    pub fn milestone(&self, step: Step) {
        self.milestone_at(step, monotonic_us());
    }

    /// Says that `step` was reached at `at_us`.
    pub fn milestone_at(&self, step: Step, at_us: u64) {
        self.write(&Record::Milestone { step, at_us });
    }

    /// Says that a device has lost what it is served by.
    pub fn device_lost(&self, device: &str, detail: &str) {
        let (device, detail) = (device.to_owned(), detail.to_owned());
        self.write(&Record::DeviceLost { device, detail, at_us: monotonic_us() });
    }

    /// Says why the VM ended; only the first call counts.
    pub fn exit(&self, reason: ExitReason, detail: &str) {
        self.write(&Record::Exit { reason, detail: detail.to_owned(), at_us: monotonic_us() });
    }

    fn write(&self, record: &Record) {
        let mut inner = lock(&self.0);
        let last = matches!(record, Record::Exit { .. });
        if inner.ended {
            return;
        }
        if last {
            // There is only one.
            last_words::record_at(None);
        }
        inner.ended = last;
        let line = line(record);
        if let Some(feed) = &inner.feed {
            feed.push(&line, last);
        }
        if let Some(file) = &mut inner.file {
            // One write for a line, so that a reader never sees half of one. If the disk is full there is nobody left to
            // tell: the reader then takes the process for killed, which is the safe side.
            let _ = file.write_all(&line);
            if last {
                let _ = file.flush();
            }
        }
    }

    /// Makes a panic of any thread end with a record instead of looking like a kill.
    pub fn record_panics(&self) {
        let status = self.clone();
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A panic inside `write` would hold the lock: then the record is lost, but never the process's end.
            if let Ok(inner) = status.0.try_lock() {
                drop(inner);
                status.exit(ExitReason::InternalError, &format!("the VMM panicked: {info}"));
            }
            // A full pipe would keep the process from ending.
            if sys::has_room(&std::io::stderr()) {
                default(info);
            }
        }));
    }
}

fn line(record: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("records have only strings and numbers");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn records_are_lines_and_nothing_follows_the_exit() {
        let mut file = tempfile::tempfile().unwrap();
        let status = Status::new(Some(file.try_clone().unwrap()));
        status.milestone(Step::FirstRun);
        status.exit(ExitReason::GuestPanic, "why");
        status.exit(ExitReason::GuestShutdown, "");
        status.milestone(Step::VmBuilt);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(matches!(records[0], Record::Milestone { step: Step::FirstRun, .. }));
        assert!(matches!(records[1], Record::Exit { reason: ExitReason::GuestPanic, .. }));
        assert_eq!(records.len(), 2);
    }
}
