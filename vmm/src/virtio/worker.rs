//! Where a device's running half lives, and how it gets into the event loop and out of it again.
//!
//! A worker is a plain struct that owns everything it works with. The loop holds a shell around it; the device can take the
//! worker out of the shell from any thread. That costs one lock per wake-up, which nobody else wants except at a reset or
//! a pause, and none per request. It can't deadlock as a blocking call into the loop could, which must never come from the
//! loop's own thread.
//!
//! A worker that comes or goes is one message to the loop, which a guest can cause as often as it likes. So one message at most is under way
//! for each worker, whatever changed meanwhile, and a driver that starts a device before the loop has seen its last change waits for
//! [`BREATH`]: a loop that has no end to its messages serves nothing else.

use super::patience::{Patience, lock_within};
use super::{
    ActivateContext, DeviceError, DeviceState, FaultSink, Interrupt, RingError, Subscriber, WorkerLoop,
};
use crate::lock::lock;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
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

    /// Waits until nothing that the worker has under way touches the guest any more, and answers it if `answer`; if not, the driver is past
    /// wanting answers. Not for longer than `patience`: false if there is still something under way then.
    ///
    /// # Errors
    /// The driver broke a ring, which answers found. Something may still be under way: who has to know asks without answers.
    fn settle(&mut self, _answer: bool, _patience: Patience) -> Result<bool, RingError> {
        Ok(true)
    }

    /// What has the loop call the worker to look for work, in the place of what was taken or left while it settled or was held. None for workers
    /// that never have anything under way.
    fn waker(&self) -> Option<Arc<EventFd>> {
        None
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

/// What a worker can change about the descriptors that it is called for, and whether it may begin anything.
pub(super) struct Interest<'a, 'b> {
    ops: &'a mut EventOps<'b>,
    held: &'a AtomicU8,
}

impl Interest<'_, '_> {
    /// Whether somebody waits for the worker to have nothing under way: it begins nothing more, and is woken when it may.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) != 0
    }

    /// Calls the worker with `token` when `fd` becomes readable.
    pub(super) fn watch(&mut self, fd: &impl AsRawFd, token: u32, events: EventSet) {
        // Watched already is as good as watched now.
        let _ = self.ops.add(Events::with_data(fd, token, events));
    }

    /// No more of it.
    pub(super) fn ignore(&mut self, fd: &impl AsRawFd) {
        // Not watched is what was asked for.
        let _ = self.ops.remove(Events::empty(fd));
    }
}

/// How long a driver waits whose device's last change the loop has not seen: enough for the loop to see those of all devices.
const BREATH: Duration = Duration::from_millis(1);

/// A worker on its way to its loop, or there.
struct Seat<W> {
    worker: W,
    guard: Guard,
    // The loop has taken it in.
    entered: bool,
}

struct Shared<W> {
    seat: Mutex<Option<Seat<W>>>,
    // The shell that is in the loop: the loop's own business.
    id: Mutex<Option<SubscriberId>>,
    // A message to the loop is under way, which will find whatever is so by then.
    told: AtomicBool,
    // Of the last worker; it lives as long as the device.
    waker: Mutex<Option<Arc<EventFd>>>,
    // Who holds the worker: bits. Read without the seat, so that it shows in the middle of a batch.
    held: AtomicU8,
    // Whose turn it is to wait for the seat; `wanted` while it is somebody's. The worker's own thread, which gives the seat up only for moments,
    // lets him go first.
    turn: Mutex<()>,
    wanted: AtomicBool,
}

/// A pause holds the worker.
const PAUSE: u8 = 1;
/// An exchange of what is behind the device does.
const EXCHANGE: u8 = 2;

