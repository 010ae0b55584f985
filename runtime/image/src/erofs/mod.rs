//! EROFS without compression: a writer for layers and merged images, and a bounded reader of both.
//!
//! A *layer file* is a complete image of one device: block 0, the data of all regular files, then the
//! metadata, with [marks](layout::mark) for what only a layer has. It can be mounted and checked on its own.
//! A *merged image* holds metadata only: its regular files are chunk-based inodes that name a device, and its
//! device table says at which block of the whole disk each layer file begins (`mapped_blkaddr`, which Linux
//! reads as "flat" multi-device mode when no `device=` option is given: `erofs_map_dev`, `fs/erofs/data.c`).

pub mod directory;
pub mod layout;
mod plan;
pub mod reader;
mod serialize;
pub mod writer;

#[cfg(test)]
mod tests;
