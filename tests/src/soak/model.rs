//! What may be true after a step: a pure function of what was true before, of the step and of the blow.

use super::random::Random;
use std::collections::BTreeMap;

/// Containers and pods of several at a time.
const MOST: usize = 5;

/// What can be true of a container or a pod of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    Absent,
    Running,
    Paused,
    Exited(i64),
    /// Of a pod: it has no VM.
    Stopped,
}
use Fact::{Absent, Exited, Paused, Running, Stopped};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container that sleeps until it is asked to end, then ends with 5.
    Sleeper,
    /// A container that writes its lines and ends with 7.
    Worker,
    /// A pod of several containers.
    Pod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Nothing,
    Command,
    Daemon,
    Vm,
    Agent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Runs a container, or makes a pod.
    Run,
    Start,
    Stop,
    Restart,
    Pause,
    Remove,
    /// Nothing but the blow.
    Wait,
}

#[derive(Debug)]
pub struct Known {
    pub kind: Kind,
    /// The pod of several that it is in.
    pub pod: Option<String>,
    pub fact: Fact,
    /// Whether a blow may have cut its output.
    pub cut: bool,
}

/// All that is there, by name.
#[derive(Debug, Default)]
pub struct Model {
    pub known: BTreeMap<String, Known>,
    made: u64,
}

impl Model {
    /// The next step; what it makes is known from now on.
    pub fn choose(&mut self, random: &mut Random) -> (String, Step) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        if names.is_empty() || (names.len() < MOST && random.below(2) == 0) {
            return (self.make(random), Step::Run);
        }
        let name = names[random.below(names.len() as u64) as usize].clone();
        let known = &self.known[&name];
        let steps: &[Step] = match (known.kind, known.fact) {
            (Kind::Sleeper, Running) if known.pod.is_some() => {
                &[Step::Stop, Step::Restart, Step::Remove, Step::Wait, Step::Wait]
            }
            (Kind::Sleeper, Running) => {
                &[Step::Stop, Step::Restart, Step::Pause, Step::Remove, Step::Wait, Step::Wait]
            }
            (Kind::Sleeper, _) => &[Step::Start, Step::Start, Step::Restart, Step::Remove],
            (Kind::Worker, _) => &[Step::Remove, Step::Wait],
            // A start would have its workers write once more.
            (Kind::Pod, _) if self.members(&name).any(|(_, member)| member.kind == Kind::Worker) => {
                &[Step::Stop, Step::Remove, Step::Wait]
            }
            (Kind::Pod, Running) => &[Step::Start, Step::Stop, Step::Remove, Step::Wait, Step::Wait],
            (Kind::Pod, _) => &[Step::Start, Step::Start, Step::Remove],
        };
        (name, random.pick(steps))
    }

    fn make(&mut self, random: &mut Random) -> String {
        let pod = self.known.iter().find(|(_, known)| known.kind == Kind::Pod).map(|(name, _)| name.clone());
        let (kind, pod) = match (pod, random.below(4)) {
            (None, 0) => (Kind::Pod, None),
            (pod, sort) => {
                let kind = if sort % 2 == 0 { Kind::Sleeper } else { Kind::Worker };
                // A pod that is there is filled rather than not.
                (kind, pod.filter(|_| random.below(3) > 0))
            }
        };
        self.made += 1;
        let name = format!("{}-{}", if kind == Kind::Pod { "pod" } else { "soak" }, self.made);
        self.known.insert(name.clone(), Known { kind, pod, fact: Absent, cut: false });
        name
    }

    /// The containers of a pod.
    pub fn members(&self, pod: &str) -> impl Iterator<Item = (&String, &Known)> {
        self.known.iter().filter(move |(_, known)| known.pod.as_deref() == Some(pod))
    }

    /// The pod of several that a name belongs to, or is.
    pub fn home<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let known = &self.known[name];
        known.pod.as_deref().or((known.kind == Kind::Pod).then_some(name))
    }

    /// What may be true now of everything.
    pub fn allowed(&self, name: &str, step: Step, blow: Blow) -> BTreeMap<String, Vec<Fact>> {
        let mut all: BTreeMap<String, Vec<Fact>> =
            self.known.iter().map(|(name, known)| (name.clone(), vec![known.fact])).collect();
        let known = &self.known[name];
        let Some(home) = self.home(name) else {
            all.insert(name.to_owned(), container(step, known.kind, blow, known.fact));
            return all;
        };
        let was = self.known[home].fact;
        for (other, member) in self.members(home) {
            let facts = match known.kind {
                Kind::Pod => in_pod(step, blow, member.fact),
                _ if other != name => in_pod(Step::Wait, blow, member.fact),
                _ => {
                    let mut facts = container(step, member.kind, blow, member.fact);
                    if matches!((step, end_of(blow)), (Step::Run | Step::Start, Some(_))) {
                        // The VM was gone before it was asked for this container, which brought it back then.
                        facts.push(if member.kind == Kind::Worker { Exited(7) } else { Running });
                    }
                    facts
                }
            };
            all.insert(other.clone(), facts);
        }
        all.insert(home.to_owned(), pod(step, known.kind, blow, was));
        all
    }
}

