//! The VMM thread once the guest runs: signals, control requests, devices; until the VM ends.

use crate::api::control::{Reply, Request};
use crate::api::status::{Event, ExitReason};
use crate::changes;
use crate::control::{Command, ReplyTo};
use crate::end::{EndSignal, Ending};
use crate::handles::HandleError;
use crate::http::after::After;
use crate::line_writer::complain;
use crate::log;
use crate::machine::Machine;
use crate::metrics::Counter;
use crate::observe::Observer;
use crate::validate;
use crate::virtio::Subscriber;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Events that are served before requests are looked at. Each may be a queue's, which does a bounded amount of work at a time, and a
/// guest may have hundreds of them ready. The kernel hands out those first that have waited longest.
pub const ROUND: usize = 4;
/// Rounds of the loop after the last vCPU has stopped, for what the guest had handed to devices before: the last lines of
/// its console above all. Bounded, because the world outside may go on sending for ever.
const LAST_ROUNDS: usize = 4096;
/// And no further one after so long: a guest may have left requests that take long, each a round of its own.
const LAST_TIME: Duration = Duration::from_millis(500);

/// vCPUs that have not stopped after so long wait in a device: for a disk that hangs, or for several back ends that do not answer, one of
/// which has less time ([`crate::virtio::vhost_user::LIMIT`]). The VM ends without them.
const LAST_STOP: Duration = Duration::from_secs(7);
/// Requests that wait for one pause; each keeps a descriptor until it is answered. The newest are kept, as those that wait for a guest to let go
/// of a device.
const MAX_WAITING: usize = 4;
/// A pause that has waited so long is worth a line in the log.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// How long the loop sleeps at most while a pause is on its way: at first, since it is waited for, and seldom long; and when it is long, since
/// many VMs may wait for one disk.
const PAUSE_MS: std::ops::RangeInclusive<i32> = 1..=100;
/// How long the loop sleeps at most while it waits for vCPUs to stop.
const TICK_MS: i32 = 100;

/// The VMM thread's loop, without anything in it.
///
/// # Errors
/// Descriptors have run out.
pub fn manager() -> Result<EventManager<Subscriber>, event_manager::Error> {
    EventManager::new_with_capacity(ROUND)
}

/// Wakes the loop when an event is written to, and does nothing else.
pub struct Wake(File);

impl Wake {
    /// For an eventfd that does not block.
    pub fn new(event: &vmm_sys_util::eventfd::EventFd) -> std::io::Result<Self> {
        let event = event.try_clone()?;
        Ok(Self(crate::sys::into_file(event)))
    }
}

