//! What is left for the VMM to do while a back end serves the rings: pass interrupts on, and notice when the back end goes.

use super::BackEnd;
use super::link::{Link, LinkError, deadline};
use super::message::{
    Answer, ProtocolError, Region, Request, memory_table, number, ring_address, ring_state,
};
use super::terms::PROTOCOL_FEATURES;
use crate::virtio::patience::Patience;
use crate::virtio::worker::{Interest, Source, Worker};
use crate::virtio::{
    ActivateContext, DeviceQueue, DeviceState, GuestMemory, Interrupt, RingError, WorkerLoop,
};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// The running half of a device whose rings are a back end's.
pub struct BackEndWorker {
    back_end: Arc<BackEnd>,
    socket: Arc<UnixStream>,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    features: u64,
    workers: WorkerLoop,
    queues: Vec<DeviceQueue>,
    calls: Arc<[EventFd]>,
    running: bool,
}

impl BackEndWorker {
    pub(super) fn new(context: ActivateContext, back_end: Arc<BackEnd>, calls: Arc<[EventFd]>) -> Self {
        let ActivateContext { memory, queues, interrupt, features, workers, .. } = context;
        let socket = Arc::clone(back_end.link().socket());
        Self { back_end, socket, memory, interrupt, features, workers, queues, calls, running: false }
    }

    /// Tells the back end of everything that the driver has set up. Nothing is waited for: a back end that does not like it says so or goes,
    /// and either is noticed.
    fn set_up(&self, link: &mut Link) -> Result<(), LinkError> {
        let by = deadline();
        // What it has said since the last driver went, so that it does not pile up.
        link.listen()?;
        link.tell(Request::SetFeatures, &number(self.features | PROTOCOL_FEATURES), &[], by)?;
        if !link.knows_memory {
            let (regions, files) = regions(&self.memory).ok_or(LinkError::Memory)?;
            link.tell(Request::SetMemTable, &memory_table(&regions), &files, by)?;
            link.knows_memory = true;
        }
        for (index, (queue, call)) in (0..).zip(self.queues.iter().zip(&*self.calls)) {
            let ring = queue.snapshot();
            if !ring.ready {
                continue;
            }
            link.tell(Request::SetVringNum, &ring_state(index, ring.size.into()), &[], by)?;
            link.tell(Request::SetVringBase, &ring_state(index, ring.next_avail.into()), &[], by)?;
            link.tell(Request::SetVringAddr, &ring_address(index, &ring), &[], by)?;
            link.tell(Request::SetVringCall, &number(index.into()), &[call.as_raw_fd()], by)?;
            link.tell(Request::SetVringKick, &number(index.into()), &[queue.event().as_raw_fd()], by)?;
            link.tell(Request::SetVringEnable, &ring_state(index, 1), &[], by)?;
        }
        Ok(())
    }

    fn lose(&self, link: &mut Link, error: &LinkError) {
        if self.back_end.lose(link, error) {
            let socket = Arc::clone(&self.socket);
            // In the VMM thread: a vCPU's, in which a driver resets its device, has no call for it.
            let _ = self.workers.fire(move |_| Link::hang_up(&socket));
        }
        self.interrupt.needs_reset();
    }

    /// Takes a ring back until `by`, and goes on where the back end has left it if anybody goes `on`.
    fn take_back(&mut self, link: &mut Link, place: usize, by: Instant, on: bool) -> Result<(), LinkError> {
        let asked = Request::GetVringBase;
        let queue = &mut self.queues[place];
        let state = queue.snapshot();
        if !state.ready {
            return Ok(());
        }
        let index = place as u32;
        let next = match link.ask(asked, &ring_state(index, 0), by)? {
            Answer::Base(ring, next) if ring == index => u16::try_from(next).ok(),
            _ => None,
        };
        let next = next.ok_or(ProtocolError::Subject(asked))?;
        if !on {
            return Ok(());
        }
        let used = self.memory.read_obj(GuestAddress(state.used_ring + 2)).unwrap_or(state.next_used);
        queue.move_to(next, used);
        Ok(())
    }
}

/// Guest memory as a back end is told of it, and the files that it is in; none if a part of it is in no file.
fn regions(memory: &GuestMemory) -> Option<(Vec<Region>, Vec<RawFd>)> {
    let region = |region: &crate::memory::Region| {
        let file = region.file_offset()?;
        let place =
            Region { start: region.start_addr().raw_value(), len: region.len(), offset: file.start() };
        Some((place, file.file().as_raw_fd()))
    };
    memory.iter().map(region).collect::<Option<Vec<_>>>().map(|regions| regions.into_iter().unzip())
}

impl Worker for BackEndWorker {
    fn enter(&mut self) -> Result<(), RingError> {
        let back_end = Arc::clone(&self.back_end);
        let mut link = back_end.link();
        if link.is_lost() {
            self.interrupt.needs_reset();
        } else if let Err(error) = self.set_up(&mut link) {
            self.lose(&mut link, &error);
        } else {
            self.running = true;
        }
        Ok(())
    }

    fn sources(&self) -> Vec<Source> {
        let calls = (0..).zip(&*self.calls).map(|(token, call)| Source::written(call, token));
        let socket = self.running.then(|| Source::readable(&*self.socket, self.calls.len() as u32));
        calls.chain(socket).collect()
    }

    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        match usize::try_from(token).ok().and_then(|token| self.calls.get(token)) {
            // It is not read: that could wait for ever, since the back end shares its flags, and may read it too.
            Some(_) => self.interrupt.queue(token as u16),
            None => {
                let back_end = Arc::clone(&self.back_end);
                let mut link = back_end.link();
                if let Err(error) = link.listen() {
                    // It stays readable, and there is nothing to read any more.
                    interest.ignore(&*self.socket);
                    self.running = false;
                    self.lose(&mut link, &error);
                }
            }
        }
        Ok(())
    }

    /// A back end has a limit of its own ([`super::LIMIT`]), and what it has under way can't be left to it: it is asked once.
    fn settle(&mut self, answer: bool, _patience: Patience) -> Result<bool, RingError> {
        if !std::mem::take(&mut self.running) {
            return Ok(true);
        }
        let back_end = Arc::clone(&self.back_end);
        let mut link = back_end.link();
        // One for all rings: a back end that takes its time for each would hold up the whole VM for minutes.
        let by = deadline();
        for place in 0..self.queues.len() {
            if let Err(error) = self.take_back(&mut link, place, by, answer) {
                self.lose(&mut link, &error);
                break;
            }
        }
        if answer {
            // What the back end called last may not have come through the loop, and its events can't be read. One interrupt too many
            // is nothing to a driver.
            let ready = (0..).zip(&self.queues).filter(|(_, queue)| queue.snapshot().ready);
            ready.for_each(|(index, _)| self.interrupt.queue(index));
        }
        Ok(true)
    }

    fn save(&self) -> DeviceState {
        let queues = self.queues.iter().map(DeviceQueue::snapshot);
        DeviceState { queues: queues.collect(), device: serde_json::Value::Null }
    }
}
