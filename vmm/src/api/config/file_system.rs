//! *(Vial)* `/vial/file-systems/{tag}`: file systems of the host.

use super::FileSource;
use serde::{Deserialize, Serialize};

/// *(Vial)* A file system that a vhost-user back end such as virtiofsd serves (virtio-fs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// What the guest mounts (`mount -t virtiofs TAG /mnt`): unique, 1 to 36 printable ASCII characters.
    pub tag: String,
    /// The back end's Unix socket; as a descriptor it is connected already. The back end sees all of the guest's memory.
    pub socket: FileSource,
    /// Queues of requests, 1 to 32; the C virtiofsd has one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub num_queues: u8,
}

fn one() -> u8 {
    1
}

fn is_one(number: &u8) -> bool {
    *number == 1
}
