//! Where objects are kept: SQLite with a write-ahead log, synced at every commit; reads and watches are served from memory.
//!
//! The promise: a write that was answered survives a loss of power, and nobody sees one that was not committed. Resource versions come
//! from one counter that never goes back, not even when the newest object is deleted.

mod events;
mod file;
mod mark;
mod seal;
mod wal;

pub use events::{Event, EventKind, Subscription};
pub use file::StoreError;
pub use seal::{SealError, SealKey};

use crate::kinds::{KINDS, Kind};
use crate::object;
use events::Log;
use file::{File, Write};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::watch;

/// An object's place: kind, namespace (empty for those without), name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index in [`KINDS`].
    kind: usize,
    /// Empty for objects without one.
    pub namespace: String,
    /// Unique in kind and namespace.
    pub name: String,
}

impl Key {
    /// The place of such an object.
    pub fn new(kind: &'static Kind, namespace: &str, name: &str) -> Self {
        Self { kind: kind.index(), namespace: namespace.into(), name: name.into() }
    }

    /// Its kind.
    pub fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }
}

/// An object as it was written; never changed, only replaced.
#[derive(Debug, PartialEq)]
pub struct Stored {
    /// With `metadata.resourceVersion`.
    pub object: Value,
    /// The same as a number.
    pub version: u64,
}

/// A write.
#[derive(Debug)]
pub struct Change {
    /// Where.
    pub key: Key,
    /// The version that is there now; `None`: nothing.
    pub expected: Option<u64>,
    /// What is to be there; `None`: nothing.
    pub object: Option<Value>,
    /// Which memory it may take.
    pub share: Share,
}

/// Which memory a write may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// What objects may take: what clients declare, and what is made of it.
    Common,
    /// A sixteenth beyond: so that the server can warn.
    Warning,
    /// An eighth beyond: so that the server can tell what becomes of what is there, and remake what has to be.
    Reserve,
}

impl Share {
    /// What objects may take in all for a write of this share to be taken, where `room` is for everybody.
    fn bound(self, room: usize) -> usize {
        match self {
            Self::Common => room,
            Self::Warning => room.saturating_add(room / 16),
            Self::Reserve => room.saturating_add(room / 8),
        }
    }
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else wrote first: the object is not of the version that was expected.
    #[error("the object has been modified")]
    Stale,
    /// It could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All objects. Clones share them.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// The file; its lock orders the writes.
    file: Mutex<File>,
    memory: RwLock<Memory>,
    newest: watch::Sender<u64>,
    /// Somebody was told that there is no room, and there has not been much since.
    is_crowded: AtomicBool,
    way_out: OnceLock<WayOut>,
}

/// Makes room on a full disk, once; says whether there was any to make.
type WayOut = Box<dyn Fn() -> bool + Send + Sync>;

struct Memory {
    objects: BTreeMap<Key, Arc<Stored>>,
    /// The sum of their weights, and what it may be.
    held: usize,
    room: usize,
    log: Log,
}

impl Store {
    /// Opens the store at `path`, or makes one. `key` seals what is secret.
    ///
    /// # Errors
    /// The file can't be opened, is damaged, sealed by another key, or of a newer version.
    pub fn open(path: &Path, key: SealKey) -> Result<Self, StoreError> {
        let (file, objects, log) = File::open(path, key)?;
        let newest = watch::Sender::new(log.newest());
        let held = objects.values().map(|stored| object::weight(&stored.object)).sum();
        let memory = RwLock::new(Memory { objects, held, room: usize::MAX, log });
        Ok(Self(Arc::new(Inner {
            file: Mutex::new(file),
            memory,
            newest,
            is_crowded: AtomicBool::new(false),
            way_out: OnceLock::new(),
        })))
    }

    /// Who makes room on a full disk for what makes less of the objects: to note that needs a little, and nobody could free anything otherwise.
    /// The first one counts.
    pub fn set_way_out(&self, way_out: impl Fn() -> bool + Send + Sync + 'static) {
        // Set once, where the store is opened.
        let _ = self.0.way_out.set(Box::new(way_out));
    }

    /// Objects may take so many bytes of memory ([`object::weight`]), and an eighth more for [`Share::Reserve`]. What is there already stays.
    pub fn set_room(&self, bytes: usize) {
        self.0.memory.write().unwrap_or_else(PoisonError::into_inner).room = bytes;
    }

