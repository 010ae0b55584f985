//! Errors as the API carries them.

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What failed, why, and what to do next, for people.
    pub message: String,
    /// What sort of failure it is, for programs.
    pub kind: ErrorKind,
}

/// The sorts of failure that clients tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request makes no sense.
    InvalidArgument,
    /// No such container.
    NoSuchContainer,
    /// No such image.
    NoSuchImage,
    /// The name is taken, or the state does not allow it (exec in a container that does not run).
    Conflict,
    /// The command does not exist in the container.
    CommandNotFound,
    /// The command exists but cannot be executed.
    CommandNotExecutable,
    /// An archive or image is not usable.
    BadImage,
    /// A registry wants other credentials, or any at all.
    Unauthorized,
    /// What is asked can't be reached or does not do its work (a registry, the agent in a VM); another try may help.
    Unavailable,
    /// The host has no room left on a disk.
    NoSpace,
    /// This machine cannot run VMs (no KVM, no rights).
    NoVirtualisation,
    /// The daemon is on its way out.
    ShuttingDown,
    /// A VM, its agent or the daemon failed.
    Internal,
    /// A kind that this build does not know (a newer daemon).
    #[serde(other)]
    Unknown,
}

impl ErrorKind {
    /// The HTTP status that goes with it.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::BadImage => 400,
            // Not 401: that would ask for credentials for this API.
            Self::Unauthorized => 403,
            Self::Unavailable => 502,
            Self::NoSuchContainer | Self::NoSuchImage => 404,
            Self::Conflict => 409,
            Self::CommandNotFound | Self::CommandNotExecutable => 422,
            Self::NoSpace => 507,
            Self::NoVirtualisation | Self::ShuttingDown => 503,
            Self::Internal | Self::Unknown => 500,
        }
    }

    /// The status with which `vial run` and `vial exec` end when this comes back, as Docker's do.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            _ => 125,
        }
    }
}

impl ErrorBody {
    /// An error of this kind with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), kind }
    }
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_travel_in_snake_case_and_unknown_ones_are_kept_apart() {
        let body = ErrorBody::new(ErrorKind::NoSuchImage, "no image");
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(json, r#"{"message":"no image","kind":"no_such_image"}"#);
        let newer: ErrorBody = serde_json::from_str(r#"{"message":"m","kind":"from_the_future"}"#).unwrap();
        assert_eq!(newer.kind, ErrorKind::Unknown);
    }

    #[test]
    fn exit_codes_are_dockers() {
        assert_eq!(ErrorKind::CommandNotFound.exit_code(), 127);
        assert_eq!(ErrorKind::CommandNotExecutable.exit_code(), 126);
        assert_eq!(ErrorKind::NoSuchImage.exit_code(), 125);
    }
}
