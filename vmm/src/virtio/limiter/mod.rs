//! Rate limiters of devices: what passes, and who waits until when.
//!
//! A [`Throttle`] belongs to a device, may serve several workers, and can be changed from outside while they run. Each worker has a
//! [`Meter`] on it, with a timer of its own that fires when there is enough again, to the nanosecond; where nothing is limited
//! there is no timer, and asking costs one load.

mod bucket;

use super::worker::{Interest, Source};
use crate::api::config::RateLimiter;
use bucket::Limiter;
use event_manager::EventSet;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::timerfd::TimerFd;

/// A device's limiter.
pub struct Throttle {
    limits: AtomicBool,
    throttled: AtomicU64,
    start: Instant,
    state: Mutex<State>,
}

struct State {
    limiter: Limiter,
    // By the index of their worker. They stay open as long as the device lives: a number that the event loop knows never means
    // another file.
    timers: BTreeMap<u32, Arc<Timer>>,
}

impl State {
    /// The timer of a worker, made when it is first wanted.
    fn timer(&mut self, worker: u32) -> Option<Arc<Timer>> {
        if let Some(timer) = self.timers.get(&worker) {
            return Some(Arc::clone(timer));
        }
        let timer = Arc::new(Timer(Mutex::new(TimerFd::new().ok()?)));
        self.timers.insert(worker, Arc::clone(&timer));
        Some(timer)
    }
}

/// A worker's alarm.
struct Timer(Mutex<TimerFd>);

impl Timer {
    /// Makes the descriptor readable after `wait`.
    fn set(&self, wait: Duration) {
        // 0 would disarm it. A descriptor of a timer always takes a time.
        let _ = lock(&self.0).reset(wait.max(Duration::from_nanos(1)), None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Throttle {
    /// Without a configuration it limits nothing, until it is changed.
    pub fn new(config: Option<&RateLimiter>) -> Arc<Self> {
        let limiter = config.map_or_else(Limiter::default, |config| Limiter::new(config, 0));
        Arc::new(Self {
            limits: AtomicBool::new(limiter.limits()),
            throttled: AtomicU64::new(0),
            start: Instant::now(),
            state: Mutex::new(State { limiter, timers: BTreeMap::new() }),
        })
    }

    /// Replaces the buckets that `config` has by full new ones; those that it leaves out stay as they are. Who waits asks again.
    pub fn update(&self, config: &RateLimiter) {
        let mut state = lock(&self.state);
        state.limiter.update(config, self.now());
        self.limits.store(state.limiter.limits(), Ordering::Relaxed);
        state.timers.values().for_each(|timer| timer.set(Duration::ZERO));
    }

    /// How often a worker had to wait.
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Lets an operation of so many bytes pass now, or not at all.
    pub fn pass(&self, bytes: u64) -> bool {
        if !self.limits() {
            return true;
        }
        let mut state = lock(&self.state);
        let now = state.limiter.wait(bytes, self.now()) == 0;
        if now {
            state.limiter.take(bytes);
        }
        now
    }

    fn now(&self) -> u64 {
        // 2⁶⁴ ns are 584 years.
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn limits(&self) -> bool {
        self.limits.load(Ordering::Relaxed)
    }
}

/// One worker's way to a throttle.
pub(super) struct Meter {
    throttle: Arc<Throttle>,
    worker: u32,
    token: u32,
    timer: Option<Arc<Timer>>,
    waiting: bool,
}

impl Meter {
    /// `worker` is the worker's number among those of this throttle, `token` what it is called with when it may try again.
    pub(super) fn new(throttle: Arc<Throttle>, worker: u32, token: u32) -> Self {
        Self { throttle, worker, token, timer: None, waiting: false }
    }

    /// Lets an operation of so many bytes pass; or makes the worker wait: it is called with the meter's token.
    pub(super) fn admit(&mut self, bytes: u64, interest: &mut Interest<'_, '_>) -> bool {
        let ready = self.is_ready(bytes, interest);
        if ready {
            self.take(bytes);
        }
        ready
    }

    /// The same without counting it: for those who learn only afterwards what there was, and then [`Self::take`] it.
    pub(super) fn is_ready(&mut self, bytes: u64, interest: &mut Interest<'_, '_>) -> bool {
        let was_waiting = std::mem::take(&mut self.waiting);
        if !self.throttle.limits() {
            return true;
        }
        let mut state = lock(&self.throttle.state);
        let wait = state.limiter.wait(bytes, self.throttle.now());
        if wait == 0 {
            return true;
        }
        let timer = match &self.timer {
            Some(timer) => timer,
            None => {
                // No descriptors left: then it passes, since waiting for nothing would be for ever.
                let Some(timer) = state.timer(self.worker) else { return true };
                interest.watch(&*lock(&timer.0), self.token, EventSet::IN);
                self.timer.insert(timer)
            }
        };
        // Under the lock of the state: a change comes before, and was looked at, or after, and fires the timer.
        timer.set(Duration::from_nanos(wait));
        self.waiting = true;
        if !was_waiting {
            self.throttle.throttled.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Counts an operation that passed.
    pub(super) fn take(&self, bytes: u64) {
        if self.throttle.limits() {
            lock(&self.throttle.state).limiter.take(bytes);
        }
    }

    /// Whether the worker waits for its timer; what else calls it changes nothing.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// To be called for the meter's token, before the worker tries again.
    pub(super) fn fired(&mut self) {
        self.waiting = false;
        if let Some(timer) = &self.timer {
            // Disarming it makes it unreadable too. A change that comes now is seen by the worker, which tries next.
            let _ = lock(&timer.0).clear();
        }
    }

    /// The timer, if there is one yet.
    pub(super) fn source(&self) -> Option<Source> {
        self.timer.as_ref().map(|timer| Source::readable(&*lock(&timer.0), self.token))
    }
}
