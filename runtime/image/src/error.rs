//! What can go wrong, in words for the person who ran the command.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveError;
use crate::digest::ImageId;
use crate::erofs::reader::ReadError;
use crate::erofs::writer::WriteError;
use crate::import::ChangeError;
use crate::layer::{LayerError, StreamError};
use crate::limits;
use crate::merge::MergeError;
use crate::reference::NameError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong. Nothing stays in the store after any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the store or the source.
    #[error("{what} {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A device, a named pipe or a socket.
    #[error("{0:?} is neither a file nor a folder; what comes from a pipe can be given as standard input")]
    NeitherFileNorFolder(PathBuf),
    /// The disk is full, or nearly.
    #[error(
        "no space left for images in {store:?} ({free} bytes free, {reserve} stay reserved): remove images or enlarge the disk",
        reserve = limits::DISK_RESERVE
    )]
    NoSpace {
        /// The store's folder.
        store: PathBuf,
        /// Bytes that are free now.
        free: u64,
    },
    /// The archive as a whole.
    #[error("{origin} can't be loaded: {source}")]
    Archive {
        /// File name, or "standard input" and the like.
        origin: String,
        /// Why.
        source: ArchiveError,
    },
    /// The archive's own compression.
    #[error("{origin} can't be loaded: {source}")]
    Stream {
        /// File name, or "standard input" and the like.
        origin: String,
        /// Why.
        source: StreamError,
    },
    /// One layer.
    #[error("image {image}: layer {layer} can't be used: {source}")]
    Layer {
        /// Name or ID.
        image: String,
        /// Which layer: its number, count and digest.
        layer: String,
        /// Why.
        source: Box<LayerError>,
    },
    /// Laying one layer over those below.
    #[error("image {image}: layer {layer} does not fit the layers below: {source}")]
    Merge {
        /// Name or ID.
        image: String,
        /// Which layer: its number, count and digest.
        layer: String,
        /// Why.
        source: MergeError,
    },
    /// The merged image.
    #[error("image {image}: its merged image can't be written: {source}")]
    Write {
        /// Name or ID.
        image: String,
        /// Why.
        source: WriteError,
    },
    /// What a push or an archive needs of a layer is not there or broken.
    #[error(
        "layer {layer} can't be pushed or saved ({source}): it was stored by an older version, has too many entries, or is damaged; remove the image and load or pull it again"
    )]
    NoTar {
        /// Its diff_id.
        layer: crate::digest::Digest,
        /// Why.
        source: io::Error,
    },
    /// More than one archive holds.
    #[error("one archive has at most {max} {what}; save them to several")]
    TooMuchToSave {
        /// Of what.
        what: &'static str,
        /// So many.
        max: usize,
    },
    /// A name that can't be given.
    #[error(
        "{0} can't be given to an image: a digest is what a manifest has, not what people choose; name it by tag"
    )]
    NotATag(String),
    /// A layer file in the store is broken.
    #[error(
        "{path:?} in the image store is damaged: {source}; remove the images that use it and load them again"
    )]
    DamagedLayer {
        /// The layer file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// A record in the store is broken.
    #[error("{path:?} in the image store is damaged: {why}; remove it and load the image again")]
    DamagedRecord {
        /// The record.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A name that is none.
    #[error("{name:?} is not a valid image name: {source}")]
    Name {
        /// What was given.
        name: String,
        /// Why.
        source: NameError,
    },
    /// A `--change` that is none.
    #[error("{0}")]
    Change(#[from] ChangeError),
    /// No such image.
    #[error("no such image: {0}")]
    NotFound(String),
    /// Several images start with these digits.
    #[error("{0:?} is the start of more than one image ID: give more digits")]
    Ambiguous(String),
    /// A container uses it.
    #[error("image {image} is in use by a container: remove the container first")]
    InUse {
        /// What was to be removed.
        image: String,
    },
    /// By ID, with several names.
    #[error("image {id} has {names} names: remove them one by one, or all of them with force")]
    SeveralNames {
        /// The image.
        id: ImageId,
        /// How many.
        names: usize,
    },
}

/// How a caller should treat an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such image.
    NotFound,
    /// It is possible, but not now.
    Conflict,
    /// The caller's input is at fault.
    InvalidInput,
    /// The disk is full.
    NoSpace,
    /// This machine or the store is at fault.
    Internal,
}

impl Error {
    /// Sorts the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound(_) => ErrorKind::NotFound,
            Error::InUse { .. } | Error::SeveralNames { .. } => ErrorKind::Conflict,
            Error::NoSpace { .. } => ErrorKind::NoSpace,
            full if full.is_full() => ErrorKind::NoSpace,
            Error::NeitherFileNorFolder(_)
            | Error::Archive { .. }
            | Error::Stream { .. }
            | Error::Layer { .. }
            | Error::Merge { .. }
            | Error::Name { .. }
            | Error::NotATag(_)
            | Error::NoTar { .. }
            | Error::TooMuchToSave { .. }
            | Error::Change(_)
            | Error::Ambiguous(_) => ErrorKind::InvalidInput,
            Error::Io { .. }
            | Error::Write { .. }
            | Error::DamagedLayer { .. }
            | Error::DamagedRecord { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    }

    /// Whether the disk being full is at the bottom of it.
    pub(crate) fn is_full(&self) -> bool {
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Error::Io { source, .. } => full(source),
            Error::Stream { source: StreamError::Io(source), .. } => full(source),
            Error::Write { source: WriteError::Io(source), .. } | Error::NoTar { source, .. } => full(source),
            Error::Layer { source, .. } => match &**source {
                LayerError::DiskFull { .. } => true,
                LayerError::Io(source) | LayerError::Write(WriteError::Io(source)) => full(source),
                _ => false,
            },
            _ => false,
        }
    }
}