    /// Whether there is room for what objects weigh after these writes.
    ///
    /// # Errors
    /// There is none.
    fn admit(&self, load: &Load) -> Result<(), StoreError> {
        let memory = self.memory();
        let (held, room) = (memory.held, memory.room);
        drop(memory);
        let after = (held + load.new).saturating_sub(load.old);
        let is_roomy = held < room - room / 8;
        if after > load.share.map_or(usize::MAX, |share| share.bound(room)) {
            // One that is too large for what is left says nothing of others.
            if !is_roomy {
                self.0.is_crowded.store(true, Ordering::Relaxed);
            }
            return Err(StoreError::Crowded { held: held >> 20, room: room >> 20 });
        }
        if is_roomy {
            self.0.is_crowded.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether somebody was told that there is no room, and not much has been deleted since.
    pub fn is_crowded(&self) -> bool {
        self.0.is_crowded.load(Ordering::Relaxed)
    }

    fn memory(&self) -> std::sync::RwLockReadGuard<'_, Memory> {
        self.0.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object at `key`.
    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.memory().objects.get(key).cloned()
    }

    /// The objects of a kind, of all namespaces or of one, in order, and the version that the list is of.
    pub fn list(&self, kind: &'static Kind, namespace: &str) -> (Vec<Arc<Stored>>, u64) {
        let memory = self.memory();
        let start = Key::new(kind, namespace, "");
        let range = memory.objects.range((Bound::Included(start), Bound::Unbounded));
        let belongs =
            |key: &Key| key.kind == kind.index() && (namespace.is_empty() || key.namespace == namespace);
        let objects =
            range.take_while(|(key, _)| belongs(key)).map(|(_, stored)| Arc::clone(stored)).collect();
        (objects, memory.log.newest())
    }

    /// The objects of all kinds, as they are at one moment; kinds of which there is none are left out.
    pub fn all(&self) -> BTreeMap<&'static str, Vec<Arc<Stored>>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (key, stored) in &self.memory().objects {
            all.entry(key.kind().plural).or_default().push(Arc::clone(stored));
        }
        all
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.memory().log.newest()
    }

    /// Writes `object` at `key`, or removes what is there (`None`), if what is there now is of version `expected` (`None`: nothing).
    /// When it returns, the write is durable.
    ///
    /// # Errors
    /// What is there is another; or the disk is full or broken, or objects would take too much memory: then nothing has changed.
    pub fn commit(
        &self,
        key: &Key,
        expected: Option<u64>,
        object: Option<Value>,
        share: Share,
    ) -> Result<Arc<Stored>, CommitError> {
        let done = self.commit_all(vec![Change { key: key.clone(), expected, object, share }])?;
        done.into_iter().flatten().next().ok_or(CommitError::Stale)
    }

    /// The same for several at once, which the disk is waited for once; nothing for those that were another than expected.
    ///
    /// # Errors
    /// The disk is full or broken, or objects would take too much memory: then nothing has changed.
    pub fn commit_all(&self, changes: Vec<Change>) -> Result<Vec<Option<Arc<Stored>>>, StoreError> {
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = vec![None; changes.len()];
        let (mut places, mut writes, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut load = Load::default();
        for (place, Change { key, expected, object, share }) in changes.into_iter().enumerate() {
            // Only who holds the file's lock writes to the memory, so this is still true below.
            let previous = self.get(&key);
            let kind = match (&previous, &object) {
                (None, None) => continue,
                (None, Some(_)) => EventKind::Added,
                (Some(_), Some(_)) => EventKind::Modified,
                (Some(_), None) => EventKind::Deleted,
            };
            // What is there twice is another after the first.
            let is_expected = previous.as_ref().map(|stored| stored.version) == expected;
            if !is_expected || !seen.insert(key.clone()) {
                continue;
            }
            let removed = || previous.as_ref().map(|stored| stored.object.clone()).unwrap_or_default();
            let mut object = object.unwrap_or_else(removed);
            load.add(kind, &mut object, previous.as_deref(), share);
            object::remove(&mut object, &["metadata", "resourceVersion"]);
            places.push(place);
            writes.push(Write { key, kind, object, previous });
        }
        if writes.is_empty() {
            return Ok(done);
        }
        self.admit(&load)?;
        let floor = self.memory().log.floor();
        let written = match file.write(&writes, floor) {
            Err(error)
                if error.is_full()
                    && load.share.is_none()
                    && self.0.way_out.get().is_some_and(|way_out| way_out()) =>
            {
                file.write(&writes, floor)?
            }
            written => written?,
        };
        let mut memory = self.0.memory.write().unwrap_or_else(PoisonError::into_inner);
        for ((place, write), version) in places.into_iter().zip(writes).zip(written) {
            let Write { key, kind, mut object, previous } = write;
            *object::entry(&mut object, &["metadata", "resourceVersion"]) = version.to_string().into();
            let stored = Arc::new(Stored { object, version });
            match kind {
                EventKind::Deleted => memory.objects.remove(&key),
                EventKind::Added | EventKind::Modified => {
                    memory.held += object::weight(&stored.object);
                    memory.objects.insert(key.clone(), Arc::clone(&stored))
                }
            };
            // What is there is in the sum as it is there, with its version: a sum that is only nearly right drifts away.
            memory.held -= previous.as_ref().map_or(0, |previous| object::weight(&previous.object));
            done[place] = Some(Arc::clone(&stored));
            memory.log.push(Event::new(key, kind, stored, previous));
        }
        let newest = memory.log.newest();
        drop(memory);
        self.0.newest.send_replace(newest);
        Ok(done)
    }

    /// Brings all writes into the file itself, before the process ends: nothing is lost without it, but damage is noticed better in the file
    /// than in its write-ahead log.
    ///
    /// # Errors
    /// The disk is full or broken: all stays in the log.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).settle()
    }

    /// Wakes at every write; its value is the newest version.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// What happens to objects of a kind after `version`.
    ///
    /// # Errors
    /// So much has happened since that it is not known any more: list again.
    pub fn watch(&self, kind: &'static Kind, version: u64) -> Result<Subscription, Expired> {
        if !self.memory().log.reaches(version) {
            return Err(Expired(version));
        }
        Ok(Subscription::new(self.clone(), kind.index(), version, self.0.newest.subscribe()))
    }

    /// Whether objects of a kind are surely still as they were at `version`.
    pub fn is_unchanged(&self, kind: &'static Kind, version: u64) -> bool {
        self.events(kind.index(), version, 1).is_ok_and(|(events, _)| events.is_empty())
    }

    /// Up to `most` events of a kind after `version`, and up to which version that is all.
    fn events(&self, kind: usize, version: u64, most: usize) -> Result<(Vec<Arc<Event>>, u64), Expired> {
        self.memory().log.after(version, kind, most).ok_or(Expired(version))
    }
}