/// What is true of a container whose VM has met this.
fn end_of(blow: Blow) -> Option<Fact> {
    match blow {
        Blow::Vm => Some(Exited(137)),
        // The kernel panics, and the VM's process says so.
        Blow::Agent => Some(Exited(255)),
        Blow::Nothing | Blow::Command | Blow::Daemon => None,
    }
}

/// What may be true of the container that the step is for.
fn container(step: Step, kind: Kind, blow: Blow, before: Fact) -> Vec<Fact> {
    let end = if kind == Kind::Worker { Exited(7) } else { Running };
    match (step, blow, end_of(blow)) {
        // Whoever asked does not matter once it was asked for.
        (Step::Run, Blow::Nothing | Blow::Command, _) => vec![end],
        (Step::Run, _, Some(dead)) if kind == Kind::Worker => vec![Exited(125), dead, end],
        (Step::Run | Step::Start, _, Some(dead)) => vec![Exited(125), dead],
        // It was never noted, or was noted and its start cut off, or all was well.
        (Step::Run, _, _) => vec![Absent, Exited(125), end],
        (Step::Start | Step::Restart, Blow::Nothing | Blow::Command, _) => vec![Running],
        // It may be the old VM that was struck, while it was stopped.
        (Step::Restart, _, Some(dead)) => vec![Running, Exited(125), dead],
        (Step::Start, _, _) => vec![Running, Exited(125), before],
        // The old run was asked to end, the new one not yet begun; or the request never arrived.
        (Step::Restart, _, _) => vec![Running, Exited(125), Exited(5), before],
        (Step::Stop, _, Some(dead)) => vec![Exited(5), dead],
        (Step::Stop, _, _) => vec![Exited(5)],
        (Step::Pause, Blow::Nothing | Blow::Command, _) => vec![Paused],
        (Step::Pause, _, Some(dead)) => vec![dead],
        (Step::Pause, _, _) => vec![Paused, before],
        (Step::Remove, _, _) => vec![Absent],
        (Step::Wait, _, Some(dead)) if before == Running => vec![dead],
        (Step::Wait, _, _) => vec![before],
    }
}

/// What may be true of a container when the step is for its pod, or (waiting) for another container in it.
fn in_pod(step: Step, blow: Blow, before: Fact) -> Vec<Fact> {
    match (step, end_of(blow)) {
        (Step::Remove, _) => vec![Absent],
        (Step::Stop, Some(dead)) if before == Running => vec![Exited(5), dead],
        (Step::Stop, None) if before == Running => vec![Exited(5)],
        // The start may have come after the blow, and have brought everything back.
        (Step::Start, Some(dead)) => vec![Running, Exited(125), dead, before],
        (Step::Start, None) if blow == Blow::Daemon => vec![Running, Exited(125), before],
        (Step::Start, None) => vec![Running],
        (_, Some(dead)) if before == Running => vec![dead],
        _ => vec![before],
    }
}

/// What may be true of a pod when the step is for it or for a container in it.
fn pod(step: Step, of: Kind, blow: Blow, before: Fact) -> Vec<Fact> {
    let (struck, whole) = (end_of(blow).is_some(), of == Kind::Pod);
    match step {
        Step::Remove if whole => vec![Absent],
        Step::Stop if whole => vec![Stopped],
        Step::Run if whole && (struck || blow == Blow::Daemon) => vec![Absent, Stopped, Running],
        Step::Run | Step::Start | Step::Restart if struck => vec![Stopped, Running],
        // No daemon takes a running VM with it.
        Step::Run | Step::Start | Step::Restart if blow == Blow::Daemon => vec![before, Running],
        Step::Run | Step::Start | Step::Restart => vec![Running],
        _ if struck => vec![Stopped],
        _ => vec![before],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blow_to_a_vm_hits_all_in_it_and_nobody_else() {
        let mut model = Model::default();
        let mut put = |name: &str, kind, pod: Option<&str>, fact| {
            let pod = pod.map(str::to_owned);
            model.known.insert(name.to_owned(), Known { kind, pod, fact, cut: false });
        };
        put("pod", Kind::Pod, None, Running);
        put("one", Kind::Sleeper, Some("pod"), Running);
        put("two", Kind::Sleeper, Some("pod"), Running);
        put("over", Kind::Worker, Some("pod"), Exited(7));
        put("own", Kind::Sleeper, None, Running);
        let allowed = model.allowed("one", Step::Stop, Blow::Agent);
        let allowed = |name: &str| allowed[name].as_slice();
        assert_eq!(allowed("one"), [Exited(5), Exited(255)]);
        assert_eq!(allowed("two"), [Exited(255)]);
        assert_eq!(allowed("over"), [Exited(7)]);
        assert_eq!(allowed("own"), [Running]);
        assert_eq!(allowed("pod"), [Stopped]);
        assert_eq!(model.allowed("own", Step::Wait, Blow::Vm)["two"], [Running]);
        assert_eq!(model.allowed("pod", Step::Stop, Blow::Daemon)["two"], [Exited(5)]);
    }
}