impl<W: Worker> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Option<Seat<W>>> {
        lock(&self.seat)
    }

    fn waker(&self) -> MutexGuard<'_, Option<Arc<EventFd>>> {
        lock(&self.waker)
    }

    /// The worker's seat for the worker's own thread, after who waits for it.
    fn lock_in_turn(&self) -> MutexGuard<'_, Option<Seat<W>>> {
        if self.wanted.load(Ordering::SeqCst) {
            drop(lock(&self.turn));
        }
        self.lock()
    }

    /// The same for who has only so much patience, as soon as the batch is over that is under way.
    fn lock_within(&self, patience: Patience) -> Option<MutexGuard<'_, Option<Seat<W>>>> {
        let _first = lock_within(&self.turn, patience)?;
        self.wanted.store(true, Ordering::SeqCst);
        let seat = lock_within(&self.seat, patience);
        self.wanted.store(false, Ordering::SeqCst);
        seat
    }

    /// Tells the loop that a worker has come or gone.
    fn tell(self: &Arc<Self>, workers: &WorkerLoop) -> Result<(), event_manager::Error> {
        if self.told.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let shared = Arc::clone(self);
        workers.fire(move |ops| shared.follow(ops))
    }

    /// In the loop: takes out the shell of a worker that has gone, and in that of one that has come.
    fn follow(self: Arc<Self>, ops: &mut dyn SubscriberOps<Subscriber = Subscriber>) {
        // First: what changes from here on is another message.
        self.told.store(false, Ordering::SeqCst);
        let come = match &*self.lock() {
            // There was a message for each of two changes, and the first has found both.
            Some(Seat { entered: true, .. }) => return,
            seat => seat.is_some(),
        };
        let mut id = lock(&self.id);
        if let Some(id) = id.take() {
            let _ = ops.remove_subscriber(id);
        }
        if come {
            *id = Some(ops.add_subscriber(Box::new(Shell(Arc::clone(&self))) as Subscriber));
        }
    }
}

struct Shell<W>(Arc<Shared<W>>);

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
        // One that has gone again is another message.
        let mut seat = self.0.lock();
        let Some(Seat { worker, guard, entered }) = seat.as_mut() else { return };
        *entered = true;
        if let Err(error) = worker.enter() {
            return guard.broken(&error);
        }
        for Source { fd, token, events } in worker.sources() {
            if let Err(error) = ops.add(Events::with_data_raw(fd, token, events)) {
                // epoll refuses files that are always ready, such as regular ones; their devices don't list them.
                guard.faults.report(&guard.device, format!("its events can't be watched: {error}"));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let mut seat = self.0.lock_in_turn();
        // What comes from a descriptor of the last worker is not for one that the loop has not taken in.
        let Some(Seat { worker, guard, entered: true }) = seat.as_mut() else { return };
        if let Err(error) =
            worker.process(events.data(), &mut Interest { ops: &mut *ops, held: &self.0.held })
        {
            for source in worker.sources() {
                let _ = ops.remove(Events::empty_raw(source.fd));
            }
            guard.broken(&error);
        }
    }
}

/// A device's end of its worker: none, running in a loop, or paused. Clones are ends of the same worker.
pub(super) struct WorkerSlot<W> {
    // Held while the worker changes hands, never by the worker's own loop.
    state: Arc<Mutex<State<W>>>,
    shared: Arc<Shared<W>>,
}

impl<W> Clone for WorkerSlot<W> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), shared: Arc::clone(&self.shared) }
    }
}

enum State<W> {
    Idle,
    Running { workers: WorkerLoop },
    Paused { worker: Box<W>, workers: WorkerLoop, guard: Guard },
}

impl<W: Worker> WorkerSlot<W> {
    pub(super) fn new() -> Self {
        let shared = Shared {
            seat: Mutex::new(None),
            id: Mutex::new(None),
            told: AtomicBool::new(false),
            waker: Mutex::new(None),
            held: AtomicU8::new(0),
            turn: Mutex::new(()),
            wanted: AtomicBool::new(false),
        };
        Self { state: Arc::new(Mutex::new(State::Idle)), shared: Arc::new(shared) }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        lock(&self.state)
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
        if self.shared.told.load(Ordering::SeqCst) {
            std::thread::park_timeout(BREATH);
        }
        let workers = context.workers.clone();
        let guard = Guard {
            device: device.to_owned(),
            interrupt: Arc::clone(&context.interrupt),
            faults: context.faults.clone(),
        };
        *state = self.run(make(context)?, workers, guard)?;
        Ok(())
    }

    /// Hands a worker to its loop.
    fn run(&self, worker: W, workers: WorkerLoop, guard: Guard) -> Result<State<W>, DeviceError> {
        let device = guard.device.clone();
        *self.shared.waker() = worker.waker();
        *self.shared.lock() = Some(Seat { worker, guard, entered: false });
        let told = self.shared.tell(&workers);
        told.map_err(|source| DeviceError::EventLoop { device, source })?;
        Ok(State::Running { workers })
    }

