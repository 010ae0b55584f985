//! Pods: what makes no sense in a specification.

use super::rules::{address, dns_label, in_range, one_of, required};
use super::{placement_rules, volume_rules};
use crate::object;
use crate::quantity::Quantity;
use crate::status::{Cause, CauseKind};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Containers, volumes or variables in one pod at most: what is beyond is no pod but a mistake.
const MAX_ITEMS: usize = 4096;

/// What is wrong with `pod.spec`, which is at `prefix` of the object.
pub(super) fn validate_spec(pod: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    let spec = object::at(pod, &["spec"]).unwrap_or(&Value::Null);
    required(causes, spec, &["containers"], &format!("{prefix}.containers"));
    one_of(
        causes,
        spec,
        &["restartPolicy"],
        &format!("{prefix}.restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    one_of(
        causes,
        spec,
        &["dnsPolicy"],
        &format!("{prefix}.dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    in_range(
        causes,
        spec,
        &["terminationGracePeriodSeconds"],
        &format!("{prefix}.terminationGracePeriodSeconds"),
        0..=i64::MAX,
    );
    in_range(
        causes,
        spec,
        &["activeDeadlineSeconds"],
        &format!("{prefix}.activeDeadlineSeconds"),
        1..=i64::from(i32::MAX),
    );
    validate_groups(spec, prefix, causes);
    validate_names(spec, prefix, causes);
    placement_rules::validate(spec, prefix, causes);
    let volumes = volume_rules::validate(spec, prefix, causes);
    let grace = object::number(spec, &["terminationGracePeriodSeconds"]).unwrap_or(30);
    let mut names = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        let containers = object::list(spec, &[list]);
        if containers.len() > MAX_ITEMS {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{prefix}.{list}"),
                format!("more than {MAX_ITEMS}"),
            ));
        }
        for (index, container) in containers.iter().take(MAX_ITEMS).enumerate() {
            let place = format!("{prefix}.{list}[{index}]");
            let name = object::text(container, &["name"]);
            dns_label(causes, name, &format!("{place}.name"));
            if !names.insert(name) {
                causes.push(Cause::new(CauseKind::Duplicate, format!("{place}.name"), format!("{name:?}")));
            }
            validate_container(container, &place, &volumes, list == "initContainers", causes);
            for hook in ["postStart", "preStop"] {
                if let Some(found) = object::at(container, &["lifecycle", hook]) {
                    let place = format!("{place}.lifecycle.{hook}");
                    validate_handler(found, &place, causes);
                    validate_sleep(found, &place, grace, causes);
                }
            }
        }
    }
    validate_host_ports(spec, prefix, causes);
}

/// What runs at the same time shares no port of the machine. Init containers that end have theirs one after the other.
fn validate_host_ports(spec: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    let mut taken = BTreeSet::new();
    for (index, container) in object::list(spec, &["containers"]).iter().take(MAX_ITEMS).enumerate() {
        for (place, port) in object::list(container, &["ports"]).iter().take(MAX_ITEMS).enumerate() {
            let Some(number) = object::number(port, &["hostPort"]) else { continue };
            let protocol = match object::text(port, &["protocol"]) {
                "" => "TCP",
                protocol => protocol,
            };
            let ip = object::text(port, &["hostIP"]).parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
            if !taken.insert((protocol, number, ip)) {
                let field = format!("{prefix}.containers[{index}].ports[{place}].hostPort");
                causes.push(Cause::new(CauseKind::Duplicate, field, format!("{number}/{protocol}")));
            }
        }
    }
}

