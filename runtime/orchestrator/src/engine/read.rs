//! Get, list, watch.

use super::{Engine, Target};
use crate::kinds::Kind;
use crate::object;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, Cause, CauseKind, Reason};
use crate::store::{Event, EventKind, Expired, Stored, Subscription};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;

/// Of which version a list may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum At {
    /// The newest.
    #[default]
    Newest,
    /// This or a newer one.
    NotOlderThan(u64),
    /// This.
    Exactly(u64),
}

/// Which objects of a kind.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Empty: all.
    pub namespace: String,
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
    /// No more than these; 0: all.
    pub limit: usize,
    /// Where the page before ended.
    pub after: String,
    /// Of which version.
    pub at: At,
}

impl ListOptions {
    fn means(&self, stored: &Stored) -> bool {
        self.labels.matches(&object::labels(&stored.object)) && self.fields.matches(&stored.object)
    }
}

/// A list, or a page of one.
#[derive(Debug)]
pub struct List {
    /// In the order of namespace and name.
    pub objects: Vec<Arc<Stored>>,
    /// What a watch goes on from: for every page that of the first, so that no change between two pages is missed. Later pages may have seen
    /// changes that such a watch tells again.
    pub version: u64,
    /// Asks for the next page; empty: this is the last.
    pub next: String,
    /// How many are left.
    pub remaining: usize,
}

/// What a watch sees.
#[derive(Debug)]
pub struct WatchedEvent {
    /// As the watcher sees it: an object that leaves its selector is deleted for it.
    pub kind: EventKind,
    /// The object.
    pub object: Arc<Stored>,
}

/// A watch under way.
pub struct Watcher {
    subscription: Subscription,
    options: ListOptions,
}

impl Engine {
    /// One object.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, target: Target<'_>) -> Result<Arc<Stored>, ApiError> {
        self.store().get(&target.key()).ok_or_else(|| target.kind.not_found(target.name))
    }

    /// Those that the options mean.
    ///
    /// # Errors
    /// The place to go on from makes no sense, or the version that is wanted is not there any more, or not yet.
    pub fn list(&self, kind: &'static Kind, options: &ListOptions) -> Result<List, ApiError> {
        let start = decode_place(&options.after)?;
        let (objects, newest) = self.store().list(kind, &options.namespace);
        let version = match (&start, options.at) {
            (Some((version, _)), _) if *version > newest => {
                let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";
                return Err(ApiError::new(Reason::Expired, message));
            }
            (Some((version, _)), _) => *version,
            (None, At::NotOlderThan(wanted) | At::Exactly(wanted)) if wanted > newest => {
                return Err(too_large(wanted, newest));
            }
            // Only the newest objects are kept, so an old version can be had as long as it is still the same.
            (None, At::Exactly(wanted)) if self.store().is_unchanged(kind, wanted) => wanted,
            (None, At::Exactly(_)) => {
                let message = "The resourceVersion for the provided list is too old.";
                return Err(ApiError::new(Reason::Expired, message));
            }
            (None, At::Newest | At::NotOlderThan(_)) => newest,
        };
        let place = |stored: &Stored| {
            (object::namespace(&stored.object).to_owned(), object::name(&stored.object).to_owned())
        };
        let mut objects: Vec<_> = objects
            .into_iter()
            .filter(|stored| options.means(stored))
            .filter(|stored| start.as_ref().is_none_or(|(_, start)| place(stored) > *start))
            .collect();
        let (mut next, mut remaining) = (String::new(), 0);
        if options.limit > 0 && objects.len() > options.limit {
            remaining = objects.len() - options.limit;
            objects.truncate(options.limit);
            if let Some(last) = objects.last() {
                let (namespace, name) = place(last);
                next = URL_SAFE_NO_PAD.encode(format!("{version}/{namespace}/{name}"));
            }
        }
        Ok(List { objects, version, next, remaining })
    }

    /// Events after `version` about those that the options mean.
    ///
    /// # Errors
    /// The version is too old, or of the future.
    pub fn watch(
        &self,
        kind: &'static Kind,
        version: u64,
        options: ListOptions,
    ) -> Result<Watcher, ApiError> {
        let newest = self.store().version();
        if version > newest {
            let message = format!("Too large resource version: {version}, current: {newest}");
            return Err(ApiError::new(Reason::Expired, message));
        }
        let subscription = self.store().watch(kind, version).map_err(expired)?;
        Ok(Watcher { subscription, options })
    }
}

fn expired(error: Expired) -> ApiError {
    ApiError::new(Reason::Expired, error.to_string())
}

fn too_large(wanted: u64, newest: u64) -> ApiError {
    let message = format!("Timeout: Too large resource version: {wanted}, current: {newest}");
    let cause = Cause::new(CauseKind::TooLargeVersion, "", newest.to_string());
    ApiError { causes: vec![cause], ..ApiError::new(Reason::Timeout, message) }
}

/// The version that the first page was of, and namespace and name of the last object of the one before.
type Place = (u64, (String, String));

fn decode_place(text: &str) -> Result<Option<Place>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let decode = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (version, place) = text.split_once('/')?;
        let (namespace, name) = place.split_once('/')?;
        Some((version.parse().ok()?, (namespace.to_owned(), name.to_owned())))
    };
    let bad = || ApiError::bad_request("continue key is not valid: it is not from a list of this server");
    decode().map(Some).ok_or_else(bad)
}

impl Watcher {
    /// The next event that matters; waits for it. May be dropped while it waits.
    ///
    /// # Errors
    /// The reader was too slow (410): it has to list again.
    pub async fn next(&mut self) -> Result<WatchedEvent, ApiError> {
        loop {
            let event = self.subscription.next().await.map_err(expired)?;
            if let Some(seen) = self.seen(&event) {
                return Ok(seen);
            }
        }
    }

    fn seen(&self, event: &Event) -> Option<WatchedEvent> {
        if !self.options.namespace.is_empty() && event.key.namespace != self.options.namespace {
            return None;
        }
        let now = self.options.means(&event.stored);
        let before = event.previous.as_ref().map(|previous| self.options.means(previous));
        let kind = match (event.kind, before, now) {
            (EventKind::Added, _, true) => EventKind::Added,
            (EventKind::Modified, Some(false), true) => EventKind::Added,
            (EventKind::Modified, _, true) => EventKind::Modified,
            (EventKind::Deleted, _, true) => EventKind::Deleted,
            // Not known to have been meant: deleting what was never there hurts nobody, missing a deletion would.
            (EventKind::Modified | EventKind::Deleted, None | Some(true), false) => EventKind::Deleted,
            (_, _, false) => return None,
        };
        Some(WatchedEvent { kind, object: Arc::clone(&event.stored) })
    }

    /// The version up to which all is told, if nothing waits to be.
    pub fn version(&self) -> Option<u64> {
        self.subscription.version()
    }
}
