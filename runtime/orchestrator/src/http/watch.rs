//! A watch as it goes over the wire: one JSON object a line, for as long as the client listens.

use super::accept::Form;
use super::reply::{Body, Reply};
use crate::engine::{Engine, ListOptions, Watcher};
use crate::kinds::Kind;
use crate::status::ApiError;
use crate::store::{EventKind, Stored};
use crate::table::{self, Include};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A watch without `timeoutSeconds` ends after this, so that clients which have gone silently are noticed.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// How often a client that wants bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// What a client wants of a watch.
pub(super) struct Wish {
    pub(super) form: Form,
    pub(super) include: Include,
    /// Empty or `0`: what there is now comes first, unless it is not wanted.
    pub(super) version: String,
    pub(super) bookmarks: bool,
    /// What there is now comes first, and its end is told.
    pub(super) initial_events: Option<bool>,
    pub(super) timeout: Option<u64>,
}

struct Watch {
    kind: &'static Kind,
    engine: Engine,
    watcher: Watcher,
    wish: Wish,
    /// What there was at the beginning and has not been told yet: written when it is read, so that a client which does not read costs no more
    /// than references.
    present: std::vec::IntoIter<Arc<Stored>>,
    /// The version of the list, until its end has been told to a client that waits for it.
    state: Option<u64>,
    /// Lines that are ready.
    lines: VecDeque<Bytes>,
    is_first: bool,
    deadline: Instant,
    bookmark: Instant,
    is_over: bool,
}

pub(super) fn start(
    engine: &Engine,
    kind: &'static Kind,
    options: ListOptions,
    wish: Wish,
) -> Result<Reply, ApiError> {
    let from_now = matches!(wish.version.as_str(), "" | "0");
    let (present, version) = if wish.initial_events.unwrap_or(from_now) {
        let list = engine.list(kind, &ListOptions { limit: 0, after: String::new(), ..options.clone() })?;
        (list.objects, list.version)
    } else if from_now {
        (Vec::new(), engine.store().version())
    } else {
        let bad =
            || ApiError::bad_request(format!("resourceVersion {:?} is none of this server's", wish.version));
        (Vec::new(), wish.version.parse().map_err(|_| bad())?)
    };
    let watcher = engine.watch(kind, version, options)?;
    let now = Instant::now();
    let timeout = wish
        .timeout
        .filter(|seconds| *seconds > 0)
        .map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds.min(86400)));
    let watch = Watch {
        kind,
        engine: engine.clone(),
        watcher,
        present: present.into_iter(),
        state: (wish.initial_events == Some(true)).then_some(version),
        lines: VecDeque::new(),
        is_first: true,
        deadline: now + timeout,
        bookmark: now + BOOKMARK_EVERY,
        is_over: false,
        wish,
    };
    let frames = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), watch))
    });
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            if let Some(stored) = self.present.next() {
                self.event("ADDED", &stored);
                continue;
            }
            if let Some(version) = self.state.take() {
                self.bookmark(version, true);
                continue;
            }
            tokio::select! {
                event = self.watcher.next() => match event {
                    Ok(event) => {
                        let word = match event.kind {
                            EventKind::Added => "ADDED",
                            EventKind::Modified => "MODIFIED",
                            EventKind::Deleted => "DELETED",
                        };
                        self.event(word, &event.object);
                    }
                    Err(error) => {
                        self.line(&json!({"type": "ERROR", "object": error.to_status()}));
                        self.is_over = true;
                    }
                },
                () = sleep_until(self.deadline) => self.is_over = true,
                () = sleep_until(self.bookmark), if self.wish.bookmarks => {
                    self.bookmark = Instant::now() + BOOKMARK_EVERY;
                    if let Some(version) = self.watcher.version() {
                        self.bookmark(version, false);
                    }
                }
            }
        }
    }

    fn line(&mut self, value: &Value) {
        self.lines.push_back(Bytes::from(format!("{value}\n")));
    }

    fn event(&mut self, word: &str, stored: &Arc<Stored>) {
        let object = match self.wish.form {
            Form::Objects => stored.object.clone(),
            Form::Metadata(version) => partial(&stored.object, version),
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": stored.version.to_string()});
                let now = self.engine.time();
                let mut table =
                    table::table(self.kind, &[&stored.object], metadata, version, self.wish.include, now);
                // Only the first says what the columns are.
                if !self.is_first {
                    table["columnDefinitions"] = Value::Null;
                }
                self.is_first = false;
                table
            }
        };
        self.line(&json!({"type": word, "object": object}));
    }

    fn bookmark(&mut self, version: u64, is_end_of_state: bool) {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if is_end_of_state {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.wish.form {
            Form::Table(form) => {
                let row = json!({"cells": [], "object": {"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata}});
                json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{form}"), "metadata": {"resourceVersion": version.to_string()},
                    "columnDefinitions": null, "rows": [row]})
            }
            Form::Metadata(form) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{form}"), "metadata": metadata})
            }
            Form::Objects => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
        };
        self.line(&json!({"type": "BOOKMARK", "object": object}));
    }
}

/// Only what every object has.
pub(super) fn partial(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"]})
}
