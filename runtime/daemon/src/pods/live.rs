//! A pod while it has a VM: its phase, and who has which slot in it.

use crate::course::Course;
use crate::error::ApiError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use vial_sandbox::{ContainerId, Sandbox, Slot};

/// Where a pod is.
#[derive(Debug, Clone)]
pub enum PodPhase {
    /// Its VM is being made, or looked for after a restart of the daemon.
    Starting,
    /// Containers can be started in it.
    Running(Sandbox),
    /// It could not be started; nothing is left of the VM.
    Failed(ApiError),
    /// Its VM is gone.
    Ended,
}

/// A pod that this daemon looks after.
#[derive(Debug)]
pub struct LivePod {
    course: Course<PodPhase>,
    stopping: AtomicBool,
    boot: OnceLock<Duration>,
    slots: u8,
    /// Those that nobody has, the one that is empty for longest first: by then the guest has long noticed.
    free: watch::Sender<VecDeque<Slot>>,
    /// Those that could not be cleared after a container, because another one holds something of it.
    stuck: Mutex<Vec<(ContainerId, Place)>>,
}

impl LivePod {
    /// One that is starting, with room for so many containers.
    pub fn new(slots: u8) -> Arc<Self> {
        Arc::new(Self {
            course: Course::new(PodPhase::Starting),
            stopping: AtomicBool::new(false),
            boot: OnceLock::new(),
            slots,
            free: watch::Sender::new((0..slots).map(Slot).collect()),
            stuck: Mutex::default(),
        })
    }

    /// Where it is now.
    pub fn phase(&self) -> PodPhase {
        self.course.phase()
    }

    /// Whether the VM that it had is over or on its way out, although that may not be noted yet.
    pub fn is_over(&self) -> bool {
        match self.phase() {
            PodPhase::Starting => false,
            PodPhase::Running(sandbox) => sandbox.is_over() || self.is_stopping(),
            PodPhase::Failed(_) | PodPhase::Ended => true,
        }
    }

    /// It goes on.
    pub fn enter(&self, phase: PodPhase) {
        self.course.enter(phase);
    }

    /// Waits until it is no longer starting.
    pub async fn started(&self) -> PodPhase {
        self.course.wait(|phase| !matches!(phase, PodPhase::Starting)).await
    }

    /// Waits until its VM is gone.
    pub async fn ended(&self) {
        self.course.wait(|phase| matches!(phase, PodPhase::Failed(_) | PodPhase::Ended)).await;
    }

    /// Gives its start up, if it is still starting.
    pub fn cancel(&self) {
        self.course.cancel();
    }

    /// Waits until its start is given up.
    pub async fn cancelled(&self) {
        self.course.cancelled().await
    }

    /// Notes that its end is somebody's wish.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether its end is somebody's wish.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Notes how long its VM took, once it was its turn.
    pub fn set_boot(&self, took: Duration) {
        // Once: it boots once.
        let _ = self.boot.set(took);
    }

    /// How long its VM took; none when an earlier daemon started it.
    pub fn boot(&self) -> Option<Duration> {
        self.boot.get().copied()
    }

    /// Takes a slot; none when all are taken.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let mut found = None;
        self.free.send_modify(|free| found = free.pop_front());
        found.map(|slot| Place { pod: Arc::downgrade(self), slot })
    }

    /// Takes the slot that a container had under an earlier daemon; none when another one has it.
    pub fn retake(self: &Arc<Self>, slot: Slot) -> Option<Place> {
        let mut free = false;
        self.free.send_modify(|slots| {
            let before = slots.len();
            slots.retain(|other| *other != slot);
            free = slots.len() < before;
        });
        free.then(|| Place { pod: Arc::downgrade(self), slot })
    }

    /// Keeps a slot that could not be cleared after this container.
    pub fn stick(&self, container: ContainerId, place: Place) {
        self.stuck().push((container, place));
        // Who waits for all to be free does not wait for this one.
        self.free.send_modify(|_| {});
    }

    /// Whether a slot could not be cleared after this container; and after how many in all.
    pub fn is_stuck(&self, container: &ContainerId) -> (bool, usize) {
        let stuck = self.stuck();
        (stuck.iter().any(|(id, _)| id == container), stuck.len())
    }

    /// The slots that could not be cleared, to be tried again.
    pub fn unstick(&self) -> Vec<(ContainerId, Place)> {
        std::mem::take(&mut *self.stuck())
    }

    fn stuck(&self) -> MutexGuard<'_, Vec<(ContainerId, Place)>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no container that runs has a slot, or `within` is over.
    pub async fn empty(&self, within: Duration) {
        let mut free = self.free.subscribe();
        let all = || usize::from(self.slots).saturating_sub(self.stuck().len());
        // The sender is in `self`, so it can't be gone.
        let _ = tokio::time::timeout(within, free.wait_for(|free| free.len() >= all())).await;
    }
}

/// A slot that a container has; dropped when it is free again.
#[derive(Debug)]
pub struct Place {
    pod: Weak<LivePod>,
    /// Which.
    pub slot: Slot,
}

impl Place {
    /// The pod, while it is looked after.
    pub fn pod(&self) -> Option<Arc<LivePod>> {
        self.pod.upgrade()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pod) = self.pod() {
            pod.free.send_modify(|free| free.push_back(self.slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_once_and_come_back() {
        let pod = LivePod::new(2);
        let first = pod.take().unwrap();
        let second = pod.take().unwrap();
        assert_eq!((first.slot, second.slot), (Slot(0), Slot(1)));
        assert!(pod.take().is_none());
        drop(second);
        drop(first);
        let again = pod.retake(Slot(0)).unwrap();
        assert!(pod.retake(Slot(0)).is_none(), "it is taken");
        drop(again);
        let longest = pod.take().unwrap();
        assert_eq!(longest.slot, Slot(1), "the one that is empty for longest");
        pod.stick(ContainerId::random().unwrap(), longest);
        let other = pod.take().unwrap();
        assert!(pod.take().is_none(), "one taken, one stuck");
        drop(other);
        assert_eq!(pod.unstick().len(), 1);
        assert_eq!((pod.take().is_some(), pod.unstick().len()), (true, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_waits_for_containers_and_not_for_ever() {
        let pod = LivePod::new(1);
        let place = pod.take().unwrap();
        let begin = tokio::time::Instant::now();
        pod.empty(Duration::from_secs(9)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(9));
        drop(place);
        pod.empty(Duration::from_secs(9)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(9));
        // One that is kept while somebody waits already.
        let place = pod.take().unwrap();
        let keep = async { pod.stick(ContainerId::random().unwrap(), place) };
        tokio::join!(pod.empty(Duration::from_secs(9)), keep);
        assert_eq!(begin.elapsed(), Duration::from_secs(9));
    }
}
