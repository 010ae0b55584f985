//! Images: `/v1/images…`.

use serde::{Deserialize, Serialize};

/// One line of `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSummary {
    /// `sha256:…` of the image's configuration.
    pub id: String,
    /// Its names, `repository:tag`.
    pub names: Vec<String>,
    /// Creation time that the image claims, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Bytes on the host's disk.
    pub size: u64,
}

/// Query of `POST /v1/images/load`; without a path the archive is the request's body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadQuery {
    /// Absolute path of an archive or a folder on the daemon's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Body of `POST /v1/save`, whose answer is an archive of these images: a tar that is an OCI layout and a docker-archive, of the length that
/// the answer's head says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveImages {
    /// Names or ids. An image has in the archive the names by which it is asked for here.
    pub images: Vec<String>,
}

/// Query of `POST /v1/images/import`; the root file system's tar is the request's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportQuery {
    /// Name of the new image.
    pub name: String,
    /// Dockerfile instructions for the configuration (`CMD`, `ENTRYPOINT`, `ENV`, `USER`, `WORKDIR`, …), one a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<String>,
}

/// One JSON line of the answer to load and import; the last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LoadEvent {
    /// Something moves on.
    Progress {
        /// What is being done.
        what: String,
        /// Bytes or steps so far.
        done: u64,
        /// Of how many, when that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// Something was left out, but not what was asked for.
    Warning {
        /// What, for people.
        message: String,
    },
    /// One image is in the store.
    Loaded {
        /// Its id.
        id: String,
        /// Its names.
        names: Vec<String>,
    },
    /// All went well.
    Done,
    /// It did not.
    Failed(crate::ErrorBody),
}

/// Query of `DELETE /v1/images/{name}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveImageQuery {
    /// Remove all names at once.
    #[serde(default)]
    pub force: bool,
}

/// Answer of `DELETE /v1/images/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedImage {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Images and layers that are gone.
    pub deleted: Vec<String>,
}
