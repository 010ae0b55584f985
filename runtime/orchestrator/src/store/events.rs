//! What has happened lately, for those who watch. All share one log: who reads slowly holds nothing up and costs nothing.

use super::{Expired, Key, Store, Stored};
use crate::object;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// Events that are remembered. Who is further behind has to list again.
pub(super) const KEPT: usize = 10_000;
/// Bytes that they take in memory at most: some thousand events of pods.
pub(super) const KEPT_BYTES: usize = 32 << 20;
/// Of these many, the newest, none is dropped for the bytes of all, only for their own: one large object drives nobody's watch out.
const NEWEST: usize = 1000;
/// Bytes that they take in memory at most. Written again and again a large object does drive the others out: what is remembered is bounded,
/// and who is behind lists again, which costs less than the memory.
pub(super) const NEWEST_BYTES: usize = 64 << 20;
/// Events that one look at the log takes at most.
const BATCH: usize = 256;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It is another than before.
    Modified,
    /// It is gone; this is the last that was known, with the version of the deletion.
    Deleted,
}

/// One write.
#[derive(Debug)]
pub struct Event {
    /// Which object.
    pub key: Key,
    /// What happened.
    pub kind: EventKind,
    /// The object afterwards.
    pub stored: Arc<Stored>,
    /// The object before, if that is known: a selector may have meant it and not mean it now.
    pub previous: Option<Arc<Stored>>,
    /// About how many bytes the object takes in memory.
    weight: usize,
}

impl Event {
    pub(super) fn new(key: Key, kind: EventKind, stored: Arc<Stored>, previous: Option<Arc<Stored>>) -> Self {
        let weight = object::weight(&stored.object);
        Self { key, kind, stored, previous, weight }
    }
}

/// The latest events in order.
pub(super) struct Log {
    events: VecDeque<Arc<Event>>,
    /// Version before the first event: from there on everything is known.
    floor: u64,
    newest: u64,
    /// Of all events.
    bytes: usize,
}

impl Log {
    pub(super) fn new(floor: u64) -> Self {
        Self { events: VecDeque::new(), floor, newest: floor, bytes: 0 }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.newest = event.stored.version;
        self.bytes += event.weight;
        self.events.push_back(Arc::new(event));
        // The last one stays, whatever it takes: those who watch shall hear of it.
        while self.events.len() > KEPT
            || self.bytes > KEPT_BYTES && self.events.len() > NEWEST
            || self.bytes > NEWEST_BYTES && self.events.len() > 1
        {
            let Some(first) = self.events.pop_front() else { break };
            self.bytes -= first.weight;
            self.floor = first.stored.version;
        }
    }

    /// The version before the first event that is remembered.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Nothing has happened up to `version`.
    pub(super) fn advance(&mut self, version: u64) {
        self.newest = self.newest.max(version);
    }

    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether all that happened after `version` is known.
    pub(super) fn reaches(&self, version: u64) -> bool {
        version >= self.floor
    }

    pub(super) fn after(&self, version: u64, kind: usize, most: usize) -> Option<(Vec<Arc<Event>>, u64)> {
        if !self.reaches(version) {
            return None;
        }
        let start = self.events.partition_point(|event| event.stored.version <= version);
        let wanted = self.events.range(start..).filter(|event| event.key.kind == kind);
        let found: Vec<_> = wanted.take(most).cloned().collect();
        let upto = if found.len() == most {
            found.last().map_or(version, |event| event.stored.version)
        } else {
            self.newest
        };
        Some((found, upto.max(version)))
    }
}

/// Events as they come.
pub struct Subscription {
    store: Store,
    kind: usize,
    version: u64,
    ready: VecDeque<Arc<Event>>,
    newest: watch::Receiver<u64>,
}

impl Subscription {
    pub(super) fn new(store: Store, kind: usize, version: u64, newest: watch::Receiver<u64>) -> Self {
        Self { store, kind, version, ready: VecDeque::new(), newest }
    }

    /// The next event; waits for it. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// The reader was so slow that events are missing: list again.
    pub async fn next(&mut self) -> Result<Arc<Event>, Expired> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            // Marked as seen before the look: what comes after it wakes.
            self.newest.borrow_and_update();
            let (events, version) = self.store.events(self.kind, self.version, BATCH)?;
            self.version = version;
            self.ready = events.into();
            if self.ready.is_empty() {
                // The sender lives as long as the store, of which this has a clone.
                let _ = self.newest.changed().await;
            }
        }
    }

    /// The version up to which everything has been returned: what a bookmark tells.
    pub fn version(&self) -> Option<u64> {
        self.ready.is_empty().then_some(self.version)
    }
}
