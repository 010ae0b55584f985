//! From what a client sent to what may be stored: shape, defaults, rules.

use super::{Engine, FieldValidation, WriteOptions};
use crate::decode::Decoded;
use crate::kinds::{Kind, validate_metadata, validate_metadata_update};
use crate::object;
use crate::patch::check_managers;
use crate::schema::conform;
use crate::status::{ApiError, Cause, CauseKind, Reason};
use serde_json::Value;

impl FieldValidation {
    /// What becomes of a body with fields that there are not, and with fields that are there twice.
    ///
    /// # Errors
    /// There are some, and none may be.
    pub fn judge(
        self,
        unknown: &[String],
        doubled: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
        let doubled = doubled.iter().map(|path| format!("duplicate field {path:?}"));
        let mistakes: Vec<String> = unknown.chain(doubled).collect();
        match self {
            Self::Ignore => {}
            Self::Warn => warnings.extend(mistakes),
            Self::Strict if mistakes.is_empty() => {}
            Self::Strict => {
                return Err(ApiError::bad_request(format!("strict decoding error: {}", mistakes.join(", "))));
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Brings a body into the kind's shape; warnings are added to `warnings`.
    pub(super) fn shape(
        &self,
        kind: &'static Kind,
        decoded: Decoded,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let Decoded { mut value, duplicates } = decoded;
        for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
            let found = object::text(&value, &[field]);
            if !found.is_empty() && found != expected {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({expected})"
                )));
            }
            if value.is_object() {
                value[field] = expected.into();
            }
        }
        let findings = conform(kind.structure(), &mut value);
        if let Some(wrong) = findings.wrong.first() {
            let message = format!(
                "{} in version {:?} cannot be handled as a {}: {} must be {}",
                kind.kind,
                kind.version,
                kind.kind,
                if wrong.path.is_empty() { "the body" } else { &wrong.path },
                wrong.expected
            );
            return Err(ApiError::bad_request(message));
        }
        options.validation.judge(&findings.unknown, &duplicates, warnings)?;
        Ok(value)
    }

    /// Checks an object that is about to be stored; `old` is what it replaces. What was wrong with that already may stay so: it was stored
    /// when the rules were others, and could neither be run nor told of nor deleted (Kubernetes ratchets its rules likewise).
    pub(super) fn validate(
        &self,
        kind: &'static Kind,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let mut causes = mistakes(kind, new);
        if let Some(old) = old {
            if !causes.is_empty() {
                let before = mistakes(kind, old);
                causes.retain(|cause| !before.contains(cause));
            }
            validate_metadata_update(old, new, &mut causes);
            kind.strategy.validate_update(old, new, &mut causes);
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(kind.invalid(object::name(new), causes))
    }

    /// Objects live in namespaces that exist and are not on their way out.
    pub(super) fn check_namespace(&self, kind: &'static Kind, namespace: &str) -> Result<(), ApiError> {
        if !kind.namespaced {
            return Ok(());
        }
        let namespaces = Kind::by_path("", "v1", "namespaces").expect("namespaces are in the table");
        let found = self.store().get(&crate::store::Key::new(namespaces, "", namespace));
        let found = found.ok_or_else(|| namespaces.not_found(namespace))?;
        if object::is_deleted(&found.object) {
            let message = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let error = ApiError::new(Reason::Forbidden, message).about(kind.group, kind.plural, "");
            let cause =
                Cause::new(CauseKind::Forbidden, "metadata.namespace", "the namespace is being terminated");
            return Err(ApiError { causes: vec![cause], ..error });
        }
        Ok(())
    }
}

/// What is wrong with an object by itself.
fn mistakes(kind: &'static Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    validate_metadata(kind, object, &mut causes);
    check_managers(object, &mut causes);
    validate_required(kind, object, &mut causes);
    kind.strategy.validate(object, &mut causes);
    causes
}

/// Simple fields that the schema says must be there, at the top of the specification. Deeper ones are the kinds' own matter: there Kubernetes
/// takes an empty value for a missing one.
fn validate_required(kind: &'static Kind, object: &Value, causes: &mut Vec<Cause>) {
    let structure = kind.structure();
    for (name, field) in &structure.fields {
        if field.required && object.get(name).is_none() && name != "metadata" {
            causes.push(Cause::new(CauseKind::Required, name, ""));
        }
    }
}
