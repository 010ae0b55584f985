//! What a disk is made of, and why it can't be.

use super::Ring;
use crate::api::config::RateLimiter;
use crate::data_file::Unfit;
use crate::virtio::WorkerLoop;
use std::fs::File;
use std::io;
use std::time::Duration;

/// What a block device is made of.
pub struct BlockConfig {
    /// Its name.
    pub id: String,
    /// What the guest reads as serial, 20 bytes at most; absent: the first ones of the name.
    pub serial: Option<String>,
    /// Raw images or block devices, open for reading and, if the disk is, for writing. Several become one disk. Empty only for a
    /// removable drive.
    pub files: Vec<File>,
    /// Whether the guest may not write. Needed when there is more than one file.
    pub read_only: bool,
    /// Whether it starts without a medium.
    pub removable: bool,
    /// Whether the guest can make what it wrote durable. If not, nobody does it for it.
    pub flush: bool,
    /// Whether the host's page cache is gone around.
    pub direct: bool,
    /// How much the guest may read and write.
    pub limit: Option<RateLimiter>,
    /// 1 to 256.
    pub queues: u16,
    /// One for each queue, made for this disk's one file; none: each request is waited for.
    pub rings: Vec<Ring>,
    /// Where the queues are served, in turn; none: where the machine's other devices are.
    pub loops: Vec<WorkerLoop>,
}

impl BlockConfig {
    /// A disk with one queue and without limits.
    pub fn new(id: impl Into<String>, files: Vec<File>, read_only: bool) -> Self {
        Self {
            id: id.into(),
            serial: None,
            files,
            read_only,
            removable: false,
            flush: true,
            direct: false,
            limit: None,
            queues: 1,
            rings: Vec::new(),
            loops: Vec::new(),
        }
    }

    /// A removable drive.
    pub fn removable(id: impl Into<String>, read_only: bool) -> Self {
        Self { removable: true, ..Self::new(id, Vec::new(), read_only) }
    }
}

/// A disk that can't be one.
#[derive(Debug, thiserror::Error)]
pub enum BlockConfigError {
    /// No files.
    #[error("drive {0} has no files: name at least one")]
    NoFiles(String),
    /// Several files can be read only.
    #[error("drive {0} is made of several files: make it read only")]
    ConcatWritable(String),
    /// One of several files is not whole sectors: sectors would lie in two files.
    #[error(
        "file {index} of drive {id} is {len} bytes long: of several files each must be a multiple of 512"
    )]
    Size {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// In bytes.
        len: u64,
    },
    /// A descriptor that is no disk, or not open for what the guest may do.
    #[error("file {index} of drive {id} {source}")]
    Unfit {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// What is wrong with it.
        source: Unfit,
    },
    /// What is under way has to end before the files are others.
    #[error(
        "drive {id} has requests under way that its disk has not answered within {limit:?}: try again, and look after the disk if that does not help"
    )]
    Busy {
        /// Which drive.
        id: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// There is a medium in the drive.
    #[error("drive {0} has a medium: eject it first")]
    Present(String),
    /// Too few or too many files for a medium.
    #[error("a medium of drive {id} is made of 1 to {most} files, and {count} came")]
    Count {
        /// Which drive.
        id: String,
        /// How many came.
        count: usize,
        /// How many may.
        most: usize,
    },
    /// A medium without a byte.
    #[error("the medium for drive {0} is empty: it must have 512 bytes at least")]
    Empty(String),
    /// The host's file system or device can't do direct I/O.
    #[error(
        "file {index} of drive {id} can't be read around the host's page cache: {source}; leave `direct` out"
    )]
    Direct {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// What the system says.
        source: io::Error,
    },
    /// Direct I/O in blocks larger than the file's end.
    #[error(
        "file {index} of drive {id} is {len} bytes long: `direct` needs a multiple of {block} on this host's disk"
    )]
    DirectSize {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// In bytes.
        len: u64,
        /// The disk's block, in bytes.
        block: u32,
    },
    /// It has files for good.
    #[error("drive {0} is not removable")]
    NotRemovable(String),
    /// Its files come and go by other means.
    #[error("drive {0} is removable: eject its medium and insert another one")]
    Removable(String),
    /// Another block size than the guest was told.
    #[error(
        "drive {id} has blocks of {old} bytes for the guest and the new file needs {new}: files of one kind can replace each other"
    )]
    Block {
        /// Which drive.
        id: String,
        /// What the guest was told.
        old: u32,
        /// What the file needs.
        new: u32,
    },
    /// A limit needs timers.
    #[error("the rate limiter of drive {id} can't be made: {source}")]
    Timers {
        /// Which drive.
        id: String,
        /// What the system says.
        source: io::Error,
    },
    /// Its size can't be found out.
    #[error("the size of file {index} of drive {id} is unknown: {source}")]
    Io {
        /// Which drive.
        id: String,
        /// Which of its files, from 0.
        index: usize,
        /// What the system says.
        source: io::Error,
    },
}
