//! Nobody is left to think that a field has an effect which it has not.

use super::{Engine, Note, Written};
use crate::controllers::Ref;
use crate::kinds::{Kind, unsupported};
use crate::object;
use serde_json::Value;

/// Fields that one event names.
const MAX_NAMED: usize = 8;

impl Engine {
    /// Warns the client of fields that were set and have no effect, and leaves an event for those who look later.
    pub(super) fn warn(&self, kind: &'static Kind, old: Option<&Value>, written: &mut Written, is_dry: bool) {
        let new = &written.object.object;
        let paths = unsupported(kind, old, new);
        if paths.is_empty() {
            return;
        }
        let text = |path: &String| {
            format!("{path} is not supported here and has no effect (docs/kubernetes-support.md)")
        };
        written.warnings.extend(paths.iter().map(text));
        // What a controller made says no more than its maker, who has the event.
        let is_made = object::list(new, &["metadata", "ownerReferences"])
            .iter()
            .any(|owner| owner["controller"] == true);
        if is_dry || is_made {
            return;
        }
        let more = if paths.len() > MAX_NAMED { ", …" } else { "" };
        let message = format!("no effect here: {}{more}", paths[..paths.len().min(MAX_NAMED)].join(", "));
        let note = Note::warning(Ref::to(kind, &written.object), "vial", "FieldNotSupported", message);
        // The write is done; a full disk will be told by the next one.
        let _ = self.tell(&note);
    }
}
