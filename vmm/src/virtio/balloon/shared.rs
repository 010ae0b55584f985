//! What a balloon's worker, its registers and the host's requests share.

use super::metrics::BalloonMetrics;
use super::{F_FREE_PAGE_HINT, F_STATS_VQ};
use crate::api::config::{self, BalloonHinting, BalloonStart, BalloonStats, GuestStats};
use crate::lock::lock;
use crate::sys;
use crate::virtio::Signals;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use vmm_sys_util::timerfd::TimerFd;

/// Pages of a MiB; the device's pages have 4 KiB (5.5.6).
const PAGES_PER_MIB: u32 = 256;
/// VIRTIO_BALLOON_CMD_ID_STOP and _DONE (5.5.6.5); numbers from [`FIRST_RUN`] on name runs.
pub(super) const STOP: u32 = 0;
const DONE: u32 = 1;
const FIRST_RUN: u32 = 2;

/// Why a balloon did not do what was asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalloonError {
    /// There are no statistics.
    #[error("the balloon has no statistics: give stats_polling_interval_s before the start")]
    NoStatistics,
    /// They can't be switched on or off.
    #[error("stats_polling_interval_s can't become 0 while the VM runs, or be changed from 0")]
    Interval,
    /// There is no hinting.
    #[error("the balloon has no free page hinting: give free_page_hinting before the start")]
    NoHinting,
    /// It asks for more than there is.
    #[error("amount_mib is {asked}, and the guest has {memory} MiB")]
    TooMuch {
        /// What was asked.
        asked: u32,
        /// What there is.
        memory: u64,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    target: u32,
    actual: u32,
    interval_s: u16,
    host_cmd: u32,
    guest_cmd: Option<u32>,
    acknowledge: bool,
    stats: GuestStats,
    /// The descriptor that the driver left for the next statistics.
    pub(super) stats_head: Option<u16>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    // It stays open as long as the device lives: a number that the event loop knows never means another file.
    timer: Mutex<TimerFd>,
    pub(super) metrics: BalloonMetrics,
}

impl Shared {
    pub(super) fn new(config: &config::Balloon) -> std::io::Result<Arc<Self>> {
        let state = State {
            target: config.amount_mib.saturating_mul(PAGES_PER_MIB),
            interval_s: config.stats_polling_interval_s,
            ..State::default()
        };
        let (state, timer) = (Mutex::new(state), TimerFd::new()?);
        // One that was set anew since it ran out has nothing to read.
        sys::set_nonblocking(&timer)?;
        let timer = Mutex::new(timer);
        let shared = Self { state, timer, metrics: BalloonMetrics::default() };
        shared.arm();
        Ok(Arc::new(shared))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn timer(&self) -> MutexGuard<'_, TimerFd> {
        lock(&self.timer)
    }

    /// Sets the timer by the interval; none without statistics.
    fn arm(&self) {
        let interval = Duration::from_secs(lock(&self.state).interval_s.into());
        if !interval.is_zero() {
            // A descriptor of a timer always takes a time.
            let _ = self.timer().reset(interval, Some(interval));
        }
    }

    /// `struct virtio_balloon_config` (5.5.4): num_pages, actual, free_page_hint_cmd_id.
    pub(super) fn config_space(&self) -> [u8; 12] {
        let state = lock(&self.state);
        let mut space = [0; 12];
        for (field, value) in space.chunks_exact_mut(4).zip([state.target, state.actual, state.host_cmd]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        space
    }

    pub(super) fn set_actual(&self, pages: u32) {
        lock(&self.state).actual = pages;
    }

    pub(super) fn set_stats(&self, stats: GuestStats) {
        lock(&self.state).stats = stats;
    }

    /// Whether free pages that the driver names belong to the run that the host began last.
    pub(super) fn hinting(&self) -> bool {
        let state = lock(&self.state);
        state.host_cmd >= FIRST_RUN && state.guest_cmd == Some(state.host_cmd)
    }

    /// The driver began a run, or ended one; true if the configuration space changed by that.
    pub(super) fn guest_command(&self, command: u32) -> bool {
        let mut state = lock(&self.state);
        let finished =
            command == STOP && state.guest_cmd == Some(state.host_cmd) && state.host_cmd >= FIRST_RUN;
        state.guest_cmd = Some(command);
        if finished && state.acknowledge {
            state.host_cmd = DONE;
            return true;
        }
        false
    }

    /// A reset: what the driver gave it has again.
    pub(super) fn forget(&self) {
        let mut state = lock(&self.state);
        (state.actual, state.guest_cmd, state.stats_head) = (0, None, None);
        state.stats = GuestStats::default();
    }

    pub(super) fn save(&self) -> serde_json::Value {
        serde_json::to_value(&*lock(&self.state)).expect("a state has only numbers and flags")
    }

    pub(super) fn restore(&self, state: &serde_json::Value) -> Result<(), serde_json::Error> {
        let state: State = serde_json::from_value(state.clone())?;
        *lock(&self.state) = state;
        self.arm();
        Ok(())
    }
}

/// A balloon from outside.
pub struct BalloonControl {
    shared: Arc<Shared>,
    features: u64,
}

impl BalloonControl {
    pub(super) fn new(shared: Arc<Shared>, features: u64) -> Self {
        Self { shared, features }
    }

