//! Requests that are under way in a ring, each with what it needs until it has landed: its buffers, and the disk that it is for.

use super::disk::Disk;
use super::request::Task;
use super::ring::{Op, Ring};
use crate::virtio::io::{Vectors, dirty};
use crate::virtio::patience::Patience;
use crate::virtio::{Chain, GuestMemory};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it was done.
    Done,
    /// It is to be done again, without the ring: part of it is missing, or the kernel could not do it this way.
    Again,
    /// The disk failed.
    Failed,
}

/// A request under way. Values are used again, with their buffers.
pub(super) struct Flight {
    pub(super) chain: Chain,
    pub(super) task: Task,
    pub(super) disk: Arc<Disk>,
    vectors: Vectors,
    op: Op,
}

/// The requests of one queue.
pub(super) struct Flights {
    ring: Ring,
    room: usize,
    // Whose file is registered.
    registered: Weak<Disk>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    spare: Vec<(Chain, Vectors)>,
}

impl AsRawFd for Flights {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Flights {
    /// `ring` was made for so many requests, and for this disk's file.
    pub(super) fn new(ring: Ring, room: u16, disk: &Arc<Disk>) -> Self {
        let registered = Arc::downgrade(disk);
        Self { ring, room: room.into(), registered, flights: Vec::new(), free: Vec::new(), spare: Vec::new() }
    }

    pub(super) fn under_way(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.under_way() >= self.room
    }

    /// Whether requests for this disk can go through the ring.
    fn reaches(&mut self, disk: &Arc<Disk>) -> bool {
        let registered = std::ptr::eq(self.registered.as_ptr(), Arc::as_ptr(disk));
        registered || self.under_way() == 0 && self.follow(disk)
    }

    /// Registers the file of another disk, if it is of just one, now that nothing is under way.
    fn follow(&mut self, disk: &Arc<Disk>) -> bool {
        let followed = self.ring.exchange(disk.single()).is_ok();
        if followed {
            self.registered = Arc::downgrade(disk);
        }
        followed
    }

    /// Lets go of the file of a disk that was exchanged for this one. Nothing is under way.
    pub(super) fn change(&mut self, disk: &Arc<Disk>) {
        if !std::ptr::eq(self.registered.as_ptr(), Arc::as_ptr(disk)) {
            self.follow(disk);
        }
    }

    /// Prepares a request and takes its chain, leaving another value there. False if it has to be done without the ring.
    pub(super) fn start(
        &mut self,
        memory: &GuestMemory,
        chain: &mut Chain,
        task: Task,
        disk: &Arc<Disk>,
    ) -> bool {
        let (op, position) = match task {
            // Nothing to write back.
            Task::Flush if disk.is_read_only() => return false,
            Task::Flush => (Op::Sync, 0),
            Task::Read { len: 0, .. } | Task::Write { len: 0, .. } => return false,
            Task::Read { position, .. } => (Op::Read, position),
            Task::Write { position, .. } => (Op::Write, position),
            Task::Serial | Task::Discard { .. } | Task::Zeroes { .. } => return false,
        };
        let slices = task.slices(memory, chain);
        if disk.single().is_none() || !disk.takes(&slices, position) || !self.reaches(disk) {
            return false;
        }
        let (mut spare, mut vectors) = self.spare.pop().unwrap_or_default();
        vectors.fill(&slices);
        std::mem::swap(chain, &mut spare);
        let flight = Flight { chain: spare, task, disk: Arc::clone(disk), vectors, op };
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        let flight = self.flights[index].insert(flight);
        // SAFETY: guest memory is never unmapped; the heap memory of `vectors` stays where it is while the flight is here, which it
        // is until it has landed.
        unsafe { self.ring.push(op, &flight.vectors, position, index as u64) };
        true
    }

    /// Gives what was prepared to the kernel; false if it takes no more for now.
    pub(super) fn submit(&mut self) -> bool {
        self.ring.submit().is_ok()
    }

    /// Comes back when something has landed, or may have, or false after `patience`.
    pub(super) fn wait(&mut self, patience: Patience) -> bool {
        self.ring.wait(patience)
    }

    /// The next request that has landed; to be given back with [`Self::put_back`]. With `write_through` a write lands when it is durable.
    pub(super) fn land(&mut self, memory: &GuestMemory, write_through: bool) -> Option<(Flight, Outcome)> {
        loop {
            let (id, result) = self.ring.completed()?;
            let index = usize::try_from(id).unwrap_or(usize::MAX);
            let Some(flight) = self.flights.get_mut(index).and_then(Option::as_mut) else { continue };
            let outcome = outcome(flight.task, flight.op, result);
            if (outcome, flight.op) == (Outcome::Done, Op::Write) && write_through {
                flight.op = Op::Sync;
                // SAFETY: a sync names no memory.
                unsafe { self.ring.push(Op::Sync, &flight.vectors, 0, id) };
                continue;
            }
            if flight.op == Op::Read
                && let Ok(read) = usize::try_from(result)
            {
                dirty(&flight.task.slices(memory, &flight.chain), read);
            }
            let flight = self.flights[index].take();
            self.free.push(index);
            return flight.map(|flight| (flight, outcome));
        }
    }

    /// Keeps the buffers of a request that was answered.
    pub(super) fn put_back(&mut self, flight: Flight) {
        self.spare.push((flight.chain, flight.vectors));
    }
}

fn outcome(task: Task, op: Op, result: i32) -> Outcome {
    let wanted = match (op, task) {
        (Op::Sync, _) => 0,
        (_, Task::Read { len, .. } | Task::Write { len, .. }) => len,
        _ => 0,
    };
    match u32::try_from(result) {
        Ok(done) if done == wanted => Outcome::Done,
        // Cut short by the file's end or a full disk, which doing the rest will tell.
        Ok(_) => Outcome::Again,
        Err(_) => match result.saturating_neg() {
            // No thread or no memory for it in the kernel, or a request that it can't do this way.
            libc::EAGAIN | libc::EINTR | libc::ECANCELED | libc::ENOMEM | libc::EINVAL | libc::EOPNOTSUPP => {
                Outcome::Again
            }
            // Never again for a sync: the kernel tells of lost writes once.
            _ => Outcome::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_request_shows_in_its_number() {
        let read = Task::Read { position: 0, len: 1024 };
        for (op, result, expected) in [
            (Op::Read, 1024, Outcome::Done),
            (Op::Read, 512, Outcome::Again),
            (Op::Read, 0, Outcome::Again),
            (Op::Read, -libc::ECANCELED, Outcome::Again),
            (Op::Read, -libc::EIO, Outcome::Failed),
            (Op::Sync, 0, Outcome::Done),
            (Op::Sync, -libc::EIO, Outcome::Failed),
            (Op::Sync, -libc::ENOSPC, Outcome::Failed),
            (Op::Sync, i32::MIN, Outcome::Failed),
        ] {
            assert_eq!(outcome(read, op, result), expected, "{op:?} {result}");
        }
    }
}
