//! The sequence of entries.

use std::io;

use super::TarError;
use super::header::{BLOCK, Header, sparse_runs};
use super::pax::Pax;
use super::source::Source;
use super::sparse::{MapParser, SparseMap};
use crate::limits;
use crate::tree::Xattrs;

/// Type and payload of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file; its data follows.
    File,
    /// Another name of an earlier entry.
    Hardlink(Vec<u8>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device (major, minor).
    CharDevice(u32, u32),
    /// A block device (major, minor).
    BlockDevice(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry, with names as they stand in the archive: neither checked nor normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub path: Vec<u8>,
    /// Type.
    pub kind: EntryKind,
    /// Permission bits and whatever else the archive put there.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Length of the file when all holes are filled.
    pub size: u64,
    /// Of a sparse file: the runs (offset, length) whose bytes follow. `None`: one run, the whole file.
    pub sparse: Option<Vec<(u64, u64)>>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Where the data begins in the archive.
    pub offset: u64,
}

/// Reads entries one after the other.
pub struct Reader<S> {
    source: S,
    position: u64,
    /// Data of the current entry that was not read yet, and the padding behind it.
    remaining: u64,
    padding: u64,
    done: bool,
}

impl<S: Source> Reader<S> {
    /// Reads from the current position of `source`.
    pub fn new(source: S) -> Self {
        Reader { source, position: 0, remaining: 0, padding: 0, done: false }
    }

    /// The next entry, or `None` at the end; unread data of the one before is passed over.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let (mut pax, mut long_name, mut long_link) = (Pax::default(), None, None);
        let mut special = 0u64;
        loop {
            self.skip(self.remaining + self.padding)?;
            (self.remaining, self.padding) = (0, 0);
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header(&block);
            header.verify()?;
            self.set_remaining(header.size()?)?;
            // One entry may have a few headers before it, not a chain without end.
            special += 1;
            if special > 16 {
                return Err(TarError::Pax("too many headers before one entry"));
            }
            match header.type_flag() {
                b'x' | b'X' => pax = Pax::parse(&self.special()?)?,
                b'L' => long_name = Some(c_string(self.special()?)),
                b'K' => long_link = Some(c_string(self.special()?)),
                // Global records (git puts a comment there) and volume labels say nothing about files.
                b'g' | b'V' => special -= 1,
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// Some of the current entry's data; empty at its end.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let remaining = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let bytes = self.source.fill_buf()?;
        if bytes.is_empty() {
            return Err(TarError::Truncated);
        }
        Ok(&bytes[..bytes.len().min(remaining)])
    }

    /// Marks bytes that [`Reader::data`] returned as read, and as written at this offset of the layer file.
    pub fn consume_stored(&mut self, count: usize, at: u64) {
        self.source.consume_stored(count, at);
        self.remaining -= count as u64;
        self.position += count as u64;
    }

    /// Marks bytes that [`Reader::data`] returned as read.
    pub fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.remaining -= count as u64;
        self.position += count as u64;
    }

    /// What follows the archive's end, which digests still cover.
    pub fn into_source(self) -> S {
        self.source
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.done {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        // An archive without its two zero blocks is accepted at a block's boundary, as GNU tar and Go do.
        if self.source.fill_buf()?.is_empty() {
            self.done = true;
            // Not even one header: an empty stream is not an archive.
            return if self.position == 0 { Err(TarError::Truncated) } else { Ok(None) };
        }
        self.exact(&mut block)?;
        if Header(&block).is_zero() {
            self.done = true;
            return Ok(None);
        }
        Ok(Some(block))
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let mut path = pax.path.clone().or(long_name).unwrap_or_else(|| header.name());
        let link = pax.link_path.clone().or(long_link).unwrap_or_else(|| header.link_name());
        let flag = header.type_flag();
        let kind = match flag {
            // Before ustar, a directory was a file whose name ends in a slash.
            0 | b'0' | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::Hardlink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' | b'4' => {
                let (major, minor) = header.device()?;
                if flag == b'3' {
                    EntryKind::CharDevice(major, minor)
                } else {
                    EntryKind::BlockDevice(major, minor)
                }
            }
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarError::Type(char::from(other))),
        };
        // Only regular files have data; other types may carry a size that means nothing, and Go ignores it for
        // links, devices and directories.
        let has_data = kind == EntryKind::File || flag == b'D';
        let stored = if has_data { pax.size.map_or_else(|| header.size(), Ok)? } else { 0 };
        self.set_remaining(stored)?;
        let sparse = if kind == EntryKind::File { self.sparse(header, &pax)? } else { None };
        if let Some(name) = pax.sparse.name.filter(|_| sparse.is_some()) {
            path = name;
        }
        let size = sparse.as_ref().map_or(self.remaining, |map| map.real_size);
        if size > limits::MAX_FILE {
            return Err(TarError::FileSize(size));
        }
        Ok(Entry {
            path,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            size: if kind == EntryKind::File { size } else { 0 },
            sparse: sparse.map(|map| map.runs),
            xattrs: pax.xattrs,
            offset: self.position,
            kind,
        })
    }

    fn sparse(&mut self, header: &Header<'_>, pax: &Pax) -> Result<Option<SparseMap>, TarError> {
        let (runs, real_size) = if header.type_flag() == b'S' {
            let (mut runs, mut more, real_size) = header.gnu_sparse()?;
            while more {
                let mut block = [0; BLOCK];
                self.exact(&mut block)?;
                runs.extend(sparse_runs(&block[..504])?);
                more = block[504] == 1;
                if runs.len() > limits::MAX_SPARSE_RUNS {
                    return Err(TarError::Sparse("too many runs"));
                }
            }
            (runs, real_size)
        } else {
            let real_size = pax.sparse.real_size;
            match (pax.sparse.major, pax.sparse.minor) {
                (Some(1), Some(0)) => {
                    let runs = self.map_in_data()?;
                    (runs, real_size.ok_or(TarError::Sparse("no real size"))?)
                }
                (None | Some(0), _) if pax.sparse.has_map => {
                    (pax.sparse.runs.clone(), real_size.ok_or(TarError::Sparse("no real size"))?)
                }
                (None, None) => return Ok(None),
                _ => return Err(TarError::Sparse("unknown version")),
            }
        };
        SparseMap::new(runs, real_size, self.remaining).map(Some)
    }

    fn map_in_data(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut parser = MapParser::default();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(TarError::Sparse("the map has no end"));
            }
            let mut block = [0; BLOCK];
            self.exact(&mut block)?;
            self.remaining -= BLOCK as u64;
            if parser.block(&block)? {
                return Ok(parser.runs());
            }
        }
    }

    fn set_remaining(&mut self, size: u64) -> Result<(), TarError> {
        if size > limits::MAX_FILE {
            return Err(TarError::FileSize(size));
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The whole data of a header that describes the next one.
    fn special(&mut self) -> Result<Vec<u8>, TarError> {
        if self.remaining > limits::MAX_SPECIAL_HEADER {
            return Err(TarError::SpecialHeader(self.remaining));
        }
        let mut bytes = vec![0; self.remaining as usize];
        self.exact(&mut bytes)?;
        self.remaining = 0;
        Ok(bytes)
    }

    fn exact(&mut self, out: &mut [u8]) -> Result<(), TarError> {
        self.source.read_exact(out).map_err(truncated)?;
        self.position += out.len() as u64;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        self.source.skip(count).map_err(truncated)?;
        self.position += count;
        Ok(())
    }
}

fn truncated(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated,
        _ => TarError::Io(error),
    }
}

/// GNU's long names end in a NUL.
fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
    bytes
}