    fn has(&self, feature: u64) -> bool {
        self.features & 1 << feature != 0
    }

    /// Asks the guest for `amount_mib` MiB of its `memory_mib`; it is told through `signals`.
    ///
    /// # Errors
    /// It has not so much.
    pub fn resize(&self, amount_mib: u32, memory_mib: u64, signals: &Signals) -> Result<(), BalloonError> {
        if u64::from(amount_mib) > memory_mib {
            return Err(BalloonError::TooMuch { asked: amount_mib, memory: memory_mib });
        }
        let pages = amount_mib.saturating_mul(PAGES_PER_MIB);
        signals.change_config(|| lock(&self.shared.state).target = pages);
        Ok(())
    }

    /// What it has done so far.
    pub fn metrics(&self) -> &BalloonMetrics {
        &self.shared.metrics
    }

    /// How much the guest is asked for, in MiB.
    pub fn amount_mib(&self) -> u32 {
        lock(&self.shared.state).target / PAGES_PER_MIB
    }

    /// Seconds between statistics.
    pub fn interval_s(&self) -> u16 {
        lock(&self.shared.state).interval_s
    }

    /// What the guest said last.
    ///
    /// # Errors
    /// There are no statistics.
    pub fn statistics(&self) -> Result<BalloonStats, BalloonError> {
        if !self.has(F_STATS_VQ) {
            return Err(BalloonError::NoStatistics);
        }
        let state = lock(&self.shared.state);
        Ok(BalloonStats {
            target_pages: state.target,
            actual_pages: state.actual,
            target_mib: state.target / PAGES_PER_MIB,
            actual_mib: state.actual / PAGES_PER_MIB,
            guest: state.stats,
        })
    }

    /// Changes how often the guest is asked; the next time is now.
    ///
    /// # Errors
    /// That would switch statistics on or off.
    pub fn set_interval(&self, seconds: u16) -> Result<(), BalloonError> {
        if self.has(F_STATS_VQ) != (seconds > 0) {
            return Err(BalloonError::Interval);
        }
        lock(&self.shared.state).interval_s = seconds;
        if seconds > 0 {
            let interval = Duration::from_secs(seconds.into());
            let _ = self.shared.timer().reset(Duration::from_nanos(1), Some(interval));
        }
        Ok(())
    }

    /// Asks the guest what is free, so that it goes back to the host.
    ///
    /// # Errors
    /// There is no hinting.
    pub fn start_hinting(&self, start: BalloonStart, signals: &Signals) -> Result<(), BalloonError> {
        self.command(signals, |state| {
            // Numbers of runs differ from their neighbours' and from the two with a meaning of their own.
            state.host_cmd = state.host_cmd.max(DONE).checked_add(1).unwrap_or(FIRST_RUN);
            state.acknowledge = start.acknowledge_on_stop;
        })
    }

    /// Ends that: the guest may use all its pages again.
    ///
    /// # Errors
    /// There is no hinting.
    pub fn stop_hinting(&self, signals: &Signals) -> Result<(), BalloonError> {
        self.command(signals, |state| state.host_cmd = DONE)
    }

    fn command(&self, signals: &Signals, change: impl FnOnce(&mut State)) -> Result<(), BalloonError> {
        if !self.has(F_FREE_PAGE_HINT) {
            return Err(BalloonError::NoHinting);
        }
        signals.change_config(|| change(&mut lock(&self.shared.state)));
        Ok(())
    }

    /// How far it is.
    ///
    /// # Errors
    /// There is no hinting.
    pub fn hinting(&self) -> Result<BalloonHinting, BalloonError> {
        if !self.has(F_FREE_PAGE_HINT) {
            return Err(BalloonError::NoHinting);
        }
        let state = lock(&self.shared.state);
        Ok(BalloonHinting { host_cmd: state.host_cmd, guest_cmd: state.guest_cmd })
    }
}
