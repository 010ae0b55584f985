//! The node's loop: looks at all Pods whenever a Pod, a sandbox, a container or what a step came to is another, and has done what the
//! pure functions of `vial_orchestrator::node` say. At most one thing at a time is done with a container, each in a task of its own.

use super::observe::{self, There};
use super::{control, facts, health, room, steps};
use crate::pods;
use crate::state::Shared;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use vial_orchestrator::chrono::{DateTime, TimeDelta, Utc};
use vial_orchestrator::controllers::{Action, Ref, kind};
use vial_orchestrator::engine::{DeleteOptions, Engine, Note, Patch, Target, WriteOptions};
use vial_orchestrator::node::life::{self, Step};
use vial_orchestrator::node::machine::Facts;
use vial_orchestrator::node::observed::{Health, Observed, State as Seen, Waiting};
use vial_orchestrator::node::schedule::{self, Room};
use vial_orchestrator::node::{mirror, refused, status};
use vial_orchestrator::object;
use vial_orchestrator::status::{ApiError, Reason};
use vial_orchestrator::store::Stored;

/// For how long it is tried to tell a deleted Pod's end before what that is known from goes.
const UNTOLD: TimeDelta = TimeDelta::seconds(60);
/// Who tells what becomes of pods, in events.
const SOURCE: &str = "vial";
/// Annotation of a Pod: how long its VM took.
const BOOT: &str = "vial.dev/boot-time";
/// Waits before something is tried again that did not work: the first and the longest, seconds.
const WAITS_S: (i64, i64) = (10, 300);

/// What is shared by the loop and its tasks.
pub struct Node {
    pub daemon: Shared,
    pub engine: Engine,
    /// What it is called.
    pub name: String,
    work: Mutex<HashMap<String, Work>>,
    wake: Notify,
}

/// What is being done with a Pod, and what is known of it that is nowhere else. A new daemon finds it out again.
#[derive(Default)]
struct Work {
    busy: BTreeSet<String>,
    /// Attempts that are being stopped, and until when.
    stopping: HashMap<String, DateTime<Utc>>,
    waiting: BTreeMap<String, Waiting>,
    health: BTreeMap<String, Health>,
    watched: HashMap<String, health::Watch>,
    /// Only one task makes the sandbox.
    making: Arc<tokio::sync::Mutex<()>>,
    /// Since when what it does can't be told, because the disk is full, say.
    untold: Option<DateTime<Utc>>,
    /// True when nothing is to be started any more.
    leaving: watch::Sender<bool>,
}

/// What was being done with a Pod: its containers, and the attempts that are ended.
type Doing = (BTreeSet<String>, HashMap<String, DateTime<Utc>>);

impl Node {
    /// On this daemon.
    pub fn new(daemon: &Shared, engine: &Engine, name: &str) -> Arc<Self> {
        let (daemon, engine, name) = (daemon.clone(), engine.clone(), name.to_owned());
        Arc::new(Self { daemon, engine, name, work: Mutex::default(), wake: Notify::new() })
    }

    /// Looks until the daemon ends: what becomes of starts that are given up then is for the next one to see to.
    pub async fn run(self: Arc<Self>) {
        let (mut objects, mut news) = (self.engine.store().changes(), self.daemon.store.news());
        while !*self.daemon.stopping.borrow() {
            // Before the look: what happens during it wakes again.
            objects.borrow_and_update();
            news.borrow_and_update();
            let looking = self.clone();
            let wait = match tokio::task::spawn_blocking(move || looking.look()).await {
                Ok(Ok(again)) => again.map(|at| (at - self.engine.time()).to_std().unwrap_or_default()),
                Ok(Err(error)) => control::failed("the keeper of pods", &error),
                Err(error) => control::failed("the keeper of pods", &error),
            };
            tokio::select! {
                _ = objects.changed() => {}
                _ = news.changed() => {}
                () = self.wake.notified() => {}
                () = control::sleep(wait) => {}
            }
        }
    }