impl MutEventSubscriber for Wake {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // An eventfd can be watched, and this one is not yet.
        let _ = ops.add(Events::new(&self.0, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        // Reading resets it.
        let _ = self.0.read(&mut [0; 8]);
    }
}

/// Ends the VM when a signal has come.
pub struct Signals {
    descriptor: File,
    end: EndSignal,
    hangups: Arc<Counter>,
}

impl Signals {
    /// For a signalfd that does not block; each SIGHUP is counted in `hangups`.
    pub fn new(descriptor: File, end: EndSignal, hangups: Arc<Counter>) -> Self {
        Self { descriptor, end, hangups }
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // A signalfd can be watched, and this one is not yet.
        let _ = ops.add(Events::new(&self.descriptor, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        if self.descriptor.read(&mut info).is_ok_and(|read| read == info.len()) {
            let [a, b, c, d, ..] = info;
            let detail = match u32::from_ne_bytes([a, b, c, d]).cast_signed() {
                libc::SIGTERM => "SIGTERM".to_owned(),
                libc::SIGINT => "SIGINT".to_owned(),
                libc::SIGHUP => {
                    self.hangups.add(1);
                    "SIGHUP".to_owned()
                }
                other => format!("signal {other}"),
            };
            self.end.end(ExitReason::Stopped, detail);
        }
    }
}

/// What the vCPUs do, or are about to.
enum State {
    Running,
    /// Some still run, or devices have something under way; these wait to hear that all stand still.
    Pausing(Pause),
    Paused,
}

/// A pause on its way.
struct Pause {
    waiting: VecDeque<ReplyTo>,
    since: Instant,
    warned: bool,
}

impl Pause {
    fn new(reply: ReplyTo) -> Self {
        Self { waiting: [reply].into(), since: Instant::now(), warned: false }
    }

    /// One more who waits for it.
    fn join(&mut self, reply: ReplyTo) {
        if self.waiting.len() >= MAX_WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            oldest.refuse(format!(
                "the pause is still on its way, but {MAX_WAITING} newer requests wait for it and this one does no longer"
            ));
        }
        self.waiting.push_back(reply);
    }

    /// It will not come to its end.
    fn give_up(self, why: &str) {
        self.waiting.iter().for_each(|reply| reply.refuse(why));
    }

    /// How many milliseconds may pass until it is looked after again: a tenth of those that have.
    fn tick(&self) -> i32 {
        let tenth = i32::try_from(self.since.elapsed().as_millis() / 10).unwrap_or(i32::MAX);
        tenth.clamp(*PAUSE_MS.start(), *PAUSE_MS.end())
    }

    /// Says once what takes so long.
    fn warn(&mut self, why: impl FnOnce() -> String) {
        if !self.warned && self.since.elapsed() >= LONG_PAUSE {
            self.warned = true;
            log!(Warning, "A pause has waited for {} s for {}", LONG_PAUSE.as_secs(), why());
        }
    }
}

/// Where requests come from.
pub struct Requests {
    /// The control socket.
    pub commands: Receiver<Command>,
    /// The HTTP API, if there is one.
    pub api: Option<After>,
    /// What is told of all this.
    pub observer: Observer,
}

/// Runs until the VM has ended.
pub fn run(
    machine: &mut Machine,
    manager: &mut EventManager<Subscriber>,
    requests: &mut Requests,
    end: &EndSignal,
) -> Ending {
    let mut state = State::Running;
    let ending = loop {
        if let Some(ending) = end.ending() {
            break ending;
        }
        // A device that has something under way in a thread of its own wakes nobody here when it has landed.
        let result = match &state {
            State::Pausing(pause) => manager.run_with_timeout(pause.tick()),
            _ => manager.run(),
        };
        if let Err(error) = result {
            break Ending { reason: ExitReason::InternalError, detail: format!("the event loop: {error}") };
        }
        while let Ok(command) = requests.commands.try_recv() {
            state = answer(machine, state, command, end);
        }
        if let Some(api) = &mut requests.api {
            let paused = |state: &State| matches!(state, State::Paused);
            while let Some(command) = api.next(machine, paused(&state), &mut requests.observer) {
                state = answer(machine, state, command, end);
            }
        }
        let (gone, waiting) = machine.clear_unplugged();
        gone.iter().for_each(|name| requests.observer.forget(name));
        for reply in waiting {
            reply.send(&info(machine, name(&state)));
        }
        requests.observer.tick(machine);
        state = pause(machine, state);
    };
    if let State::Pausing(pause) = state {
        pause.give_up("the VM ends before all vCPUs and devices stand still");
    }
    stop(machine, manager);
    machine.give_up_waiting();
    requests.observer.flush(machine);
    // Before the API goes, which serves those who read it.
    machine.status().announce(ending.reason, &ending.detail);
    ending
}

/// Brings a pause on its way to its end, if it can be.
fn pause(machine: &Machine, state: State) -> State {
    let State::Pausing(mut pause) = state else { return state };
    // Devices after the vCPUs that hand them work.
    if !machine.vcpus.all_parked() {
        pause.warn(|| "a vCPU that is in a device".into());
        return State::Pausing(pause);
    }
    let busy = machine.pause_devices();
    if !busy.is_empty() {
        pause.warn(|| format!("what the host's disks have not answered yet: {}", busy.join(", ")));
        return State::Pausing(pause);
    }
    machine.status().tell(|at_us| Event::Paused { at_us });
    pause.waiting.iter().for_each(|reply| reply.send(&info(machine, "paused")));
    State::Paused
}

fn info(machine: &Machine, state: &str) -> Reply {
    Reply::Ok { state: state.into(), exits: machine.vcpus.exits() }
}

fn answer(machine: &mut Machine, state: State, command: Command, end: &EndSignal) -> State {
    let Command { request, files, reply } = command;
    let request = match request {
        Ok(request) => request,
        Err(why) => {
            reply.refuse(why);
            return state;
        }
    };
    match (request, state) {
        (Request::Pause {}, State::Running) => {
            machine.vcpus.pause();
            State::Pausing(Pause::new(reply))
        }
        (Request::Pause {}, State::Pausing(mut pause)) => {
            pause.join(reply);
            State::Pausing(pause)
        }
        (Request::Resume {}, old) => {
            // Devices stand still, or are on their way there, only where all vCPUs do; elsewhere one may be busy with a device, for seconds,
            // and this would wait for it.
            if !matches!(old, State::Running)
                && machine.vcpus.all_parked()
                && let Err(error) = machine.resume_devices()
            {
                end.end(ExitReason::InternalError, error.to_string());
            }
            machine.vcpus.resume();
            if matches!(old, State::Paused) {
                machine.status().tell(|at_us| Event::Resumed { at_us });
            }
            if let State::Pausing(pause) = old {
                pause.give_up("resumed before all vCPUs and devices stood still");
            }
            reply.send(&info(machine, "running"));
            State::Running
        }
        (Request::PowerButton {}, state) => {
            match machine.press_power_button() {
                Ok(()) => reply.send(&info(machine, name(&state))),
                Err(error) => reply.refuse(format!("the power button's interrupt: {error}")),
            }
            state
        }
        (Request::Stop {}, state) => {
            end.end(ExitReason::Stopped, "by request");
            reply.send(&info(machine, name(&state)));
            state
        }
        (Request::Insert { drive_id, files: said }, state) => {
            let free = machine.check_drive(&drive_id);
            let result = free.and_then(|()| machine.handles.insert(&drive_id, said, files));
            if result.is_ok() {
                changes::drive_files(machine.config_mut(), &drive_id, None);
            }
            changed(machine, &state, &reply, result);
            state
        }
        (Request::Eject { drive_id }, state) => {
            let free = machine.check_drive(&drive_id);
            let result = free.and_then(|()| machine.handles.eject(&drive_id));
            if result.is_ok() {
                changes::drive_files(machine.config_mut(), &drive_id, None);
            }
            changed(machine, &state, &reply, result);
            state
        }
        (Request::Plug { device, files: said }, state) => {
            let result =
                validate::plugged(&device, said, files).and_then(|files| machine.plug(&device, files));
            changed(machine, &state, &reply, result);
            state
        }
        (Request::Unplug { device }, state) => {
            machine.unplug(device.into(), reply);
            state
        }
        (Request::UpdateDrive { drive_id, rate_limiter, files: said, measure }, state) => {
            let files = (said, files);
            let limiter = rate_limiter.as_ref();
            let free = machine.check_drive(&drive_id);
            let result = free.and_then(|()| machine.handles.update_drive(&drive_id, limiter, files, measure));
            if result.is_ok() {
                let config = machine.config_mut();
                if said > 0 {
                    changes::drive_files(config, &drive_id, None);
                }
                rate_limiter.iter().for_each(|limiter| changes::limit_drive(config, &drive_id, limiter));
            }
            changed(machine, &state, &reply, result);
            state
        }
        (Request::HotplugMemory { requested_size_mib }, state) => {
            changed(machine, &state, &reply, machine.resize_memory(requested_size_mib));
            state
        }
        (Request::NewGeneration {}, state) => {
            match machine.generation.change() {
                Ok(()) => reply.send(&info(machine, name(&state))),
                Err(error) => reply.refuse(crate::chain(&error)),
            }
            state
        }
        (Request::Balloon { amount_mib }, state) => {
            changed(machine, &state, &reply, machine.resize_balloon(amount_mib));
            state
        }
        (Request::UpdateInterface { iface_id, rx_rate_limiter: rx, tx_rate_limiter: tx }, state) => {
            let result = machine.handles.limit_interface(&iface_id, rx.as_ref(), tx.as_ref());
            if result.is_ok() {
                changes::limit_interface(machine.config_mut(), &iface_id, rx.as_ref(), tx.as_ref());
            }
            changed(machine, &state, &reply, result);
            state
        }
        (Request::Devices {}, state) => {
            reply.send(&Reply::Devices { devices: machine.seen_devices() });
            state
        }
        (Request::Pause {} | Request::Info {}, state) => {
            reply.send(&info(machine, name(&state)));
            state
        }
    }
}

fn changed(machine: &Machine, state: &State, reply: &ReplyTo, result: Result<(), HandleError>) {
    match result {
        Ok(()) => reply.send(&info(machine, name(state))),
        Err(error) => reply.refuse(crate::chain(&error)),
    }
}

fn name(state: &State) -> &'static str {
    match state {
        State::Running | State::Pausing(_) => "running",
        State::Paused => "paused",
    }
}

/// Stops the vCPUs, then lets devices finish what the guest had given them, those of a paused VM too.
fn stop(machine: &Machine, manager: &mut EventManager<Subscriber>) {
    machine.vcpus.pause();
    if !run_until(manager, || machine.vcpus.all_parked(), LAST_STOP) {
        // Whoever asked a device now would wait for the one that is in it.
        let seconds = LAST_STOP.as_secs();
        let why = "a vCPU waits in a device, for a disk that hangs or for back ends that do not answer; what devices still had to do is left undone";
        complain(&format!("not all vCPUs have stopped within {seconds} s: {why}"));
        log!(Warning, "Not all vCPUs have stopped within {seconds} s: {why}");
        return;
    }
    // It fails only without the loop, and then there is nothing to finish.
    let _ = machine.resume_devices();
    let start = Instant::now();
    for _ in 0..LAST_ROUNDS {
        if !matches!(manager.run_with_timeout(0), Ok(1..)) || start.elapsed() >= LAST_TIME {
            return;
        }
    }
}

/// Runs the loop until `done`, since a vCPU may be inside a device that needs it, but not for longer than `limit`: whether it is done.
fn run_until(manager: &mut EventManager<Subscriber>, done: impl Fn() -> bool, limit: Duration) -> bool {
    let start = Instant::now();
    while !done() {
        if manager.run_with_timeout(TICK_MS).is_err() || start.elapsed() >= limit {
            return done();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn who_never_stops_is_not_waited_for_for_ever() {
        let mut manager = manager().unwrap();
        assert!(!run_until(&mut manager, || false, Duration::ZERO));
        assert!(run_until(&mut manager, || true, Duration::ZERO));
        let looks = Cell::new(0);
        let third = || looks.replace(looks.get() + 1) == 2;
        assert!(run_until(&mut manager, third, Duration::MAX));
    }
}
