//! Random operations and random kill -9, with an oracle: a model of what must be true afterwards.
//!
//! Each step does one thing to one container, perhaps with a blow at a random moment of it: to the command line, the daemon, or a VM. The model
//! says what may be true then: one fact when nothing disturbed the step, a few when something did. What is found decides between them; anything
//! else ends the run. The seed and each step are printed as they come, so that a hang has a story too.

use crate::host::{Vial, signal};
use crate::story;
use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Containers at a time: each is a VM.
const MOST: usize = 4;
/// Lines that a worker writes.
const LINES: u32 = 300;
/// Seconds for a sleeper to end when it is asked: far more than it needs, for a SIGKILL would be another truth.
const PATIENCE: &str = "60";

/// Random numbers that a seed decides (splitmix64).
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What can be true of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    Absent,
    Running,
    Paused,
    Exited(i64),
}
use Fact::{Absent, Exited, Paused, Running};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sleeps until it is asked to end, then ends with 5.
    Sleeper,
    /// Writes its lines and ends with 7.
    Worker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Nothing,
    Command,
    Daemon,
    Vm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Run(Kind),
    Start,
    Stop,
    Restart,
    Pause,
    Remove,
    /// Nothing but the blow.
    Wait,
}

#[derive(Debug)]
struct Known {
    kind: Kind,
    fact: Fact,
    /// Whether a blow may have cut its output.
    cut: bool,
}

/// What was found to be wrong.
#[derive(Debug)]
pub struct Broken {
    what: String,
    seed: u64,
    state: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n{}", self.seed, self.what, self.state)
    }
}

/// When it ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many steps.
    Rounds(u64),
    /// After the first step that ends so long after the beginning.
    For(Duration),
}

/// Goes through random steps, until someone says `stop` at the latest; says how many.
///
/// # Errors
/// When something is not as it must be.
pub fn run(seed: u64, until: Until, stop: &AtomicBool) -> Result<u64, Box<Broken>> {
    println!("seed {seed}");
    let vial = Vial::with_busybox();
    let mut soak = Soak { vial: &vial, random: Random(seed), known: BTreeMap::new(), made: 0 };
    let begin = Instant::now();
    let mut rounds = 0;
    loop {
        match until {
            _ if stop.load(Ordering::Relaxed) => break,
            Until::Rounds(count) if rounds >= count => break,
            Until::For(time) if begin.elapsed() >= time => break,
            _ => {}
        }
        if let Err(what) = soak.step() {
            return Err(Box::new(Broken { what, seed, state: story::tell(vial.run_dir()) }));
        }
        rounds += 1;
    }
    vial.leaves_nothing();
    Ok(rounds)
}

struct Soak<'a> {
    vial: &'a Vial,
    random: Random,
    known: BTreeMap<String, Known>,
    made: u64,
}

