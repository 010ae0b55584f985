//! Where a guest's events go: pure book-keeping of who waits for which end, and of what may be acknowledged.
//!
//! The agent keeps each event until it is acknowledged, and an acknowledgement counts for all events before it too. The ends of several
//! containers are noted in whatever order their keepers come to it, so an end that waits to be noted holds the acknowledgement of the later ones.

use agent_protocol::{Event, ExitStatus, OomVictim};
use std::collections::{BTreeSet, HashMap};
use tokio::sync::oneshot;

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskExit {
    /// The event's number, to be given back when the end is safely noted.
    pub seq: u64,
    /// How.
    pub status: ExitStatus,
    /// What the kernel killed last in it for want of memory, if that was told to this daemon.
    pub victim: Option<OomVictim>,
}

#[derive(Debug, Default)]
struct Waiters {
    exit: Option<oneshot::Sender<TaskExit>>,
    execs: HashMap<String, oneshot::Sender<ExitStatus>>,
    victim: Option<OomVictim>,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    tasks: HashMap<String, Waiters>,
    acks: Acks,
}

impl Desk {
    /// From now on a container's end is kept for whoever has this receiver. Must come before the guest can tell of it.
    pub fn expect(&mut self, container: &str) -> oneshot::Receiver<TaskExit> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.insert(container.to_owned(), Waiters { exit: Some(sender), ..Waiters::default() });
        receiver
    }

    /// From now on the end of an exec is kept for whoever has this receiver.
    pub fn expect_exec(&mut self, container: &str, exec: &str) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.entry(container.to_owned()).or_default().execs.insert(exec.to_owned(), sender);
        receiver
    }

    /// Nobody waits for this exec any more.
    pub fn forget_exec(&mut self, container: &str, exec: &str) {
        if let Some(waiters) = self.tasks.get_mut(container) {
            waiters.execs.remove(exec);
        }
    }

    /// Nobody waits for anything of this container any more; whoever waits for an exec in it learns that it ended first.
    pub fn forget(&mut self, container: &str) {
        self.tasks.remove(container);
    }

    /// What the kernel killed last in a container that runs.
    pub fn victim(&self, container: &str) -> Option<&OomVictim> {
        self.tasks.get(container)?.victim.as_ref()
    }

    /// Nobody will hear anything any more.
    pub fn close(&mut self) {
        self.tasks.clear();
    }

    /// An event has come; gives what may be acknowledged now.
    pub fn take(&mut self, seq: u64, event: Event) -> Option<u64> {
        if !self.acks.came(seq) {
            // Again, on another connection; it is with its keeper, who has not noted it yet.
            return None;
        }
        match event {
            Event::Exited { container, exec: None, status } => {
                if let Some(waiters) = self.tasks.get_mut(&container)
                    && let Some(keeper) = waiters.exit.take()
                    && keeper.send(TaskExit { seq, status, victim: waiters.victim.take() }).is_ok()
                {
                    return None;
                }
            }
            Event::Exited { container, exec: Some(exec), status } => {
                let waiter = self.tasks.get_mut(&container).and_then(|waiters| waiters.execs.remove(&exec));
                if let Some(waiter) = waiter {
                    // Whoever waited may be gone.
                    let _ = waiter.send(status);
                }
            }
            Event::Oom { container, victim } => {
                if let Some(waiters) = self.tasks.get_mut(&container) {
                    waiters.victim = victim.or(waiters.victim.take());
                }
            }
            Event::Log { .. } => {}
        }
        self.acks.noted(seq)
    }

    /// An end is safely noted; gives what may be acknowledged now.
    pub fn noted(&mut self, seq: u64) -> Option<u64> {
        self.acks.noted(seq)
    }
}

/// Which events may be acknowledged.
#[derive(Debug, Default)]
struct Acks {
    /// Came, and are not noted.
    open: BTreeSet<u64>,
    newest: u64,
    /// Acknowledged up to here.
    told: u64,
}

