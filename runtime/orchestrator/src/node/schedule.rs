//! Placing pods on the machine, if it has room for them.

use super::machine::{Facts, MAX_PODS};
use super::view::beyond;
use super::{Role, mirror, parts, status};
use crate::controllers::{Action, Ref, kind};
use crate::engine::Note;
use crate::object;
use crate::placement;
use crate::quantity::Quantity;
use crate::store::Stored;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Memory of a container that says nothing of it, bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// Who places pods, in events.
const SCHEDULER: &str = "default-scheduler";
/// More than any machine has, and far from overflow, bytes.
const MOST_MEMORY: i64 = 1 << 40;
/// Processors of a VM at most, thousandths.
const MOST_MILLI_CPUS: u64 = 32_000;

/// What a pod's VM is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Memory of all containers together, bytes.
    pub memory: u64,
    /// Processors, thousandths; whole ones.
    pub milli_cpus: u32,
    /// Containers at a time.
    pub slots: u8,
}

/// A container's limit of a resource, or its request; the limit counts.
fn of(container: &Value, resource: &str) -> Option<Quantity> {
    ["limits", "requests"]
        .iter()
        .find_map(|kind| object::at(container, &["resources", kind, resource]).and_then(Quantity::of))
}

/// The size that follows from the containers: those that run together add up, the largest of the beginning counts if it is more.
pub fn size(pod: &Value) -> Size {
    let memory = |container: &Value| {
        of(container, "memory")
            .map_or(DEFAULT_MEMORY, |quantity| quantity.ceil().clamp(6 << 20, MOST_MEMORY).unsigned_abs())
    };
    let cpus = |container: &Value| {
        of(container, "cpu").map_or(0, |quantity| quantity.milli().clamp(0, 1 << 20).unsigned_abs())
    };
    let (mut together, mut largest) = ((0u64, 0u64), (0u64, 0u64));
    let mut sidecars = (0u64, 0u64);
    let all = parts(pod);
    for part in &all {
        let own = (memory(part.spec), cpus(part.spec));
        match part.role {
            Role::Init => largest = (largest.0.max(own.0 + sidecars.0), largest.1.max(own.1 + sidecars.1)),
            Role::Sidecar => sidecars = (sidecars.0 + own.0, sidecars.1 + own.1),
            Role::Main => together = (together.0 + own.0, together.1 + own.1),
        }
    }
    let whole = (together.1 + sidecars.1).max(largest.1).next_multiple_of(1000).clamp(1000, MOST_MILLI_CPUS);
    // Two more than there are: a slot is free only a moment after its container has ended.
    let slots = all.len().saturating_add(2).clamp(1, 16);
    Size {
        memory: (together.0 + sidecars.0).max(largest.0).min(MOST_MEMORY.unsigned_abs()),
        // In range by the clamps.
        milli_cpus: whole as u32,
        slots: slots as u8,
    }
}

/// Processors that a pod asks to be kept for it, thousandths.
fn requested_cpus(pod: &Value) -> u64 {
    let own = |part: &super::Part<'_>| {
        let quantity = object::at(part.spec, &["resources", "requests", "cpu"]).and_then(Quantity::of);
        quantity.map_or(0, |quantity| quantity.milli().clamp(0, 1 << 40).unsigned_abs())
    };
    parts(pod).iter().filter(|part| part.role != Role::Init).map(own).sum()
}

/// Protocol, number, and the host's address; none: all of them.
type HostPort = (String, i64, Option<IpAddr>);

fn host_ports(pod: &Value) -> BTreeSet<HostPort> {
    let ports = parts(pod).into_iter().flat_map(|part| object::list(part.spec, &["ports"]));
    let used = ports.filter_map(|port| {
        let ip = object::text(port, &["hostIP"]).parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
        Some((object::text(port, &["protocol"]).to_owned(), object::number(port, &["hostPort"])?, ip))
    });
    used.filter(|(_, port, _)| *port > 0).collect()
}

fn collide(one: &BTreeSet<HostPort>, other: &BTreeSet<HostPort>) -> bool {
    one.iter().any(|(protocol, port, ip)| {
        other.iter().any(|(other_protocol, other_port, other_ip)| {
            (protocol, port) == (other_protocol, other_port)
                && (ip == other_ip || ip.is_none() || other_ip.is_none())
        })
    })
}

/// Whether a pod is this machine's and goes on.
pub fn is_here(pod: &Value, node: &str) -> bool {
    object::text(pod, &["spec", "nodeName"]) == node
        && !matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// What there is to place pods on.
pub struct Room<'a> {
    /// The machine.
    pub facts: &'a Facts,
    /// Its Node.
    pub node: &'a Value,
    /// Bytes of a VM of that size.
    pub vm: &'a dyn Fn(Size) -> u64,
    /// Bytes of the VMs that were not declared.
    pub others: u64,
}

