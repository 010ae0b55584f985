//! One request: section 5.2.6. A header, data, and a status byte at the very end.

use super::disk::Disk;
use super::{SECTOR, SERIAL_LEN};
use crate::virtio::{Chain, GuestMemory, RingError};
use std::io;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::VolatileSlice;

const HEADER: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const RANGE: usize = 16;
const UNMAP: u32 = 1;

/// What one request may ask for, as offered in the configuration space: it bounds how long the loop is held up.
pub(super) struct Limits;

impl Limits {
    /// Bytes of one segment.
    pub(super) const SEGMENT_BYTES: u32 = 128 << 10;
    /// Segments of one request; header and status take two more of the queue's 128.
    pub(super) const SEGMENTS: u32 = 126;
    /// Bytes of one read or write.
    const BYTES: u32 = Self::SEGMENT_BYTES * Self::SEGMENTS;
    /// Sectors of one range to discard: 32 MiB, so that a whole request is half a GiB. Where the page cache has all of that, it is some
    /// tens of milliseconds' work.
    pub(super) const DISCARD_SECTORS: u32 = 1 << 16;
    /// Ranges of one discard.
    pub(super) const DISCARD_RANGES: u32 = 16;
    /// Sectors of one range to write zeroes to: 8 MiB, since it may come down to writing them.
    pub(super) const ZERO_SECTORS: u32 = 1 << 14;
    /// Ranges of one write-zeroes.
    pub(super) const ZERO_RANGES: u32 = 1;
}

/// Why a request failed, as its status byte says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// VIRTIO_BLK_S_IOERR.
    Io,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// What a request counts for in a rate limiter: its data, whatever it is; or as many zeroes as it has written. A discard moves no data,
/// and counts as its list and an operation.
pub(super) fn bytes(chain: &Chain, task: Result<Task, Failure>) -> u64 {
    let data = chain.readable_len().saturating_sub(HEADER as u32).max(chain.writable_len().saturating_sub(1));
    match task {
        Ok(Task::Zeroes { len, .. }) => u64::from(data).max(len),
        _ => data.into(),
    }
}

/// What a request asks for, checked against the disk that it was parsed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// `len` bytes at `position`, into the writable part.
    Read { position: u64, len: u32 },
    /// `len` bytes of the readable part, behind the header, to `position`.
    Write { position: u64, len: u32 },
    /// What was written becomes durable.
    Flush,
    /// The serial.
    Serial,
    /// `data` bytes of ranges behind the header, to be discarded.
    Discard { data: u32 },
    /// `len` bytes at `position`, to be overwritten with zeroes; their space may be given back if `unmap`.
    Zeroes { position: u64, len: u64, unmap: bool },
}

/// What tasks are done with.
pub(super) struct Tools<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) disk: &'a Disk,
    pub(super) serial: &'a [u8; SERIAL_LEN],
    /// Whether what was written is durable when that is answered.
    pub(super) write_through: bool,
}

/// Writable bytes before the status.
///
/// # Errors
/// There is no room for a status.
fn room(chain: &Chain) -> Result<u32, RingError> {
    chain.writable_len().checked_sub(1).ok_or(RingError::Malformed("has no place for its status"))
}

/// Reads what a request asks for, of a driver that has accepted `features`; or the status that it gets at once.
///
/// # Errors
/// There is no room for a status, or it is no memory.
pub(super) fn parse(
    memory: &GuestMemory,
    chain: &Chain,
    disk: &Disk,
    features: u64,
) -> Result<Result<Task, Failure>, RingError> {
    let room = room(chain)?;
    if let Some(elsewhere) = chain.elsewhere() {
        // Data may lie where a program of the guest has put it; its status lies where the driver has.
        return match chain.write_at(memory, room, &[VIRTIO_BLK_S_IOERR as u8]) {
            1 => Ok(Err(Failure::Io)),
            _ => Err(elsewhere.no_memory()),
        };
    }
    let mut header = [0; HEADER];
    if chain.read_at(memory, 0, &mut header) != HEADER {
        return Ok(Err(Failure::Io));
    }
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
    let (kind, sector) = (u32::from_le_bytes([k0, k1, k2, k3]), u64::from_le_bytes(sector));
    let data = chain.readable_len() - HEADER as u32;
    let writable = || if disk.is_read_only() { Err(Failure::Io) } else { Ok(()) };
    let accepted = |bit: u32| if features & 1 << bit != 0 { Ok(()) } else { Err(Failure::Unsupported) };
    Ok(match kind {
        VIRTIO_BLK_T_IN => range(disk, sector, room).map(|position| Task::Read { position, len: room }),
        VIRTIO_BLK_T_OUT => writable()
            .and_then(|()| range(disk, sector, data))
            .map(|position| Task::Write { position, len: data }),
        VIRTIO_BLK_T_FLUSH => Ok(Task::Flush),
        VIRTIO_BLK_T_GET_ID => Ok(Task::Serial),
        VIRTIO_BLK_T_DISCARD => writable()
            .and_then(|()| accepted(VIRTIO_BLK_F_DISCARD))
            .and_then(|()| count(data, Limits::DISCARD_RANGES))
            .map(|_| Task::Discard { data }),
        VIRTIO_BLK_T_WRITE_ZEROES => writable()
            .and_then(|()| accepted(VIRTIO_BLK_F_WRITE_ZEROES))
            .and_then(|()| count(data, Limits::ZERO_RANGES))
            .and_then(|_| Range::read(memory, chain, 0)?.place(disk, UNMAP, Limits::ZERO_SECTORS))
            .map(|(position, len, flags)| Task::Zeroes { position, len, unmap: flags & UNMAP != 0 }),
        _ => Err(Failure::Unsupported),
    })
}