impl Acks {
    /// Whether this one is new, or must be dealt with again.
    fn came(&mut self, seq: u64) -> bool {
        self.newest = self.newest.max(seq);
        self.open.insert(seq)
    }

    fn noted(&mut self, seq: u64) -> Option<u64> {
        self.open.remove(&seq);
        let upto = self.open.first().map_or(self.newest, |open| open.saturating_sub(1));
        // One that comes again was perhaps lost on its way: it is said again.
        (upto > self.told || seq <= self.told).then(|| {
            self.told = self.told.max(upto);
            self.told
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OK: ExitStatus = ExitStatus { code: 0, signal: None, oom: false };

    fn exited(container: &str, exec: Option<&str>) -> Event {
        Event::Exited { container: container.into(), exec: exec.map(str::to_owned), status: OK }
    }

    #[test]
    fn an_end_that_is_not_noted_holds_the_acknowledgement_of_later_events() {
        let mut desk = Desk::default();
        let (mut a, mut b) = (desk.expect("a"), desk.expect("b"));
        assert_eq!(desk.take(1, exited("a", None)), None);
        assert_eq!(desk.take(2, exited("b", None)), None);
        assert_eq!(desk.take(3, Event::Log { message: String::new() }), None);
        assert_eq!((a.try_recv().unwrap().seq, b.try_recv().unwrap().seq), (1, 2));
        assert_eq!(desk.noted(2), None);
        // The connection was lost, and all that was not acknowledged comes again: it is with its keepers.
        assert_eq!(desk.take(1, exited("a", None)), None);
        assert_eq!(desk.noted(1), Some(3));
    }

    #[test]
    fn ends_for_nobody_are_noted_at_once() {
        let mut desk = Desk::default();
        assert_eq!(desk.take(1, exited("stranger", None)), Some(1));
        drop(desk.expect("gone"));
        assert_eq!(desk.take(2, exited("gone", None)), Some(2));
        let mut exec = desk.expect_exec("a", "e");
        assert_eq!(desk.take(3, exited("b", Some("e"))), Some(3));
        assert!(exec.try_recv().is_err(), "an end in another container");
        assert_eq!(desk.take(4, exited("a", Some("e"))), Some(4));
        assert_eq!(exec.try_recv(), Ok(OK));
        // Said again where it may have been lost.
        assert_eq!(desk.take(4, exited("a", Some("e"))), Some(4));
    }

    #[test]
    fn who_waits_for_an_exec_learns_that_its_container_is_gone() {
        let mut desk = Desk::default();
        let mut exec = desk.expect_exec("a", "e");
        desk.forget("a");
        assert_eq!(exec.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    proptest! {
        /// Whatever the order in which ends are noted, nothing that is not is ever acknowledged, and in the end everything is.
        #[test]
        fn nothing_is_acknowledged_before_it_is_noted(order in Just((1..=20u64).collect::<Vec<_>>()).prop_shuffle(), came in 0..=20u64) {
            let mut acks = Acks::default();
            let mut waiting = BTreeSet::new();
            let mut told = 0;
            let mut deal = |acks: &mut Acks, seq: u64, waiting: &mut BTreeSet<u64>| {
                waiting.remove(&seq);
                if let Some(upto) = acks.noted(seq) {
                    told = told.max(upto);
                    assert!(waiting.range(..=upto).next().is_none());
                }
                told
            };
            for seq in 1..=came {
                acks.came(seq);
                waiting.insert(seq);
            }
            for seq in order.iter().copied().filter(|seq| *seq <= came) {
                deal(&mut acks, seq, &mut waiting);
            }
            for seq in came + 1..=20 {
                acks.came(seq);
                waiting.insert(seq);
                deal(&mut acks, seq, &mut waiting);
            }
            prop_assert_eq!(told, 20);
        }
    }
}
