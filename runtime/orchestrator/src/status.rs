//! Why a request failed, as Kubernetes tells it: a `Status` object with a reason, a code and, for invalid objects, causes.

use serde_json::{Value, json};

/// Longest message; a client's own text may be in it.
const MAX_MESSAGE: usize = 4096;

/// A failure that a client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Machine-readable.
    pub reason: Reason,
    /// For people: what failed, why, what to do.
    pub message: String,
    /// Which object, if one was named.
    pub object: Option<Box<ObjectName>>,
    /// Which fields, for [`Reason::Invalid`].
    pub causes: Vec<Cause>,
}

/// The object that a failure is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// API group; empty for the core.
    pub group: String,
    /// Plural, as in paths.
    pub resource: String,
    /// Name; empty when it has none yet.
    pub name: String,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What kind of mistake.
    pub kind: CauseKind,
    /// Path of the field.
    pub field: String,
    /// For people.
    pub message: String,
}

/// Kinds of mistakes (apimachinery's `field.ErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseKind {
    /// Must be there and is not.
    Required,
    /// Must be another.
    Invalid,
    /// Is none of those that there are.
    NotSupported,
    /// Is there twice.
    Duplicate,
    /// May not be there, or may not change.
    Forbidden,
    /// No field: the version that was asked for is not there yet (client-go's reflectors look for this).
    TooLargeVersion,
}

impl CauseKind {
    fn name(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLargeVersion => "ResourceVersionTooLarge",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLargeVersion => "Too large resource version, current",
        }
    }
}

impl Cause {
    /// A mistake at `field`.
    pub fn new(kind: CauseKind, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, field: field.into(), message: message.into() }
    }

    pub(crate) fn text(&self) -> String {
        let Self { kind, field, message } = self;
        if message.is_empty() {
            format!("{field}: {}", kind.title())
        } else {
            format!("{field}: {}: {message}", kind.title())
        }
    }
}

/// Reasons (apimachinery's `metav1.StatusReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 403, `Forbidden` for clients as where a quota is used up: there is no room for what it would take.
    Crowded,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409, the name is taken.
    AlreadyExists,
    /// 409, somebody else changed it.
    Conflict,
    /// 410
    Expired,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 504
    Timeout,
}

impl Reason {
    /// As clients know it.
    pub fn name(self) -> String {
        match self {
            Self::Crowded => "Forbidden".into(),
            reason => format!("{reason:?}"),
        }
    }

    /// HTTP status.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::Crowded => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::Timeout => 504,
        }
    }
}

impl ApiError {
    /// Without an object.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        Self { reason, message, object: None, causes: Vec::new() }
    }

    /// The client's body or parameters make no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// About an object.
    pub fn about(self, group: &str, resource: &str, name: &str) -> Self {
        let object = ObjectName { group: group.into(), resource: resource.into(), name: name.into() };
        Self { object: Some(Box::new(object)), ..self }
    }

    /// An object of this kind that breaks its rules.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes.iter().map(Cause::text).collect();
        let list = match &texts[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let dotted = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let error = Self::new(Reason::Invalid, format!("{dotted} \"{name}\" is invalid: {list}"));
        // Here the details name the kind and not the plural, as in Kubernetes: clients make their sentence of them.
        Self { causes, ..error.about(group, kind, name) }
    }

    /// The `Status` object (meta/v1).
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.name(), "code": self.reason.code(),
        });
        let mut details = serde_json::Map::new();
        if let Some(object) = &self.object {
            for (key, value) in [("name", &object.name), ("group", &object.group), ("kind", &object.resource)]
            {
                if !value.is_empty() {
                    details.insert(key.into(), value.clone().into());
                }
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let title = cause.kind.title();
                json!({"reason": cause.kind.name(), "field": cause.field, "message": format!("{title}: {}", cause.message)})
            });
            details.insert("causes".into(), causes.collect());
        }
        // Clients look into the details of what is not found without asking whether there are any (kubectl debug 1.29 and later).
        if !details.is_empty() || self.reason == Reason::NotFound {
            status["details"] = details.into();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_names_each_field() {
        let causes = vec![
            Cause::new(CauseKind::Required, "spec.containers", ""),
            Cause::new(CauseKind::NotSupported, "spec.restartPolicy", "\"Often\""),
        ];
        let error = ApiError::invalid("apps", "Deployment", "web", causes);
        assert_eq!(
            error.message,
            "Deployment.apps \"web\" is invalid: [spec.containers: Required value, spec.restartPolicy: Unsupported value: \"Often\"]"
        );
        let status = error.to_status();
        assert_eq!((&status["code"], &status["reason"]), (&422.into(), &"Invalid".into()));
        assert_eq!(status["details"]["causes"][1]["reason"], "FieldValueNotSupported");
        assert_eq!(status["details"]["kind"], "Deployment");
    }

    #[test]
    fn a_message_is_bounded() {
        assert!(ApiError::bad_request("ä".repeat(100_000)).message.len() <= MAX_MESSAGE + 3);
    }
}
