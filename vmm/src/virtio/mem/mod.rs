//! virtio-mem (virtio 1.2, section 5.15): memory that the guest takes and gives back in blocks while it runs, up to what it is asked to
//! have.
//!
//! What is not plugged in goes back to the host, and is out of the reach of this process's devices; of processors and vhost as far as whole memory
//! slots go.

mod shared;

#[cfg(test)]
#[path = "."]
mod over_mmio {
    use crate::virtio::testing::Guest;
    #[path = "tests.rs"]
    mod tests;
}
#[cfg(test)]
#[path = "."]
mod over_pci {
    use crate::virtio::testing::PciGuest as Guest;
    #[path = "tests.rs"]
    mod tests;
}

pub use shared::{MemControl, MemError};

use super::queue::drain_in_turns;
use super::worker::{Interest, Source, Worker, WorkerSlot};
use super::{
    ActivateContext, Chain, DeviceError, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError,
    Subscriber, VirtioDevice,
};
use crate::api::config::MemoryHotplug;
use crate::memory::{self, Blocks, Recipe, Slots};
use crate::metrics::{Counter, counters};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use shared::{Answer, Shared};
use std::io;
use std::sync::Arc;
use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZES: [u16; 1] = [64];
/// VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: drivers must not touch what is not plugged in, and here they can't.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1;

/// Blocks after which others get their turn: each may be a slot of its own, which KVM waits for all processors to put in.
const TURN: u64 = 64;

/// Bytes of a request and of a response (5.15.6).
const REQUEST: usize = 24;
const RESPONSE: usize = 10;
const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

counters! {
    /// Counters since the start, under the names of Firecracker's metrics.
    pub struct MemMetrics {
        /// Kicks.
        queue_event_count,
        /// Requests to plug blocks in.
        plug_count,
        /// Bytes of those that were granted.
        plug_bytes,
        /// Those that were not.
        plug_fails,
        /// Requests to unplug blocks.
        unplug_count,
        /// Bytes of those that were granted.
        unplug_bytes,
        /// Those that were not.
        unplug_fails,
        /// Pieces of unplugged memory that the host kept.
        unplug_discard_fails,
        /// Requests to unplug all; each is granted.
        unplug_all_count,
        /// Questions about blocks.
        state_count,
        /// Those about blocks that are not there.
        state_fails,
    }
}

/// The device.
pub struct Mem {
    shared: Arc<Shared>,
    recipe: Recipe,
    worker: WorkerSlot<MemWorker>,
    // From the first driver on.
    cleaner: Option<Cleaner>,
}

impl Mem {
    /// For memory at guest-physical `start`, of this kind, which is in the guest's memory already with these blocks, but in no slot.
    ///
    /// # Errors
    /// No event can be made.
    pub fn new(
        config: MemoryHotplug,
        start: u64,
        (blocks, slots): (Arc<Blocks>, Box<dyn Slots>),
        recipe: Recipe,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(config, start, blocks, slots)?);
        Ok(Self { shared, recipe, worker: WorkerSlot::new(), cleaner: None })
    }

    /// Has a cleaner for the rest of the device's life: what a driver has unplugged goes back whatever becomes of the driver.
    fn have_cleaner(&mut self, context: &ActivateContext) -> Result<(), DeviceError> {
        if self.cleaner.is_some() {
            return Ok(());
        }
        let (shared, memory, recipe) =
            (Arc::clone(&self.shared), context.memory.clone(), self.recipe.clone());
        let waker = context.queues.first().map(DeviceQueue::waker);
        let cleaner = Cleaner { shared, memory, recipe, waker };
        let added = cleaner.clone();
        context
            .workers
            .fire(move |ops| {
                ops.add_subscriber(Box::new(added) as Subscriber);
            })
            .map_err(|source| DeviceError::EventLoop { device: "memory".into(), source })?;
        self.cleaner = Some(cleaner);
        Ok(())
    }

    /// What may be changed and asked while it runs.
    pub fn control(&self) -> MemControl {
        MemControl::new(Arc::clone(&self.shared))
    }
}

impl VirtioDevice for Mem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn name(&self) -> &str {
        "memory"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << F_UNPLUGGED_INACCESSIBLE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_space(&self.shared.config_space(), offset, data);
    }

    fn activate(&mut self, context: ActivateContext) -> Result<(), DeviceError> {
        self.have_cleaner(&context)?;
        let shared = Arc::clone(&self.shared);
        self.worker.start("memory", context, |mut context| {
            Ok(MemWorker {
                queue: context.take_queue(),
                memory: context.memory,
                interrupt: context.interrupt,
                chain: Chain::default(),
                shared,
            })
        })
    }

    fn reset(&mut self) {
        // What is plugged in stays so (5.15.5.1): the next driver finds it, and may unplug all.
        self.worker.stop();
    }

    fn pause(&mut self) -> bool {
        self.worker.pause()
    }

    fn save(&mut self) -> Result<DeviceState, DeviceError> {
        let mut state = self.worker.save("memory")?;
        // A saved state knows of blocks only. A pause alone leaves this to the loop, which goes on: it may take seconds.
        self.cleaner.iter().for_each(|cleaner| while !cleaner.step() {});
        state.device = self.shared.save();
        Ok(state)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        let bad = |why| DeviceError::BadState { device: "memory".into(), why };
        self.shared.restore(state).map_err(bad)
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker.resume()
    }
}

