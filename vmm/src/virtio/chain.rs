//! The one place where a guest's descriptors are checked (virtio 1.2, section 2.7).
//!
//! Each descriptor is read once, so a guest that changes it afterwards changes nothing. What comes out is a list of ranges
//! that lie inside guest memory, readable ones before writable ones, no more of them than the queue has entries.
//!
//! A program in the guest can choose where its data lies, without its kernel's looking: in persistent memory for one, which is no memory of
//! devices (`O_DIRECT` into a mapping of DAX). Devices that carry such data refuse the request ([`Chain::load_any`]); with others it is the
//! driver's fault, and the device's end.

use super::GuestMemory;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

/// How a driver broke a ring. There is no request to answer, so the device stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// More new entries than the ring holds, or rings outside of memory.
    #[error("queue {queue}: {what}")]
    Ring {
        /// Its index.
        queue: u16,
        /// What the library said.
        what: String,
    },
    /// An index into a descriptor table that is too short for it.
    #[error("descriptor {index} does not exist in a table of {size}")]
    NoSuchDescriptor {
        /// What the driver asked for.
        index: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A loop, or just too many.
    #[error("a chain is longer than its queue of {0}")]
    TooLong(u16),
    /// Not memory.
    #[error("a buffer of {len} bytes at {address:#x} is not guest memory")]
    OutOfMemory {
        /// Guest physical.
        address: u64,
        /// In bytes.
        len: u32,
    },
    /// Section 2.7.4.2: device-writable buffers come last.
    #[error("a device-readable buffer follows a device-writable one")]
    ReadableAfterWritable,
    /// Section 2.7.5.3.1.
    #[error("an indirect table that {0}")]
    BadIndirect(&'static str),
    /// Section 2.7.5.2: 2³² bytes at most.
    #[error("the buffers of a chain add up to 4 GiB or more")]
    TooManyBytes,
    /// The device type needs a buffer that the driver left out.
    #[error("a request {0}")]
    Malformed(&'static str),
}

/// A checked range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical.
    pub address: GuestAddress,
    /// In bytes, never 0.
    pub len: u32,
}

impl Segment {
    pub(super) fn no_memory(&self) -> RingError {
        RingError::OutOfMemory { address: self.address.0, len: self.len }
    }
}

/// A request: checked ranges, readable and writable. One value is reused for request after request.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    writable_from: usize,
    readable_len: u32,
    writable_len: u32,
    elsewhere: Option<Segment>,
}

impl Chain {
    /// The descriptor that goes back into the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.writable_from]
    }

    /// What the device may write.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.writable_from..]
    }

    /// Bytes in [`Self::readable`].
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes in [`Self::writable`].
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// A buffer that is no guest memory, after [`Self::load_any`]. It counts in lengths; who reads or writes it finds nothing there.
    pub fn elsewhere(&self) -> Option<Segment> {
        self.elsewhere
    }

    /// Walks the chain that begins at `head` of the table of `size` descriptors at `table`.
    ///
    /// # Errors
    /// The driver broke the specification; this value then has no meaning.
    pub fn load(
        &mut self,
        memory: &GuestMemory,
        table: GuestAddress,
        size: u16,
        head: u16,
    ) -> Result<(), RingError> {
        self.load_any(memory, table, size, head)?;
        self.elsewhere.map_or(Ok(()), |segment| Err(segment.no_memory()))
    }

    /// The same, but buffers may lie anywhere: see [`Self::elsewhere`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_any(
        &mut self,
        memory: &GuestMemory,
        table: GuestAddress,
        size: u16,
        head: u16,
    ) -> Result<(), RingError> {
        self.head = head;
        self.elsewhere = None;
        self.segments.clear();
        self.writable_from = 0;
        self.readable_len = 0;
        self.writable_len = 0;
        let mut walk = Walk { table, size, next: head, indirect: false };
        // The bound is the queue's size for indirect tables too (section 2.7.5.3.1), and it is what ends a loop.
        for _ in 0..size {
            let descriptor = walk.read(memory)?;
            let descriptor = if descriptor.refers_to_indirect_table() {
                walk.enter(&descriptor)?;
                let first = walk.read(memory)?;
                if first.refers_to_indirect_table() {
                    return Err(RingError::BadIndirect("holds another one"));
                }
                first
            } else {
                descriptor
            };
            self.push(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            walk.next = descriptor.next();
        }
        Err(RingError::TooLong(size))
    }

    fn push(&mut self, memory: &GuestMemory, descriptor: &Descriptor) -> Result<(), RingError> {
        let (address, len) = (descriptor.addr(), descriptor.len());
        let writable = descriptor.is_write_only();
        if !writable && self.writable_from < self.segments.len() {
            return Err(RingError::ReadableAfterWritable);
        }
        // Some drivers send empty buffers; they say nothing, so nobody gets to see them.
        if len == 0 {
            return Ok(());
        }
        let total = self.readable_len.checked_add(self.writable_len).and_then(|sum| sum.checked_add(len));
        if total.is_none() {
            return Err(RingError::TooManyBytes);
        }
        let segment = Segment { address, len };
        if !memory.check_range(address, len as usize) {
            self.elsewhere.get_or_insert(segment);
        }
        self.segments.push(segment);
        if writable {
            self.writable_len += len;
        } else {
            self.readable_len += len;
            self.writable_from = self.segments.len();
        }
        Ok(())
    }

    /// Copies from the readable part, from byte `offset` on, and says how much there was.
    pub fn read_at(&self, memory: &GuestMemory, offset: u32, out: &mut [u8]) -> usize {
        copy(memory, self.readable(), offset, out.len(), |slice, done| slice.copy_to(&mut out[done..]))
    }

    /// Copies into the writable part, from byte `offset` on, and says how much fitted.
    pub fn write_at(&self, memory: &GuestMemory, offset: u32, data: &[u8]) -> usize {
        copy(memory, self.writable(), offset, data.len(), |slice, done| {
            let part = &data[done..(done + slice.len()).min(data.len())];
            slice.copy_from(part);
            part.len()
        })
    }

    /// `len` bytes of the readable part from `offset` on, for vectored I/O. Shorter if the part is.
    pub fn readable_slices<'a>(
        &self,
        memory: &'a GuestMemory,
        offset: u32,
        len: u32,
    ) -> Vec<VolatileSlice<'a>> {
        slices(memory, self.readable(), offset, len)
    }

    /// `len` bytes of the writable part from `offset` on, for vectored I/O. Shorter if the part is.
    pub fn writable_slices<'a>(
        &self,
        memory: &'a GuestMemory,
        offset: u32,
        len: u32,
    ) -> Vec<VolatileSlice<'a>> {
        slices(memory, self.writable(), offset, len)
    }
}

