//! Files read or mapped into guest memory.

use super::{GuestMemory, MemoryError};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// The host address of `[start, start + len)`, if all of it is RAM of one region.
fn host_range(memory: &GuestMemory, start: u64, len: usize) -> Result<*mut u8, MemoryError> {
    let not_ram = || MemoryError::NotRam { start, end: start.saturating_add(len as u64) };
    let slice = memory.get_slice(GuestAddress(start), len).map_err(|_| not_ram())?;
    Ok(slice.ptr_guard_mut().as_ptr())
}

/// Reads `len` bytes at `offset` of `file` to guest-physical `start`, whatever the file's position is: other processes
/// may share it.
pub fn read_into(
    memory: &GuestMemory,
    file: &File,
    offset: u64,
    start: u64,
    len: usize,
) -> Result<(), MemoryError> {
    let host = host_range(memory, start, len)?;
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        // SAFETY: `host` is valid for `len` bytes, of which `done` are filled. The guest does not run yet or races only
        // with itself: the kernel writes plain bytes and nobody holds a reference to them.
        let result =
            unsafe { libc::pread64(file.as_raw_fd(), host.add(done).cast(), len - done, at.cast_signed()) };
        match usize::try_from(result) {
            Ok(0) => return Err(MemoryError::Truncated(at)),
            Ok(read) => done += read,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                source => return Err(MemoryError::Read { offset: at, source }),
            },
        }
    }
    Ok(())
}

/// Maps `len` bytes at `offset` of `file` privately to guest-physical `start`; all three are multiples of [`PAGE`].
pub fn map_into(
    memory: &GuestMemory,
    file: &File,
    offset: u64,
    start: u64,
    len: usize,
) -> Result<(), MemoryError> {
    let host = host_range(memory, start, len)?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
    // SAFETY: the range is guest memory, which nobody holds a reference into; private pages replace anonymous ones.
    let result =
        unsafe { libc::mmap(host.cast(), len, protection, flags, file.as_raw_fd(), offset.cast_signed()) };
    if result == libc::MAP_FAILED {
        return Err(MemoryError::Read { offset, source: io::Error::last_os_error() });
    }
    Ok(())
}
