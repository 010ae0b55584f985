//! PID 1's first duty: every process that ends is reaped, and whoever waits for it is told.

use crate::oom::Marks;
use crate::sys::process::ended_child;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Most processes that are remembered because something killed them.
const MAX_KILLED: usize = 32;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, 0 to 255; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// What is known of a process.
#[derive(Debug)]
enum Entry {
    /// Somebody waits for it.
    Waited(oneshot::Sender<Ended>),
    /// It has ended and nobody has asked yet.
    Over(Ended),
}

/// Reaps children and hands out how they ended.
#[derive(Debug, Default)]
pub struct Reaper {
    table: RefCell<HashMap<i32, Entry>>,
    /// How many launches are under way: only then can a process end before anybody knows its id.
    launching: RefCell<usize>,
    /// What was to be read of the last that were killed: whoever asks why comes after they are reaped.
    killed: RefCell<VecDeque<(u32, Marks)>>,
}

/// Keeps the ends of unknown processes, as long as one of these lives.
#[derive(Debug)]
pub struct Launching(Rc<Reaper>);

impl Drop for Launching {
    fn drop(&mut self) {
        let mut launching = self.0.launching.borrow_mut();
        *launching -= 1;
        if *launching == 0 {
            self.0.table.borrow_mut().retain(|_, entry| matches!(entry, Entry::Waited(_)));
        }
    }
}

impl Reaper {
    /// Says that a process is about to be made whose id will only be known later.
    pub fn launching(self: &Rc<Self>) -> Launching {
        *self.launching.borrow_mut() += 1;
        Launching(Rc::clone(self))
    }

    /// Watches a child from now on. The future completes when it has ended; one future for each child.
    pub fn ended(&self, pid: i32) -> impl Future<Output = Ended> + use<> {
        let mut table = self.table.borrow_mut();
        let (tell, told) = oneshot::channel();
        match table.remove(&pid) {
            Some(Entry::Over(ended)) => {
                // The receiver lives: it is just below.
                let _ = tell.send(ended);
            }
            _ => {
                table.insert(pid, Entry::Waited(tell));
            }
        }
        async move {
            // The sender is dropped without a word only when a second watcher took its place, which no caller does.
            told.await.unwrap_or(Ended { code: 255, signal: None })
        }
    }

    /// Whether a watched child is not yet reaped, so that its id can't mean another process.
    pub fn is_alive(&self, pid: i32) -> bool {
        matches!(self.table.borrow().get(&pid), Some(Entry::Waited(_)))
    }

    /// What was to be read of a process before it was reaped, if it was one of the last that were killed.
    pub fn killed(&self, pid: u32) -> Option<Marks> {
        self.killed.borrow().iter().rev().find(|(known, _)| *known == pid).map(|(_, marks)| marks.clone())
    }

    /// Reaps for ever.
    ///
    /// # Errors
    /// When signals can't be received.
    pub async fn run(&self, mut children: Signal) -> io::Result<()> {
        loop {
            while let Some((pid, killed)) = ended_child() {
                if killed {
                    self.remember(pid.unsigned_abs());
                }
                let Ok(Some((pid, status))) = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) else { break };
                let signal = status.terminating_signal();
                if let Some(code) = status.exit_status().or(signal.map(|s| 128 + s)) {
                    self.note(pid.as_raw_nonzero().get(), Ended { code, signal });
                }
            }
            children.recv().await;
        }
    }

    fn remember(&self, pid: u32) {
        let mut killed = self.killed.borrow_mut();
        if killed.len() == MAX_KILLED {
            killed.pop_front();
        }
        killed.push_back((pid, Marks::read(pid)));
    }

    fn note(&self, pid: i32, ended: Ended) {
        let mut table = self.table.borrow_mut();
        match table.remove(&pid) {
            Some(Entry::Waited(tell)) => {
                // Whoever waited may have gone; then nobody cares.
                let _ = tell.send(ended);
            }
            _ if *self.launching.borrow() > 0 => {
                table.insert(pid, Entry::Over(ended));
            }
            _ => {}
        }
    }
}

/// Subscribes to the ends of children; must come before the first child.
///
/// # Errors
/// When the signal can't be watched.
pub fn children() -> io::Result<Signal> {
    signal(SignalKind::child())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Ended = Ended { code: 5, signal: None };

    fn ready(future: impl Future<Output = Ended>) -> Option<Ended> {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(ended) => Some(ended),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn an_end_before_the_question_is_kept_during_a_launch() {
        let reaper = Rc::new(Reaper::default());
        let launching = reaper.launching();
        reaper.note(7, FIVE);
        assert_eq!(ready(reaper.ended(7)), Some(FIVE));
        reaper.note(8, FIVE);
        drop(launching);
        assert_eq!(ready(reaper.ended(8)), None, "ends of orphans do not pile up");
    }

    #[test]
    fn a_watched_process_is_alive_until_it_is_reaped() {
        let reaper = Rc::new(Reaper::default());
        let ended = reaper.ended(9);
        assert!(reaper.is_alive(9));
        reaper.note(9, FIVE);
        assert!(!reaper.is_alive(9));
        assert_eq!(ready(ended), Some(FIVE));
    }
}
