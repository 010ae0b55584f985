//! A pod's containers in the order of their lives, and what of a pod can't be run here.

use crate::object;
use crate::quantity::Quantity;
use serde_json::Value;

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Has to end well before the next one begins.
    Init,
    /// Begins in their order and goes on until the others have ended.
    Sidecar,
    /// What the pod is there for.
    Main,
}

/// A container of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name, unique in the pod.
    pub name: &'a str,
    /// Its specification.
    pub spec: &'a Value,
    /// What it is for.
    pub role: Role,
}

/// All containers: those of the beginning in their order, then the others.
pub fn parts(pod: &Value) -> Vec<Part<'_>> {
    let part = |spec, role| Part { name: object::text(spec, &["name"]), spec, role };
    let first = object::list(pod, &["spec", "initContainers"]).iter().map(|spec| {
        match spec["restartPolicy"] == "Always" {
            true => part(spec, Role::Sidecar),
            false => part(spec, Role::Init),
        }
    });
    first
        .chain(object::list(pod, &["spec", "containers"]).iter().map(|spec| part(spec, Role::Main)))
        .collect()
}

/// Volumes that can be brought into a guest.
const VOLUMES: [&str; 5] = ["configMap", "secret", "emptyDir", "downwardAPI", "projected"];

/// What of a pod can't be run here: it would be another pod without it. None: it can be run.
pub fn refused(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    for (field, why) in [
        ("hostNetwork", "a pod's network is its VM's"),
        ("hostPID", "a pod's processes are in a VM of their own"),
        ("hostIPC", "a pod's IPC is its VM's"),
    ] {
        if spec[field] == true {
            return Some(format!("spec.{field} is not possible: {why}"));
        }
    }
    if parts(pod).len() > MAX_PARTS {
        return Some(format!("more than {MAX_PARTS} containers in a pod are not possible"));
    }
    for volume in object::list(spec, &["volumes"]) {
        let kind = volume.as_object().and_then(|volume| volume.keys().find(|key| *key != "name"));
        if let Some(kind) = kind.filter(|kind| !VOLUMES.contains(&kind.as_str())) {
            let name = object::text(volume, &["name"]);
            return Some(format!("volume {name}: {kind} is not possible here; {} are", VOLUMES.join(", ")));
        }
    }
    parts(pod).iter().find_map(|part| {
        let of = |what: &str| format!("container {}: {what}", part.name);
        if object::at(part.spec, &["securityContext", "privileged"]) == Some(&Value::Bool(true)) {
            return Some(of("securityContext.privileged is not possible: a guest's devices are the agent's"));
        }
        let of_sctp = |port: &Value| port["protocol"] == "SCTP" && port.get("hostPort").is_some();
        if object::list(part.spec, &["ports"]).iter().any(of_sctp) {
            return Some(of("a hostPort of SCTP is not possible: TCP and UDP are forwarded"));
        }
        if let Some(resource) = beyond(part.spec) {
            return Some(of(&format!("{resource} is not possible: no machine has any to give to a VM")));
        }
        if !object::list(part.spec, &["volumeDevices"]).is_empty() {
            return Some(of("volumeDevices are not possible: there are no block volumes"));
        }
        None
    })
}

/// What a container asks for that no machine has for a VM: devices, huge pages.
pub(super) fn beyond(container: &Value) -> Option<&str> {
    const HAD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let is_some = |amount: &Value| Quantity::of(amount).is_some_and(|amount| amount > Quantity::units(0));
    let asked = ["requests", "limits"].into_iter();
    let mut all = asked.flat_map(|kind| object::object(container, &["resources", kind]));
    all.find(|(name, amount)| !HAD.contains(&name.as_str()) && is_some(amount)).map(|(name, _)| name.as_str())
}

/// Containers of a pod at most: each one that runs has a pair of drives in the VM, and two are kept for those that come and go.
pub const MAX_PARTS: usize = 14;