struct MemWorker {
    memory: GuestMemory,
    queue: DeviceQueue,
    interrupt: Arc<dyn Interrupt>,
    chain: Chain,
    shared: Arc<Shared>,
}

impl Worker for MemWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source::readable(self.queue.event(), 0)]
    }

    fn process(&mut self, _token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        let Self { memory, queue, interrupt, chain, shared } = self;
        shared.metrics.queue_event_count.add(1);
        if !shared.is_clean() {
            // The cleaner calls: a request could want a block whose memory is on its way back.
            queue.clear_event();
            return Ok(());
        }
        drain_in_turns(queue, memory, interrupt.as_ref(), chain, TURN, |chain| {
            let mut request = [0; REQUEST];
            if chain.read_at(memory, 0, &mut request) < REQUEST {
                return Err(RingError::Malformed("is too short"));
            }
            let (answer, state) = serve(shared, &request);
            let mut response = [0; RESPONSE];
            response[..2].copy_from_slice(&(answer as u16).to_le_bytes());
            response[8..].copy_from_slice(&state.to_le_bytes());
            match chain.write_at(memory, 0, &response) {
                RESPONSE => Ok((RESPONSE as u32, effort(shared, &request))),
                _ => Err(RingError::Malformed("has no room for its answer")),
            }
        })
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}

fn word(request: &[u8; REQUEST], at: usize) -> u16 {
    u16::from_le_bytes([request[at], request[at + 1]])
}

/// Blocks that a request may touch; a whole turn if it has left something to clean.
fn effort(shared: &Shared, request: &[u8; REQUEST]) -> u64 {
    if !shared.is_clean() {
        return TURN;
    }
    match word(request, 0) {
        UNPLUG_ALL => shared.all_blocks(),
        _ => word(request, 16).into(),
    }
}

/// What becomes of a request: the answer, and for [`STATE`] what it found.
fn serve(shared: &Shared, request: &[u8; REQUEST]) -> (Answer, u16) {
    let address = u64::from_le_bytes(request[8..16].try_into().expect("eight bytes of an array"));
    let blocks = word(request, 16);
    let metrics = &shared.metrics;
    let bytes = u64::from(blocks) * shared.block();
    match word(request, 0) {
        PLUG => {
            let answer = shared.plug(address, blocks);
            count(answer, &metrics.plug_count, &metrics.plug_fails, Some((&metrics.plug_bytes, bytes)));
            (answer, 0)
        }
        UNPLUG => {
            let answer = shared.unplug(address, blocks);
            count(answer, &metrics.unplug_count, &metrics.unplug_fails, Some((&metrics.unplug_bytes, bytes)));
            (answer, 0)
        }
        UNPLUG_ALL => {
            metrics.unplug_all_count.add(1);
            (shared.unplug_all(), 0)
        }
        STATE => {
            let found = shared.state(address, blocks);
            let answer = if found.is_some() { Answer::Ack } else { Answer::Error };
            count(answer, &metrics.state_count, &metrics.state_fails, None);
            (answer, found.unwrap_or(0))
        }
        _ => (Answer::Error, 0),
    }
}

/// Counts a request, and what it came to.
fn count(answer: Answer, all: &Counter, fails: &Counter, granted: Option<(&Counter, u64)>) {
    all.add(1);
    match (answer, granted) {
        (Answer::Ack, Some((bytes, len))) => bytes.add(len),
        (Answer::Ack, None) => {}
        _ => fails.add(1),
    }
}

/// Takes out of the machine, and gives back, what is unplugged: in the loop, step by step, after the guest was answered.
#[derive(Clone)]
struct Cleaner {
    shared: Arc<Shared>,
    memory: GuestMemory,
    recipe: Recipe,
    // Of the queue, whose worker waits.
    waker: Option<Arc<EventFd>>,
}

impl Cleaner {
    /// A step; true if it was the last.
    fn step(&self) -> bool {
        self.shared.clean(|address, len| self.discard(address, len))
    }

    fn discard(&self, address: u64, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let found = self.memory.to_region_addr(GuestAddress(address));
        // It is not plugged in any more, so its region hands none of it out.
        let slice = found.and_then(|(region, offset)| region.mapping().get_slice(offset, len).ok());
        if slice.is_none_or(|slice| memory::discard(&slice, &self.recipe).is_err()) {
            self.shared.metrics.unplug_discard_fails.add(1);
        }
    }
}

impl MutEventSubscriber for Cleaner {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // An eventfd can be watched, and this one is not yet.
        let _ = ops.add(Events::new(self.shared.bell(), EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.shared.bell().read();
        if !self.step() {
            self.shared.ring();
        } else if let Some(waker) = &self.waker {
            let _ = waker.write(1);
        }
    }
}
