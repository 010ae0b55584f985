//! What is behind a block device: one file, several that look like one, or for the time being nothing.

use super::{BlockConfigError, SECTOR};
use crate::virtio::io::{fallocate, read_exact_at, write_all_at};
use crate::virtio::{Chain, GuestMemory};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

static ZEROES: [u8; 65536] = [0; 65536];

/// The files in order. Ranges given to its methods were checked against [`Self::len`].
pub(super) struct Disk {
    parts: Vec<Part>,
    len: u64,
    read_only: bool,
}

struct Part {
    start: u64,
    end: u64,
    file: File,
}

impl Disk {
    pub(super) fn new(id: &str, files: Vec<File>, read_only: bool) -> Result<Self, BlockConfigError> {
        let mut parts = Vec::with_capacity(files.len());
        let mut start: u64 = 0;
        for (index, mut file) in files.into_iter().enumerate() {
            let failed = |source| BlockConfigError::Io { id: id.to_owned(), index, source };
            // Unlike the metadata's length this is right for block devices too.
            let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
            if len % SECTOR != 0 {
                return Err(BlockConfigError::Size { id: id.to_owned(), index, len });
            }
            let end = start.checked_add(len).ok_or_else(|| failed(io::ErrorKind::FileTooLarge.into()))?;
            parts.push(Part { start, end, file });
            start = end;
        }
        Ok(Self { parts, len: start, read_only })
    }

    /// A drive without a medium: one sector of zeroes. Not none, because Linux does not announce a change from or to an empty
    /// disk (`set_capacity_and_notify` in block/genhd.c).
    pub(super) fn without_medium(read_only: bool) -> Self {
        Self { parts: Vec::new(), len: SECTOR, read_only }
    }

    pub(super) fn has_medium(&self) -> bool {
        !self.parts.is_empty()
    }

    /// In bytes, whole sectors.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Reads `len` bytes at `position` into the writable part of a chain.
    pub(super) fn read(
        &self,
        memory: &GuestMemory,
        chain: &Chain,
        position: u64,
        len: u32,
    ) -> io::Result<()> {
        if !self.has_medium() {
            // The caller checked the range, so this is a sector at most.
            chain.write_at(memory, 0, &ZEROES[..(len as usize).min(ZEROES.len())]);
            return Ok(());
        }
        self.each(position, len, |part, at, done, len| {
            read_exact_at(&part.file, chain.writable_slices(memory, done, len), at)
        })
    }

    /// Writes `len` bytes of the readable part of a chain, from `skip` on, to `position`.
    pub(super) fn write(
        &self,
        memory: &GuestMemory,
        chain: &Chain,
        skip: u32,
        position: u64,
        len: u32,
    ) -> io::Result<()> {
        self.each(position, len, |part, at, done, len| {
            write_all_at(&part.file, chain.readable_slices(memory, skip + done, len), at)
        })
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.read_only {
            // Nothing to write back.
            true => Ok(()),
            // What was written may have gone with a medium that is out.
            false => self.only()?.sync_data(),
        }
    }

    /// The file of a disk that can be written to.
    fn only(&self) -> io::Result<&File> {
        self.parts.first().map(|part| &part.file).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEDIUM))
    }

    /// Gives space back; what it holds afterwards is undefined, so a file system that can't do it does nothing.
    pub(super) fn discard(&self, position: u64, len: u64) -> io::Result<()> {
        match fallocate(self.only()?, libc::FALLOC_FL_PUNCH_HOLE, position, len) {
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// Makes a range read as zeroes, giving its space back if `unmap`.
    pub(super) fn write_zeroes(&self, position: u64, len: u64, unmap: bool) -> io::Result<()> {
        let file = self.only()?;
        let mode = if unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
        match fallocate(file, mode, position, len) {
            Err(error) if is_unsupported(&error) => {
                let (mut at, end) = (position, position + len);
                while at < end {
                    let count = (end - at).min(ZEROES.len() as u64) as usize;
                    file.write_all_at(&ZEROES[..count], at)?;
                    at += count as u64;
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Cuts a range where files meet.
    fn each(
        &self,
        position: u64,
        len: u32,
        mut one: impl FnMut(&Part, u64, u32, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        let first = self.parts.partition_point(|part| part.end <= position);
        for part in &self.parts[first..] {
            if done == len {
                break;
            }
            let at = position + u64::from(done);
            let here = u32::try_from(part.end - at).unwrap_or(u32::MAX).min(len - done);
            if here > 0 {
                one(part, at - part.start, done, here)?;
                done += here;
            }
        }
        if done == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV))
}