fn validate_names(spec: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    let hostname = object::text(spec, &["hostname"]);
    if !hostname.is_empty() {
        dns_label(causes, hostname, &format!("{prefix}.hostname"));
    }
    let node = object::text(spec, &["nodeName"]);
    if !node.is_empty() && !object::is_dns_subdomain(node) {
        let message = format!("{node:?}: must be the name of a node");
        causes.push(Cause::new(CauseKind::Invalid, format!("{prefix}.nodeName"), message));
    }
    for (key, value) in object::texts(object::object(spec, &["nodeSelector"])) {
        if !object::is_qualified_name(key) || !object::is_label_value(value) {
            let message = format!("{key:?}: {value:?}: must be a label's key and value");
            causes.push(Cause::new(CauseKind::Invalid, format!("{prefix}.nodeSelector"), message));
        }
    }
    for (index, alias) in object::list(spec, &["hostAliases"]).iter().take(MAX_ITEMS).enumerate() {
        let ip = object::text(alias, &["ip"]);
        address(causes, ip, &format!("{prefix}.hostAliases[{index}].ip"));
    }
    let servers = object::list(spec, &["dnsConfig", "nameservers"]);
    for (index, server) in servers.iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{prefix}.dnsConfig.nameservers[{index}]");
        address(causes, server.as_str().unwrap_or_default(), &place);
    }
}

fn validate_groups(spec: &Value, prefix: &str, causes: &mut Vec<Cause>) {
    let Some(context) = spec.get("securityContext") else { return };
    let place = format!("{prefix}.securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        in_range(causes, context, &[field], &format!("{place}.{field}"), 0..=i64::from(i32::MAX));
    }
    let all = object::list(context, &["supplementalGroups"]);
    for (index, group) in all.iter().take(MAX_ITEMS).enumerate() {
        in_range(
            causes,
            group,
            &[],
            &format!("{place}.supplementalGroups[{index}]"),
            0..=i64::from(i32::MAX),
        );
    }
}

fn validate_container(
    container: &Value,
    place: &str,
    volumes: &BTreeSet<&str>,
    is_init: bool,
    causes: &mut Vec<Cause>,
) {
    required(causes, container, &["image"], &format!("{place}.image"));
    let image = object::text(container, &["image"]);
    if image.trim() != image {
        causes.push(Cause::new(
            CauseKind::Invalid,
            format!("{place}.image"),
            format!("{image:?}: must not have leading or trailing whitespace"),
        ));
    }
    one_of(
        causes,
        container,
        &["imagePullPolicy"],
        &format!("{place}.imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    one_of(
        causes,
        container,
        &["terminationMessagePolicy"],
        &format!("{place}.terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    if let Some(policy) = container.get("restartPolicy") {
        if !is_init {
            causes.push(Cause::new(
                CauseKind::Forbidden,
                format!("{place}.restartPolicy"),
                "may not be set for non-init containers",
            ));
        } else if policy != "Always" {
            causes.push(Cause::new(
                CauseKind::NotSupported,
                format!("{place}.restartPolicy"),
                format!("{policy}: supported values: \"Always\""),
            ));
        }
    }
    for field in ["runAsUser", "runAsGroup"] {
        in_range(
            causes,
            container,
            &["securityContext", field],
            &format!("{place}.securityContext.{field}"),
            0..=i64::from(i32::MAX),
        );
    }
    validate_ports(container, place, causes);
    validate_environment(container, place, causes);
    validate_mounts(container, place, volumes, causes);
    validate_resources(container, place, causes);
    let is_sidecar = container.get("restartPolicy").is_some();
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(found) = container.get(probe) else { continue };
        let place = format!("{place}.{probe}");
        if is_init && !is_sidecar {
            causes.push(Cause::new(
                CauseKind::Forbidden,
                &place,
                "may not be set for init containers without restartPolicy=Always",
            ));
        }
        validate_handler(found, &place, causes);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            in_range(causes, found, &[field], &format!("{place}.{field}"), 0..=i64::MAX);
        }
        if probe != "readinessProbe"
            && object::number(found, &["successThreshold"]).is_some_and(|threshold| threshold != 1)
        {
            causes.push(Cause::new(CauseKind::Invalid, format!("{place}.successThreshold"), "must be 1"));
        }
    }
}

