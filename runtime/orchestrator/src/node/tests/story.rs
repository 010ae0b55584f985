//! Any order of looks, steps that get halfway, containers and VMs that end, daemons that are killed: no container is ever there twice, and it
//! ends in what is declared.

use super::super::life::{Step, decide};
use super::super::observed::{Attempt, End, Health, Observed, Sandbox, State};
use super::super::parts;
use super::super::status::{Around, status};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What happens next. Numbers choose among what is there.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The loop notes who is busy,
    Note,
    /// and only then looks and begins what is decided. In between anything may happen.
    Look,
    /// A task gets one phase further.
    Advance(usize),
    /// A container ends.
    End(usize, i32),
    /// The VM ends.
    VmDies,
    /// The daemon is killed, and the next one recovers.
    Crash,
    /// Somebody deletes the pod.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Vm {
    Stopped,
    Starting,
    Running(DateTime<Utc>),
}

/// The machine: what lasts, and what a daemon has in its memory.
struct World {
    pod: Value,
    gone: bool,
    now: DateTime<Utc>,
    sandbox: Option<Vm>,
    rows: BTreeMap<String, Vec<Attempt>>,
    tasks: Vec<(Step, usize)>,
    noted: Option<BTreeSet<String>>,
    made: usize,
}

fn key(step: &Step) -> String {
    match step {
        Step::Start { container, .. } | Step::Forget { container, .. } => container.clone(),
        Step::Stop { id, .. } => format!("stop {id}"),
        Step::StopSandbox | Step::Remove | Step::Finalize => String::new(),
    }
}

impl World {
    fn new(policy: &str) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"nodeName": "box", "restartPolicy": policy,
            "terminationGracePeriodSeconds": 5, "initContainers": [{"name": "i", "image": "x"}, {"name": "s", "image": "x", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}, "status": {"phase": "Pending"}});
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        Self {
            pod,
            gone: false,
            now,
            sandbox: None,
            rows: BTreeMap::new(),
            tasks: Vec::new(),
            noted: None,
            made: 0,
        }
    }

    fn busy(&self) -> BTreeSet<String> {
        self.tasks.iter().map(|(step, _)| key(step)).collect()
    }

    fn observed(&self, busy: BTreeSet<String>) -> Observed {
        let sandbox = match self.sandbox {
            None => Sandbox::Absent,
            Some(Vm::Stopped) => Sandbox::Stopped,
            Some(Vm::Starting) => Sandbox::Starting,
            Some(Vm::Running(since)) => Sandbox::Running { since, ips: Vec::new() },
        };
        let running = self.rows.values().flatten().filter(|row| matches!(row.state, State::Running { .. }));
        let well = |row: &Attempt| (row.id.clone(), Health { started: true, ready: true, unhealthy: None });
        Observed {
            sandbox,
            containers: self.rows.clone(),
            busy,
            health: running.map(well).collect(),
            ..Observed::default()
        }
    }

    fn look(&mut self) -> Option<DateTime<Utc>> {
        let busy = self.noted.take()?;
        let observed = self.observed(busy.clone());
        let decision = decide(&self.pod, &observed, self.now);
        self.pod["status"] = status(&self.pod, &observed, Around { host_ip: "192.0.2.1", now: self.now });
        let mut taken = self.busy();
        for step in decision.steps {
            if !busy.contains(&key(&step)) && taken.insert(key(&step)) {
                self.tasks.push((step, 0));
            }
        }
        decision.again
    }

    fn advance(&mut self, which: usize) {
        if self.tasks.is_empty() {
            return;
        }
        let which = which % self.tasks.len();
        let (step, phase) = self.tasks[which].clone();
        self.tasks[which].1 += 1;
        if self.phase(&step, phase) {
            self.tasks.remove(which);
        }
    }

    /// Does a phase of a step; says whether it was the last.
    fn phase(&mut self, step: &Step, phase: usize) -> bool {
        let now = self.now;
        match step {
            Step::Start { container, number, failures, run: wanted } => match phase {
                0 => drop(self.sandbox.get_or_insert(Vm::Stopped)),
                1 if self.sandbox == Some(Vm::Stopped) => self.sandbox = Some(Vm::Starting),
                1 => {}
                2 if self.sandbox.is_some_and(|vm| !matches!(vm, Vm::Running(_))) => {
                    self.sandbox = Some(Vm::Running(now))
                }
                2 => {}
                3 => {
                    let up = matches!(self.sandbox, Some(Vm::Running(_)));
                    if !up || self.gone || crate::object::is_deleted(&self.pod) {
                        return true;
                    }
                    if wanted.is_some_and(|wanted| self.sandbox != Some(Vm::Running(wanted))) {
                        return true;
                    }
                    let rows = self.rows.entry(container.clone()).or_default();
                    assert!(rows.iter().all(|row| !row.active), "{container} is there already: {rows:?}");
                    assert!(
                        rows.iter().all(|row| row.number < *number),
                        "{container} had {number} before: {rows:?}"
                    );
                    self.made += 1;
                    let run = match self.sandbox {
                        Some(Vm::Running(since)) => Some(since),
                        _ => None,
                    };
                    let (id, image, image_id) = (format!("{container}{number}"), "x".into(), "y".into());
                    rows.push(Attempt {
                        id,
                        number: *number,
                        failures: *failures,
                        image,
                        image_id,
                        state: State::Starting,
                        active: true,
                        sandbox: run,
                    });
                }
                _ => {
                    let row = self
                        .rows
                        .get_mut(container)
                        .and_then(|rows| rows.iter_mut().find(|row| row.number == *number));
                    if let Some(row) = row.filter(|row| row.state == State::Starting) {
                        row.state = State::Running { since: now };
                    }
                    return true;
                }
            },
            Step::Stop { container, id, .. } => {
                if phase == 0 {
                    return false;
                }
                for row in self.rows.get_mut(container).into_iter().flatten().filter(|row| row.id == *id) {
                    end(row, 143, now);
                }
                return true;
            }
            Step::Forget { container, id } => {
                self.rows.entry(container.clone()).or_default().retain(|row| row.id != *id);
                return true;
            }
            Step::StopSandbox => {
                self.vm_ends();
                return true;
            }
            Step::Remove => {
                self.vm_ends();
                self.rows.clear();
                self.sandbox = None;
                return true;
            }
            Step::Finalize => {
                assert!(self.sandbox.is_none() && self.rows.values().all(Vec::is_empty), "something is left");
                self.gone = true;
                return true;
            }
        }
        false
    }

    fn vm_ends(&mut self) {
        let now = self.now;
        self.rows.values_mut().flatten().for_each(|row| end(row, 255, now));
        if self.sandbox.is_some() {
            self.sandbox = Some(Vm::Stopped);
        }
    }

    fn happens(&mut self, event: Event) {
        self.now += TimeDelta::seconds(1);
        let now = self.now;
        match event {
            _ if self.gone => {}
            Event::Note => self.noted = Some(self.busy()),
            Event::Look => drop(self.look()),
            Event::Advance(which) => self.advance(which),
            Event::End(which, code) => {
                let mut running: Vec<_> = self
                    .rows
                    .values_mut()
                    .flatten()
                    .filter(|row| matches!(row.state, State::Running { .. }))
                    .collect();
                let count = running.len().max(1);
                if let Some(row) = running.get_mut(which % count) {
                    end(row, code, now);
                }
            }
            Event::VmDies => self.vm_ends(),
            Event::Crash => {
                self.tasks.clear();
                self.noted = None;
                if self.sandbox == Some(Vm::Starting) {
                    self.sandbox = Some(Vm::Stopped);
                }
                for row in self.rows.values_mut().flatten().filter(|row| row.state == State::Starting) {
                    let end = End { code: 125, is_lost_start: true, finished: Some(now), ..End::default() };
                    row.state = State::Ended(end);
                    row.active = false;
                }
            }
            Event::Delete => {
                if !crate::object::is_deleted(&self.pod) {
                    self.pod["metadata"]["deletionTimestamp"] =
                        (now + TimeDelta::seconds(5)).to_rfc3339().into();
                }
            }
        }
    }

    /// Goes on undisturbed until nothing is to be done but to wait for something that does not come; waits are over at once.
    fn rest(&mut self) {
        for _ in 0..500 {
            while !self.tasks.is_empty() {
                self.happens(Event::Advance(0));
            }
            if self.gone {
                return;
            }
            self.noted = Some(BTreeSet::new());
            let again = self.look();
            // What begins is there to do its work.
            let init = self.rows.get_mut("i").and_then(|rows| rows.last_mut());
            if let Some(row) = init.filter(|row| matches!(row.state, State::Running { .. })) {
                end(row, 0, self.now);
                continue;
            }
            match (again, self.tasks.is_empty()) {
                (Some(at), true) => self.now = self.now.max(at),
                (None, true) => return,
                (_, false) => {}
            }
        }
        panic!("it never comes to rest: {:?} {:?}", self.rows, self.tasks);
    }
}

