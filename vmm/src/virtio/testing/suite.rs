//! What every device has to keep over pauses, saved states and other processes: each request is answered once, whatever it is
//! interrupted by. One suite, through which each device goes over each transport.

use super::{EVENT_IDX, GuestOver, INDIRECT, QUEUE_SIZE, Registers, VERSION_1, memory};
use crate::virtio::{GuestMemory, Transport, TransportState, VirtioDevice};
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// A kind of device, with something behind it that outlives one.
pub trait Subject {
    /// What its driver accepts besides what the transport has.
    const FEATURES: u64 = 0;
    /// Its work is done by somebody else who takes his time, a thread of the kernel for one.
    const ELSEWHERE: bool = false;

    /// What its guest's memory is made of.
    fn memory() -> GuestMemory {
        memory()
    }

    /// A device on what is behind it, as another process would make it.
    fn fresh(&mut self) -> Box<dyn VirtioDevice>;

    /// Makes request number `number` available, of three buffers at most, and tells its queue and head.
    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16);

    /// What the device waits for comes from outside, if it waits for something.
    fn come(&mut self) {}

    /// Request `number` was given back with `written` bytes: is that its answer?
    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32);

    /// All were: is what is behind the device as it should be?
    fn finish(&mut self, _count: u32) {}
}

/// Requests that wait at a time: what fits into a ring.
const MOST: usize = QUEUE_SIZE as usize / 3;
/// How long somebody else may take for what waits in the end; longer than any busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Play<S, R: Registers> {
    subject: S,
    guest: Option<GuestOver<R>>,
    waiting: HashMap<(usize, u16), u32>,
    offered: u32,
}

impl<S: Subject, R: Registers> Play<S, R> {
    fn new(mut subject: S) -> Self {
        let guest = GuestOver::ready_with(S::memory(), subject.fresh(), features::<S>());
        Self { subject, guest: Some(guest), waiting: HashMap::new(), offered: 0 }
    }

    fn guest(&mut self) -> &mut GuestOver<R> {
        self.guest.as_mut().expect("it is only away while it migrates")
    }

    fn offer(&mut self) {
        if self.waiting.len() < MOST {
            let guest = self.guest.as_mut().expect("as above");
            let place = self.subject.offer(guest, self.offered);
            assert_eq!(self.waiting.insert(place, self.offered), None);
            self.offered += 1;
        }
    }

    fn kick(&mut self) {
        let guest = self.guest();
        (0..guest.rings.len()).for_each(|queue| guest.kick(queue));
    }

    /// Takes what was given back: each of it was asked for, and once.
    fn collect(&mut self) -> usize {
        let mut count = 0;
        let guest = self.guest.as_mut().expect("as above");
        for queue in 0..guest.rings.len() {
            while let Some((head, written)) = guest.used(queue) {
                let number = self.waiting.remove(&(queue, head)).expect("an answer that was waited for");
                self.subject.answered(guest, number, written);
                count += 1;
            }
        }
        count
    }

    fn migrate(&mut self) {
        let guest = self.guest.take().expect("as above");
        self.guest = Some(guest.migrate(self.subject.fresh()));
    }

    /// Everything is answered in the end; devices whose work goes on elsewhere finish what they have under way before they stand still.
    fn end(mut self) {
        let by = Instant::now() + PATIENCE;
        let mut rounds = 0;
        while rounds < 3 * MOST || S::ELSEWHERE && !self.waiting.is_empty() && Instant::now() < by {
            self.subject.come();
            self.kick();
            self.guest().transport.core_mut().resume().unwrap();
            self.guest().run();
            if S::ELSEWHERE {
                // Who does it would never get to it otherwise; a pause may well come in the middle.
                std::thread::sleep(Duration::from_millis(1));
            }
            self.guest().pause();
            self.collect();
            rounds += 1;
        }
        assert!(self.waiting.is_empty(), "lost: {:?}", self.waiting);
        assert_eq!(self.guest().faults(), [""; 0]);
        self.subject.finish(self.offered);
    }
}

fn features<S: Subject>() -> u64 {
    VERSION_1 | EVENT_IDX | INDIRECT | S::FEATURES
}

/// Puts subjects that `make` makes through everything.
pub fn run<S: Subject, R: Registers>(mut make: impl FnMut() -> S) {
    waits_while_paused::<S, R>(make());
    has_nothing_to_save_while_it_runs::<S, R>(make());
    starts_again_after_a_reset_in_a_pause::<S, R>(make());
    is_saved_before_its_driver_came::<S, R>(make());
    stays_broken_elsewhere::<S, R>(make());
    loses_and_doubles_nothing::<S, R>(&mut make);
    refuses_or_survives_spoilt_states::<S, R>(&mut make);
}

