//! What a client wants to read: objects, tables of them, or only their metadata.

use crate::status::{ApiError, Reason};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Objects,
    /// `as=Table`, of this version of `meta.k8s.io`.
    Table(&'static str),
    /// `as=PartialObjectMetadata` or `…List`.
    Metadata(&'static str),
}

/// The first of the media types in `Accept` that can be served.
pub(super) fn form(accept: &str) -> Result<Form, ApiError> {
    if accept.trim().is_empty() {
        return Ok(Form::Objects);
    }
    for media in accept.split(',') {
        let mut parts = media.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        if !matches!(kind, "application/json" | "application/*" | "*/*" | "application/yaml")
            || kind == "application/yaml"
        {
            continue;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let value = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let version = match value("v") {
            Some("v1beta1") => "v1beta1",
            _ => "v1",
        };
        match value("as") {
            None => return Ok(Form::Objects),
            Some("Table") => return Ok(Form::Table(version)),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => {
                return Ok(Form::Metadata(version));
            }
            Some(_) => {}
        }
    }
    let message = "only the following media types are accepted: application/json, and application/json;as=Table;v=v1;g=meta.k8s.io";
    Err(ApiError::new(Reason::NotAcceptable, message))
}

/// Which version of aggregated discovery a client prefers to the legacy form.
pub(super) fn aggregated(accept: &str) -> Option<&'static str> {
    for media in accept.split(',') {
        if media.contains("as=APIGroupDiscoveryList") {
            if media.contains("v=v2beta1") {
                return Some("v2beta1");
            }
            if media.contains("v=v2") {
                return Some("v2");
            }
        } else if media.trim().starts_with("application/json") {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_served_is() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl), Ok(Form::Table("v1")));
        assert_eq!(form("application/vnd.kubernetes.protobuf, application/json"), Ok(Form::Objects));
        assert_eq!(form(""), Ok(Form::Objects));
        assert_eq!(form("*/*"), Ok(Form::Objects));
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Form::Metadata("v1"))
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf").unwrap_err().reason, Reason::NotAcceptable);
    }

    #[test]
    fn discovery_is_aggregated_for_who_knows_it() {
        let new = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(new), Some("v2"));
        assert_eq!(
            aggregated(
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
            ),
            Some("v2beta1")
        );
        assert_eq!(aggregated("application/json, */*"), None);
    }
}
