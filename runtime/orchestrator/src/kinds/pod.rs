//! Pods: what a client may leave out.

use super::rules::immutable;
use super::{Strategy, StreamPart, pod_rules};
use crate::object;
use crate::quantity::Quantity;
use crate::status::{Cause, CauseKind};
use serde_json::{Value, json};

/// What connects with a pod. By GET because WebSockets begin so, by POST because SPDY did.
pub(super) static STREAMS: [StreamPart; 4] = [
    StreamPart { name: "attach", kind: "PodAttachOptions", verbs: &["create", "get"] },
    StreamPart { name: "exec", kind: "PodExecOptions", verbs: &["create", "get"] },
    StreamPart { name: "log", kind: "Pod", verbs: &["get"] },
    StreamPart { name: "portforward", kind: "PodPortForwardOptions", verbs: &["create", "get"] },
];

/// Annotation of a Pod that nobody declared: what it shows, as whoever runs it names it.
pub const SHOWS: &str = "vial.dev/pod";

/// Why a pod is not scheduled that somebody holds back.
pub const GATED: &str = "SchedulingGated";

/// What holds a pod back before it is scheduled.
fn gates(pod: &Value) -> &[Value] {
    object::list(pod, &["spec", "schedulingGates"])
}

#[derive(Debug)]
pub(super) struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        default_template(object);
        default_requests(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        let class = qos_class(object);
        object["status"] = json!({"phase": "Pending", "qosClass": class});
        if !gates(object).is_empty() {
            let since = object::at(object, &["metadata", "creationTimestamp"]).cloned();
            object["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": GATED,
                "message": "Scheduling is blocked due to non-empty scheduling gates", "lastTransitionTime": since}]);
        }
    }

    fn validate(&self, object: &Value, causes: &mut Vec<Cause>) {
        pod_rules::validate_spec(object, "spec", causes);
        if !gates(object).is_empty() && !object::text(object, &["spec", "nodeName"]).is_empty() {
            let message = "cannot be set until all schedulingGates have been cleared";
            causes.push(Cause::new(CauseKind::Forbidden, "spec.nodeName", message));
        }
    }

    /// Almost all of a pod's specification is for good (core's `ValidatePodUpdate`).
    fn validate_update(&self, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
        let field = format!("metadata.annotations[{SHOWS}]");
        immutable(causes, old, new, &["metadata", "annotations", SHOWS], &field);
        let stripped = |pod: &Value| {
            let mut spec = pod["spec"].clone();
            for field in [
                "activeDeadlineSeconds",
                "tolerations",
                "terminationGracePeriodSeconds",
                "nodeName",
                "schedulingGates",
            ] {
                object::remove(&mut spec, &[field]);
            }
            for list in ["containers", "initContainers"] {
                if let Some(Value::Array(containers)) = spec.get_mut(list) {
                    containers.iter_mut().for_each(|container| {
                        object::remove(container, &["image"]);
                    });
                }
            }
            spec
        };
        if stripped(old) != stripped(new) {
            let message = "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, \
                 `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds`";
            causes.push(Cause::new(CauseKind::Forbidden, "spec", message));
        }
        if let Some(added) = gates(new).iter().find(|gate| !gates(old).contains(gate)) {
            let name = object::text(added, &["name"]);
            let message = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            causes.push(Cause::new(CauseKind::Forbidden, "spec.schedulingGates", message));
        }
        let kept = object::list(new, &["spec", "tolerations"]);
        if object::list(old, &["spec", "tolerations"]).iter().any(|one| !kept.contains(one)) {
            let message = "existing tolerations may not be changed or taken away";
            causes.push(Cause::new(CauseKind::Forbidden, "spec.tolerations", message));
        }
        let deadline = |pod: &Value| object::number(pod, &["spec", "activeDeadlineSeconds"]);
        if deadline(old).is_some_and(|old| deadline(new).is_none_or(|new| new > old)) {
            let message = "must be less than or equal to previous value";
            causes.push(Cause::new(CauseKind::Invalid, "spec.activeDeadlineSeconds", message));
        }
        if !object::text(old, &["spec", "nodeName"]).is_empty() {
            immutable(causes, old, new, &["spec", "nodeName"], "spec.nodeName");
        }
    }

    fn reserved(&self) -> &'static [&'static str] {
        &[SHOWS]
    }

    fn grace_period(&self, object: &Value) -> Option<i64> {
        // A pod that was never placed has nobody who could end it in order.
        let is_placed = !object::text(object, &["spec", "nodeName"]).is_empty();
        let is_over = matches!(object::text(object, &["status", "phase"]), "Succeeded" | "Failed");
        let seconds = object::number(object, &["spec", "terminationGracePeriodSeconds"]).unwrap_or(30);
        Some(if is_placed && !is_over { seconds.max(0) } else { 0 })
    }
}