fn end(row: &mut Attempt, code: i32, now: DateTime<Utc>) {
    let started = match row.state {
        State::Ended(_) => return,
        State::Running { since } => Some(since),
        State::Starting => None,
    };
    row.state = State::Ended(End { code, started, finished: Some(now), ..End::default() });
    row.active = false;
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Note),
        6 => Just(Event::Look),
        12 => (0..8usize).prop_map(Event::Advance),
        2 => (0..4usize, prop_oneof![Just(0), Just(1)]).prop_map(|(which, code)| Event::End(which, code)),
        1 => Just(Event::VmDies),
        1 => Just(Event::Crash),
    ]
}

proptest! {
    #[test]
    fn no_container_is_there_twice_and_it_ends_as_declared(
        events in prop::collection::vec(event(), 0..120),
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        deleted in prop::option::of(0..120usize),
    ) {
        let mut world = World::new(policy);
        for (index, event) in events.iter().enumerate() {
            if deleted == Some(index) {
                world.happens(Event::Delete);
            }
            world.happens(*event);
        }
        if deleted.is_some() {
            world.happens(Event::Delete);
        }
        world.rest();
        if deleted.is_some() {
            prop_assert!(world.gone);
            return Ok(());
        }
        let phase = world.pod["status"]["phase"].as_str().unwrap().to_owned();
        let is_up = |name: &str| world.rows.get(name).and_then(|rows| rows.last()).is_some_and(|row| matches!(row.state, State::Running { .. }));
        match phase.as_str() {
            "Running" => for part in parts(&world.pod).iter().filter(|part| part.name == "a" || part.name == "b") {
                let rows = &world.rows[part.name];
                let done = matches!(&rows.last().unwrap().state, State::Ended(end) if !end.is_lost_start && policy == "Never" || policy == "OnFailure" && end.code == 0);
                prop_assert!(is_up(part.name) || done, "{:?}", rows);
            },
            "Succeeded" | "Failed" => {
                prop_assert!(policy != "Always");
                prop_assert!(!matches!(world.sandbox, Some(Vm::Running(_))), "nothing of it goes on");
            }
            other => prop_assert!(false, "{}", other),
        }
        prop_assert!(world.rows.values().all(|rows| rows.len() <= 2), "old ones are let go");
    }
}