/// Exactly one way to ask.
fn validate_handler(handler: &Value, place: &str, causes: &mut Vec<Cause>) {
    let ways = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let count = ways.iter().filter(|way| handler.get(**way).is_some()).count();
    if count < 1 {
        causes.push(Cause::new(CauseKind::Required, place, "must specify a handler type"));
    } else if count > 1 {
        causes.push(Cause::new(CauseKind::Forbidden, place, "may not specify more than 1 handler type"));
    }
    if handler.get("exec").is_some() {
        required(causes, handler, &["exec", "command"], &format!("{place}.exec.command"));
    }
    for way in ["httpGet", "tcpSocket", "grpc"] {
        if handler.get(way).is_some() {
            required(causes, handler, &[way, "port"], &format!("{place}.{way}.port"));
            in_range(causes, handler, &[way, "port"], &format!("{place}.{way}.port"), 1..=65535);
        }
    }
    let headers = object::list(handler, &["httpGet", "httpHeaders"]);
    for (index, header) in headers.iter().take(MAX_ITEMS).enumerate() {
        let name = object::text(header, &["name"]);
        if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            let field = format!("{place}.httpGet.httpHeaders[{index}].name");
            let message =
                format!("{name:?}: a valid HTTP header must consist of alphanumeric characters or '-'");
            causes.push(Cause::new(CauseKind::Invalid, field, message));
        }
    }
}

/// Who sleeps longer than there is time for is ended in its sleep.
fn validate_sleep(hook: &Value, place: &str, grace: i64, causes: &mut Vec<Cause>) {
    if let Some(seconds) =
        object::number(hook, &["sleep", "seconds"]).filter(|seconds| !(0..=grace).contains(seconds))
    {
        let message =
            format!("{seconds}: must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.push(Cause::new(CauseKind::Invalid, format!("{place}.sleep.seconds"), message));
    }
}

fn validate_ports(container: &Value, place: &str, causes: &mut Vec<Cause>) {
    let mut names = BTreeSet::new();
    for (index, port) in object::list(container, &["ports"]).iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{place}.ports[{index}]");
        required(causes, port, &["containerPort"], &format!("{place}.containerPort"));
        in_range(causes, port, &["containerPort"], &format!("{place}.containerPort"), 1..=65535);
        in_range(causes, port, &["hostPort"], &format!("{place}.hostPort"), 1..=65535);
        one_of(causes, port, &["protocol"], &format!("{place}.protocol"), &["TCP", "UDP", "SCTP"]);
        // What is no address would mean all of them.
        let ip = object::text(port, &["hostIP"]);
        if !ip.is_empty() {
            address(causes, ip, &format!("{place}.hostIP"));
        }
        let name = object::text(port, &["name"]);
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::new(CauseKind::Duplicate, format!("{place}.name"), format!("{name:?}")));
        }
        // RFC 6335, section 5.1.
        let is_name =
            name.len() <= 15 && object::is_dns_label(name) && name.bytes().any(|c| c.is_ascii_lowercase());
        if !name.is_empty() && !is_name {
            let message =
                format!("{name:?}: a port's name has at most 15 of a-z, 0-9 and '-', a letter among them");
            causes.push(Cause::new(CauseKind::Invalid, format!("{place}.name"), message));
        }
    }
}

fn validate_environment(container: &Value, place: &str, causes: &mut Vec<Cause>) {
    for (index, variable) in object::list(container, &["env"]).iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{place}.env[{index}]");
        let name = object::text(variable, &["name"]);
        if name.is_empty() {
            causes.push(Cause::new(CauseKind::Required, format!("{place}.name"), ""));
        } else if name.contains('=') || name.contains('\0') {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.name"),
                format!("{name:?}: must not contain '='"),
            ));
        }
        if let Some(from) = variable.get("valueFrom") {
            let sources = from.as_object().map_or(0, serde_json::Map::len);
            if sources != 1 {
                causes.push(Cause::new(
                    CauseKind::Invalid,
                    format!("{place}.valueFrom"),
                    "must specify exactly one source",
                ));
            }
            if !object::text(variable, &["value"]).is_empty() {
                causes.push(Cause::new(
                    CauseKind::Invalid,
                    format!("{place}.valueFrom"),
                    "may not be specified when `value` is not empty",
                ));
            }
        }
    }
}

