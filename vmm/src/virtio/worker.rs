//! Where a device's running half lives, and how it gets into the event loop and out of it again.
//!
//! A worker is a plain struct that owns everything it works with. The loop holds a shell around it; the device can take the
//! worker out of the shell from any thread. That costs one lock per wake-up, which nobody else wants except at a reset or
//! a pause, and none per request. It can't deadlock as a blocking call into the loop could, which must never come from the
//! loop's own thread.

use super::{
    ActivateContext, DeviceError, DeviceState, FaultSink, Interrupt, RingError, Subscriber, WorkerLoop,
};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// The running half of a device.
pub(super) trait Worker: Send + 'static {
    /// Descriptors whose readiness the worker is called for. `token` comes back in [`Self::process`].
    fn sources(&self) -> Vec<Source>;

    /// The loop has taken the worker in; called once each time, in the loop's thread, before anything else.
    ///
    /// # Errors
    /// The device stops.
    fn enter(&mut self) -> Result<(), RingError> {
        Ok(())
    }

    /// Something is ready. Does a bounded amount of work.
    ///
    /// # Errors
    /// The driver broke a ring: the device stops.
    fn process(&mut self, token: u32, interest: &mut Interest<'_, '_>) -> Result<(), RingError>;

    /// The worker is about to be taken out of its loop: waits until nothing that it has under way touches the guest any more, and
    /// answers it if `answer`; if not, the driver is past wanting answers.
    ///
    /// # Errors
    /// The driver broke a ring.
    fn settle(&mut self, _answer: bool) -> Result<(), RingError> {
        Ok(())
    }

    /// For [`super::VirtioDevice::save`].
    fn save(&self) -> DeviceState;
}

/// A descriptor that the loop watches for a worker. It stays open as long as the device lives.
pub(super) struct Source {
    fd: RawFd,
    token: u32,
    events: EventSet,
}

impl Source {
    pub(super) fn readable(fd: &impl AsRawFd, token: u32) -> Self {
        Self { fd: fd.as_raw_fd(), token, events: EventSet::IN }
    }

    /// An event that is never read: told of once for each time that it is written.
    pub(super) fn written(event: &EventFd, token: u32) -> Self {
        Self { fd: event.as_raw_fd(), token, events: EventSet::IN | EventSet::EDGE_TRIGGERED }
    }

    /// For errors and hang-ups only, which are told whatever a descriptor is watched for.
    pub(super) fn failing(fd: &impl AsRawFd, token: u32) -> Self {
        Self { fd: fd.as_raw_fd(), token, events: EventSet::empty() }
    }

    pub(super) fn writable(fd: &impl AsRawFd, token: u32) -> Self {
        Self { fd: fd.as_raw_fd(), token, events: EventSet::OUT }
    }
}

/// What a worker can change about the descriptors that it is called for.
pub(super) struct Interest<'a, 'b>(&'a mut EventOps<'b>);

impl Interest<'_, '_> {
    /// Calls the worker with `token` when `fd` becomes readable.
    pub(super) fn watch(&mut self, fd: &impl AsRawFd, token: u32, events: EventSet) {
        // Watched already is as good as watched now.
        let _ = self.0.add(Events::with_data(fd, token, events));
    }

    /// No more of it.
    pub(super) fn ignore(&mut self, fd: &impl AsRawFd) {
        // Not watched is what was asked for.
        let _ = self.0.remove(Events::empty(fd));
    }
}

struct Shared<W> {
    worker: Mutex<Option<W>>,
    // Set by the loop when it takes the shell in, read by the loop when it is to let go: calls arrive there in order.
    id: OnceLock<SubscriberId>,
}

impl<W> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Option<W>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Shell<W> {
    shared: Arc<Shared<W>>,
    guard: Guard,
}

/// What a shell needs when its worker fails.
#[derive(Clone)]
struct Guard {
    device: String,
    interrupt: Arc<dyn Interrupt>,
    faults: FaultSink,
}

impl Guard {
    fn broken(&self, error: &RingError) {
        self.interrupt.needs_reset();
        self.faults.report(&self.device, error.to_string());
    }
}

impl<W: Worker> MutEventSubscriber for Shell<W> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut shared = self.shared.lock();
        if let Some(Err(error)) = shared.as_mut().map(W::enter) {
            return self.guard.broken(&error);
        }
        for Source { fd, token, events } in shared.iter().flat_map(W::sources) {
            if let Err(error) = ops.add(Events::with_data_raw(fd, token, events)) {
                // epoll refuses files that are always ready, such as regular ones; their devices don't list them.
                self.guard.faults.report(&self.guard.device, format!("its events can't be watched: {error}"));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let mut slot = self.shared.lock();
        let Some(worker) = slot.as_mut() else { return };
        if let Err(error) = worker.process(events.data(), &mut Interest(&mut *ops)) {
            for source in worker.sources() {
                let _ = ops.remove(Events::empty_raw(source.fd));
            }
            self.guard.broken(&error);
        }
    }
}

