//! Every bound on what a registry may ask of this machine, in one place.

/// Bytes of a manifest or an index (registries and Docker have the same limit), and of an image's configuration.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// Bytes of a token server's answer.
pub const MAX_TOKEN_ANSWER: u64 = 256 << 10;

/// Bytes of an error that are read.
pub const MAX_ERROR_BODY: u64 = 64 << 10;

/// Characters of a registry's own words that are shown.
pub const MAX_SAID: usize = 300;

/// Redirects of one request.
pub const MAX_REDIRECTS: usize = 5;

/// Indexes within indexes.
pub const MAX_INDEX_DEPTH: usize = 3;

/// Layers of one image (Docker's and overlayfs' practical limit).
pub const MAX_LAYERS: usize = 127;

/// Bytes of one blob: as long as the longest layer that is taken.
pub const MAX_BLOB: u64 = 64 << 30;

/// How often a broken transfer of one blob is taken up again, however far it got each time.
pub const MAX_RESUMES: u32 = 64;

/// Blobs that are transferred at the same time, as Docker's default.
pub const PARALLEL_BLOBS: usize = 3;
