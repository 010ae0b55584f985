//! Random operations, random kill -9 and crashes of the agent, with an oracle: a model of what must be true afterwards.
//!
//! Each step does one thing to one container, or to a pod of several, perhaps with a blow at a random moment of it: to the command line, the
//! daemon, a VM or the agent in it. The model says what may be true then: one fact when nothing disturbed the step, a few when something did. What
//! is found decides between them; anything else ends the run. The seed and each step are printed as they come, so that a hang has a story too.
//!
//! Declared objects ([`Of::Declared`]) have an oracle of their own.

mod declared;
mod model;
mod random;

use crate::crash::AgentCode;
use crate::host::{Vial, signal};
use crate::story;
use model::Fact::{Absent, Exited, Paused, Running, Stopped};
use model::{Blow, Fact, Kind, Known, Model, Step};
use random::Random;
use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Lines that a worker writes.
const LINES: u32 = 300;
/// Seconds for a sleeper to end when it is asked: far more than it needs, for a SIGKILL would be another truth.
const PATIENCE: &str = "60";

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

/// What is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Containers and pods of several, one step at a time.
    Containers,
    /// What is declared to the Kubernetes API, some steps at a time.
    Declared,
}

/// Somebody who does random things and knows what must be true then.
trait Disturbed {
    /// Does something and compares.
    fn step(&mut self) -> Result<(), String>;
    /// After the last step.
    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Goes through random steps, until someone says `stop` at the latest; says how many.
///
/// # Errors
/// When something is not as it must be.
pub fn run(of: Of, seed: u64, until: Until, stop: &AtomicBool) -> Result<u64, Box<Broken>> {
    println!("seed {seed}");
    let vial = Vial::with_busybox();
    let code = AgentCode::installed();
    let random = Random(seed);
    let mut soak: Box<dyn Disturbed> = match of {
        Of::Containers => Box::new(Soak { vial: &vial, code: &code, random, model: Model::default() }),
        Of::Declared => Box::new(declared::Declared::on(&vial, &code, random)),
    };
    let broken = |what| Box::new(Broken { what, seed, state: story::tell(vial.run_dir()) });
    let begin = Instant::now();
    let mut rounds = 0;
    loop {
        match until {
            _ if stop.load(Ordering::Relaxed) => break,
            Until::Rounds(count) if rounds >= count => break,
            Until::For(time) if begin.elapsed() >= time => break,
            _ => {}
        }
        soak.step().map_err(broken)?;
        rounds += 1;
    }
    soak.end().map_err(broken)?;
    drop(soak);
    vial.leaves_nothing();
    Ok(rounds)
}

struct Soak<'a> {
    vial: &'a Vial,
    code: &'a AgentCode,
    random: Random,
    model: Model,
}

impl Disturbed for Soak<'_> {
    fn step(&mut self) -> Result<(), String> {
        let (name, step) = self.model.choose(&mut self.random);
        let blow = self.random.pick(&[
            Blow::Nothing,
            Blow::Nothing,
            Blow::Command,
            Blow::Daemon,
            Blow::Daemon,
            Blow::Vm,
            Blow::Agent,
        ]);
        let after = Duration::from_millis(self.random.below(2500));
        let Known { kind, pod, fact, .. } = &self.model.known[&name];
        let (fact, pod) = (*fact, pod.as_ref().map_or(String::new(), |pod| format!(" in {pod}")));
        println!("  {step:?} {kind:?} {name}{pod}, {blow:?} after {after:?}");
        let met = self.carry_out(&name, step, blow, after)?;
        self.verify(&name, step, met)
            .map_err(|what| format!("{step:?} of {name}, which was {fact:?}, with {met:?}: {what}"))
    }
}