impl Soak<'_> {
    fn step(&mut self) -> Result<(), String> {
        let (name, step) = self.choose();
        let blow = self.random.pick(&[
            Blow::Nothing,
            Blow::Nothing,
            Blow::Command,
            Blow::Daemon,
            Blow::Daemon,
            Blow::Vm,
        ]);
        let after = Duration::from_millis(self.random.below(2500));
        println!("  {step:?} {name}, {blow:?} after {after:?}");
        let before = self.known.get(&name).map_or(Absent, |known| known.fact);
        let blow = self.carry_out(&name, step, blow, after);
        if let Step::Run(kind) = step {
            self.known.insert(name.clone(), Known { kind, fact: before, cut: false });
        }
        self.verify(&name, step, blow, before)
    }

    fn choose(&mut self) -> (String, Step) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        if names.is_empty() || (names.len() < MOST && self.random.below(2) == 0) {
            self.made += 1;
            return (
                format!("soak-{}", self.made),
                Step::Run(self.random.pick(&[Kind::Sleeper, Kind::Worker])),
            );
        }
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        let known = &self.known[&name];
        let steps: &[Step] = match (known.kind, known.fact) {
            (Kind::Sleeper, Running) => {
                &[Step::Stop, Step::Restart, Step::Pause, Step::Remove, Step::Wait, Step::Wait]
            }
            (Kind::Sleeper, _) => &[Step::Start, Step::Start, Step::Restart, Step::Remove],
            (Kind::Worker, _) => &[Step::Remove, Step::Wait],
        };
        (name, self.random.pick(steps))
    }

    fn words<'w>(step: Step, name: &'w str, worker: &'w str) -> Vec<&'w str> {
        let sleeper = "trap 'exit 5' TERM; echo up; while :; do sleep 9 & wait $!; done";
        match step {
            Step::Run(Kind::Sleeper) => vec!["run", "-d", "--name", name, "busybox", "sh", "-c", sleeper],
            Step::Run(Kind::Worker) => vec!["run", "-d", "--name", name, "busybox", "sh", "-c", worker],
            Step::Start => vec!["start", name],
            Step::Stop => vec!["stop", "-t", PATIENCE, name],
            Step::Restart => vec!["restart", "-t", PATIENCE, name],
            Step::Pause => vec!["pause", name],
            Step::Remove => vec!["rm", "-f", name],
            Step::Wait => vec!["inspect", name],
        }
    }

    /// Does it, strikes, and waits until all that was begun has come to its end. Says what the blow was: nothing, when it met nobody.
    fn carry_out(&self, name: &str, step: Step, blow: Blow, after: Duration) -> Blow {
        let worker = format!("i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; exit 7");
        let words = Self::words(step, name, &worker);
        // Asked before: the command might start another one.
        let daemon = (blow == Blow::Daemon).then(|| self.vial.daemon_pid()).flatten();
        let child = self.vial.spawn(&words, Stdio::null());
        // Not reaped yet, so the id is still its own.
        let command = i32::try_from(child.id()).ok();
        if blow != Blow::Nothing {
            std::thread::sleep(after);
        }
        let victim = match blow {
            Blow::Nothing => None,
            Blow::Command => command,
            Blow::Daemon => daemon,
            Blow::Vm => self.vial.vmm_of(name),
        };
        if let Some(pid) = victim {
            signal(pid, libc::SIGKILL);
        }
        self.vial.wait(child);
        if victim.is_none() {
            return Blow::Nothing;
        }
        // Nobody knows how far a command got that was killed; a stop or removal may go on by itself. The same once more waits for that.
        if blow == Blow::Command || matches!(step, Step::Stop | Step::Remove) {
            self.vial.run(&words);
        }
        // One that is being started is waited for by whoever wants to run something in it.
        self.vial.run(["exec", name, "true"]);
        if blow == Blow::Vm && self.vial.vmm_of(name) == victim {
            // It is dead, and Vial comes to know.
            self.vial.run(["wait", name]);
        }
        blow
    }

    /// What may be true now.
    fn allowed(step: Step, kind: Kind, blow: Blow, before: Fact) -> Vec<Fact> {
        let end = if kind == Kind::Worker { Exited(7) } else { Running };
        match (step, blow) {
            // Whoever asked does not matter once it was asked for.
            (Step::Run(_), Blow::Nothing | Blow::Command) => vec![end],
            (Step::Run(Kind::Worker), Blow::Vm) => vec![Exited(125), Exited(137), end],
            (Step::Run(Kind::Sleeper) | Step::Start, Blow::Vm) => vec![Exited(125), Exited(137)],
            // It was never noted, or was noted and its start cut off, or all was well.
            (Step::Run(_), Blow::Daemon) => vec![Absent, Exited(125), end],
            (Step::Start | Step::Restart, Blow::Nothing | Blow::Command) => vec![Running],
            // It may be the old VM that was killed, while it was stopped.
            (Step::Restart, Blow::Vm) => vec![Running, Exited(125), Exited(137)],
            (Step::Start, Blow::Daemon) => vec![Running, Exited(125), before],
            // The old run was asked to end, the new one not yet begun; or the request never arrived.
            (Step::Restart, Blow::Daemon) => vec![Running, Exited(125), Exited(5), before],
            (Step::Stop, Blow::Vm) => vec![Exited(5), Exited(137)],
            (Step::Stop, _) => vec![Exited(5)],
            (Step::Pause, Blow::Nothing | Blow::Command) => vec![Paused],
            (Step::Pause, Blow::Vm) => vec![Exited(137)],
            (Step::Pause, Blow::Daemon) => vec![Paused, before],
            (Step::Remove, _) => vec![Absent],
            (Step::Wait, Blow::Vm) => vec![Exited(137)],
            (Step::Wait, _) => vec![before],
        }
    }

    fn verify(&mut self, name: &str, step: Step, blow: Blow, before: Fact) -> Result<(), String> {
        let kind = self.known[name].kind;
        if kind == Kind::Worker {
            self.vial.run(["wait", name]);
        }
        let found = self.listed()?;
        let allowed = Self::allowed(step, kind, blow, before);
        let fact = found.get(name).copied().unwrap_or(Absent);
        if !allowed.contains(&fact) {
            return Err(format!(
                "{name} was {before:?}; after {step:?} with {blow:?} it is {fact:?} and not one of {allowed:?}"
            ));
        }
        for (other, known) in self.known.iter().filter(|(other, _)| *other != name) {
            let fact = found.get(other).copied().unwrap_or(Absent);
            if fact != known.fact {
                return Err(format!("{other}, which nobody touched, was {:?} and is {fact:?}", known.fact));
            }
        }
        if let Some(stranger) = found.keys().find(|name| !self.known.contains_key(*name)) {
            return Err(format!("{stranger} is there, and nobody made it"));
        }
        if fact == Absent {
            self.known.remove(name);
            return Ok(());
        }
        if let Some(known) = self.known.get_mut(name) {
            known.fact = fact;
            known.cut |= fact != Exited(7);
            let cut = known.cut;
            if kind == Kind::Worker {
                self.check_output(name, cut)?;
            }
        }
        match fact {
            Running => self.check_running(name),
            // So that the next step finds one that can do something.
            Paused => self.unpause(name),
            _ => Ok(()),
        }
    }

    fn check_output(&self, name: &str, cut: bool) -> Result<(), String> {
        let all: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
        let logged = self.vial.run(["logs", name]).stdout;
        match cut {
            false if logged != all => {
                Err(format!("{name} ended well, and {} of {} bytes are in its log", logged.len(), all.len()))
            }
            true if !all.starts_with(&logged) => {
                Err(format!("the log of {name} is no beginning of what it wrote"))
            }
            _ => Ok(()),
        }
    }

    fn check_running(&self, name: &str) -> Result<(), String> {
        let ran = self.vial.run(["exec", name, "echo", "here"]);
        if ran.stdout == "here\n" {
            Ok(())
        } else {
            Err(format!("{name} is said to run and does not answer: {}", ran.stderr))
        }
    }

    fn unpause(&mut self, name: &str) -> Result<(), String> {
        let ran = self.vial.run(["unpause", name]);
        if ran.code != 0 {
            return Err(format!("{name} is paused and does not go on: {}", ran.stderr));
        }
        if let Some(known) = self.known.get_mut(name) {
            known.fact = Running;
        }
        self.check_running(name)
    }

    /// What Vial says of each container.
    fn listed(&self) -> Result<BTreeMap<String, Fact>, String> {
        let text = self.vial.run(["ps", "-a", "--json"]).stdout;
        let list: Vec<serde_json::Value> =
            serde_json::from_str(&text).map_err(|error| format!("ps: {error}: {text}"))?;
        let fact = |value: &serde_json::Value| match value["state"].as_str() {
            Some("running") => Ok(Running),
            Some("paused") => Ok(Paused),
            Some("exited") => Ok(Exited(value["exit"]["code"].as_i64().unwrap_or(-1))),
            other => Err(format!("{} is {other:?}, which nothing of this can be at rest", value["name"])),
        };
        list.iter()
            .map(|value| Ok((value["name"].as_str().unwrap_or_default().to_owned(), fact(value)?)))
            .collect()
    }
}