/// A device's end of its worker: none, running in a loop, or paused. Clones are ends of the same worker.
pub(super) struct WorkerSlot<W> {
    // Held while the worker changes hands, never by the worker's own loop.
    state: Arc<Mutex<State<W>>>,
}

impl<W> Clone for WorkerSlot<W> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

enum State<W> {
    Idle,
    Running { shared: Arc<Shared<W>>, workers: WorkerLoop, guard: Guard },
    Paused { worker: Box<W>, workers: WorkerLoop, guard: Guard },
}

impl<W: Worker> WorkerSlot<W> {
    pub(super) fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::Idle)) }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the worker of a context and starts it.
    pub(super) fn start(
        &mut self,
        device: &str,
        context: ActivateContext,
        make: impl FnOnce(ActivateContext) -> Result<W, DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut state = self.lock();
        if !matches!(*state, State::Idle) {
            return Err(DeviceError::AlreadyActive(device.to_owned()));
        }
        let workers = context.workers.clone();
        let guard = Guard {
            device: device.to_owned(),
            interrupt: Arc::clone(&context.interrupt),
            faults: context.faults.clone(),
        };
        *state = run(make(context)?, workers, guard)?;
        Ok(())
    }

    /// Takes the worker out, for a reset; its owner wants its files back.
    pub(super) fn stop(&mut self) -> Option<W> {
        match std::mem::replace(&mut *self.lock(), State::Idle) {
            State::Idle => None,
            State::Paused { worker, .. } => Some(*worker),
            State::Running { shared, workers, .. } => {
                let mut worker = take_out(shared, &workers)?;
                // A ring that turns out to be broken is nobody's any more.
                let _ = worker.settle(false);
                Some(worker)
            }
        }
    }

    /// Takes the worker out of the loop and keeps it.
    pub(super) fn pause(&mut self) {
        let mut state = self.lock();
        *state = match std::mem::replace(&mut *state, State::Idle) {
            State::Running { shared, workers, guard } => match take_out(shared, &workers) {
                Some(mut worker) => {
                    if let Err(error) = worker.settle(true) {
                        guard.broken(&error);
                    }
                    State::Paused { worker: Box::new(worker), workers, guard }
                }
                None => State::Idle,
            },
            other => other,
        }
    }

    /// Gives a paused worker back to the loop.
    pub(super) fn resume(&mut self) -> Result<(), DeviceError> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Paused { worker, workers, guard } => {
                *state = run(*worker, workers, guard)?;
            }
            other => *state = other,
        }
        Ok(())
    }

    /// Waits until nothing is under way that began before this call, and has a paused worker settle too.
    pub(super) fn settle(&self) {
        let (result, guard) = match &mut *self.lock() {
            State::Idle => return,
            State::Paused { worker, guard, .. } => (worker.settle(true), guard.clone()),
            State::Running { shared, guard, .. } => match shared.lock().as_mut() {
                Some(worker) => (worker.settle(true), guard.clone()),
                None => return,
            },
        };
        if let Err(error) = result {
            guard.broken(&error);
        }
    }

    /// What the worker says of itself, if it is not running; an idle device has no queues.
    pub(super) fn save(&self, device: &str) -> Result<DeviceState, DeviceError> {
        match &*self.lock() {
            State::Idle => Ok(DeviceState::default()),
            State::Paused { worker, .. } => Ok(worker.save()),
            State::Running { .. } => Err(DeviceError::NotPaused(device.to_owned())),
        }
    }
}

fn run<W: Worker>(worker: W, workers: WorkerLoop, guard: Guard) -> Result<State<W>, DeviceError> {
    let shared = Arc::new(Shared { worker: Mutex::new(Some(worker)), id: OnceLock::new() });
    let shell = Shell { shared: Arc::clone(&shared), guard: guard.clone() };
    let added = Arc::clone(&shared);
    workers
        .fire(move |ops| {
            let id = ops.add_subscriber(Box::new(shell) as Subscriber);
            let _ = added.id.set(id);
        })
        .map_err(|source| DeviceError::EventLoop { device: guard.device.clone(), source })?;
    Ok(State::Running { shared, workers, guard })
}

/// Takes a worker out of its loop.
fn take_out<W: Worker>(shared: Arc<Shared<W>>, workers: &WorkerLoop) -> Option<W> {
    let worker = shared.lock().take();
    // If the loop is gone, so is the shell.
    let _ = workers.fire(move |ops| {
        if let Some(id) = shared.id.get() {
            let _ = ops.remove_subscriber(*id);
        }
    });
    worker
}