fn waits_while_paused<S: Subject, R: Registers>(subject: S) {
    let mut play = Play::<S, R>::new(subject);
    play.offer();
    // Twice is as good as once.
    play.guest().pause();
    play.guest().pause();
    if S::ELSEWHERE {
        // Who does the work may have been about to look.
        play.collect();
    }
    play.offer();
    play.subject.come();
    play.kick();
    play.guest().run();
    assert_eq!(play.collect(), 0, "a paused device works");
    // Nor does a restored one before it is told to.
    let state = play.guest().transport.save().unwrap();
    let mut elsewhere = GuestOver::<R>::with_memory(play.guest().memory.clone(), play.subject.fresh());
    elsewhere.transport.restore(&state).unwrap();
    elsewhere.run();
    assert_eq!(play.collect(), 0, "a restored device works unasked");
    drop(elsewhere);
    play.guest().transport.core_mut().resume().unwrap();
    play.guest().transport.core_mut().resume().unwrap();
    play.end();
}

fn has_nothing_to_save_while_it_runs<S: Subject, R: Registers>(subject: S) {
    let mut play = Play::<S, R>::new(subject);
    assert!(play.guest().transport.save().is_err());
    play.offer();
    play.end();
}

fn starts_again_after_a_reset_in_a_pause<S: Subject, R: Registers>(subject: S) {
    let mut play = Play::<S, R>::new(subject);
    play.guest().pause();
    play.guest().set_status(0);
    play.guest().transport.core_mut().resume().unwrap();
    play.guest().run();
    play.guest().negotiate(features::<S>());
    play.guest().set_up_rings();
    play.guest().set_status(15);
    play.offer();
    play.kick();
    play.end();
}

fn is_saved_before_its_driver_came<S: Subject, R: Registers>(mut subject: S) {
    let mut guest = GuestOver::<R>::with_memory(S::memory(), subject.fresh());
    guest.set_status(3);
    let mut guest = guest.migrate(subject.fresh());
    assert_eq!(guest.status(), 3);
    guest.negotiate(features::<S>());
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    let mut play = Play { subject, guest: Some(guest), waiting: HashMap::new(), offered: 0 };
    play.offer();
    play.kick();
    play.end();
}

fn stays_broken_elsewhere<S: Subject, R: Registers>(mut subject: S) {
    let mut guest = GuestOver::<R>::ready_with(S::memory(), subject.fresh(), features::<S>());
    for queue in 0..guest.rings.len() {
        guest.offer_head(queue, QUEUE_SIZE);
        guest.kick(queue);
    }
    // Some queues are looked at only when there is something to say.
    guest.run();
    let broken = guest.is_broken();
    let mut guest = guest.migrate(subject.fresh());
    assert_eq!(guest.is_broken(), broken);
    guest.set_status(0);
    assert!(!guest.is_broken());
}

fn loses_and_doubles_nothing<S: Subject, R: Registers>(make: &mut impl FnMut() -> S) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(24) });
    let steps = proptest::collection::vec(0..12u8, 1..60);
    let subject = std::cell::RefCell::new(make);
    let result = runner.run(&steps, |steps| {
        let mut play = Play::<S, R>::new((subject.borrow_mut())());
        for step in steps {
            match step {
                0..3 => play.offer(),
                3..5 => play.kick(),
                5 => play.guest().run(),
                // In the middle of its work.
                6 => play.guest().run_once(),
                7 => play.guest().pause(),
                8 => play.guest().transport.core_mut().resume().unwrap(),
                9 | 10 => play.subject.come(),
                _ => play.migrate(),
            }
            play.collect();
        }
        play.end();
        Ok(())
    });
    result.unwrap();
}

/// Every number and list of a saved state, made something else.
fn spoil(value: &mut Value, path: &mut u32, target: u32, with: &Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| spoil(field, path, target, with)),
        Value::Array(entries) if !entries.is_empty() => {
            entries.iter_mut().for_each(|entry| spoil(entry, path, target, with));
        }
        other => {
            if *path == target {
                *other = with.clone();
            }
            *path += 1;
        }
    }
}

fn refuses_or_survives_spoilt_states<S: Subject, R: Registers>(make: &mut impl FnMut() -> S) {
    let mut play = Play::<S, R>::new(make());
    play.offer();
    play.kick();
    play.guest().run();
    play.offer();
    play.guest().pause();
    let state = serde_json::to_value(play.guest().transport.save().unwrap()).unwrap();
    let ring = play.guest().rings[0].avail();
    let memory = play.guest().memory.clone();
    let mut count = 0;
    spoil(&mut state.clone(), &mut count, u32::MAX, &Value::Null);
    for target in 0..count {
        for with in [
            0.into(),
            1.into(),
            3.into(),
            0x8000.into(),
            0xffff.into(),
            u32::MAX.into(),
            u64::MAX.into(),
            true.into(),
            Value::Null,
        ] {
            let mut state = state.clone();
            spoil(&mut state, &mut 0, target, &with);
            let Ok(state) = serde_json::from_value::<TransportState>(state) else { continue };
            let index: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap();
            let mut guest = GuestOver::<R>::with_memory(memory.clone(), play.subject.fresh());
            if guest.transport.restore(&state).is_ok() {
                guest.transport.core_mut().resume().unwrap();
                for queue in 0..guest.transport.core().queue_events().len() {
                    guest.kick(queue);
                }
                guest.run();
                guest.pause();
                guest.set_status(0);
                guest.run();
            }
            memory.write_obj(index, GuestAddress(ring + 2)).unwrap();
        }
    }
}
