//! Taints that drive out (`NoExecute`): pods of their node that don't tolerate them go, at once or when their toleration is over.
//!
//! Pods that nobody declared stay: their lives are not declared here.

use super::{Action, Plan, Ref, Snapshot, is_active, kind};
use crate::engine::{Note, Propagation};
use crate::node::mirror;
use crate::object;
use crate::placement::{self, Stay};
use crate::store::Stored;
use chrono::SecondsFormat;
use serde_json::{Value, json};
use std::sync::Arc;

/// Who drives them out, in events.
const SOURCE: &str = "taint-eviction-controller";

pub(super) fn plan(snapshot: &Snapshot, plan: &mut Plan) {
    for node in snapshot.all("nodes") {
        plan.actions.extend(timed(snapshot, node));
        let name = object::name(&node.object);
        let is_here = |pod: &&Arc<Stored>| {
            object::text(&pod.object, &["spec", "nodeName"]) == name
                && is_active(&pod.object)
                && mirror::shown(&pod.object).is_none()
        };
        for pod in snapshot.all("pods").iter().filter(is_here) {
            match placement::stay(&pod.object, &node.object, snapshot.now) {
                Stay::Forever => {}
                Stay::Until(end) if end > snapshot.now => plan.look_again(end),
                Stay::Until(_) => {
                    let target = Ref::to(kind("pods"), pod);
                    let message = format!("Marking for deletion Pod {}/{}", target.namespace, target.name);
                    plan.actions.push(Action::Tell(Note::normal(
                        target.clone(),
                        SOURCE,
                        "TaintManagerEviction",
                        message,
                    )));
                    plan.actions.push(Action::Delete { target, propagation: Propagation::Background });
                }
            }
        }
    }
}

/// Notes since when such taints are there: tolerations with an end count from that.
fn timed(snapshot: &Snapshot, node: &Arc<Stored>) -> Option<Action> {
    let mut taints = object::list(&node.object, &["spec", "taints"]).to_vec();
    let lacks = |taint: &&mut Value| taint["effect"] == "NoExecute" && taint.get("timeAdded").is_none();
    let now = snapshot.now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let lacking: Vec<&mut Value> = taints.iter_mut().filter(lacks).collect();
    if lacking.is_empty() {
        return None;
    }
    for taint in lacking {
        taint["timeAdded"] = now.as_str().into();
    }
    let target = Ref::to(kind("nodes"), node);
    Some(Action::Merge { target, subresource: "", patch: json!({"spec": {"taints": taints}}) })
}
