//! The kinds that are served, in one table: names, scope, and what is special about each.

mod batch;
mod meta;
mod placement_rules;
mod plain;
mod pod;
mod pod_rules;
mod rules;
mod support;
mod volume_rules;
mod workload;

pub use meta::{validate_metadata, validate_metadata_update};
pub use plain::PERMANENT;
pub use pod::{GATED, SHOWS, qos_class};
pub use support::newly_unsupported as unsupported;
pub use workload::scaled;

use crate::schema::{Type, schema};
use crate::status::{ApiError, Cause};
use serde_json::Value;

/// One kind. What is not said here and not special ([`Strategy`]) is the same for all.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// In objects: `Pod`.
    pub kind: &'static str,
    /// In paths: `pods`.
    pub plural: &'static str,
    /// For people: `pod`.
    pub singular: &'static str,
    /// For people in a hurry: `po`.
    pub short_names: &'static [&'static str],
    /// `all`: what `kubectl get all` lists.
    pub categories: &'static [&'static str],
    /// Whether it lives in a namespace.
    pub namespaced: bool,
    /// Name of its structure in the [`schema`].
    pub structure: &'static str,
    /// Fields that a field selector may name, beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Parts of it that have a path of their own, such as `status` and `scale`.
    pub subresources: &'static [&'static str],
    /// Parts of it that bytes come from.
    pub streams: &'static [StreamPart],
    /// What is special.
    pub strategy: &'static dyn Strategy,
}

/// A part of an object that bytes come from: it is connected with, not read.
#[derive(Debug)]
pub struct StreamPart {
    /// In paths: `exec`.
    pub name: &'static str,
    /// What discovery calls its parameters.
    pub kind: &'static str,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
}

/// What a kind does differently. The values are in the shape of the kind's structure.
pub trait Strategy: Sync + std::fmt::Debug {
    /// Fills in what a client may leave out.
    fn default(&self, _object: &mut Value) {}

    /// What is wrong with the object, field by field.
    fn validate(&self, _object: &Value, _causes: &mut Vec<Cause>) {}

    /// What may not change.
    fn validate_update(&self, _old: &Value, _new: &Value, _causes: &mut Vec<Cause>) {}

    /// Before it is stored for the first time: what clients may not say.
    fn prepare_create(&self, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
    }

    /// Why it may not be deleted; none: it may.
    fn undeletable(&self, _object: &Value) -> Option<&'static str> {
        None
    }

    /// Annotations that only the server writes.
    fn reserved(&self) -> &'static [&'static str] {
        &[]
    }

    /// Seconds that a deletion waits for whom runs it; none: it is gone at once, if it has no finalizers.
    fn grace_period(&self, _object: &Value) -> Option<i64> {
        None
    }
}

/// Nothing is special.
#[derive(Debug)]
pub(crate) struct Plain;

impl Strategy for Plain {}

const CORE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    structure: "",
    selectable: &[],
    subresources: &[],
    streams: &[],
    strategy: &Plain,
};

/// All kinds, in the order of discovery.
pub static KINDS: [Kind; 11] = [
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        structure: "io.k8s.api.core.v1.ConfigMap",
        strategy: &plain::ConfigMap,
        ..CORE
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        structure: "io.k8s.api.core.v1.Event",
        selectable: &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        strategy: &plain::Event,
        ..CORE
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        structure: "io.k8s.api.core.v1.Namespace",
        selectable: &["status.phase"],
        subresources: &["status", "finalize"],
        strategy: &plain::Namespace,
        ..CORE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        structure: "io.k8s.api.core.v1.Node",
        selectable: &["spec.unschedulable"],
        subresources: &["status"],
        strategy: &plain::Node,
        ..CORE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        structure: "io.k8s.api.core.v1.Pod",
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
        subresources: &["status"],
        streams: &pod::STREAMS,
        strategy: &pod::Pod,
        ..CORE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        structure: "io.k8s.api.core.v1.Secret",
        selectable: &["type"],
        strategy: &plain::Secret,
        ..CORE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        structure: "io.k8s.api.core.v1.ServiceAccount",
        ..CORE
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        structure: "io.k8s.api.apps.v1.Deployment",
        subresources: &["status", "scale"],
        strategy: &workload::Deployment,
        ..CORE
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        structure: "io.k8s.api.apps.v1.ReplicaSet",
        selectable: &["status.replicas"],
        subresources: &["status", "scale"],
        strategy: &workload::ReplicaSet,
        ..CORE
    },
    Kind {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        structure: "io.k8s.api.batch.v1.CronJob",
        subresources: &["status"],
        strategy: &batch::CronJob,
        ..CORE
    },
    Kind {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        structure: "io.k8s.api.batch.v1.Job",
        selectable: &["status.successful"],
        subresources: &["status"],
        strategy: &batch::Job,
        ..CORE
    },
];

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kind {}

impl Kind {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// What an object of this kind looks like.
    pub fn structure(&self) -> &'static Type {
        schema().get(self.structure).expect("a test looks each one up")
    }

    /// The kind of these paths.
    pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// The kind of these words in an object.
    pub fn by_name(api_version: &str, name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.kind == name && kind.api_version() == api_version)
    }

    /// Where it is in the table.
    pub fn index(&self) -> usize {
        KINDS.iter().position(|kind| std::ptr::eq(kind, self)).expect("kinds are only in the table")
    }

    /// No object of that name.
    pub fn not_found(&self, name: &str) -> ApiError {
        let dotted = self.dotted();
        ApiError::new(crate::status::Reason::NotFound, format!("{dotted} {name:?} not found")).about(
            self.group,
            self.plural,
            name,
        )
    }

    /// An object of that name breaks its rules.
    pub fn invalid(&self, name: &str, causes: Vec<Cause>) -> ApiError {
        ApiError::invalid(self.group, self.kind, name, causes)
    }

    /// `deployments.apps`, as messages name it.
    pub fn dotted(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether its objects are sealed where they are kept.
    pub fn is_secret(&self) -> bool {
        self.kind == "Secret"
    }

    /// The part of this name that bytes come from.
    pub fn stream(&self, name: &str) -> Option<&'static StreamPart> {
        self.streams.iter().find(|part| part.name == name)
    }

    /// Whether clients may write `status` only by its own path.
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&"status")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_structure_and_is_found_by_path_and_name() {
        for kind in &KINDS {
            assert!(schema().get(kind.structure).is_some(), "{}", kind.kind);
            let found = Kind::by_path(kind.group, kind.version, kind.plural).unwrap();
            assert!(std::ptr::eq(found, kind));
            assert!(std::ptr::eq(Kind::by_name(&kind.api_version(), kind.kind).unwrap(), kind));
            assert_eq!(kind.has_status(), kind.structure().fields.contains_key("status"), "{}", kind.kind);
        }
    }
}
