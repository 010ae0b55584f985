//! One virtqueue as a device uses it: checked requests come out, used buffers go in, the driver is told.

use super::{Chain, GuestMemory, Interrupt, RingError};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

/// A virtqueue and the event that its driver kicks.
pub struct DeviceQueue {
    index: u16,
    queue: Queue,
    // Shared with the transport, which keeps it open over resets: a number that the event loop knows never means
    // another file.
    event: Arc<EventFd>,
    used_since_signal: bool,
}

impl DeviceQueue {
    pub(super) fn new(index: u16, queue: Queue, event: Arc<EventFd>) -> Self {
        Self { index, queue, event, used_since_signal: false }
    }

    /// What others wake the queue's worker with: as a kick does.
    pub(super) fn waker(&self) -> Arc<EventFd> {
        Arc::clone(&self.event)
    }

    /// What the driver's kick makes readable.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// The most requests that can wait at a time; also the most work that a worker does before others get their turn.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Takes the next request, if there is one.
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, RingError> {
        let popped = self.pop_any(memory, chain)?;
        chain.elsewhere().filter(|_| popped).map_or(Ok(popped), |segment| Err(segment.no_memory()))
    }

    /// The same for devices that answer requests whose buffers are no memory: see [`Chain::elsewhere`].
    ///
    /// # Errors
    /// The driver broke the ring.
    pub fn pop_any(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, RingError> {
        if !self.queue.ready() {
            return Ok(false);
        }
        let (table, size) = (GuestAddress(self.queue.desc_table()), self.queue.size());
        let head = match self.queue.iter(memory) {
            Ok(mut available) => available.next().map(|found| found.head_index()),
            Err(error) => return Err(self.broken(error)),
        };
        match head {
            Some(head) => chain.load_any(memory, table, size, head).map(|()| true),
            None => Ok(false),
        }
    }

    /// How many requests wait. A driver that breaks the ring may say more than it holds; [`Self::pop`] finds out.
    ///
    /// # Errors
    /// The available ring is not memory.
    pub fn waiting(&self, memory: &GuestMemory) -> Result<u16, RingError> {
        if !self.queue.ready() {
            return Ok(0);
        }
        // What a driver wrote before it offered a request is seen by whoever sees the request (section 2.7.13.3).
        let offered = self.queue.avail_idx(memory, Ordering::Acquire).map_err(|error| self.broken(error))?;
        Ok(offered.0.wrapping_sub(self.queue.next_avail()))
    }

    /// Puts the request that was popped last back, untouched.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a request back with `written` bytes in its writable part.
    ///
    /// # Errors
    /// The used ring is not memory.
    pub fn complete(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), RingError> {
        self.used_since_signal = true;
        self.queue.add_used(memory, head, written).map_err(|error| self.broken(error))
    }

    /// Interrupts the driver if requests were given back and it wants to know (section 2.7.7).
    ///
    /// # Errors
    /// The available ring is not memory.
    pub fn signal(&mut self, memory: &GuestMemory, interrupt: &dyn Interrupt) -> Result<(), RingError> {
        if std::mem::take(&mut self.used_since_signal)
            && self.queue.needs_notification(memory).map_err(|error| self.broken(error))?
        {
            interrupt.queue(self.index);
        }
        Ok(())
    }

    /// Asks the driver not to kick while the worker is at the queue anyway.
    ///
    /// # Errors
    /// The used ring is not memory.
    pub fn quiet(&mut self, memory: &GuestMemory) -> Result<(), RingError> {
        self.disabled()
            .map_or(Ok(()), |queue| queue.disable_notification(memory))
            .map_err(|error| self.broken(error))
    }

    /// Asks for kicks again; true if a request came meanwhile, whose kick may never come.
    ///
    /// # Errors
    /// The rings are not memory.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, RingError> {
        self.disabled()
            .map_or(Ok(false), |queue| queue.enable_notification(memory))
            .map_err(|error| self.broken(error))
    }

    /// Kicks the queue in the driver's place, so that the worker comes back to it after others had their turn.
    pub fn come_back(&self) {
        // A counter that is full is readable too.
        let _ = self.event.write(1);
    }

    /// Clears the kick; what it was for is found in the ring.
    pub fn clear_event(&self) {
        let _ = self.event.read();
    }

    /// Takes up a ring where somebody else has left it.
    pub(super) fn move_to(&mut self, next_avail: u16, next_used: u16) {
        self.queue.set_next_avail(next_avail);
        self.queue.set_next_used(next_used);
    }

    /// For a new process.
    pub fn snapshot(&self) -> QueueSnapshot {
        self.queue.state().into()
    }

