//! Collections that clients ask for and that are empty, which is the truth: services (`kubectl cluster-info` lists them, and they are in discovery)
//! and custom resource definitions (kubectl looks among them for a kind that it does not find, to say so). Making one is refused.

use super::accept::{self, Form};
use super::reply::{self, Reply};
use crate::status::{ApiError, Reason};
use hyper::Method;
use serde_json::json;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Absent {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    /// Why none can be made.
    why: &'static str,
}

const SERVICES: Absent = Absent {
    group: "",
    plural: "services",
    kind: "Service",
    why: "services are not supported yet: pods are reached by their addresses, by hostPort or by port-forward",
};
const DEFINITIONS: Absent = Absent {
    group: "apiextensions.k8s.io",
    plural: "customresourcedefinitions",
    kind: "CustomResourceDefinition",
    why: "custom resources are not supported: the kinds are those of `kubectl api-resources`",
};

/// Whether the steps of a path lead to one of them; with the name of one object, or none.
pub(super) fn parse<'a>(steps: &[&'a str]) -> Option<(Absent, &'a str)> {
    match steps {
        ["api", "v1", "services"] | ["api", "v1", "namespaces", _, "services"] => Some((SERVICES, "")),
        ["api", "v1", "namespaces", _, "services", name, ..] => Some((SERVICES, name)),
        ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions"] => Some((DEFINITIONS, "")),
        ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions", name, ..] => {
            Some((DEFINITIONS, name))
        }
        _ => None,
    }
}

impl Absent {
    pub(super) fn answer(
        &self,
        name: &str,
        method: &Method,
        is_watch: bool,
        accept: &str,
    ) -> Result<Reply, ApiError> {
        if !matches!(*method, Method::GET | Method::HEAD) || is_watch {
            return Err(ApiError::new(Reason::MethodNotAllowed, self.why));
        }
        if !name.is_empty() {
            let message = format!("{} {name:?} not found", self.plural);
            return Err(ApiError::new(Reason::NotFound, message).about(self.group, self.plural, name));
        }
        let version = if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) };
        Ok(reply::json(
            200,
            &match accept::form(accept)? {
                Form::Objects => {
                    json!({"kind": format!("{}List", self.kind), "apiVersion": version, "metadata": {}, "items": []})
                }
                Form::Metadata(version) => {
                    json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {}, "items": []})
                }
                Form::Table(version) => {
                    let column = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
                    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {}, "columnDefinitions": [column], "rows": []})
                }
            },
        ))
    }
}
