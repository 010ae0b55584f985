//! Reads tar archives from strangers: ustar, pax, GNU; bounded, never panicking, without touching any file.
//!
//! An own reader, because layers need what the common crate lacks: pax sparse files, bounds on every header,
//! offsets of members, and no copies of file data. Format: POSIX.1-2017 `pax`, GNU tar manual "Tar Internals".

mod header;
mod pax;
mod reader;
mod source;
mod sparse;

pub use reader::{Entry, EntryKind, Reader};
pub use source::{Section, Source};

use crate::limits;

/// Why an archive can't be read further.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be had.
    #[error("reading the archive: {0}")]
    Io(#[from] std::io::Error),
    /// It ends in the middle of something.
    #[error("the archive is truncated")]
    Truncated,
    /// A header is not a tar header.
    #[error("not a tar header (wrong checksum)")]
    Checksum,
    /// A number is neither octal nor base-256, or negative, or too large.
    #[error("{0} is not a number in range")]
    Number(&'static str),
    /// A type that a layer can't have.
    #[error("entries of type {0:?} are not supported")]
    Type(char),
    /// A pax record breaks the format.
    #[error("a pax header is broken: {0}")]
    Pax(&'static str),
    /// A header of a header is too long.
    #[error("an extended header has {0} bytes, more than {max}", max = limits::MAX_SPECIAL_HEADER)]
    SpecialHeader(u64),
    /// The map of a sparse file is broken.
    #[error("the map of a sparse file is broken: {0}")]
    Sparse(&'static str),
    /// A file is too large.
    #[error("a file has {0} bytes, more than {max}", max = limits::MAX_FILE)]
    FileSize(u64),
    /// Attributes of one file.
    #[error("too many or too long extended attributes")]
    Xattrs,
}

#[cfg(test)]
mod tests;
