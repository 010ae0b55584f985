//! What happened in the guest, kept until the host has noted it.

use agent_protocol::Event;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Most log lines that are kept for a host that does not listen. Ends of processes are bounded by the number of processes.
const MAX_LOGS: usize = 256;

/// Most victims of one container's OOM kills that are kept for it.
const MAX_VICTIMS: usize = 16;

/// The event log of the VM's whole life, without what the host has acknowledged.
#[derive(Debug)]
pub struct Events {
    kept: RefCell<VecDeque<(u64, Event)>>,
    next: Cell<u64>,
    /// Woken by a new event and by a new subscriber.
    news: Notify,
    newest: Cell<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: RefCell::default(), next: Cell::new(1), news: Notify::new(), newest: Cell::new(0) }
    }
}

impl Events {
    /// Adds an event. What a container could produce without end is bounded: an OOM without a victim is kept once while an earlier one is not
    /// acknowledged, as are those with one beyond some, and so are log lines.
    pub fn push(&self, event: Event) {
        let mut kept = self.kept.borrow_mut();
        let superfluous = match &event {
            Event::Oom { container, victim } => {
                let of = |e: &Event| matches!(e, Event::Oom { container: c, victim: v } if c == container && v.is_some() == victim.is_some());
                kept.iter().filter(|(_, known)| of(known)).count()
                    >= if victim.is_some() { MAX_VICTIMS } else { 1 }
            }
            Event::Log { .. } => {
                kept.iter().filter(|(_, e)| matches!(e, Event::Log { .. })).count() >= MAX_LOGS
            }
            Event::Exited { .. } => false,
        };
        if superfluous {
            return;
        }
        let seq = self.next.get();
        self.next.set(seq + 1);
        kept.push_back((seq, event));
        drop(kept);
        self.news.notify_waiters();
    }

    /// Forgets events up to and including `seq`; gives them to the caller. A number from the future means all.
    pub fn acknowledge(&self, seq: u64) -> Vec<Event> {
        let mut kept = self.kept.borrow_mut();
        let n = kept.partition_point(|(known, _)| *known <= seq);
        kept.drain(..n).map(|(_, event)| event).collect()
    }

    /// Makes the caller the one who gets events; the number is for [`Events::next`].
    pub fn subscribe(&self) -> u64 {
        let number = self.newest.get() + 1;
        self.newest.set(number);
        self.news.notify_waiters();
        number
    }

    /// The first event after `seq`, waiting for it. Never completes for a subscriber that is no longer the newest.
    pub async fn next(&self, subscriber: u64, seq: u64) -> (u64, Event) {
        loop {
            if self.newest.get() == subscriber {
                let kept = self.kept.borrow();
                if let Some((seq, event)) = kept.iter().find(|(known, _)| *known > seq) {
                    return (*seq, event.clone());
                }
            }
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{OomLimit, OomVictim};

    fn log(n: usize) -> Event {
        Event::Log { message: n.to_string() }
    }

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_new_subscriber_gets_what_was_not_acknowledged() {
        let events = Events::default();
        (0..3).for_each(|n| events.push(log(n)));
        let first = events.subscribe();
        assert_eq!(now(events.next(first, 0)), Some((1, log(0))));
        assert_eq!(now(events.next(first, 2)), Some((3, log(2))));
        assert_eq!(events.acknowledge(2), [log(0), log(1)]);
        let second = events.subscribe();
        assert_eq!(now(events.next(second, 0)), Some((3, log(2))));
        assert_eq!(now(events.next(first, 0)), None, "the newest wins");
    }

    #[test]
    fn numbers_have_no_gaps_and_never_repeat() {
        let events = Events::default();
        events.push(log(0));
        events.acknowledge(u64::MAX);
        events.push(log(1));
        let subscriber = events.subscribe();
        assert_eq!(now(events.next(subscriber, 0)), Some((2, log(1))));
    }

    #[test]
    fn a_container_can_not_fill_the_log() {
        let events = Events::default();
        for pid in 0..1000 {
            let victim = OomVictim { pid, name: "x".into(), limit: OomLimit::Container, limit_bytes: 1 };
            events.push(Event::Oom { container: "c".into(), victim: None });
            events.push(Event::Oom { container: "c".into(), victim: Some(victim) });
            events.push(log(0));
        }
        assert_eq!(events.acknowledge(u64::MAX).len(), 1 + MAX_VICTIMS + MAX_LOGS);
    }
}
