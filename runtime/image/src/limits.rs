//! Every bound on what an archive, a layer or an image may ask of the host, in one place.
//!
//! An image is written by strangers: each number here turns "until memory or disk is gone" into an error.

/// Layers of one image: Docker's and overlayfs' own practical limit.
pub const MAX_LAYERS: usize = 127;

/// Inodes of one layer or merged image.
pub const MAX_ENTRIES: usize = 1 << 20;

/// Bytes of one file name (NAME_MAX, and EROFS_NAME_LEN).
pub const MAX_NAME: usize = 255;

/// Bytes of one path or link target (PATH_MAX without the NUL).
pub const MAX_PATH: usize = 4095;

/// Bytes of all names and link targets of one layer.
pub const MAX_NAME_BYTES: u64 = 128 << 20;

/// Extended attributes of one file.
pub const MAX_XATTRS_PER_FILE: usize = 256;

/// Bytes of one extended attribute's value: EROFS stores the length in 16 bits.
pub const MAX_XATTR_VALUE: usize = 65_535;

/// Bytes of all attributes of one file: EROFS counts them in 16 bits, in units of 4 bytes.
pub const MAX_XATTR_BYTES_PER_FILE: usize = 128 << 10;

/// Bytes of all attributes of one layer.
pub const MAX_XATTR_BYTES: u64 = 32 << 20;

/// Bytes of one pax header, GNU long name or the like (Go's archive/tar allows as much).
pub const MAX_SPECIAL_HEADER: u64 = 1 << 20;

/// Data runs of one sparse file.
pub const MAX_SPARSE_RUNS: usize = 1 << 16;

/// Logical bytes of one file. `lastlog` with the highest user id has 1.1 TiB, all of it a hole.
pub const MAX_FILE: u64 = 2 << 40;

/// Logical bytes of all files of one layer.
pub const MAX_LAYER_DATA: u64 = 8 << 40;

/// Bytes of one uncompressed layer tar.
pub const MAX_LAYER_TAR: u64 = 64 << 30;

/// Compressed bytes of all of a layer's tar but its files' data; beyond it the layer can't be pushed.
pub const MAX_FRAME: u64 = 256 << 20;

/// Bytes of a whole archive that is spooled because it can't be read at random.
pub const MAX_ARCHIVE: u64 = 256 << 30;

/// Members of an archive (the outer tar).
pub const MAX_ARCHIVE_MEMBERS: usize = 10_000;

/// Images in one archive.
pub const MAX_ARCHIVE_IMAGES: usize = 256;

/// Bytes of a manifest, an index or an image configuration (registries limit manifests to 4 MiB).
pub const MAX_JSON: u64 = 4 << 20;

/// Indexes that point to indexes.
pub const MAX_INDEX_DEPTH: usize = 4;

/// A compressed stream may always grow to this many bytes …
pub const EXPANSION_FREE: u64 = 256 << 20;

/// … and beyond that only to this many times its compressed size. Deflate's own maximum is 1032.
pub const MAX_EXPANSION: u64 = 200;

/// Bytes that stay free on the file system that holds the store.
pub const DISK_RESERVE: u64 = 64 << 20;

/// Log2 of the largest zstd window (128 MiB), the zstd command's own default.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Texts that an archive gives as names of one image and that are none: so many are told.
pub const MAX_BAD_NAMES: usize = 8;
