//! The verbs, for every kind alike.

mod act;
mod admission;
mod bootstrap;
mod chatter;
mod delete;
mod event;
mod read;
mod support;
mod world;
mod write;

pub use delete::{DeleteOptions, Deleted, FOREGROUND, ORPHAN, Propagation};
pub use event::Note;
pub use read::{At, List, ListOptions, WatchedEvent, Watcher};
pub use world::RealWorld;
pub use write::{Patch, Target};

use crate::kinds::Kind;
use crate::object;
use crate::status::{ApiError, Reason};
use crate::store::{CommitError, Key, Share, Store, StoreError, Stored};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// Attempts at a change that others get in the way of; each is made on what they wrote.
const MAX_ATTEMPTS: usize = 10;

/// Where time and chance come from; tests have their own.
pub trait World: Send + Sync {
    /// Now.
    fn now(&self) -> DateTime<Utc>;
    /// Random bytes.
    fn random(&self) -> [u8; 16];
}

/// Serves the verbs on a store. Clones share it.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    world: Arc<dyn World>,
    chatter: Arc<Mutex<chatter::Chatter>>,
}

/// What a client says beside the object.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Everything but the write itself.
    pub dry_run: bool,
    /// What becomes of fields that there are not.
    pub validation: FieldValidation,
    /// Who writes, for `managedFields`.
    pub manager: String,
    /// Apply takes fields over from others.
    pub force: bool,
    /// The server itself writes.
    pub own: bool,
}

impl WriteOptions {
    /// The memory that writing `object` may take; none where it is only tried. What the server makes for an owner, a client asked for.
    fn share(&self, kind: &Kind, object: &Value, is_new: bool) -> Option<Share> {
        let is_asked_for = is_new && !object::list(object, &["metadata", "ownerReferences"]).is_empty();
        let share = match self.own && !is_asked_for {
            // Of warnings there may be any number, and what they are about has to be told too.
            true if kind.plural == "events" => Share::Warning,
            true => Share::Reserve,
            false => Share::Common,
        };
        (!self.dry_run).then_some(share)
    }
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            validation: FieldValidation::Warn,
            manager: "unknown".into(),
            force: false,
            own: false,
        }
    }
}

/// `fieldValidation`: what becomes of unknown and doubled fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are left out.
    Ignore,
    /// They are left out and the client is warned.
    Warn,
    /// The request is refused.
    Strict,
}

/// A write that worked.
#[derive(Debug)]
pub struct Written {
    /// The object as it is now.
    pub object: Arc<Stored>,
    /// It did not exist before.
    pub created: bool,
    /// What the client should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// On this store.
    pub fn new(store: Store, world: Arc<dyn World>) -> Self {
        Self { store, world, chatter: Arc::default() }
    }

    /// The store under it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Now.
    pub fn time(&self) -> DateTime<Utc> {
        self.world.now()
    }

    /// Now, as objects say it.
    pub fn now(&self) -> String {
        self.world.now().to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// A version 4 UUID (RFC 9562).
    fn uid(&self) -> String {
        let mut bytes = self.world.random();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = |range: std::ops::Range<usize>| hex[range].concat();
        format!("{}-{}-{}-{}-{}", part(0..4), part(4..6), part(6..8), part(8..10), part(10..16))
    }

    /// Five characters that names end with: no vowels, so no words (apimachinery's `rand.String`).
    pub fn suffix(&self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        self.world.random()[..5]
            .iter()
            .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
            .collect()
    }

    /// Writes, if it is not only tried (no `share`).
    fn commit(
        &self,
        key: &Key,
        expected: Option<u64>,
        object: Option<Value>,
        share: Option<Share>,
    ) -> Result<Arc<Stored>, Failure> {
        let Some(share) = share else {
            return match object {
                Some(object) => Ok(Arc::new(Stored { object, version: expected.unwrap_or(0) })),
                // As a deletion answers: the last that there was of it.
                None => self.store.get(key).ok_or(Failure::Stale),
            };
        };
        self.store.commit(key, expected, object, share).map_err(|error| match error {
            CommitError::Stale => Failure::Stale,
            CommitError::Store(error) => Failure::Told(refused(&error)),
        })
    }

    /// Tries a change until nobody gets in its way.
    fn retry<T>(&self, key: &Key, mut change: impl FnMut() -> Result<T, Failure>) -> Result<T, ApiError> {
        for _ in 0..MAX_ATTEMPTS {
            match change() {
                Ok(done) => return Ok(done),
                Err(Failure::Told(error)) => return Err(error),
                Err(Failure::Stale) => {}
            }
        }
        Err(conflict(key.kind(), &key.name))
    }
}

/// What clients are told of a store that does not write.
fn refused(error: &StoreError) -> ApiError {
    let reason = match error {
        StoreError::Crowded { .. } => Reason::Crowded,
        _ => Reason::InternalError,
    };
    ApiError::new(reason, error.to_string())
}

/// How one attempt ends without success.
enum Failure {
    /// Somebody wrote in between.
    Stale,
    /// For good.
    Told(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Told(error)
    }
}

/// Whoever names an identity means no other object of the name.
pub(crate) fn check_uid(kind: &Kind, there: &Value, asked: &str) -> Result<(), ApiError> {
    let found = crate::object::uid(there);
    if asked.is_empty() || asked == found {
        return Ok(());
    }
    let (what, name) = (kind.dotted(), crate::object::name(there));
    let message = format!(
        "Operation cannot be fulfilled on {what} {name:?}: Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"
    );
    Err(ApiError::new(Reason::Conflict, message).about(kind.group, kind.plural, name))
}

fn conflict(kind: &Kind, name: &str) -> ApiError {
    let what = kind.dotted();
    let message = format!(
        "Operation cannot be fulfilled on {what} {name:?}: the object has been modified; please apply your changes to the latest version and try again"
    );
    ApiError::new(Reason::Conflict, message).about(kind.group, kind.plural, name)
}

#[cfg(test)]
mod tests;
