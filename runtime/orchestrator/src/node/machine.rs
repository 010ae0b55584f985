//! The one Node: what the machine has and how it is.

use crate::controllers::{Action, Ref, kind};
use crate::engine::Propagation;
use crate::http::git_version;
use crate::object;
use crate::store::Stored;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use std::sync::Arc;

/// A heartbeat is written that often when nothing else changes (kubelet's `nodeStatusReportFrequency`).
pub const HEARTBEAT: TimeDelta = TimeDelta::minutes(5);
/// Pods that the machine takes; memory is the tighter bound on most.
pub const MAX_PODS: u32 = 250;
/// Below this part of memory that is available (1/20) new pods are bad news for all.
const MEMORY_PART: u64 = 20;
/// The same of the disk that holds writable layers (kubelet's `nodefs.available<10%`).
const DISK_PART: u64 = 10;
/// Kept back for the host's own programs, bytes.
const RESERVED_MEMORY: u64 = 256 << 20;

/// What is seen of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The Node's name: [`name_of`] what the host was called when it was first asked for. A host may be renamed while it runs pods, and they
    /// are on the node that they name.
    pub name: String,
    /// The host's name; any text.
    pub hostname: String,
    /// Where others reach it.
    pub address: String,
    /// Processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Memory that could be had now, bytes.
    pub memory_available: u64,
    /// Size of the disk with writable layers, bytes.
    pub disk: u64,
    /// What is free of it, bytes.
    pub disk_available: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The boot's UUID.
    pub boot_id: String,
    /// Such as `6.8.0`.
    pub kernel: String,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// Why no pod can be run here; none: they can.
    pub unready: Option<String>,
}

impl Facts {
    /// Bytes of memory that pods may have together.
    pub fn allocatable_memory(&self) -> u64 {
        self.memory.saturating_sub(RESERVED_MEMORY)
    }
}

/// A Node's name: the host's as far as it is a DNS subdomain.
pub fn name_of(hostname: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' => c,
        _ => '-',
    };
    let text: String = hostname.chars().take(253).map(plain).collect();
    let labels = text.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
    let name = labels.collect::<Vec<_>>().join(".");
    if object::is_dns_subdomain(&name) { name } else { "vial".into() }
}

/// What is to be written so that the Node says what is seen, and nothing else is a node: no machine would run the pods of another.
pub fn plan(facts: &Facts, nodes: &[Arc<Stored>], now: DateTime<Utc>) -> Vec<Action> {
    let (name, nodes_kind) = (&facts.name, kind("nodes"));
    let others = nodes.iter().filter(|node| object::name(&node.object) != name);
    let mut actions: Vec<Action> = others
        .filter(|node| !object::is_deleted(&node.object))
        .map(|node| Action::Delete {
            target: Ref::to(nodes_kind, node),
            propagation: Propagation::Background,
        })
        .collect();
    let Some(node) = nodes.iter().find(|node| object::name(&node.object) == name) else {
        // A name is ASCII. A label's value ends with a letter or a digit.
        let label = name[..name.len().min(63)].trim_end_matches(['-', '.']);
        let labels = json!({"kubernetes.io/hostname": label, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "node-role.kubernetes.io/control-plane": ""});
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": {}});
        actions.push(Action::Create { kind: nodes_kind, namespace: String::new(), object });
        return actions;
    };
    let status = status(facts, &node.object, now);
    let old = node.object.get("status").unwrap_or(&Value::Null);
    let is_due = heartbeat(old).is_none_or(|last| now - last >= HEARTBEAT || last > now);
    if !is_due && without_heartbeats(old) == without_heartbeats(&status) {
        return actions;
    }
    let target = Ref::to(nodes_kind, node);
    actions.push(Action::Merge { target, subresource: "status", patch: json!({"status": status}) });
    actions
}

fn heartbeat(status: &Value) -> Option<DateTime<Utc>> {
    let text = object::text(object::list(status, &["conditions"]).first()?, &["lastHeartbeatTime"]);
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// What is free changes all the time and is no news; neither are heartbeats.
fn without_heartbeats(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        for condition in conditions {
            object::remove(condition, &["lastHeartbeatTime"]);
        }
    }
    status
}