    fn work(&self) -> MutexGuard<'_, HashMap<String, Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_silently<T>(&self, uid: &str, change: impl FnOnce(&mut Work) -> T) -> T {
        change(self.work().entry(uid.to_owned()).or_default())
    }

    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Work) -> T) -> T {
        let changed = change(self.work().entry(uid.to_owned()).or_default());
        self.wake.notify_one();
        changed
    }

    /// One look, and what follows from it. When to look again even if nothing happens.
    fn look(self: &Arc<Self>) -> Result<Option<DateTime<Utc>>, Box<dyn std::error::Error + Send + Sync>> {
        let facts = facts::of(&self.daemon, &self.name);
        // Before what is there: what somebody was busy with may be done by then, and must not be begun again.
        let doing = self.doing();
        let there = observe::look(&self.daemon)?;
        let placed = self.place(&facts, &there);
        let (pods, _) = self.engine.store().list(kind("pods"), "");
        let mut again: Option<DateTime<Utc>> = None;
        let mut known = HashSet::new();
        let there = Arc::new(there);
        // One that does not work must not hold up the others.
        let mut later = |what: &str, error: &dyn std::fmt::Display| {
            let wait = control::failed(what, error).and_then(|wait| TimeDelta::from_std(wait).ok());
            again = [again, wait.map(|wait| self.engine.time() + wait)].into_iter().flatten().min();
        };
        if let Err(error) = placed {
            later("who places pods", &error);
        }
        if let Err(error) = self.mirror(&pods, &there, &facts, &doing) {
            later("who shows pods that nobody declared", &error);
        }
        let mut next = Vec::new();
        let is_ours = |pod: &&Arc<Stored>| object::text(&pod.object, &["spec", "nodeName"]) == self.name;
        for pod in pods.iter().filter(is_ours).filter(|pod| mirror::shown(&pod.object).is_none()) {
            known.insert(object::uid(&pod.object).to_owned());
            match self.one(pod, &there, &facts, doing.get(object::uid(&pod.object))) {
                Ok(at) => next.extend(at),
                Err(error) => later(object::name(&pod.object), &error),
            }
        }
        again = again.into_iter().chain(next).min();
        known.extend(pods.iter().filter_map(|pod| mirror::shown(&pod.object)).map(str::to_owned));
        self.sweep(&known, &there);
        Ok(again)
    }

    /// Shows pods that nobody declared.
    fn mirror(
        self: &Arc<Self>,
        pods: &[Arc<Stored>],
        there: &Arc<There>,
        facts: &Facts,
        doing: &HashMap<String, Doing>,
    ) -> Result<(), ApiError> {
        let found = super::mirror::found(&self.daemon, there);
        let around = status::Around { host_ip: &facts.address, now: self.engine.time() };
        let shown = mirror::plan(&found, pods, &self.name, around);
        for action in &shown.actions {
            match action {
                // What it shows is gone already: nobody has to be waited for.
                Action::Delete { target, .. } => self.let_go(target)?,
                action => drop(self.engine.act_or_tell(action)?),
            }
        }
        for key in shown.unwanted {
            let is_begun = doing.get(&key).is_some_and(|(busy, _)| busy.contains(""));
            if is_begun || !self.with(&key, |work| work.busy.insert(String::new())) {
                continue;
            }
            let (node, there) = (self.clone(), there.clone());
            tokio::spawn(async move {
                if let Err(error) = super::mirror::remove(&node, &key, &there).await {
                    tracing::error!(pod = key, %error, "a pod that was deleted can't be removed yet");
                    tokio::time::sleep(Duration::from_secs(WAITS_S.0.unsigned_abs())).await;
                }
                node.with(&key, |work| work.busy.remove(""));
            });
        }
        Ok(())
    }

    /// Lets a Pod's object go at once.
    pub fn let_go(&self, about: &Ref) -> Result<(), ApiError> {
        let target =
            Target { kind: about.kind, namespace: &about.namespace, name: &about.name, subresource: "" };
        let options =
            DeleteOptions { grace_period: Some(0), uid: Some(about.uid.clone()), ..DeleteOptions::default() };
        match self.engine.delete(target, &options) {
            // One that is gone, or another of its name, is what is wanted.
            Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Gives Pods without a node this one, as far as it has room.
    fn place(&self, facts: &Facts, there: &There) -> Result<(), ApiError> {
        let (nodes, pods) =
            (self.engine.store().list(kind("nodes"), "").0, self.engine.store().list(kind("pods"), "").0);
        // Its keeper makes it first.
        let Some(node) = nodes.iter().find(|node| object::name(&node.object) == self.name) else {
            return Ok(());
        };
        let room = Room { facts, node: &node.object, vm: &room::vm_bytes, others: room::others(there) };
        schedule::plan(&pods, &room, self.engine.time())
            .iter()
            .try_for_each(|action| self.engine.act_or_tell(action).map(drop))
    }

    fn doing(&self) -> HashMap<String, Doing> {
        let all = self.work();
        all.iter().map(|(uid, work)| (uid.clone(), (work.busy.clone(), work.stopping.clone()))).collect()
    }

    fn one(
        self: &Arc<Self>,
        pod: &Arc<Stored>,
        there: &There,
        facts: &Facts,
        doing: Option<&Doing>,
    ) -> Result<Option<DateTime<Utc>>, ApiError> {
        let (uid, now) = (object::uid(&pod.object), self.engine.time());
        let mut observed = observe::pod(&self.daemon, there, uid);
        let (busy, stopping) = doing.cloned().unwrap_or_default();
        observed.busy = busy;
        self.watch(pod, &observed);
        self.with_silently(uid, |work| {
            (observed.waiting, observed.health) = (work.waiting.clone(), work.health.clone());
        });
        let is_deleted = object::is_deleted(&pod.object);
        if is_deleted {
            // A start that waits, for its turn or for an image, is not wanted any more, whatever else is to be done.
            self.with_silently(uid, |work| {
                work.leaving.send_if_modified(|leaving| !mem::replace(leaving, true))
            });
        }
        // What is there already is looked after, whatever rules have come since.
        let can_not = refused(&pod.object).filter(|_| !is_deleted && observed.is_gone());
        let decision = match &can_not {
            None => life::decide(&pod.object, &observed, now),
            Some(_) => life::Decision::default(),
        };
        let told = status::status(&pod.object, &observed, status::Around { host_ip: &facts.address, now });
        let told = self.tell_status(pod, status::write(pod, told), can_not);
        let since = self.with_silently(uid, |work| {
            work.untold = told.is_err().then(|| work.untold.unwrap_or(now));
            work.untold
        });
        // What can't be told is done all the same: a pod must be able to go, and a disk that it filled is free only then.
        let is_told_or_never = match &told {
            Ok(is_told) => *is_told,
            Err(_) => since.is_some_and(|since| now - since > UNTOLD),
        };
        for step in decision.steps {
            match &step {
                // It takes away what the end is told from: not before that is told, or was tried for a while.
                Step::Remove if !is_told_or_never => {}
                Step::Stop { id, grace, .. } => match stopping.get(id) {
                    None => self.take(pod, step),
                    // Deleted again, with less time. A second more or less is nobody's wish.
                    Some(until) if now + *grace + TimeDelta::seconds(1) < *until => {
                        self.hurry(uid, id, *grace);
                    }
                    Some(_) => {}
                },
                _ => self.take(pod, step),
            }
        }
        told.map(|_| decision.again)
    }

    /// Tells what a Pod is doing, and why it can't be done. Whether there is nothing more to tell.
    fn tell_status(
        &self,
        pod: &Arc<Stored>,
        status: Option<Action>,
        can_not: Option<String>,
    ) -> Result<bool, ApiError> {
        let Some(status) = status else { return Ok(true) };
        if let Some(why) = can_not {
            let about = Ref::to(kind("pods"), pod);
            self.engine.tell_once(&Note::warning(about, SOURCE, "FailedCreatePodSandBox", why))?;
        }
        self.engine.act_or_tell(&status)
    }

    /// Has somebody ask after each container that runs, and nobody after those that don't.
    fn watch(self: &Arc<Self>, pod: &Arc<Stored>, observed: &Observed) {
        let mut all = self.work();
        let work = all.entry(object::uid(&pod.object).to_owned()).or_default();
        let running: HashMap<&str, (&str, &_)> = observed
            .containers
            .iter()
            .flat_map(|(name, attempts)| attempts.iter().map(move |attempt| (name.as_str(), attempt)))
            .filter(|(_, attempt)| matches!(attempt.state, Seen::Running { .. }))
            .map(|(name, attempt)| (attempt.id.as_str(), (name, attempt)))
            .collect();
        // Nobody asks after what is told to go: it would only be said to be ill.
        let is_going = object::is_deleted(&pod.object);
        work.watched.retain(|id, _| !is_going && running.contains_key(id.as_str()));
        work.health.retain(|id, _| running.contains_key(id.as_str()));
        for (id, (name, attempt)) in running {
            // One that is just being started has its hook before it.
            if is_going || work.watched.contains_key(id) || observed.busy.contains(name) {
                continue;
            }
            let before = status::health(&pod.object, name, attempt, observed);
            work.watched.insert(id.to_owned(), health::Watch::start(self, pod, name, attempt, before));
        }
    }

    /// Does a step in a task of its own.
    fn take(self: &Arc<Self>, pod: &Arc<Stored>, step: Step) {
        let uid = object::uid(&pod.object).to_owned();
        let (node, pod) = (self.clone(), pod.clone());
        let begun = self.with(&uid, |work| match &step {
            Step::Stop { id, grace, .. } => {
                work.stopping.insert(id.clone(), self.engine.time() + *grace).is_none()
            }
            Step::Start { container, .. } | Step::Forget { container, .. } => {
                work.busy.insert(container.clone())
            }
            Step::StopSandbox | Step::Remove | Step::Finalize => work.busy.insert(String::new()),
        });
        if !begun {
            return;
        }
        tokio::spawn(async move {
            // A task of its own, so that even one that panics is over.
            let (doing, about, what) = (node.clone(), pod.clone(), step.clone());
            let done = tokio::spawn(async move { steps::take(&doing, &about, &what).await }).await;
            if let Err(error) = done {
                tracing::error!(pod = object::name(&pod.object), %error, "a step failed inside");
            }
            node.with(&uid, |work| match &step {
                Step::Stop { id, .. } => work.stopping.remove(id).is_some(),
                Step::Start { container, .. } | Step::Forget { container, .. } => work.busy.remove(container),
                Step::StopSandbox | Step::Remove | Step::Finalize => work.busy.remove(""),
            });
        });
    }

    /// Leaves less time to an attempt that is being stopped.
    fn hurry(self: &Arc<Self>, uid: &str, id: &str, grace: TimeDelta) {
        self.with_silently(uid, |work| work.stopping.insert(id.to_owned(), self.engine.time() + grace));
        let (node, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            if let Err(error) = steps::hurry(&node, &id, grace).await {
                tracing::warn!(container = id, %error, "a container can't be stopped sooner");
            }
        });
    }

    /// Removes what is left of Pods that are gone.
    fn sweep(self: &Arc<Self>, known: &HashSet<String>, there: &There) {
        for (uid, sandbox) in there.sandboxes.iter().filter(|(uid, _)| !known.contains(*uid)) {
            let begun = self.work().entry(uid.clone()).or_default().busy.insert(String::new());
            if !begun {
                continue;
            }
            let (node, uid, sandbox) = (self.clone(), uid.clone(), sandbox.clone());
            tokio::spawn(async move {
                node.with(&uid, |work| work.leaving.send_replace(true));
                if let Err(error) = pods::life::remove(&node.daemon, &sandbox, true).await {
                    tracing::error!(pod = sandbox.name, %error, "what is left of a deleted pod can't be removed yet");
                    tokio::time::sleep(Duration::from_secs(WAITS_S.0.unsigned_abs())).await;
                }
                node.with(&uid, |work| work.busy.remove(""));
            });
        }
        let is_there = |uid: &String| known.contains(uid) || there.sandboxes.contains_key(uid);
        self.work().retain(|uid, work| is_there(uid) || !work.busy.is_empty());
    }

    /// Tells people something about a Pod; an empty `container` is all of it.
    pub fn tell(&self, pod: &Stored, container: &str, note: (bool, &str, String)) {
        let (is_warning, reason, message) = note;
        let about = Ref::to(kind("pods"), pod);
        let field =
            if container.is_empty() { String::new() } else { format!("spec.containers{{{container}}}") };
        let note = Note { is_warning, field, ..Note::normal(about, SOURCE, reason, message) };
        let engine = self.engine.clone();
        // Not waited for: what is told holds up nobody who does.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = engine.tell(&note) {
                tracing::warn!(%error, "an event can't be told");
            }
        });
    }

    /// Notes how long a Pod's VM took to be there, for `kubectl get pods -o wide`.
    pub fn note_boot(&self, pod: &Stored, took: Duration) {
        let patch = json!({"metadata": {"annotations": {BOOT: format!("{}ms", took.as_millis())}}});
        // Of whatever version: it is said of the Pod, not of what somebody saw in it.
        let (engine, about) = (self.engine.clone(), Ref::to(kind("pods"), pod));
        tokio::task::spawn_blocking(move || {
            let target =
                Target { kind: about.kind, namespace: &about.namespace, name: &about.name, subresource: "" };
            let options = WriteOptions { manager: SOURCE.into(), ..WriteOptions::default() };
            if let Err(error) = engine.patch(target, &Patch::Merge(patch), &options) {
                tracing::debug!(%error, "a boot's time can't be told");
            }
        });
    }

    /// Notes why a container can't be there yet, and when it is tried again.
    pub fn wait(&self, uid: &str, container: &str, first: &str, later: &str, message: String) {
        let now = self.engine.time();
        self.with(uid, |work| {
            let failures = work.waiting.get(container).map_or(0, |known| known.failures);
            let wait = (WAITS_S.0 << failures.min(10)).min(WAITS_S.1);
            let until = now + TimeDelta::seconds(wait);
            let reason = if failures == 0 { first } else { later }.to_owned();
            work.waiting.insert(
                container.to_owned(),
                Waiting { reason, message, since: now, until, failures: failures + 1 },
            );
        });
    }

    /// It is there.
    pub fn waits_no_more(&self, uid: &str, container: &str) {
        self.with(uid, |work| work.waiting.remove(container));
    }

    /// Notes what is known of an attempt.
    pub fn is_healthy(&self, uid: &str, id: &str, change: impl FnOnce(&mut Health)) {
        self.with(uid, |work| change(work.health.entry(id.to_owned()).or_default()));
    }

    /// Held by who makes a Pod's sandbox.
    pub fn making(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.with(uid, |work| work.making.clone())
    }

    /// True when nothing of a Pod is to be started any more.
    pub fn leaving(&self, uid: &str) -> watch::Receiver<bool> {
        self.with(uid, |work| work.leaving.subscribe())
    }
}
