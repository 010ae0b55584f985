//! What is behind a block device: one file, several that look like one, or for the time being nothing.

use super::direct::{self, Bounce};
use super::{BlockConfigError, SECTOR};
use crate::data_file;
use crate::log;
use crate::virtio::io::{fallocate, read_exact_at, write_all_at};
use crate::virtio::{Chain, GuestMemory};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use vm_memory::VolatileSlice;

/// Aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; 65536]);

static ZEROES: Zeroes = Zeroes([0; 65536]);

/// The files in order. Ranges given to its methods were checked against [`Self::len`].
pub(super) struct Disk {
    parts: Vec<Part>,
    len: u64,
    read_only: bool,
    // What addresses, lengths and positions of direct I/O are multiples of.
    direct: Option<u32>,
}

struct Part {
    start: u64,
    end: u64,
    file: File,
}

impl Disk {
    /// `direct` goes around the host's page cache.
    pub(super) fn new(
        id: &str,
        files: Vec<File>,
        read_only: bool,
        direct: bool,
    ) -> Result<Self, BlockConfigError> {
        let single = files.len() == 1;
        let mut parts = Vec::with_capacity(files.len());
        let mut start: u64 = 0;
        let mut alignment = direct.then_some(SECTOR as u32);
        for (index, mut file) in files.into_iter().enumerate() {
            let failed = |source| BlockConfigError::Io { id: id.to_owned(), index, source };
            data_file::check_disk(&file, read_only).map_err(|source| BlockConfigError::Unfit {
                id: id.to_owned(),
                index,
                source,
            })?;
            // Unlike the metadata's length this is right for block devices too.
            let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
            let rest = len % SECTOR;
            if rest != 0 && !single {
                return Err(BlockConfigError::Size { id: id.to_owned(), index, len });
            }
            if let Some(alignment) = &mut alignment {
                let id = || id.to_owned();
                let found = direct::switch_on(&file);
                *alignment = found
                    .map_err(|source| BlockConfigError::Direct { id: id(), index, source })?
                    .max(*alignment);
                if !len.is_multiple_of((*alignment).into()) {
                    return Err(BlockConfigError::DirectSize { id: id(), index, len, block: *alignment });
                }
            }
            if rest != 0 {
                log!(
                    Warning,
                    "Disk size {len} is not a multiple of sector size {SECTOR}; the remainder will not be visible to the guest."
                );
            }
            let end =
                start.checked_add(len - rest).ok_or_else(|| failed(io::ErrorKind::FileTooLarge.into()))?;
            parts.push(Part { start, end, file });
            start = end;
        }
        Ok(Self { parts, len: start, read_only, direct: alignment })
    }

    /// A drive without a medium: one sector of zeroes. Not none, because Linux does not announce a change from or to an empty
    /// disk (`set_capacity_and_notify` in block/genhd.c).
    pub(super) fn without_medium(read_only: bool) -> Self {
        Self { parts: Vec::new(), len: SECTOR, read_only, direct: None }
    }

    /// A disk that answers a read when somebody has written as much into the other end of its pipe.
    #[cfg(test)]
    pub(super) fn of_pipe(reader: std::io::PipeReader, len: u64) -> Self {
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        Self { parts: vec![Part { start: 0, end: len, file }], len, read_only: true, direct: None }
    }

    pub(super) fn has_medium(&self) -> bool {
        !self.parts.is_empty()
    }

    /// In bytes, whole sectors.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of what the guest had better read and write at a time.
    pub(super) fn block(&self) -> u32 {
        self.direct.unwrap_or(SECTOR as u32)
    }

    /// The file, if there is just one.
    pub(super) fn single(&self) -> Option<&File> {
        if let [part] = &self.parts[..] { Some(&part.file) } else { None }
    }

    /// The files, for a look at how long they are by now.
    pub(super) fn copies(&self) -> io::Result<Vec<File>> {
        self.parts.iter().map(|part| part.file.try_clone()).collect()
    }

    /// Whether these ranges can be read or written as they are.
    pub(super) fn takes(&self, slices: &[VolatileSlice<'_>], position: u64) -> bool {
        self.direct.is_none_or(|alignment| direct::is_aligned(slices, position, alignment))
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
            chain.write_at(memory, 0, &ZEROES.0[..(len as usize).min(ZEROES.0.len())]);
            return Ok(());
        }
        self.each(position, len, |part, at, done, len| {
            let slices = chain.writable_slices(memory, done, len);
            if self.takes(&slices, at) {
                return read_exact_at(&part.file, slices, at);
            }
            Bounce::new(len, self.block())?.read(&part.file, &slices, at)
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
            let slices = chain.readable_slices(memory, skip + done, len);
            if self.takes(&slices, at) {
                return write_all_at(&part.file, slices, at);
            }
            Bounce::new(len, self.block())?.write(&part.file, &slices, at)
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
                    let count = (end - at).min(ZEROES.0.len() as u64) as usize;
                    file.write_all_at(&ZEROES.0[..count], at)?;
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

/// Whether copies of these files make a disk; they are as they were afterwards, but for the position.
///
/// # Errors
/// They make none.
pub fn check(id: &str, files: &[File], read_only: bool, direct: bool) -> Result<(), BlockConfigError> {
    let copy = |(index, file): (usize, &File)| {
        file.try_clone().map_err(|source| BlockConfigError::Io { id: id.to_owned(), index, source })
    };
    let files = files.iter().enumerate().map(copy).collect::<Result<_, _>>()?;
    Disk::new(id, files, read_only, direct).map(drop)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV))
}