/// What may be noted with one write of who writes which field, in bytes of memory, without taking from what objects may take.
const MAX_NOTED: usize = 16 << 10;

/// What writes do to the memory that objects take.
#[derive(Default)]
struct Load {
    /// Weight of what comes and of what goes.
    new: usize,
    old: usize,
    /// What all of them may take; none: they need no more than there is.
    share: Option<Share>,
}

impl Load {
    fn add(&mut self, kind: EventKind, object: &mut Value, previous: Option<&Stored>, share: Share) {
        let old = previous.map_or(0, |stored| object::weight(&stored.object));
        self.old += old;
        if kind == EventKind::Deleted {
            return;
        }
        // With a version, as what is there has one; the next has no fewer digits, or one more.
        let version = previous.map_or(0, |stored| stored.version).to_string();
        *object::entry(object, &["metadata", "resourceVersion"]) = version.into();
        let new = object::weight(object);
        self.new += new;
        // Who writes is noted at it, and nobody can make less of an object without that.
        let notes =
            |value: &Value| object::at(value, &["metadata", "managedFields"]).map_or(0, object::weight);
        let noted = notes(object).saturating_sub(previous.map_or(0, |stored| notes(&stored.object)));
        let is_only_noted = noted <= MAX_NOTED && new.saturating_sub(noted) <= old;
        // It takes a little more to be on its way out; without it there would be no way. Later its owners are as others.
        let leaves = object::is_deleted(object)
            && previous.is_some_and(|previous| !object::is_deleted(&previous.object));
        if new > old && !leaves {
            let share = if is_only_noted { Share::Reserve } else { share };
            // The narrowest counts.
            self.share = Some(self.share.map_or(share, |before| before.min(share)));
        }
    }
}

/// A version that is too old to go on from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {0}")]
pub struct Expired(pub u64);

#[cfg(test)]
mod tests;