/// A place in a descriptor table.
struct Walk {
    table: GuestAddress,
    size: u16,
    next: u16,
    indirect: bool,
}

impl Walk {
    fn read(&self, memory: &GuestMemory) -> Result<Descriptor, RingError> {
        if self.next >= self.size {
            return Err(RingError::NoSuchDescriptor { index: self.next, size: self.size });
        }
        let offset = u64::from(self.next) * size_of::<Descriptor>() as u64;
        let outside = |address| RingError::OutOfMemory { address, len: size_of::<Descriptor>() as u32 };
        let address = self.table.0.checked_add(offset).ok_or_else(|| outside(self.table.0))?;
        let descriptor = memory.read_obj(GuestAddress(address)).map_err(|_| outside(address))?;
        if self.indirect && Descriptor::refers_to_indirect_table(&descriptor) {
            return Err(RingError::BadIndirect("holds another one"));
        }
        Ok(descriptor)
    }

    fn enter(&mut self, descriptor: &Descriptor) -> Result<(), RingError> {
        if descriptor.has_next() {
            return Err(RingError::BadIndirect("is not the end of its chain"));
        }
        let entry = size_of::<Descriptor>() as u32;
        if descriptor.len() == 0 || !descriptor.len().is_multiple_of(entry) {
            return Err(RingError::BadIndirect("is not a number of descriptors long"));
        }
        let size = u16::try_from(descriptor.len() / entry)
            .map_err(|_| RingError::BadIndirect("has more than 65535 entries"))?;
        *self = Self { table: descriptor.addr(), size, next: 0, indirect: true };
        Ok(())
    }
}

fn slices<'a>(
    memory: &'a GuestMemory,
    segments: &[Segment],
    offset: u32,
    len: u32,
) -> Vec<VolatileSlice<'a>> {
    let (mut skip, mut left) = (offset, len);
    let mut found = Vec::with_capacity(segments.len());
    for segment in segments {
        if skip >= segment.len {
            skip -= segment.len;
            continue;
        }
        let part = (segment.len - skip).min(left);
        if part == 0 {
            break;
        }
        // The range was checked when the chain was loaded and memory never shrinks; if it did, the request gets short.
        let start = GuestAddress(segment.address.0.saturating_add(skip.into()));
        found.extend(memory.get_slices(start, part as usize).map_while(Result::ok));
        (skip, left) = (0, left - part);
    }
    found
}

fn copy(
    memory: &GuestMemory,
    segments: &[Segment],
    offset: u32,
    len: usize,
    mut each: impl FnMut(&VolatileSlice<'_>, usize) -> usize,
) -> usize {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    slices(memory, segments, offset, len).iter().fold(0, |done, slice| done + each(slice, done))
}