/// Writes the status of a request that [`parse`] has seen, and returns how many bytes were written. `result` is what the task wrote.
pub(super) fn finish(memory: &GuestMemory, chain: &Chain, result: Result<u32, Failure>) -> u32 {
    let (status, written) = match result {
        Ok(written) => (VIRTIO_BLK_S_OK, written),
        Err(Failure::Io) => (VIRTIO_BLK_S_IOERR, 0),
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
    };
    chain.write_at(memory, chain.writable_len().saturating_sub(1), &[status as u8]);
    written + 1
}

/// Effort of a turn: bytes moved, some milliseconds' worth.
pub(super) const TURN: u64 = 4 << 20;

impl Task {
    /// What it takes to wait for it, in bytes that could be moved meanwhile: a whole turn where the disk alone knows.
    pub(super) fn effort(self, write_through: bool) -> u64 {
        match self {
            Self::Serial => 0,
            Self::Read { len, .. } => len.into(),
            Self::Flush | Self::Discard { .. } => TURN,
            Self::Write { .. } | Self::Zeroes { .. } if write_through => TURN,
            Self::Write { len, .. } => len.into(),
            Self::Zeroes { len, .. } => len,
        }
    }

    /// Does it, waiting for the disk, and returns how many bytes it wrote into the writable part.
    pub(super) fn perform(self, tools: &Tools<'_>, chain: &Chain) -> Result<u32, Failure> {
        let Tools { memory, disk, serial, write_through } = *tools;
        match self {
            Self::Read { position, len } => {
                disk.read(memory, chain, position, len)?;
                return Ok(len);
            }
            Self::Serial => {
                let len = (chain.writable_len().saturating_sub(1) as usize).min(SERIAL_LEN);
                chain.write_at(memory, 0, &serial[..len]);
                return Ok(len as u32);
            }
            Self::Flush => {
                disk.flush()?;
                return Ok(0);
            }
            Self::Write { position, len } => disk.write(memory, chain, HEADER as u32, position, len)?,
            Self::Discard { data } => {
                for index in 0..count(data, Limits::DISCARD_RANGES)? {
                    let range = Range::read(memory, chain, index)?;
                    let (position, len, _) = range.place(disk, 0, Limits::DISCARD_SECTORS)?;
                    if len > 0 {
                        disk.discard(position, len)?;
                    }
                }
            }
            Self::Zeroes { len: 0, .. } => {}
            Self::Zeroes { position, len, unmap } => disk.write_zeroes(position, len, unmap)?,
        }
        if write_through {
            disk.flush()?;
        }
        Ok(0)
    }

    /// The part of the chain that a read or write is about.
    pub(super) fn slices<'a>(self, memory: &'a GuestMemory, chain: &Chain) -> Vec<VolatileSlice<'a>> {
        match self {
            Self::Read { len, .. } => chain.writable_slices(memory, 0, len),
            Self::Write { len, .. } => chain.readable_slices(memory, HEADER as u32, len),
            _ => Vec::new(),
        }
    }
}

/// Where a read or write of `len` bytes at `sector` begins, in bytes.
fn range(disk: &Disk, sector: u64, len: u32) -> Result<u64, Failure> {
    if len > Limits::BYTES || !u64::from(len).is_multiple_of(SECTOR) {
        return Err(Failure::Io);
    }
    position(disk, sector, len.into())
}

/// How many ranges there are in so many bytes: one at least, `most` at most.
fn count(data: u32, most: u32) -> Result<u32, Failure> {
    let count = data / RANGE as u32;
    if (1..=most).contains(&count) && data.is_multiple_of(RANGE as u32) {
        Ok(count)
    } else {
        Err(Failure::Io)
    }
}

struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
    /// Reads the one of this number behind the header.
    fn read(memory: &GuestMemory, chain: &Chain, index: u32) -> Result<Self, Failure> {
        let mut raw = [0; RANGE];
        let read = chain.read_at(memory, HEADER as u32 + index * RANGE as u32, &mut raw);
        if read == RANGE { Ok(Self::parse(raw)) } else { Err(Failure::Io) }
    }

    /// Where it begins, how long it is, both in bytes, and its flags, of which only those of `flags` may be set.
    fn place(&self, disk: &Disk, flags: u32, most: u32) -> Result<(u64, u64, u32), Failure> {
        // Section 5.2.6.2: unknown flags, and unmap for a discard, are unsupported.
        if self.flags & !flags != 0 {
            return Err(Failure::Unsupported);
        }
        if self.sectors > most {
            return Err(Failure::Io);
        }
        let len = u64::from(self.sectors) * SECTOR;
        position(disk, self.sector, len).map(|position| (position, len, self.flags))
    }

    fn parse(raw: [u8; RANGE]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = raw;
        Self {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes(flags),
        }
    }
}

fn position(disk: &Disk, sector: u64, len: u64) -> Result<u64, Failure> {
    let start = sector.checked_mul(SECTOR).ok_or(Failure::Io)?;
    match start.checked_add(len) {
        Some(end) if end <= disk.len() => Ok(start),
        _ => Err(Failure::Io),
    }
}
