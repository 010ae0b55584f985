//! Nobody is left to think that a field has an effect which it has not.

use super::{Engine, Note, Written};
use crate::controllers::Ref;
use crate::kinds::{Kind, unsupported};
use crate::node::refused;
use crate::object;
use serde_json::Value;

/// The pod that an object is, or that pods are made by.
fn template<'a>(kind: &Kind, object: &'a Value) -> Option<&'a Value> {
    match kind.plural {
        "pods" => Some(object),
        "deployments" | "replicasets" | "jobs" => object::at(object, &["spec", "template"]),
        "cronjobs" => object::at(object, &["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

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
        // One of those without which it would be another pod: then none starts.
        let refused = template(kind, new).and_then(refused);
        let effect = if refused.is_some() { "" } else { " and has no effect" };
        let text =
            |path: &String| format!("{path} is not supported here{effect} (docs/kubernetes-support.md)");
        written.warnings.extend(paths.iter().map(text));
        written.warnings.extend(refused.iter().map(|why| format!("no pod starts with this: {why}")));
        // What a controller made says no more than its maker, who has the event.
        let is_made = object::list(new, &["metadata", "ownerReferences"])
            .iter()
            .any(|owner| owner["controller"] == true);
        if is_dry || is_made {
            return;
        }
        let more = if paths.len() > MAX_NAMED { ", …" } else { "" };
        let what = if refused.is_some() { "not supported here" } else { "no effect here" };
        let message = format!("{what}: {}{more}", paths[..paths.len().min(MAX_NAMED)].join(", "));
        let note = Note::warning(Ref::to(kind, &written.object), "vial", "FieldNotSupported", message);
        // The write is done; a full disk will be told by the next one.
        let _ = self.tell(&note);
    }
}