fn validate_mounts(container: &Value, place: &str, volumes: &BTreeSet<&str>, causes: &mut Vec<Cause>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in object::list(container, &["volumeMounts"]).iter().take(MAX_ITEMS).enumerate() {
        let place = format!("{place}.volumeMounts[{index}]");
        let name = object::text(mount, &["name"]);
        if !volumes.contains(name) {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.name"),
                format!("{name:?}: there is no such volume"),
            ));
        }
        required(causes, mount, &["mountPath"], &format!("{place}.mountPath"));
        let path = object::text(mount, &["mountPath"]);
        if !paths.insert(path) {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.mountPath"),
                format!("{path:?}: must be unique"),
            ));
        }
        if path.contains(':') {
            let message = format!("{path:?}: must not contain ':'");
            causes.push(Cause::new(CauseKind::Invalid, format!("{place}.mountPath"), message));
        }
        let sub = object::text(mount, &["subPath"]);
        if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
            causes.push(Cause::new(
                CauseKind::Invalid,
                format!("{place}.subPath"),
                format!("{sub:?}: must be a relative path without '..'"),
            ));
        }
    }
}

fn validate_resources(container: &Value, place: &str, causes: &mut Vec<Cause>) {
    for (resource, request) in object::object(container, &["resources", "requests"]) {
        let place = format!("{place}.resources.requests");
        let Some(request_value) = Quantity::of(request) else { continue };
        if request_value.is_negative() {
            causes.push(Cause::new(CauseKind::Invalid, &place, format!("{request}: must not be negative")));
        }
        let limit = object::at(container, &["resources", "limits", resource]);
        if let Some(limit_value) = limit.and_then(Quantity::of)
            && request_value > limit_value
        {
            let message = format!(
                "{request}: must be less than or equal to {resource} limit of {}",
                limit.unwrap_or(&Value::Null)
            );
            causes.push(Cause::new(CauseKind::Invalid, place, message));
        }
    }
    for (_, limit) in object::object(container, &["resources", "limits"]) {
        if Quantity::of(limit).is_some_and(Quantity::is_negative) {
            let place = format!("{place}.resources.limits");
            causes.push(Cause::new(CauseKind::Invalid, place, format!("{limit}: must not be negative")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mistakes(spec: Value) -> Vec<String> {
        let mut causes = Vec::new();
        validate_spec(&json!({"spec": spec}), "spec", &mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn a_good_specification_passes() {
        let spec = json!({"initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["true"]}}}],
            "containers": [{"name": "a", "image": "x", "env": [{"name": "A", "value": "1"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "ports": [{"containerPort": 80}], "resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "512Mi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}], "restartPolicy": "Never"});
        assert_eq!(mistakes(spec), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_named_where_it_is() {
        for (container, field) in [
            (json!({"name": "", "image": "x"}), "spec.containers[0].name"),
            (json!({"name": "A", "image": "x"}), "spec.containers[0].name"),
            (json!({"name": "a"}), "spec.containers[0].image"),
            (json!({"name": "a", "image": " x"}), "spec.containers[0].image"),
            (
                json!({"name": "a", "image": "x", "restartPolicy": "Always"}),
                "spec.containers[0].restartPolicy",
            ),
            (
                json!({"name": "a", "image": "x", "ports": [{"containerPort": 0}]}),
                "spec.containers[0].ports[0].containerPort",
            ),
            (
                json!({"name": "a", "image": "x", "ports": [{"containerPort": 1, "hostPort": 1, "hostIP": "localhost"}]}),
                "spec.containers[0].ports[0].hostIP",
            ),
            (json!({"name": "a", "image": "x", "env": [{"name": "a=b"}]}), "spec.containers[0].env[0].name"),
            (
                json!({"name": "a", "image": "x", "volumeMounts": [{"name": "n", "mountPath": "/"}]}),
                "spec.containers[0].volumeMounts[0].name",
            ),
            (
                json!({"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                "spec.containers[0].resources.requests",
            ),
            (json!({"name": "a", "image": "x", "livenessProbe": {}}), "spec.containers[0].livenessProbe"),
            (
                json!({"name": "a", "image": "x", "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "X-Good", "value": "a: b"}, {"name": "a:b"}]}}}),
                "spec.containers[0].livenessProbe.httpGet.httpHeaders[1].name",
            ),
            (
                json!({"name": "a", "image": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
                "spec.containers[0].lifecycle.preStop.sleep.seconds",
            ),
            (
                json!({"name": "a", "image": "x", "livenessProbe": {"tcpSocket": {"port": 70000}}}),
                "spec.containers[0].livenessProbe.tcpSocket.port",
            ),
        ] {
            assert_eq!(mistakes(json!({"containers": [container.clone()]})), [field], "{container}");
        }
        assert_eq!(mistakes(json!({})), ["spec.containers"]);
        let twice = json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}], "restartPolicy": "Often"});
        assert_eq!(mistakes(twice), ["spec.restartPolicy", "spec.containers[1].name"]);
        let volumes = json!({"containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]});
        assert_eq!(mistakes(volumes), ["spec.volumes[0]"]);
        for (field, spec) in [
            ("dnsConfig.nameservers[1]", json!({"dnsConfig": {"nameservers": ["192.0.2.1", "notip"]}})),
            (
                "volumes[0].emptyDir.sizeLimit",
                json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "-1Gi"}}]}),
            ),
            (
                "volumes[0].emptyDir.medium",
                json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Floppy"}}]}),
            ),
            (
                "volumes[0].configMap.defaultMode",
                json!({"volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 99_999}}]}),
            ),
            (
                "volumes[0].secret.items[0].mode",
                json!({"volumes": [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": -1}]}}]}),
            ),
            (
                "volumes[0].projected.defaultMode",
                json!({"volumes": [{"name": "v", "projected": {"sources": [], "defaultMode": 512}}]}),
            ),
            (
                "topologySpreadConstraints[0].maxSkew",
                json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway"}]}),
            ),
            (
                "topologySpreadConstraints[0].whenUnsatisfiable",
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "Maybe"}]}),
            ),
        ] {
            let mut whole = json!({"containers": [{"name": "a", "image": "x"}]});
            json_patch::merge(&mut whole, &spec);
            assert_eq!(mistakes(whole), [format!("spec.{field}")]);
        }
        let port = |ip: &str| json!({"containerPort": 80, "hostPort": 80, "hostIP": ip});
        let ports = json!({"containers": [{"name": "a", "image": "x", "ports": [port(""), port("192.0.2.1")]}, {"name": "b", "image": "x", "ports": [port("0.0.0.0")]}]});
        assert_eq!(mistakes(ports), ["spec.containers[1].ports[0].hostPort"]);
        let items = json!([{"key": "k", "path": "../x"}, {"key": "k", "path": "a/..b"}]);
        let files = json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "a:b"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "c", "items": items}}, {"name": "w", "projected": {"sources": [{"secret": {"name": "s", "items": items}}]}}]});
        assert_eq!(
            mistakes(files),
            [
                "spec.volumes[0].configMap.items[0].path",
                "spec.volumes[1].projected.sources[0].secret.items[0].path",
                "spec.containers[0].volumeMounts[0].mountPath"
            ]
        );
    }
}
