//! Rate limiters of devices: what passes, and who waits until when.
//!
//! A [`Throttle`] belongs to a device, may serve several workers, and can be changed from outside while they run. Each worker has a
//! [`Meter`] on it, with a timer of its own that fires when there is enough again, to the nanosecond; where nothing has ever been limited
//! there is no timer, and asking costs one load. Timers are made with the limit: one that had to be made when it is needed might
//! not be had then, and a guest can use up descriptors.

mod bucket;

use super::DeviceError;
use super::worker::{Interest, Source};
use crate::api::config::RateLimiter;
use crate::lock::lock;
use bucket::Limiter;
pub use bucket::SavedLimiter;
use event_manager::EventSet;
use serde::Deserialize;
use serde_json::Value;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vmm_sys_util::timerfd::TimerFd;

/// A device's limiter.
pub struct Throttle {
    limits: AtomicBool,
    throttled: AtomicU64,
    start: Instant,
    workers: usize,
    state: Mutex<State>,
}

struct State {
    limiter: Limiter,
    // One for each worker from the first limit on. They stay open as long as the device lives: a number that the event loop knows never
    // means another file.
    timers: Vec<Arc<Timer>>,
}

/// A worker's alarm.
struct Timer(Mutex<TimerFd>);

impl Timer {
    fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(Mutex::new(TimerFd::new().map_err(io::Error::from)?))))
    }

    /// Makes the descriptor readable after `wait`.
    fn set(&self, wait: Duration) {
        // 0 would disarm it. A descriptor of a timer always takes a time.
        let _ = lock(&self.0).reset(wait.max(Duration::from_nanos(1)), None);
    }
}

impl Throttle {
    /// Limits nothing, until it is changed; for so many workers.
    pub fn unlimited(workers: usize) -> Self {
        Self {
            limits: AtomicBool::new(false),
            throttled: AtomicU64::new(0),
            start: Instant::now(),
            workers,
            state: Mutex::new(State { limiter: Limiter::default(), timers: Vec::new() }),
        }
    }

    /// For so many workers; without a configuration it limits nothing, until it is changed.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new(config: Option<&RateLimiter>, workers: usize) -> io::Result<Arc<Self>> {
        let throttle = Self::unlimited(workers);
        config.map_or(Ok(()), |config| throttle.update(config))?;
        Ok(Arc::new(throttle))
    }

    /// Makes what an [`Self::update`] with `config` needs, which can't fail then.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn prepare(&self, config: &RateLimiter) -> io::Result<()> {
        let mut state = lock(&self.state);
        let mut limiter = state.limiter.clone();
        limiter.update(config, self.now());
        if limiter.limits() && state.timers.is_empty() {
            state.timers = (0..self.workers).map(|_| Timer::new()).collect::<io::Result<_>>()?;
        }
        Ok(())
    }

    /// Replaces the buckets that `config` has by full new ones; those that it leaves out stay as they are. Who waits asks again.
    ///
    /// # Errors
    /// Descriptors have run out. All is as it was then.
    pub fn update(&self, config: &RateLimiter) -> io::Result<()> {
        self.prepare(config)?;
        let mut state = lock(&self.state);
        let now = self.now();
        state.limiter.update(config, now);
        self.limits.store(state.limiter.limits(), Ordering::Relaxed);
        state.timers.iter().for_each(|timer| timer.set(Duration::ZERO));
        Ok(())
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

    /// What is left of it, for another process; nothing if it limits nothing.
    pub fn save(&self) -> Option<SavedLimiter> {
        let mut state = lock(&self.state);
        let now = self.now();
        self.limits().then(|| state.limiter.save(now))
    }

    /// Goes on with what was left of another one. Its buckets are this one's own: what they lack in the saved state stays full.
    pub fn restore(&self, saved: Option<&SavedLimiter>) {
        if let Some(saved) = saved {
            let mut state = lock(&self.state);
            let now = self.now();
            state.limiter.restore(saved, now);
        }
    }

    /// The same as a device's whole state, where it keeps nothing else.
    pub(super) fn to_value(&self) -> Value {
        // Numbers and names are always JSON.
        serde_json::to_value(self.save()).unwrap_or_default()
    }

    /// Takes [`Self::to_value`] over, for the device of that name.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn restore_value(&self, device: &str, state: &Value) -> Result<(), DeviceError> {
        match Option::<SavedLimiter>::deserialize(state) {
            Ok(saved) => self.restore(saved.as_ref()),
            Err(error) => {
                return Err(DeviceError::BadState { device: device.to_owned(), why: error.to_string() });
            }
        }
        Ok(())
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
    worker: usize,
    token: u32,
    timer: Option<Arc<Timer>>,
    waiting: bool,
}

impl Meter {
    /// `worker` is the worker's number among those of this throttle, from 0, `token` what it is called with when it may try again.
    pub(super) fn new(throttle: Arc<Throttle>, worker: usize, token: u32) -> Self {
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
                // There is a limit, and there was one when it was set.
                let timer = &state.timers[self.worker];
                interest.watch(&*lock(&timer.0), self.token, EventSet::IN);
                self.timer.insert(Arc::clone(timer))
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

    /// The timer, if it has ever waited.
    pub(super) fn source(&self) -> Option<Source> {
        self.timer.as_ref().map(|timer| Source::readable(&*lock(&timer.0), self.token))
    }
}
