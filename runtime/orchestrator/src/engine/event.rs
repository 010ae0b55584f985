//! Events: sentences about objects, for people (`kubectl describe`). The same sentence again is counted, not written once more.

use super::chatter::Verdict;
use super::{Engine, Patch, Target, WriteOptions};
use crate::controllers::Ref;
use crate::decode::Decoded;
use crate::status::{ApiError, Reason};
use serde_json::json;
use std::sync::PoisonError;

/// Longest message, in bytes (core's `NoteLengthLimit`).
const MAX_MESSAGE: usize = 1024;
/// Room for the dot and the sixteen digits behind an object's name in an event's.
const MAX_PREFIX: usize = 236;

/// A sentence about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The object.
    pub about: Ref,
    /// Something is wrong; else it is how things should go.
    pub is_warning: bool,
    /// One word in CamelCase, for programs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// A part of the object, such as `spec.containers{web}`; empty: all of it.
    pub field: String,
    /// Who says it.
    pub source: &'static str,
}

impl Note {
    /// That all is well, or as it was asked for.
    pub fn normal(about: Ref, source: &'static str, reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.into(), message.into());
        Self { about, is_warning: false, reason, message, field: String::new(), source }
    }

    /// That something is wrong.
    pub fn warning(about: Ref, source: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { is_warning: true, ..Self::normal(about, source, reason, message) }
    }

    /// Where the event is: beside the object.
    fn namespace(&self) -> &str {
        if self.about.namespace.is_empty() { "default" } else { &self.about.namespace }
    }

    /// The name of the event: the same for the same sentence about the same object.
    pub(super) fn name(&self) -> String {
        let said = [&self.about.uid, &self.reason, &self.message, &self.field].map(String::as_str).join("\0");
        let digest = ring::digest::digest(&ring::digest::SHA256, said.as_bytes());
        let number: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = &self.about.name;
        let kept = &name[..name.floor_char_boundary(MAX_PREFIX)];
        format!("{}.{number}", kept.trim_end_matches(['.', '-']))
    }
}

impl Engine {
    /// Writes an event, if it is not there.
    ///
    /// # Errors
    /// As for [`Engine::tell`].
    pub fn tell_once(&self, note: &Note) -> Result<(), ApiError> {
        let target = Target {
            kind: crate::controllers::kind("events"),
            namespace: note.namespace(),
            name: &note.name(),
            subresource: "",
        };
        if self.get(target).is_ok() { Ok(()) } else { self.tell(note) }
    }

    /// Writes an event, or counts one that is there, as far as there are not too many about that object already.
    ///
    /// # Errors
    /// The store does not work. That the namespace is gone or going is no error: nobody is left who would read it.
    pub fn tell(&self, note: &Note) -> Result<(), ApiError> {
        let verdict = self.chatter.lock().unwrap_or_else(PoisonError::into_inner).judge(note, self.time());
        match verdict {
            Verdict::Tell => self.write_event(note, &note.name()),
            // One event for them all, with the last of the sentences.
            Verdict::Combine => {
                let all = Note { message: String::new(), field: String::new(), ..note.clone() };
                let message = format!("(combined from similar events): {}", note.message);
                self.write_event(&Note { message, ..note.clone() }, &all.name())
            }
            Verdict::Drop => Ok(()),
        }
    }

    fn write_event(&self, note: &Note, name: &str) -> Result<(), ApiError> {
        let kind = crate::controllers::kind("events");
        let target = Target { kind, namespace: note.namespace(), name, subresource: "" };
        let message = &note.message[..note.message.floor_char_boundary(MAX_MESSAGE)];
        // That something is wrong can be told even when there is no room for anything else.
        let options =
            WriteOptions { manager: note.source.into(), own: note.is_warning, ..WriteOptions::default() };
        let now = self.now();
        let result = match self.get(target) {
            Ok(there) => {
                let count = crate::object::number(&there.object, &["count"]).unwrap_or(1).max(1);
                let count = count.saturating_add(1).min(i64::from(i32::MAX));
                let patch = json!({"count": count, "lastTimestamp": now, "message": message});
                self.patch(target, &Patch::Merge(patch), &options)
            }
            Err(_) => {
                let mut about = json!({"apiVersion": note.about.kind.api_version(), "kind": note.about.kind.kind, "name": note.about.name,
                    "uid": note.about.uid, "resourceVersion": note.about.version.to_string()});
                for (field, value) in [("namespace", &note.about.namespace), ("fieldPath", &note.field)] {
                    if !value.is_empty() {
                        about[field] = value.clone().into();
                    }
                }
                let value = json!({"metadata": {"name": name}, "involvedObject": about, "reason": note.reason, "message": message,
                    "type": if note.is_warning { "Warning" } else { "Normal" }, "source": {"component": note.source},
                    "reportingComponent": note.source, "reportingInstance": "", "firstTimestamp": now, "lastTimestamp": now, "count": 1});
                self.create(target, Decoded { value, duplicates: Vec::new() }, &options)
            }
        };
        match result {
            Err(error) if error.reason == Reason::InternalError => Err(error),
            _ => Ok(()),
        }
    }
}
