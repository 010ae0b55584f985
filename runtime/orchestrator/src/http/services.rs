//! Services, of which there are none yet: an empty list, which is the truth, and which `kubectl cluster-info` asks for. Making one is refused.

use super::accept::{self, Form};
use super::reply::{self, Reply};
use crate::status::{ApiError, Reason};
use hyper::Method;
use serde_json::json;

/// Whether the steps behind `/api/v1` lead to services; the name of one, or of all.
pub(super) fn parse<'a>(steps: &[&'a str]) -> Option<&'a str> {
    match steps {
        ["services"] | ["namespaces", _, "services"] => Some(""),
        ["namespaces", _, "services", name, ..] => Some(name),
        _ => None,
    }
}

pub(super) fn answer(name: &str, method: &Method, is_watch: bool, accept: &str) -> Result<Reply, ApiError> {
    if !matches!(*method, Method::GET | Method::HEAD) || is_watch {
        let message = "services are not supported yet: pods are reached by their addresses, by hostPort or by port-forward";
        return Err(ApiError::new(Reason::MethodNotAllowed, message));
    }
    if !name.is_empty() {
        return Err(ApiError::new(Reason::NotFound, format!("services {name:?} not found"))
            .about("", "services", name));
    }
    Ok(reply::json(
        200,
        &match accept::form(accept)? {
            Form::Objects => json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": []}),
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