    fn disabled(&mut self) -> Option<&mut Queue> {
        self.queue.ready().then_some(&mut self.queue)
    }

    fn broken(&self, error: virtio_queue::Error) -> RingError {
        RingError::Ring { queue: self.index, what: error.to_string() }
    }
}

/// [`QueueState`] with a serialised form; the field names are its.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSnapshot {
    /// Entries that the device offers.
    pub max_size: u16,
    /// Tail of the available ring.
    pub next_avail: u16,
    /// Head of the used ring.
    pub next_used: u16,
    /// VIRTIO_F_EVENT_IDX is negotiated.
    pub event_idx_enabled: bool,
    /// Entries that the driver chose.
    pub size: u16,
    /// The driver has set it up.
    pub ready: bool,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring.
    pub avail_ring: u64,
    /// Guest physical address of the used ring.
    pub used_ring: u64,
}

impl From<QueueState> for QueueSnapshot {
    fn from(state: QueueState) -> Self {
        let QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = state;
        Self {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        }
    }
}

impl TryFrom<QueueSnapshot> for Queue {
    type Error = virtio_queue::Error;

    fn try_from(snapshot: QueueSnapshot) -> Result<Self, Self::Error> {
        let QueueSnapshot {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = snapshot;
        Self::try_from(QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        })
    }
}

/// Serves every waiting request, at most a queueful: a driver that refills the ring as fast as it is emptied must not keep
/// the loop from others. `serve` returns how many bytes it wrote.
///
/// # Errors
/// The driver broke the ring, or `serve` says that a request is beyond answering.
pub fn drain(
    queue: &mut DeviceQueue,
    memory: &GuestMemory,
    interrupt: &dyn Interrupt,
    chain: &mut Chain,
    serve: impl FnMut(&Chain) -> Result<u32, RingError>,
) -> Result<(), RingError> {
    drain_while(queue, memory, interrupt, chain, |_| true, serve)
}

/// The same, until `admit` holds a request back: it stays in the ring, and whoever held it back has to see to it that the worker
/// comes again, since the driver has been asked not to kick.
///
/// # Errors
/// As [`drain`].
pub fn drain_while(
    queue: &mut DeviceQueue,
    memory: &GuestMemory,
    interrupt: &dyn Interrupt,
    chain: &mut Chain,
    admit: impl FnMut(&Chain) -> bool,
    mut serve: impl FnMut(&Chain) -> Result<u32, RingError>,
) -> Result<(), RingError> {
    drain_any_while(queue, memory, interrupt, chain, admit, |chain| match chain.elsewhere() {
        Some(segment) => Err(segment.no_memory()),
        None => serve(chain),
    })
}

/// The same for devices that answer requests whose buffers are no memory: see [`Chain::elsewhere`].
///
/// # Errors
/// As [`drain`].
pub fn drain_any_while(
    queue: &mut DeviceQueue,
    memory: &GuestMemory,
    interrupt: &dyn Interrupt,
    chain: &mut Chain,
    mut admit: impl FnMut(&Chain) -> bool,
    mut serve: impl FnMut(&Chain) -> Result<u32, RingError>,
) -> Result<(), RingError> {
    queue.clear_event();
    queue.quiet(memory)?;
    let mut budget = queue.size();
    loop {
        while budget > 0 && queue.pop_any(memory, chain)? {
            if !admit(chain) {
                queue.undo_pop();
                return queue.signal(memory, interrupt);
            }
            budget -= 1;
            let written = serve(chain)?;
            queue.complete(memory, chain.head(), written)?;
        }
        queue.signal(memory, interrupt)?;
        if budget == 0 {
            queue.come_back();
            return Ok(());
        }
        if !queue.listen(memory)? {
            return Ok(());
        }
    }
}

/// The same, until what was done comes to `turn`: the rest waits until others have had theirs. For requests of which some are a thousand
/// times the work of others. `serve` returns how many bytes it wrote and what that took, in the unit of `turn`.
///
/// # Errors
/// As [`drain`].
pub fn drain_in_turns(
    queue: &mut DeviceQueue,
    memory: &GuestMemory,
    interrupt: &dyn Interrupt,
    chain: &mut Chain,
    turn: u64,
    mut serve: impl FnMut(&Chain) -> Result<(u32, u64), RingError>,
) -> Result<(), RingError> {
    let (effort, mut held) = (Cell::new(0u64), false);
    let admit = |_: &Chain| {
        held = effort.get() >= turn;
        !held
    };
    drain_while(queue, memory, interrupt, chain, admit, |chain| {
        let (written, more) = serve(chain)?;
        effort.set(effort.get().saturating_add(more));
        Ok(written)
    })?;
    if held {
        queue.come_back();
    }
    Ok(())
}