/// What is to be written and told.
pub fn plan(pods: &[Arc<Stored>], room: &Room<'_>, now: DateTime<Utc>) -> Vec<Action> {
    let node = object::name(room.node);
    let mut actions = Vec::new();
    // Those that nobody declared are counted among the others.
    let is_declared = |pod: &Value| mirror::shown(pod).is_none();
    let placed = || pods.iter().filter(|pod| is_here(&pod.object, node) && is_declared(&pod.object));
    let mut memory = room.others + placed().map(|pod| (room.vm)(size(&pod.object))).sum::<u64>();
    let mut cpus: u64 = placed().map(|pod| requested_cpus(&pod.object)).sum();
    let mut count = placed().count();
    let mut ports: BTreeSet<_> = placed().flat_map(|pod| host_ports(&pod.object)).collect();
    // Those that nobody declared have labels too.
    let mut there: Vec<_> = pods.iter().filter(|pod| is_here(&pod.object, node)).collect();
    let mut waiting: Vec<_> = pods.iter().filter(|pod| is_waiting(&pod.object)).collect();
    waiting.sort_by_key(|pod| {
        (object::text(&pod.object, &["metadata", "creationTimestamp"]).to_owned(), pod.version)
    });
    for pod in waiting {
        let value = &pod.object;
        let (own, own_cpus, own_ports) = ((room.vm)(size(value)), requested_cpus(value), host_ports(value));
        let beside = there.iter().map(|pod| &pod.object);
        let lacks = if let Some(why) = placement::unsuitable(value, room.node, beside) {
            Some(why)
        } else if count >= MAX_PODS as usize {
            Some("Too many pods".into())
        } else if let Some(resource) = parts(value).iter().find_map(|part| beyond(part.spec)) {
            Some(format!("Insufficient {resource}"))
        } else if memory + own > room.facts.allocatable_memory() {
            Some("Insufficient memory".into())
        } else if cpus + own_cpus > u64::from(room.facts.cpus) * 1000 {
            Some("Insufficient cpu".into())
        } else if collide(&ports, &own_ports) {
            Some("node(s) didn't have free ports for the requested pod ports".into())
        } else {
            None
        };
        match lacks {
            None => {
                (memory, cpus, count) = (memory + own, cpus + own_cpus, count + 1);
                ports.extend(own_ports);
                there.push(pod);
                let target = Ref::to(kind("pods"), pod);
                let message = format!("Successfully assigned {}/{} to {node}", target.namespace, target.name);
                let note = Note::normal(target.clone(), SCHEDULER, "Scheduled", message);
                actions.push(Action::Merge {
                    target,
                    subresource: "",
                    patch: json!({"spec": {"nodeName": node}}),
                });
                actions.push(Action::Tell(note));
            }
            Some(why) => {
                actions.extend(unschedulable(pod, &format!("0/1 nodes are available: 1 {why}."), now))
            }
        }
    }
    actions
}

fn is_waiting(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let scheduler = object::text(spec, &["schedulerName"]);
    object::text(spec, &["nodeName"]).is_empty()
        && !object::is_deleted(pod)
        && (scheduler.is_empty() || scheduler == "default-scheduler")
        && object::list(spec, &["schedulingGates"]).is_empty()
        && object::text(pod, &["status", "phase"]) == "Pending"
}

