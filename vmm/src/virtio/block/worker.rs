//! One queue of a disk at work: through a ring, where there is one, else waiting for each request.

use super::flights::{Flight, Flights, Outcome};
use super::metrics::BlockMetrics;
use super::request::{self, Failure, TURN, Task, Tools};
use super::tray::Slot;
use super::{Disk, SERIAL_LEN};
use crate::virtio::limiter::Meter;
use crate::virtio::patience::Patience;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{Chain, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

const QUEUE: u32 = 0;
pub(super) const TIMER: u32 = 1;
const RING: u32 = 2;

/// What the queues of a disk have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) slot: Arc<Slot>,
    pub(super) serial: [u8; SERIAL_LEN],
    // A driver that can't flush is promised that what it wrote is durable (section 5.2.6.2).
    pub(super) write_through: bool,
    // What the driver has accepted.
    pub(super) features: u64,
    pub(super) metrics: Arc<BlockMetrics>,
}

pub(super) struct BlockWorker {
    pub(super) memory: GuestMemory,
    pub(super) queue: DeviceQueue,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) meter: Meter,
    pub(super) common: Common,
    pub(super) flights: Option<Flights>,
    pub(super) chain: Chain,
}

impl BlockWorker {
    /// Takes requests from the queue and starts or serves them: a queueful at most and a [`TURN`] of them, as many as the ring has room for,
    /// and no more than the limiter lets pass. See [`crate::virtio::queue::drain_while`], whose rules these are.
    fn serve(&mut self, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        if interest.is_held() || self.meter.is_waiting() {
            return Ok(());
        }
        self.queue.quiet(&self.memory)?;
        let (mut budget, mut effort) = (self.queue.size(), 0u64);
        loop {
            let disk = self.common.slot.disk();
            let mut held = false;
            while budget > 0
                && effort < TURN
                && !interest.is_held()
                && self.has_room()
                && self.queue.pop_any(&self.memory, &mut self.chain)?
            {
                // Read once: what it is charged for is what is done.
                let task = request::parse(&self.memory, &self.chain, &disk, self.common.features)?;
                if !self.meter.admit(request::bytes(&self.chain, task), interest) {
                    self.queue.undo_pop();
                    held = true;
                    break;
                }
                budget -= 1;
                effort = effort.saturating_add(self.begin(&disk, task)?);
            }
            self.send_off();
            self.answer()?;
            self.queue.signal(&self.memory, self.interrupt.as_ref())?;
            if held {
                return Ok(());
            }
            if budget == 0 || effort >= TURN {
                self.queue.come_back();
                return Ok(());
            }
            // Who holds it wakes it afterwards.
            if interest.is_held() {
                return Ok(());
            }
            // A ring that is full makes itself heard, and so does who lands what is in it elsewhere.
            if !self.has_room() {
                self.common.metrics.io_engine_throttled_events.add(1);
                return Ok(());
            }
            if !self.queue.listen(&self.memory)? {
                return Ok(());
            }
        }
    }

    fn has_room(&self) -> bool {
        self.flights.as_ref().is_none_or(|flights| !flights.is_full())
    }

    /// Starts the request in `self.chain`, or does all of it; with what effort.
    fn begin(&mut self, disk: &Arc<Disk>, task: Result<Task, Failure>) -> Result<u64, RingError> {
        let Self { memory, queue, flights, chain, common, .. } = self;
        let task = match task {
            Ok(task) => task,
            Err(failure) => {
                common.metrics.invalid();
                let written = request::finish(memory, chain, Err(failure));
                return queue.complete(memory, chain.head(), written).map(|()| 0);
            }
        };
        if flights.as_mut().is_some_and(|flights| flights.start(memory, chain, task, disk)) {
            // What the page cache has is copied when it is sent off; the rest nobody here waits for.
            return Ok(if let Task::Read { len, .. } | Task::Write { len, .. } = task {
                len.into()
            } else {
                0
            });
        }
        let written = perform(memory, common, chain, task, disk);
        queue.complete(memory, chain.head(), written).map(|()| task.effort(common.write_through))
    }

    fn send_off(&mut self) {
        if self.flights.as_mut().is_some_and(|flights| !flights.submit()) {
            // The kernel is out of memory for a moment; others have their turn meanwhile.
            self.queue.come_back();
        }
    }

    /// Answers what has landed.
    fn answer(&mut self) -> Result<(), RingError> {
        let Self { memory, queue, flights, common, .. } = self;
        let Some(flights) = flights else { return Ok(()) };
        while let Some((flight, outcome)) = flights.land(memory, common.write_through) {
            let Flight { chain, task, disk, .. } = &flight;
            let written = match outcome {
                Outcome::Again => perform(memory, common, chain, *task, disk),
                Outcome::Done => {
                    common.metrics.done(*task);
                    let read = if let Task::Read { len, .. } = task { *len } else { 0 };
                    request::finish(memory, chain, Ok(read))
                }
                Outcome::Failed => {
                    common.metrics.failed();
                    request::finish(memory, chain, Err(Failure::Io))
                }
            };
            queue.complete(memory, chain.head(), written)?;
            flights.put_back(flight);
        }
        // Writes that have to be durable have another step to go.
        if !flights.submit() {
            queue.come_back();
        }
        Ok(())
    }
}

/// Does a task now, and says what goes into the used ring.
fn perform(memory: &GuestMemory, common: &Common, chain: &Chain, task: Task, disk: &Disk) -> u32 {
    let Common { serial, write_through, metrics, .. } = common;
    let result = task.perform(&Tools { memory, disk, serial, write_through: *write_through }, chain);
    match result {
        Ok(_) => metrics.done(task),
        Err(_) => metrics.failed(),
    }
    request::finish(memory, chain, result)
}

impl Worker for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = Source::readable(self.queue.event(), QUEUE);
        let ring = self.flights.as_ref().map(|flights| Source::readable(flights, RING));
        [kick].into_iter().chain(ring).chain(self.meter.source()).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match token {
            TIMER => {
                self.common.metrics.rate_limiter_event_count.add(1);
                self.meter.fired();
            }
            QUEUE => {
                self.common.metrics.queue_event_count.add(1);
                self.queue.clear_event();
            }
            _ => {}
        }
        self.answer()?;
        self.queue.signal(&self.memory, self.interrupt.as_ref())?;
        self.serve(interest)
    }

    fn settle(&mut self, answer: bool, patience: Patience) -> Result<bool, RingError> {
        loop {
            if answer {
                self.answer()?;
            }
            let Some(flights) = &mut self.flights else { break };
            while !answer && let Some((flight, _)) = flights.land(&self.memory, false) {
                flights.put_back(flight);
            }
            if flights.under_way() == 0 {
                break;
            }
            if !flights.wait(patience) {
                return Ok(false);
            }
        }
        let disk = self.common.slot.disk();
        if let Some(flights) = &mut self.flights {
            flights.change(&disk);
        }
        if answer {
            self.queue.signal(&self.memory, self.interrupt.as_ref())?;
        }
        Ok(true)
    }

    fn waker(&self) -> Option<Arc<EventFd>> {
        Some(self.queue.waker())
    }

    fn save(&self) -> DeviceState {
        DeviceState { queues: vec![self.queue.snapshot()], device: serde_json::Value::Null }
    }
}
