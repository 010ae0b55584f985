//! Turns to boot: so many VMs start at a time, the others wait in the order in which they came.
//!
//! A start is work for a processor from its first moment to its last. When many more of them run than there are processors, all of them are
//! ready only when the last one is; and when that takes longer than a start may, all are thrown away and begin anew: a host that was asked
//! for thirty pods at once never came to have one. In turn the first is ready as soon as if it were alone, and the last no later than
//! it would have been.
//!
//! A turn is over when the agent is there, or when that has taken longer than a start may; not before that, or on a host that is slow for
//! another reason all would start at once again. What a container brings along is looked at after its turn and can't make it longer.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of one host. Clones share them.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// So many starts at a time, one or more.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self) -> Turn {
        // Nobody closes it; if somebody did, there would be no turns to wait for.
        Turn { _permit: self.0.clone().acquire_owned().await.ok() }
    }
}

/// A turn, which the next one has when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn no_more_start_at_once_than_there_are_turns_and_all_come_in_their_order() {
        let turns = Turns::new(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (sent, mut ended) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..30 {
            let (turns, running, most, sent) = (turns.clone(), running.clone(), most.clone(), sent.clone());
            tokio::spawn(async move {
                let turn = turns.take().await;
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::time::sleep(Duration::from_secs(3)).await;
                running.fetch_sub(1, SeqCst);
                drop(turn);
                sent.send(number).unwrap();
            });
        }
        drop(sent);
        let mut order = Vec::new();
        while let Some(number) = ended.recv().await {
            order.push(number);
        }
        assert_eq!(order, (0..30).collect::<Vec<_>>());
        assert_eq!(most.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_it_waits_loses_nobodys_turn() {
        let turns = Turns::new(0);
        let first = turns.take().await;
        let waits = tokio::time::timeout(Duration::from_secs(1), turns.take()).await;
        assert!(waits.is_err(), "it is the first's turn");
        drop(first);
        turns.take().await;
        turns.take().await;
    }
}