impl Soak<'_> {
    fn words(&self, name: &str, step: Step) -> Vec<String> {
        let Known { kind, pod, .. } = &self.model.known[name];
        let worker = format!("i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; exit 7");
        let sleeper = "trap 'exit 5' TERM; echo up; while :; do sleep 9 & wait $!; done";
        let script = if *kind == Kind::Worker { &worker } else { sleeper };
        let words = match (step, kind) {
            (Step::Run, Kind::Pod) => vec!["pod", "create", "--containers", "4", name],
            (Step::Run, _) => match pod {
                Some(pod) => vec!["run", "-d", "--pod", pod, "--name", name, "busybox", "sh", "-c", script],
                None => vec!["run", "-d", "--name", name, "busybox", "sh", "-c", script],
            },
            (Step::Start, Kind::Pod) => vec!["pod", "start", name],
            (Step::Stop, Kind::Pod) => vec!["pod", "stop", "-t", PATIENCE, name],
            (Step::Remove, Kind::Pod) => vec!["pod", "rm", "-f", name],
            (Step::Wait, Kind::Pod) => vec!["pod", "inspect", name],
            (Step::Start, _) => vec!["start", name],
            (Step::Stop, _) => vec!["stop", "-t", PATIENCE, name],
            (Step::Restart, _) => vec!["restart", "-t", PATIENCE, name],
            (Step::Pause, _) => vec!["pause", name],
            (Step::Remove, _) => vec!["rm", "-f", name],
            (Step::Wait, _) => vec!["inspect", name],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Does it, strikes, and waits until all that was begun has come to its end. Says what the blow was: nothing, when it met nobody.
    fn carry_out(&self, name: &str, step: Step, blow: Blow, after: Duration) -> Result<Blow, String> {
        let words = self.words(name, step);
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
            Blow::Vm | Blow::Agent => self.vmm_of(name),
        };
        match victim {
            // A guest that boots may not have all of it yet: see below.
            Some(pid) if blow == Blow::Agent => _ = self.code.overwrite(pid),
            Some(pid) => signal(pid, libc::SIGKILL),
            None => {}
        }
        self.vial.wait(child);
        let Some(victim) = victim else { return Ok(Blow::Nothing) };
        // Nobody knows how far a command got that was killed; a stop or removal may go on by itself. The same once more waits for that.
        if blow == Blow::Command || matches!(step, Step::Stop | Step::Remove) {
            self.vial.run(&words);
        }
        if self.model.known[name].kind == Kind::Pod && blow == Blow::Command && step == Step::Run {
            // Made again it was only told to be there.
            self.vial.run(["pod", "start", name]);
        }
        if blow == Blow::Agent {
            self.crash(name, victim);
        }
        // One that is being started is waited for by whoever wants to run something in it.
        self.poke(name);
        if matches!(blow, Blow::Vm | Blow::Agent) {
            self.await_end(name, victim);
        }
        Ok(blow)
    }

    /// Sees to it that an agent has crashed if its VM is still there: a paused one cannot yet, nor one that nobody has woken since.
    fn crash(&self, name: &str, vmm: i32) {
        self.vial.run(["unpause", name]);
        if self.vmm_of(name) == Some(vmm) {
            self.code.overwrite(vmm);
        }
    }

    /// Runs something in a container, or in each one of its pod.
    fn poke(&self, name: &str) {
        match self.model.home(name) {
            Some(pod) => {
                for (member, _) in self.model.members(pod) {
                    self.vial.run(["exec", member, "true"]);
                }
            }
            None => _ = self.vial.run(["exec", name, "true"]),
        }
    }

    /// A VM is dead, or will be when somebody speaks to its agent, and Vial comes to know.
    fn await_end(&self, name: &str, vmm: i32) {
        let now = self.vmm_of(name);
        match self.model.home(name) {
            Some(pod) if now.is_none_or(|now| now == vmm) => {
                // The pod waits for its VM's end; there is nothing else for it to stop.
                self.vial.run(["pod", "stop", "-t", PATIENCE, pod]);
            }
            None if now == Some(vmm) => _ = self.vial.run(["wait", name]),
            _ => {}
        }
    }

    /// The VM of a container or a pod that has one, while it is being started too.
    fn vmm_of(&self, name: &str) -> Option<i32> {
        match self.model.home(name) {
            Some(pod) => self.vial.vmm_of_pod(pod),
            None => self.vial.vmm_of(name),
        }
    }

    fn verify(&mut self, name: &str, step: Step, blow: Blow) -> Result<(), String> {
        if self.model.known[name].kind == Kind::Worker {
            self.vial.run(["wait", name]);
        }
        let found = self.listed()?;
        for (other, allowed) in self.model.allowed(name, step, blow) {
            let fact = found.get(&other).copied().unwrap_or(Absent);
            if !allowed.contains(&fact) {
                // What it says of itself: a host that is too slow for its own limits looks like a fault otherwise.
                let state = self.vial.run(["inspect", "--format", "{{json .State}}", other.as_str()]);
                let state = state.stdout.trim();
                return Err(format!("{other} is {fact:?} and not one of {allowed:?}; its state: {state}"));
            }
        }
        if let Some(stranger) = found.keys().find(|name| !self.model.known.contains_key(*name)) {
            return Err(format!("{stranger} is there, and nobody made it"));
        }
        self.model.known.retain(|name, _| found.contains_key(name));
        for (name, known) in &mut self.model.known {
            // A running worker is none at rest.
            known.fact = found[name];
            known.cut |= known.kind == Kind::Worker && known.fact != Exited(7);
        }
        let home = self.model.known.contains_key(name).then(|| self.model.home(name)).flatten();
        let of_home = home.into_iter().flat_map(|pod| self.model.members(pod)).map(|(name, _)| name);
        let touched: Vec<String> = of_home.cloned().chain([name.to_owned()]).collect();
        for name in touched {
            match self.model.known.get(&name).map(|known| (known.kind, known.fact, known.cut)) {
                Some((Kind::Worker, _, cut)) => self.check_output(&name, cut)?,
                Some((Kind::Sleeper, Running, _)) => self.check_running(&name)?,
                // So that the next step finds one that can do something.
                Some((Kind::Sleeper, Paused, _)) => self.unpause(&name)?,
                _ => {}
            }
        }
        Ok(())
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
        if let Some(known) = self.model.known.get_mut(name) {
            known.fact = Running;
        }
        self.check_running(name)
    }

    /// What Vial says of each container and each pod of several.
    fn listed(&self) -> Result<BTreeMap<String, Fact>, String> {
        let list = |words: &[&str]| {
            let text = self.vial.run(words).stdout;
            let list: serde_json::Result<Vec<serde_json::Value>> = serde_json::from_str(&text);
            list.map_err(|error| format!("{words:?}: {error}: {text}"))
        };
        let fact = |value: &serde_json::Value| match value["state"].as_str() {
            Some("running") => Ok(Running),
            Some("paused") => Ok(Paused),
            Some("stopped") => Ok(Stopped),
            Some("exited") => Ok(Exited(value["exit"]["code"].as_i64().unwrap_or(-1))),
            other => Err(format!("{} is {other:?}, which nothing of this can be at rest", value["name"])),
        };
        let all = [list(&["ps", "-a", "--json"])?, list(&["pod", "ls", "--json"])?].concat();
        all.iter()
            .map(|value| Ok((value["name"].as_str().unwrap_or_default().to_owned(), fact(value)?)))
            .collect()
    }
}