/// Defaults of a pod, or of a template of one.
pub(super) fn default_template(template: &mut Value) {
    for (path, value) in [
        (["spec", "restartPolicy"], json!("Always")),
        (["spec", "terminationGracePeriodSeconds"], json!(30)),
        (["spec", "dnsPolicy"], json!("ClusterFirst")),
        (["spec", "securityContext"], json!({})),
        (["spec", "schedulerName"], json!("default-scheduler")),
        (["spec", "enableServiceLinks"], json!(true)),
    ] {
        object::default(template, &path, value);
    }
    // An old name of the same.
    let account = object::text(template, &["spec", "serviceAccountName"]).to_owned();
    if !account.is_empty() {
        object::default(template, &["spec", "serviceAccount"], account);
    }
    for list in ["containers", "initContainers"] {
        if let Some(Value::Array(containers)) = template["spec"].get_mut(list) {
            containers.iter_mut().filter(|container| container.is_object()).for_each(default_container);
        }
    }
    if let Some(Value::Array(volumes)) = template["spec"].get_mut("volumes") {
        volumes.iter_mut().filter(|volume| volume.is_object()).for_each(default_volume);
    }
}

fn default_container(container: &mut Value) {
    object::default(container, &["terminationMessagePath"], "/dev/termination-log");
    object::default(container, &["terminationMessagePolicy"], "File");
    object::default(container, &["resources"], json!({}));
    let policy = if is_latest(object::text(container, &["image"])) { "Always" } else { "IfNotPresent" };
    object::default(container, &["imagePullPolicy"], policy);
    if let Some(Value::Array(ports)) = container.get_mut("ports") {
        for port in ports.iter_mut().filter(|port| port.is_object()) {
            object::default(port, &["protocol"], "TCP");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(probe).is_some_and(Value::is_object) {
            default_probe(&mut container[probe]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if object::at(container, &["lifecycle", hook, "httpGet"]).is_some() {
            object::default(container, &["lifecycle", hook, "httpGet", "scheme"], "HTTP");
            object::default(container, &["lifecycle", hook, "httpGet", "path"], "/");
        }
    }
    if let Some(Value::Array(variables)) = container.get_mut("env") {
        for variable in variables {
            if object::at(variable, &["valueFrom", "fieldRef"]).is_some() {
                object::default(variable, &["valueFrom", "fieldRef", "apiVersion"], "v1");
            }
        }
    }
}

fn default_probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        object::default(probe, &[field], value);
    }
    if probe.get("httpGet").is_some() {
        object::default(probe, &["httpGet", "scheme"], "HTTP");
        object::default(probe, &["httpGet", "path"], "/");
    }
    if probe.get("grpc").is_some() {
        object::default(probe, &["grpc", "service"], "");
    }
}

fn default_volume(volume: &mut Value) {
    for kind in ["configMap", "secret", "downwardAPI", "projected"] {
        if volume.get(kind).is_some() {
            object::default(volume, &[kind, "defaultMode"], 0o644);
        }
    }
    // A volume of nothing else is an empty folder.
    if volume.as_object().is_some_and(|volume| volume.len() == 1) {
        volume["emptyDir"] = json!({});
    }
}

/// Whether an image's name means whatever is newest.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"))
}

/// A limit without a request is a request too.
fn default_requests(pod: &mut Value) {
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = pod["spec"].get_mut(list) else { continue };
        for container in containers {
            let limits = object::object(container, &["resources", "limits"]).clone();
            for (resource, limit) in limits {
                object::default(container, &["resources", "requests", &resource], limit);
            }
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort` (Kubernetes, "Pod Quality of Service Classes").
pub fn qos_class(pod: &Value) -> &'static str {
    let all =
        ["containers", "initContainers"].into_iter().flat_map(|list| object::list(pod, &["spec", list]));
    let (mut any, mut guaranteed) = (false, true);
    for container in all {
        let quantity = |kind: &str, resource: &str| {
            object::at(container, &["resources", kind, resource]).and_then(Quantity::of)
        };
        for resource in ["cpu", "memory"] {
            let (limit, request) = (quantity("limits", resource), quantity("requests", resource));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "busybox", "livenessProbe": {"httpGet": {"port": 80}}, "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}]}});
        Pod.default(&mut pod);
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["livenessProbe"]["failureThreshold"], 3);
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}}])
        );
    }

    #[test]
    fn the_newest_image_is_pulled_always() {
        for latest in ["busybox", "a.b:5000/c", "busybox:latest"] {
            assert!(is_latest(latest), "{latest}");
        }
        for fixed in ["busybox:1.36", "a.b:5000/c:1", "busybox@sha256:abc"] {
            assert!(!is_latest(fixed), "{fixed}");
        }
    }

    #[test]
    fn classes_of_service_follow_requests_and_limits() {
        let class =
            |resources: Value| qos_class(&json!({"spec": {"containers": [{"resources": resources}]}}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(
            class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}})),
            "Guaranteed"
        );
    }
}
