//! OCI images: verify, store, turn into block images.
//!
//! An archive of strangers goes in; a list of files comes out whose concatenation is one read-only disk that the
//! guest mounts as EROFS. Layers are streamed from their tar into block images and never unpacked on the host.
//!
//! This crate never knows of VMs, pods, networks or the daemon: it is synchronous, opens no socket, and touches
//! only the store's folder and the archive it was given. `docs/images.md` tells the whole story.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails to set up has failed"))]

pub mod archive;
pub mod digest;
pub mod erofs;
mod error;
mod import;
pub mod layer;
pub mod limits;
pub mod merge;
mod reference;
mod store;
pub mod tar;
#[cfg(test)]
mod testing;
pub mod tree;

pub use digest::{Digest, ImageId};
pub use error::{Error, ErrorKind, Result};
pub use import::{ChangeError, ImportConfig, rfc3339};
pub use reference::{ImageName, NameError};
pub use store::{
    Export, ExportBlob, Image, ImageStore, ImageSummary, Ingest, IngestLayer, LoadSource, LoadedImage,
    Origin, Progress, RemoveReport, Save,
};

// What `Image::config` is made of, so that callers need not agree on a version themselves.
pub use oci_spec::image::ImageConfiguration;