    /// Takes the worker out, for a reset; its owner wants its files back.
    pub(super) fn stop(&mut self) -> Option<W> {
        let mut state = self.lock();
        // Whatever comes next is no part of a pause.
        self.shared.held.fetch_and(!PAUSE, Ordering::SeqCst);
        match std::mem::replace(&mut *state, State::Idle) {
            State::Idle => None,
            State::Paused { worker, .. } => Some(*worker),
            State::Running { workers } => {
                let seat = self.shared.lock_within(Patience::Endless)?.take();
                // If the loop is gone, so is the shell.
                let _ = self.shared.tell(&workers);
                let mut worker = seat?.worker;
                // Without answers no ring is touched, so none can turn out to be broken.
                let _ = worker.settle(false, Patience::Endless);
                Some(worker)
            }
        }
    }

    /// Takes the worker out of the loop and keeps it, once nothing is under way: false if something is, and the caller asks again. Meanwhile
    /// the worker stays in its loop, finishes what it has begun and begins nothing new.
    pub(super) fn pause(&mut self) -> bool {
        let mut state = self.lock();
        let State::Running { workers } = &*state else { return true };
        self.shared.held.fetch_or(PAUSE, Ordering::SeqCst);
        // Its own thread may be in it, waiting for the disk.
        let Some(mut seat) = lock_within(&self.shared.seat, Patience::none()) else { return false };
        if let Some(Seat { worker, guard, .. }) = seat.as_mut()
            && !settled(worker, guard, Patience::none())
        {
            return false;
        }
        let (workers, taken) = (workers.clone(), seat.take());
        drop(seat);
        // If the loop is gone, so is the shell.
        let _ = self.shared.tell(&workers);
        *state = match taken {
            Some(Seat { worker, guard, .. }) => State::Paused { worker: Box::new(worker), workers, guard },
            None => State::Idle,
        };
        true
    }

    /// Gives a paused worker back to the loop, and lets one go on that was on its way to a pause.
    pub(super) fn resume(&mut self) -> Result<(), DeviceError> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Paused { worker, workers, guard } => {
                *state = self.run(*worker, workers, guard)?;
            }
            other => *state = other,
        }
        self.release(PAUSE);
        Ok(())
    }

    /// Has the worker begin nothing new while what is behind its device is exchanged.
    pub(super) fn hold(&self) {
        self.shared.held.fetch_or(EXCHANGE, Ordering::SeqCst);
    }

    /// Lets it go on after [`Self::hold`], whether or not anything was exchanged.
    pub(super) fn let_go(&self) {
        self.release(EXCHANGE);
    }

    /// Takes back one reason to hold the worker, and has it look for what came meanwhile.
    fn release(&self, reason: u8) {
        if self.shared.held.fetch_and(!reason, Ordering::SeqCst) & reason != 0
            && let Some(waker) = &*self.shared.waker()
        {
            // A counter that is full is readable too.
            let _ = waker.write(1);
        }
    }

    /// Stands the worker still, running or paused, with nothing under way, as long as the caller keeps what this returns; nothing if that
    /// takes longer than `patience`. To be held before and let go afterwards.
    pub(super) fn still(&self, patience: Patience) -> Option<Still<'_, W>> {
        let state = lock_within(&self.state, patience)?;
        let mut still = Still { state, seat: self.shared.lock_within(patience)? };
        let settled = still.worker().is_none_or(|(worker, guard)| settled(worker, guard, patience));
        settled.then_some(still)
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

/// Whether nothing is under way any more, and all that was is answered.
fn settled(worker: &mut impl Worker, guard: &Guard, patience: Patience) -> bool {
    match worker.settle(true, patience) {
        Ok(settled) => settled,
        Err(error) => {
            guard.broken(&error);
            // What is left nobody can be told of. Without answers no ring is touched, so none can turn out to be broken again.
            worker.settle(false, patience).unwrap_or(true)
        }
    }
}

/// A worker that stands still, or none.
pub(super) struct Still<'a, W> {
    state: MutexGuard<'a, State<W>>,
    seat: MutexGuard<'a, Option<Seat<W>>>,
}

impl<W> Still<'_, W> {
    fn worker(&mut self) -> Option<(&mut W, &Guard)> {
        match (&mut *self.state, self.seat.as_mut()) {
            (State::Paused { worker, guard, .. }, _) => Some((&mut **worker, guard)),
            (State::Running { .. }, Some(Seat { worker, guard, .. })) => Some((worker, guard)),
            _ => None,
        }
    }

    /// The worker itself.
    pub(super) fn get(&mut self) -> Option<&mut W> {
        self.worker().map(|(worker, _)| worker)
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
