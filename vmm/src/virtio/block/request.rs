//! One request: section 5.2.6. A header, data, and a status byte at the very end.

use super::disk::Disk;
use super::{SECTOR, SERIAL_LEN};
use crate::virtio::{Chain, GuestMemory, RingError};
use std::io;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

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
    /// Sectors of one range to discard.
    pub(super) const DISCARD_SECTORS: u32 = 1 << 21;
    /// Ranges of one discard.
    pub(super) const DISCARD_RANGES: u32 = 16;
    /// Sectors of one range to write zeroes to: 8 MiB, since it may come down to writing them.
    pub(super) const ZERO_SECTORS: u32 = 1 << 14;
    /// Ranges of one write-zeroes.
    pub(super) const ZERO_RANGES: u32 = 1;
}

/// Why a request failed, as its status byte says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
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

/// What a request counts for in a rate limiter: its data, whatever it is.
pub(super) fn bytes(chain: &Chain) -> u64 {
    let data = chain.readable_len().saturating_sub(HEADER as u32).max(chain.writable_len().saturating_sub(1));
    data.into()
}

/// Does what a request says, writes its status, and returns how many bytes were written.
///
/// # Errors
/// There is no room for a status.
pub(super) fn serve(
    memory: &GuestMemory,
    chain: &Chain,
    disk: &Disk,
    serial: &[u8; SERIAL_LEN],
    write_through: bool,
) -> Result<u32, RingError> {
    let Some(room) = chain.writable_len().checked_sub(1) else {
        return Err(RingError::Malformed("has no place for its status"));
    };
    let result = Request { memory, chain, disk, serial, write_through, room }.run();
    let (status, written) = match result {
        Ok(written) => (VIRTIO_BLK_S_OK, written),
        Err(Failure::Io) => (VIRTIO_BLK_S_IOERR, 0),
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
    };
    chain.write_at(memory, room, &[status as u8]);
    Ok(written + 1)
}

struct Request<'a> {
    memory: &'a GuestMemory,
    chain: &'a Chain,
    disk: &'a Disk,
    serial: &'a [u8; SERIAL_LEN],
    write_through: bool,
    // Writable bytes before the status.
    room: u32,
}

impl Request<'_> {
    fn run(&self) -> Result<u32, Failure> {
        let mut header = [0; HEADER];
        if self.chain.read_at(self.memory, 0, &mut header) != HEADER {
            return Err(Failure::Io);
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (u32::from_le_bytes([k0, k1, k2, k3]), u64::from_le_bytes(sector));
        let data = self.chain.readable_len() - HEADER as u32;
        match kind {
            VIRTIO_BLK_T_IN => {
                let position = self.range(sector, self.room)?;
                self.disk.read(self.memory, self.chain, position, self.room)?;
                Ok(self.room)
            }
            VIRTIO_BLK_T_OUT => {
                self.check_writable()?;
                let position = self.range(sector, data)?;
                self.disk.write(self.memory, self.chain, HEADER as u32, position, data)?;
                self.after_write()
            }
            VIRTIO_BLK_T_FLUSH => {
                self.disk.flush()?;
                Ok(0)
            }
            VIRTIO_BLK_T_GET_ID => {
                let len = (self.room as usize).min(SERIAL_LEN);
                self.chain.write_at(self.memory, 0, &self.serial[..len]);
                Ok(len as u32)
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                self.check_writable()?;
                self.ranges(kind == VIRTIO_BLK_T_DISCARD, data)?;
                self.after_write()
            }
            _ => Err(Failure::Unsupported),
        }
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.disk.is_read_only() { Err(Failure::Io) } else { Ok(()) }
    }

    fn after_write(&self) -> Result<u32, Failure> {
        if self.write_through {
            self.disk.flush()?;
        }
        Ok(0)
    }

    /// Where a read or write of `len` bytes at `sector` begins, in bytes.
    fn range(&self, sector: u64, len: u32) -> Result<u64, Failure> {
        if len > Limits::BYTES || !u64::from(len).is_multiple_of(SECTOR) {
            return Err(Failure::Io);
        }
        position(self.disk, sector, len.into())
    }

    fn ranges(&self, discard: bool, data: u32) -> Result<(), Failure> {
        let (sectors, ranges) = if discard {
            (Limits::DISCARD_SECTORS, Limits::DISCARD_RANGES)
        } else {
            (Limits::ZERO_SECTORS, Limits::ZERO_RANGES)
        };
        if data == 0 || !data.is_multiple_of(RANGE as u32) || data / RANGE as u32 > ranges {
            return Err(Failure::Io);
        }
        for index in 0..data / RANGE as u32 {
            let mut raw = [0; RANGE];
            if self.chain.read_at(self.memory, HEADER as u32 + index * RANGE as u32, &mut raw) != RANGE {
                return Err(Failure::Io);
            }
            let range = Range::parse(raw);
            // Section 5.2.6.2: unknown flags, and unmap for a discard, are unsupported.
            if range.flags & !UNMAP != 0 || discard && range.flags != 0 {
                return Err(Failure::Unsupported);
            }
            if range.sectors > sectors {
                return Err(Failure::Io);
            }
            let len = u64::from(range.sectors) * SECTOR;
            let position = position(self.disk, range.sector, len)?;
            match (len, discard) {
                (0, _) => {}
                (_, true) => self.disk.discard(position, len)?,
                (_, false) => self.disk.write_zeroes(position, len, range.flags & UNMAP != 0)?,
            }
        }
        Ok(())
    }
}

struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
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