fn status(facts: &Facts, old: &Value, now: DateTime<Utc>) -> Value {
    let resources = |memory: u64| {
        json!({"cpu": facts.cpus.to_string(), "memory": format!("{}Ki", memory >> 10),
            "ephemeral-storage": format!("{}Ki", facts.disk >> 10), "pods": MAX_PODS.to_string()})
    };
    let is_short = |available: u64, all: u64, part: u64| all > 0 && available < all / part;
    let memory = is_short(facts.memory_available, facts.memory, MEMORY_PART);
    let disk = is_short(facts.disk_available, facts.disk, DISK_PART);
    let conditions = [
        pressure(
            "MemoryPressure",
            memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "memory",
        ),
        pressure("DiskPressure", disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk space"),
        pressure("PIDPressure", false, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "PIDs"),
        match &facts.unready {
            None => {
                json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "vial runs pods"})
            }
            Some(why) => {
                json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": why})
            }
        },
    ];
    let stamp = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let conditions: Vec<Value> = conditions.into_iter().map(|new| stamped(new, old, &stamp)).collect();
    json!({
        "capacity": resources(facts.memory), "allocatable": resources(facts.allocatable_memory()), "conditions": conditions,
        "addresses": [{"type": "InternalIP", "address": facts.address}, {"type": "Hostname", "address": facts.hostname}],
        "nodeInfo": {"machineID": facts.machine_id, "systemUUID": facts.machine_id, "bootID": facts.boot_id, "kernelVersion": facts.kernel,
            "osImage": facts.os, "containerRuntimeVersion": format!("vial://{}", env!("CARGO_PKG_VERSION")), "kubeletVersion": git_version(),
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
    })
}

fn pressure(name: &str, is_short: bool, bad: &str, good: &str, what: &str) -> Value {
    let (status, reason, word) = if is_short { ("True", bad, "little") } else { ("False", good, "enough") };
    json!({"type": name, "status": status, "reason": reason, "message": format!("the machine has {word} {what}")})
}

/// With its heartbeat, and when it last became another.
fn stamped(mut new: Value, old: &Value, stamp: &str) -> Value {
    let before = object::list(old, &["status", "conditions"]).iter().find(|one| one["type"] == new["type"]);
    let same = before.filter(|before| before["status"] == new["status"]);
    new["lastHeartbeatTime"] = stamp.into();
    new["lastTransitionTime"] =
        same.map_or_else(|| stamp.into(), |before| before["lastTransitionTime"].clone());
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts {
            name: "box-1.example".into(),
            hostname: "Box_1.example".into(),
            address: "192.0.2.1".into(),
            cpus: 4,
            memory: 8 << 30,
            memory_available: 4 << 30,
            disk: 100 << 30,
            disk_available: 50 << 30,
            machine_id: "m".into(),
            boot_id: "b".into(),
            kernel: "6.8".into(),
            os: "Linux".into(),
            unready: None,
        }
    }

    fn stored(status: Value) -> Vec<Arc<Stored>> {
        let object = json!({"metadata": {"name": "box-1.example", "uid": "u"}, "spec": {}, "status": status});
        vec![Arc::new(Stored { object, version: 3 })]
    }

    #[test]
    fn a_node_is_made_then_told_then_left_alone_until_its_next_heartbeat() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert!(matches!(&plan(&facts(), &[], now)[..], [Action::Create { .. }]));
        let actions = plan(&facts(), &stored(json!({})), now);
        let [Action::Merge { patch, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(patch["status"]["allocatable"]["memory"], "8126464Ki");
        let told = stored(patch["status"].clone());
        assert_eq!(plan(&facts(), &told, now + TimeDelta::seconds(9)), []);
        assert_eq!(plan(&facts(), &told, now + HEARTBEAT).len(), 1);
        // A clock that was set back does not silence it.
        assert_eq!(plan(&facts(), &told, now - HEARTBEAT).len(), 1);
        let other = json!({"metadata": {"name": "other", "uid": "v"}, "spec": {}});
        let both = [told.clone(), vec![Arc::new(Stored { object: other, version: 4 })]].concat();
        let actions = plan(&facts(), &both, now);
        assert!(
            matches!(&actions[..], [Action::Delete { target, .. }] if target.name == "other"),
            "{actions:?}"
        );
        let short = Facts { memory_available: 1 << 20, ..facts() };
        let later = now + TimeDelta::seconds(9);
        let actions = plan(&short, &told, later);
        let [Action::Merge { patch, .. }] = &actions[..] else { panic!("{actions:?}") };
        let condition = |index: usize| &patch["status"]["conditions"][index];
        assert_eq!(condition(0)["status"], "True");
        assert_eq!(condition(0)["lastTransitionTime"], condition(0)["lastHeartbeatTime"]);
        assert_ne!(condition(1)["lastTransitionTime"], condition(1)["lastHeartbeatTime"]);
    }

    proptest! {
        #[test]
        fn any_host_gives_a_node_a_name(hostname in any::<String>()) {
            let name = name_of(&hostname);
            prop_assert!(object::is_dns_subdomain(&name), "{name}");
        }
    }
}