/// Said when it becomes so, and not at each look.
fn unschedulable(pod: &Arc<Stored>, message: &str, now: DateTime<Utc>) -> Vec<Action> {
    let now = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let told = ("False", "Unschedulable", message.to_owned());
    let condition = status::condition(&pod.object, "PodScheduled", told, &now);
    if object::list(&pod.object, &["status", "conditions"]).contains(&condition) {
        return Vec::new();
    }
    let target = Ref::to(kind("pods"), pod);
    let note = Note::warning(target.clone(), SCHEDULER, "FailedScheduling", message);
    let patch = json!({"status": {"conditions": [condition]}});
    vec![Action::Merge { target, subresource: "status", patch }, Action::Tell(note)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, spec: Value) -> Arc<Stored> {
        let mut object = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": name}, "status": {"phase": "Pending"}});
        object["spec"] = spec;
        Arc::new(Stored { object, version: 1 })
    }

    fn container(resources: Value) -> Value {
        json!({"name": "c", "image": "x", "resources": resources})
    }

    fn facts() -> Facts {
        let text = String::new;
        Facts {
            name: "box".into(),
            hostname: "box".into(),
            address: text(),
            cpus: 2,
            memory: 1280 << 20,
            memory_available: 0,
            disk: 0,
            disk_available: 0,
            machine_id: text(),
            boot_id: text(),
            kernel: text(),
            os: text(),
            unready: None,
        }
    }

    /// Names of those that are placed, and why the others are not.
    fn placed(pods: &[Arc<Stored>], node: Value, others: u64) -> (Vec<String>, Vec<String>) {
        let room = Room { facts: &facts(), node: &node, vm: &|size| size.memory, others };
        let (mut names, mut reasons) = (Vec::new(), Vec::new());
        for action in plan(pods, &room, DateTime::UNIX_EPOCH) {
            match action {
                Action::Merge { target, patch, .. } if patch.get("spec").is_some() => names.push(target.name),
                Action::Tell(note) if note.is_warning => reasons.push(note.message),
                _ => {}
            }
        }
        (names, reasons)
    }

    #[test]
    fn containers_add_up_and_the_largest_of_the_beginning_counts() {
        let limits = |memory: &str, cpu: &str| container(json!({"limits": {"memory": memory, "cpu": cpu}}));
        let own = pod(
            "p",
            json!({"containers": [limits("100Mi", "500m"), limits("28Mi", "700m")], "initContainers": [limits("200Mi", "1")]}),
        );
        assert_eq!(size(&own.object), Size { memory: 200 << 20, milli_cpus: 2000, slots: 5 });
        let plain = pod("p", json!({"containers": [container(json!({}))]}));
        assert_eq!(size(&plain.object), Size { memory: DEFAULT_MEMORY, milli_cpus: 1000, slots: 3 });
    }

    #[test]
    fn a_full_machine_leaves_the_later_ones_waiting_and_says_so_once() {
        let node = || json!({"metadata": {"name": "box", "labels": {"disk": "fast"}}, "spec": {}});
        let big =
            |name| pod(name, json!({"containers": [container(json!({"requests": {"memory": "600Mi"}}))]}));
        let pods = [big("a"), big("b")];
        let (names, reasons) = placed(&pods, node(), 0);
        assert_eq!(
            (names, reasons),
            (vec!["a".to_owned()], vec!["0/1 nodes are available: 1 Insufficient memory.".to_owned()])
        );
        assert_eq!(placed(&pods, node(), 900 << 20).0, Vec::<String>::new(), "others have it");
        let mut waiting = big("b").object.clone();
        let told = ("False", "Unschedulable", "0/1 nodes are available: 1 Insufficient memory.".to_owned());
        waiting["status"]["conditions"] =
            json!([status::condition(&waiting, "PodScheduled", told, "1970-01-01T00:00:00Z")]);
        let again = [big("a"), Arc::new(Stored { object: waiting, version: 1 })];
        assert_eq!(placed(&again, node(), 0).1, Vec::<String>::new());

        let small = || container(json!({}));
        let with = |spec: Value| placed(&[pod("a", spec)], node(), 0).1;
        assert!(
            with(json!({"containers": [small()], "nodeSelector": {"disk": "slow"}}))[0].contains("selector")
        );
        assert!(
            with(json!({"containers": [container(json!({"requests": {"cpu": "3"}}))]}))[0].contains("cpu")
        );
        for (resource, amount) in [("nvidia.com/gpu", "4"), ("hugepages-2Mi", "1Gi")] {
            let asks = |amount: &str| {
                with(json!({"containers": [container(json!({"requests": {resource: amount}}))]}))
            };
            assert_eq!(asks(amount), [format!("0/1 nodes are available: 1 Insufficient {resource}.")]);
            assert_eq!(asks("0"), Vec::<String>::new());
            let named = json!({"spec": {"nodeName": "box", "containers": [container(json!({"limits": {resource: amount}}))]}});
            assert!(super::super::refused(&named).unwrap().contains(resource));
        }
        let port = json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]});
        let web = |name| pod(name, json!({"containers": [port.clone()]}));
        assert!(placed(&[web("a"), web("b")], node(), 0).1[0].contains("free ports"));
        let at = |name, ip: &str| {
            let mut pod = web(name).object.clone();
            pod["spec"]["containers"][0]["ports"][0]["hostIP"] = ip.into();
            Arc::new(Stored { object: pod, version: 1 })
        };
        assert_eq!(placed(&[at("a", "192.0.2.1"), at("b", "192.0.2.2")], node(), 0).0, ["a", "b"]);
        assert_eq!(placed(&[at("a", "192.0.2.1"), at("b", "0.0.0.0")], node(), 0).0, ["a"]);
        let mut cordoned = node();
        cordoned["spec"]["unschedulable"] = true.into();
        assert!(placed(&[web("a")], cordoned, 0).1[0].contains("unschedulable"));
    }
}
