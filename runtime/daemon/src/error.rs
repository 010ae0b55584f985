//! What goes wrong in the daemon, and how the API says it.

use crate::store::StoreError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use vial_api::{ErrorBody, ErrorKind};

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(pub ErrorBody);

/// The result of a handler.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    /// Of a kind, with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(ErrorBody::new(kind, message))
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(self.0)).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NameInUse(_) | StoreError::PodNameInUse(_) | StoreError::NoSuchPod => {
                ErrorKind::Conflict
            }
            error if error.is_no_space() => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<vial_sandbox::spec::SpecError> for ApiError {
    fn from(error: vial_sandbox::spec::SpecError) -> Self {
        Self::new(ErrorKind::InvalidArgument, error.to_string())
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<tokio::task::JoinError> for ApiError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(ErrorKind::Internal, format!("the daemon failed inside: {error}"))
    }
}

impl From<vial_sandbox::upper::UpperError> for ApiError {
    fn from(error: vial_sandbox::upper::UpperError) -> Self {
        use vial_sandbox::upper::UpperError;
        let kind = match &error {
            UpperError::Size(_) => ErrorKind::InvalidArgument,
            error if error.is_no_space() => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<vial_network::NetworkError> for ApiError {
    fn from(error: vial_network::NetworkError) -> Self {
        use vial_network::NetworkError;
        let kind = match &error {
            NetworkError::PortInUse { .. } | NetworkError::Full(_) => ErrorKind::Conflict,
            NetworkError::Pool { .. }
            | NetworkError::NoPool { .. }
            | NetworkError::PortTwice(_)
            | NetworkError::NoAddress(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<vial_vm::Error> for ApiError {
    fn from(error: vial_vm::Error) -> Self {
        let kind = match &error {
            vial_vm::Error::File { path, .. } if path.as_os_str() == "/dev/kvm" => {
                ErrorKind::NoVirtualisation
            }
            vial_vm::Error::File { source, .. } | vial_vm::Error::System { source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                ErrorKind::NoSpace
            }
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<vial_sandbox::PodError> for ApiError {
    fn from(error: vial_sandbox::PodError) -> Self {
        use agent_protocol::ErrorKind as Refusal;
        use vial_sandbox::PodError;
        let kind = match error.refusal() {
            Some(Refusal::CommandNotFound) => ErrorKind::CommandNotFound,
            Some(Refusal::CommandNotExecutable) => ErrorKind::CommandNotExecutable,
            Some(Refusal::UserNotFound | Refusal::InvalidArgument) => ErrorKind::InvalidArgument,
            Some(Refusal::WrongState | Refusal::NotFound | Refusal::AlreadyExists) => ErrorKind::Conflict,
            Some(_) => ErrorKind::Internal,
            None => match error {
                PodError::Vm(error) => return error.into(),
                PodError::Io(error) => return error.into(),
                _ => ErrorKind::Internal,
            },
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{AgentError, ErrorKind as Refusal};
    use vial_sandbox::PodError;

    fn kind(error: impl Into<ApiError>) -> ErrorKind {
        error.into().0.kind
    }

    #[test]
    fn the_agents_refusals_become_dockers_exit_codes() {
        let refused =
            |kind| ApiError::from(PodError::Refused(AgentError::new(kind, "no"))).0.kind.exit_code();
        assert_eq!(refused(Refusal::CommandNotFound), 127);
        assert_eq!(refused(Refusal::CommandNotExecutable), 126);
        assert_eq!(refused(Refusal::UserNotFound), 125);
        assert_eq!(refused(Refusal::Internal), 125);
    }

    #[test]
    fn a_full_disk_is_told_apart_wherever_it_shows() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(kind(full()), ErrorKind::NoSpace);
        assert_eq!(kind(PodError::Io(full())), ErrorKind::NoSpace);
        let upper =
            vial_sandbox::upper::UpperError::File { what: "write", path: "/x".into(), source: full() };
        assert_eq!(kind(upper), ErrorKind::NoSpace);
        let vm = vial_vm::Error::File { what: "write", path: "/x".into(), source: full() };
        assert_eq!(kind(PodError::Vm(vm)), ErrorKind::NoSpace);
    }

    #[test]
    fn a_missing_kvm_is_told_apart() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let vm = vial_vm::Error::File { what: "open", path: "/dev/kvm".into(), source };
        assert_eq!(kind(vm), ErrorKind::NoVirtualisation);
    }

    #[test]
    fn a_taken_name_is_a_conflict() {
        let error = ApiError::from(StoreError::NameInUse("web".into()));
        assert_eq!(error.0.kind, ErrorKind::Conflict);
        assert!(error.to_string().contains("vial rm web"));
    }
}
