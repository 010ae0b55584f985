//! A container while this daemon looks after it: its phase, its log, and those who wait.

use crate::course::Course;
use crate::error::ApiError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use vial_api::{Exit, TimingStep};
use vial_sandbox::Task;
use vial_sandbox::log::OutputLog;
use vial_sandbox::timing::Timing;
use vial_vm::StdinStream;

/// Where a container is.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Its VM is being made, or looked for after a restart of the daemon.
    Starting,
    /// Its command runs.
    Running(Task),
    /// Its command could not be run; nothing is left of the VM.
    Failed(ApiError),
    /// It has ended and its VM is gone; it is removed as soon as those who are attached know.
    Leaving(Exit),
    /// It has ended, and nothing more happens to it.
    Ended(Exit),
}

/// A container that this daemon looks after.
#[derive(Debug)]
pub struct Live {
    /// Its output.
    pub log: Arc<OutputLog>,
    /// Its standard input, which all clients share: the agent has one connection for it.
    pub stdin: tokio::sync::Mutex<Option<StdinStream>>,
    course: Course<Phase>,
    paused: watch::Sender<bool>,
    /// Clients that are attached and have not been told its end.
    audience: watch::Sender<usize>,
    /// While its restart policy waits before it starts it again.
    restarting: AtomicBool,
    /// Once somebody waits for it to be ended.
    stopping: AtomicBool,
    timing: Mutex<Vec<TimingStep>>,
}

impl Live {
    /// One that is starting.
    pub fn new(log: Arc<OutputLog>) -> Arc<Self> {
        Arc::new(Self {
            log,
            stdin: tokio::sync::Mutex::default(),
            course: Course::new(Phase::Starting),
            paused: watch::Sender::new(false),
            audience: watch::Sender::new(0),
            restarting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            timing: Mutex::default(),
        })
    }

    /// Where it is now.
    pub fn phase(&self) -> Phase {
        self.course.phase()
    }

    /// It goes on.
    pub fn enter(&self, phase: Phase) {
        self.course.enter(phase);
    }

    /// Waits until it is no longer starting.
    pub async fn started(&self) -> Phase {
        self.course.wait(|phase| !matches!(phase, Phase::Starting)).await
    }

    /// Waits until it is no longer starting, or is known to stand still: then nothing more happens to it by itself.
    pub async fn settled(&self) -> Phase {
        let mut paused = self.paused.subscribe();
        tokio::select! {
            phase = self.started() => phase,
            // The sender is in `self`, so it can't be gone.
            _ = paused.wait_for(|paused| *paused) => self.phase(),
        }
    }

    /// Waits until it is known how it ended: [`Phase::Failed`], [`Phase::Leaving`] or [`Phase::Ended`].
    pub async fn end_known(&self) -> Phase {
        self.course
            .wait(|phase| matches!(phase, Phase::Failed(_) | Phase::Leaving(_) | Phase::Ended(_)))
            .await
    }

    /// Counts a client among those who must hear how it ended before it is removed.
    pub fn attend(self: &Arc<Self>) -> Attendance {
        self.audience.send_modify(|count| *count += 1);
        Attendance(self.clone())
    }

    /// Waits until every attached client knows its end, or `within` is over: one that does not read must not keep it here.
    pub async fn everyone_knows(&self, within: Duration) {
        let mut audience = self.audience.subscribe();
        // The sender is in `self`, so it can't be gone.
        let _ = tokio::time::timeout(within, audience.wait_for(|count| *count == 0)).await;
    }

    /// The same, for the first client to come and hear it.
    pub async fn someone_knows(&self, within: Duration) {
        let mut audience = self.audience.subscribe();
        let told = async {
            let _ = audience.wait_for(|count| *count > 0).await;
            let _ = audience.wait_for(|count| *count == 0).await;
        };
        let _ = tokio::time::timeout(within, told).await;
    }

    /// Waits for its end: [`Phase::Failed`] or [`Phase::Ended`].
    pub async fn ended(&self) -> Phase {
        self.course.wait(|phase| matches!(phase, Phase::Failed(_) | Phase::Ended(_))).await
    }

    /// Gives its start up, if it is still starting.
    pub fn cancel(&self) {
        self.course.cancel();
    }

    /// Waits until its start is given up.
    pub async fn cancelled(&self) {
        self.course.cancelled().await
    }

    /// Notes whether its VM stands still.
    pub fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Whether its VM stands still.
    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Waits until its VM does not stand still.
    pub async fn unpaused(&self) {
        // The sender is in `self`, so it can't be gone.
        let _ = self.paused.subscribe().wait_for(|paused| !*paused).await;
    }

    /// Notes whether its restart policy waits before it starts it again.
    pub fn set_restarting(&self, restarting: bool) {
        self.restarting.store(restarting, Ordering::Release);
    }

    /// Whether its restart policy waits before it starts it again.
    pub fn is_restarting(&self) -> bool {
        self.restarting.load(Ordering::Acquire)
    }

    /// Notes that somebody ends it, by all means there are.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether somebody ends it, by all means there are.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Notes the steps so far.
    pub fn set_timing(&self, timing: &Timing) {
        let begin = timing.begin_us();
        let step = |step: vial_sandbox::timing::Step| TimingStep {
            at_us: step.at_us.saturating_sub(begin),
            step: step.name,
            mono_us: Some(step.at_us),
            within_us: step.within_us,
        };
        let steps = timing.steps().into_iter().map(step).collect();
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = steps;
    }

    /// The steps noted.
    pub fn timing(&self) -> Vec<TimingStep> {
        self.timing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client that must hear how a container ended; dropped when it has, or is gone.
#[derive(Debug)]
pub struct Attendance(Arc<Live>);

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.audience.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vial_sandbox::log::Limits;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn an_end_waits_for_those_who_must_hear_of_it_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let log = OutputLog::open(folder.path(), Limits::default(), None).unwrap();
        let live = Live::new(log);
        live.everyone_knows(LONG).await;
        let (one, other) = (live.attend(), live.attend());
        let begin = tokio::time::Instant::now();
        live.everyone_knows(LONG).await;
        assert_eq!(begin.elapsed(), LONG, "nobody was told");
        drop(one);
        let waiting = tokio::spawn({
            let live = live.clone();
            async move { live.everyone_knows(LONG).await }
        });
        drop(other);
        waiting.await.unwrap();
        assert_eq!(begin.elapsed(), LONG, "all were told");
        live.someone_knows(LONG).await;
        assert_eq!(begin.elapsed(), 2 * LONG, "nobody came");
    }
}
