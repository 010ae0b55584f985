//! One io_uring for one queue of one disk (Documentation: io_uring(7)).
//!
//! It is made before the filters, with the disk's file registered, and from then on takes nothing but reads, writes, syncs and the
//! exchange of that file: the kernel's own restrictions see to it (IORING_REGISTER_RESTRICTIONS). Whoever takes over
//! this process can open, send or map nothing through it.

use crate::sys;
use crate::virtio::io::Vectors;
use crate::virtio::patience::Patience;
use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Kernel threads for what can't be done without waiting, of each of the two kinds that there are. They count as the process's own, so
/// its cgroup's limit on threads has to have room for them.
const KERNEL_THREADS: u32 = 4;
/// The one entry of the table of registered files.
const FILE: Fixed = Fixed(0);
/// Completes an exchange; requests have smaller numbers.
const EXCHANGE: u64 = u64::MAX;

/// What a disk's file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Read,
    Write,
    Sync,
}

/// The ring.
pub struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Ring({})", self.0.as_raw_fd())
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ring {
    /// A ring for so many requests at a time to `file`.
    ///
    /// # Errors
    /// The kernel has no io_uring, forbids it (`kernel.io_uring_disabled`), or lacks restrictions (before 5.10).
    pub fn new(requests: u16, file: &impl AsRawFd) -> io::Result<Self> {
        let build = |kind: fn(&mut io_uring::Builder) -> &mut io_uring::Builder| {
            kind(IoUring::builder().dontfork().setup_r_disabled()).build(requests.into())
        };
        // From 5.19 on: completions wait for the next system call instead of interrupting the thread.
        let ring = build(|builder| builder.setup_coop_taskrun()).or_else(|_| build(|builder| builder))?;
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        // From 5.15 on; before, there may be more of them.
        let _ = submitter.register_iowq_max_workers(&mut [KERNEL_THREADS; 2]);
        let allowed = [
            opcode::Read::CODE,
            opcode::Readv::CODE,
            opcode::Write::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::FilesUpdate::CODE,
        ];
        let flags = Restriction::sqe_flags_allowed(Flags::FIXED_FILE.bits());
        let mut restrictions: Vec<_> = allowed.map(Restriction::sqe_op).into_iter().chain([flags]).collect();
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self(ring))
    }

    /// Prepares a request, which goes to the kernel with the next [`Self::submit`]. There is room: its owner has no more requests
    /// under way than the ring was made for.
    ///
    /// # Safety
    /// The ranges stay mapped, and `vectors` stays where it is, until the request has completed.
    pub(super) unsafe fn push(&mut self, op: Op, vectors: &Vectors, offset: u64, id: u64) {
        let entry = match (op, vectors.as_slice()) {
            (Op::Sync, _) => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
            (Op::Read, [one]) => {
                opcode::Read::new(FILE, one.iov_base.cast(), length(one)).offset(offset).build()
            }
            (Op::Write, [one]) => {
                opcode::Write::new(FILE, one.iov_base.cast(), length(one)).offset(offset).build()
            }
            (Op::Read, all) => {
                opcode::Readv::new(FILE, all.as_ptr(), all.len() as u32).offset(offset).build()
            }
            (Op::Write, all) => {
                opcode::Writev::new(FILE, all.as_ptr(), all.len() as u32).offset(offset).build()
            }
        };
        // SAFETY: by this function's own contract.
        unsafe { self.push_entry(&entry.user_data(id)) };
    }

    /// # Safety
    /// What the entry points to stays there until it has completed.
    pub(super) unsafe fn push_entry(&mut self, entry: &Entry) {
        // SAFETY: as above.
        if unsafe { self.0.submission().push(entry) }.is_err() {
            // The kernel has not taken what was prepared before: it does now, or the entry is lost and its request never answered,
            // which is what a disk that hangs looks like.
            let _ = self.submit();
            // SAFETY: as above.
            let _ = unsafe { self.0.submission().push(entry) };
        }
    }

    /// Gives everything that was prepared to the kernel.
    ///
    /// # Errors
    /// It takes no more for now; what it has not taken stays prepared.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        if self.0.submission().is_empty() {
            return Ok(());
        }
        loop {
            match self.0.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Comes back when something has completed, or may have; false if nothing has within `patience`.
    pub(super) fn wait(&mut self, patience: Patience) -> bool {
        let Some(left) = patience.left() else {
            // Interrupted, or out of memory for a moment: its caller looks and waits again.
            let _ = self.0.submit_and_wait(1);
            return true;
        };
        // The kernel's own wait with a limit is younger (5.11) than its rings with restrictions.
        let _ = self.submit();
        sys::is_readable(&self.0, left) || !left.is_zero()
    }

    /// A request that has completed, and its result: bytes, or a negated error number.
    pub(super) fn completed(&mut self) -> Option<(u64, i32)> {
        self.0.completion().next().map(|entry| (entry.user_data(), entry.result()))
    }

    /// Puts another file, or none, in the place of the registered one. Nothing else is under way.
    pub(super) fn exchange(&mut self, file: Option<&impl AsRawFd>) -> io::Result<()> {
        // -1 takes it out.
        let files = [file.map_or(-1, AsRawFd::as_raw_fd)];
        let entry = opcode::FilesUpdate::new(files.as_ptr(), 1).build().user_data(EXCHANGE);
        // SAFETY: the loop below does not end before it has completed.
        unsafe { self.push_entry(&entry) };
        loop {
            // Nothing but a table in the kernel: no disk is asked.
            self.wait(Patience::Endless);
            let done = self.0.completion().find(|entry| entry.user_data() == EXCHANGE);
            if let Some(done) = done {
                return if done.result() < 0 {
                    Err(io::Error::from_raw_os_error(-done.result()))
                } else {
                    Ok(())
                };
            }
        }
    }
}

fn length(vector: &libc::iovec) -> u32 {
    // No request of ours is longer than 16 MiB.
    u32::try_from(vector.iov_len).unwrap_or(u32::MAX)
}
