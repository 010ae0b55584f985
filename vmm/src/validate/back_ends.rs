//! Devices that are a vhost-user back end's.

use super::{ConfigError, MAX_QUEUES, check_names};
use crate::api::config::{Drive, FileSystem};
use crate::virtio::vhost_user::MAX_TAG;

/// Whether a drive says what only makes sense of files that this process reads and writes.
pub(super) fn has_files_business(drive: &Drive) -> bool {
    drive.is_removable
        || drive.is_read_only
        || drive.direct
        || drive.io_threads != 0
        || drive.io_engine.is_some()
        || drive.serial.is_some()
        || drive.rate_limiter.is_some()
}

pub(super) fn check_file_systems(all: &[FileSystem]) -> Result<(), ConfigError> {
    check_names("file system tag", all.iter().map(|fs| &fs.tag))?;
    for FileSystem { tag, num_queues, .. } in all {
        if tag.len() > MAX_TAG {
            return Err(ConfigError::Tag(tag.clone()));
        }
        if !(1..=MAX_QUEUES).contains(num_queues) {
            return Err(ConfigError::FsQueues(tag.clone(), *num_queues));
        }
    }
    Ok(())
}
