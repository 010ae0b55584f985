//! What there is: groups, versions, resources; in the legacy and in the aggregated form, both from the table of kinds.

use super::resources::part_verbs;
use super::reviews::{self, Review};
use crate::kinds::{KINDS, Kind};
use serde_json::{Value, json};

/// Verbs of every kind.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// What can only be read, beside the kinds: group, version, plural, kind, whether it lives in a namespace. There are no services yet, and
/// `kubectl cluster-info` wants to know that.
const READABLE: [(&str, &str, &str, &str, bool); 3] = [
    ("", "v1", "services", "Service", true),
    ("metrics.k8s.io", "v1beta1", "nodes", "NodeMetrics", false),
    ("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", true),
];
const READ_VERBS: [&str; 2] = ["get", "list"];
const REVIEW_VERBS: [&str; 1] = ["create"];

/// Groups beside the core, each of one version.
fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for kind in KINDS.iter().filter(|kind| !kind.group.is_empty()) {
        if !groups.contains(&(kind.group, kind.version)) {
            groups.push((kind.group, kind.version));
        }
    }
    groups.extend([("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1")]);
    groups.push(("metrics.k8s.io", "v1beta1"));
    groups
}

fn kinds(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| kind.group == group && kind.version == version)
}

/// `/api`
pub(super) fn core_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group_entry(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

/// `/apis`
pub(super) fn group_list() -> Value {
    let groups: Vec<Value> =
        groups().into_iter().map(|(group, version)| group_entry(group, version)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`
pub(super) fn group(name: &str) -> Option<Value> {
    let (group, version) = groups().into_iter().find(|(group, _)| *group == name)?;
    let mut entry = group_entry(group, version);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// `/api/v1`, `/apis/{group}/{version}`
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in kinds(group, version) {
        let mut entry = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": VERBS});
        if !kind.short_names.is_empty() {
            entry["shortNames"] = kind.short_names.into();
        }
        if !kind.categories.is_empty() {
            entry["categories"] = kind.categories.into();
        }
        list.push(entry);
        for part in kind.subresources {
            let mut entry = json!({"name": format!("{}/{part}", kind.plural), "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": part_verbs(part)});
            if *part == "scale" {
                (entry["group"], entry["version"], entry["kind"]) =
                    ("autoscaling".into(), "v1".into(), "Scale".into());
            }
            list.push(entry);
        }
        for part in kind.streams {
            list.push(json!({"name": format!("{}/{}", kind.plural, part.name), "singularName": "", "namespaced": kind.namespaced, "kind": part.kind, "verbs": part.verbs}));
        }
    }
    for Review { plural, kind, .. } in reviews::of(group, version) {
        list.push(json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind, "verbs": REVIEW_VERBS}));
    }
    for (_, _, plural, kind, namespaced) in readable(group, version) {
        let mut entry = json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": READ_VERBS});
        if plural == "services" {
            entry["shortNames"] = json!(["svc"]);
        }
        list.push(entry);
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// `/api` or `/apis` in the aggregated form.
pub(super) fn aggregated(core: bool, form: &str) -> Value {
    let groups = if core { vec![("", "v1")] } else { groups() };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, version)| {
            let resources: Vec<Value> = kinds(group, version)
                .map(aggregated_kind)
                .chain(reviews::of(group, version).map(aggregated_review))
                .chain(readable(group, version).map(aggregated_readable))
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null},
                "versions": [{"version": version, "resources": resources, "freshness": "Current"}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"), "metadata": {}, "items": items})
}

type Readable = (&'static str, &'static str, &'static str, &'static str, bool);

fn readable(group: &str, version: &str) -> impl Iterator<Item = Readable> {
    READABLE.into_iter().filter(move |one| one.0 == group && one.1 == version)
}

fn aggregated_readable((group, version, plural, kind, namespaced): Readable) -> Value {
    let mut entry = json!({"resource": plural, "responseKind": {"group": group, "version": version, "kind": kind},
        "scope": if namespaced { "Namespaced" } else { "Cluster" }, "singularResource": "", "verbs": READ_VERBS});
    if plural == "services" {
        entry["shortNames"] = json!(["svc"]);
    }
    entry
}

fn aggregated_review(Review { group, version, plural, kind }: &Review) -> Value {
    json!({"resource": plural, "responseKind": {"group": group, "version": version, "kind": kind},
        "scope": "Cluster", "singularResource": kind.to_lowercase(), "verbs": REVIEW_VERBS})
}

fn aggregated_kind(kind: &'static Kind) -> Value {
    let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let streams = kind.streams.iter().map(|part| {
        let answer = json!({"group": kind.group, "version": kind.version, "kind": part.kind});
        json!({"subresource": part.name, "responseKind": answer, "verbs": part.verbs})
    });
    let parts: Vec<Value> = kind
        .subresources
        .iter()
        .map(|part| {
            let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
            json!({"subresource": part, "responseKind": if *part == "scale" { &scale } else { &own }, "verbs": part_verbs(part)})
        })
        .chain(streams)
        .collect();
    let mut entry = json!({"resource": kind.plural, "responseKind": own, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": VERBS});
    for (field, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !list.is_empty() {
            entry[field] = list.into();
        }
    }
    if !parts.is_empty() {
        entry["subresources"] = parts.into();
    }
    entry
}
