//! A sandbox: the VM of a pod with its agent, and what all containers in it have in common.

use crate::desk::Desk;
use crate::error::PodError;
use crate::ids::{ContainerId, PodId};
use crate::start;
use crate::task::{Connections, Task};
use crate::turns::Turns;
use agent_protocol::{AgentError, ErrorKind, Event, FEATURE_FORWARD, Request, Response};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use vial_vm::{AgentCallError, AgentClient, Events, Launcher, Parts, Registry, Vm, VmExit};

/// How long the agent may take for an answer, and a guest to power off when asked to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often the agent of a VM that runs is asked for, [`PATIENCE`] each time, by a daemon that comes after another: on a host that is busy with
/// just that, all of them are slow, and none of them did anything wrong.
const ATTACH_TRIES: u32 = 10;
/// How long a VM whose connections broke may take until its end is seen, and what an ended one said last until it is here.
pub(crate) const LAST_MOMENT: Duration = Duration::from_millis(500);
/// Lines of our log that a VM's agent may cause, as long as this daemon looks after it.
const MOST_WORDS: u32 = 200;
const POWER_OFF: Duration = Duration::from_secs(5);

/// What pods are made with.
#[derive(Debug, Clone)]
pub struct Host {
    /// Makes VM processes.
    pub launcher: Launcher,
    /// Knows them.
    pub registry: Registry,
    /// VMM, kernel, agent.
    pub parts: Parts,
    /// How many VMs may boot at a time.
    pub turns: Turns,
    /// How long a VM may take until its agent reports, once it is its turn.
    pub start_within: Duration,
    /// Whether kernel and agent of the guest tell all they do on its console, which is logged in the VM's folder.
    pub verbose: bool,
}

/// How a sandbox came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// Its VM ended.
    Vm(VmExit),
    /// Its agent broke the protocol or can't be reached any more; the VM must be ended.
    Agent(String),
}

/// A running sandbox. Clones are the same one; dropping them changes nothing for it.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    vm: Vm,
    /// The newest control connection.
    agent: Mutex<AgentClient>,
    desk: Mutex<Desk>,
    over: watch::Sender<Option<Over>>,
    /// Lines that may still go to our log for the guest's sake.
    words: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The agent in a VM that was started by an older Vial.
pub(crate) fn too_old(what: &str) -> PodError {
    let message = format!("the agent in this pod is too old to {what}; start the pod again");
    PodError::Refused(AgentError::new(ErrorKind::Unsupported, message))
}

impl Sandbox {
    /// Takes a VM with a fresh control connection over. Ends of these containers are kept from the first event on.
    pub(crate) fn new(
        vm: Vm,
        agent: AgentClient,
        events: Events,
        containers: &[ContainerId],
    ) -> (Self, Vec<Connections>) {
        let (agent, over) = (Mutex::new(agent), watch::Sender::new(None));
        let words = AtomicU32::new(MOST_WORDS);
        let sandbox = Self(Arc::new(Inner { vm, agent, desk: Mutex::default(), over, words }));
        let waits = containers.iter().map(|id| Connections::to(sandbox.desk().expect(id.as_str()))).collect();
        tokio::spawn(sandbox.clone().listen(events));
        (sandbox, waits)
    }

    /// Finds a running sandbox again: a new control connection, on which all events come that nobody has acknowledged. `containers`
    /// are those in it whose ends somebody waits for; what comes of others is noted as known.
    ///
    /// # Errors
    /// When there is no VM of that name, or its agent can't be spoken to.
    pub async fn attach(
        registry: &Registry,
        pod: &PodId,
        containers: &[ContainerId],
    ) -> Result<(Self, Vec<Connections>), PodError> {
        let vm = registry.attach(&pod.vm_name().parse()?).await?;
        let mut tries = 1;
        loop {
            match vm.agent(PATIENCE, true).await {
                Err(error) if tries < ATTACH_TRIES && error.is_silence() => {
                    tries += 1;
                    tracing::warn!(vm = %vm.id(), %error, "the agent of a VM that runs does not answer; it is asked again");
                }
                done => {
                    let (agent, events) = done?;
                    return Ok(Self::new(vm, agent, events, containers));
                }
            }
        }
    }

    /// Its VM.
    pub fn vm(&self) -> &Vm {
        &self.0.vm
    }

    /// Process id of its VMM, while it lives.
    pub fn vmm_pid(&self) -> Option<i32> {
        self.0.vm.info().ok()?.pid
    }

    pub(crate) fn agent(&self) -> AgentClient {
        lock(&self.0.agent).clone()
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.0.desk)
    }

    /// Asks the agent for something that takes no time worth mentioning.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, PodError> {
        match tokio::time::timeout(PATIENCE, self.agent().request(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(PodError::Slow { what: "the agent's answer", within: PATIENCE }),
        }
    }

    /// Whether the agent knows something that older ones don't.
    pub(crate) fn knows(&self, feature: &str) -> bool {
        self.agent().hello().features.iter().any(|known| known == feature)
    }

    /// Connects with a TCP port of the pod's loopback.
    ///
    /// # Errors
    /// Nobody listens there, the agent is older than that, or it can't be spoken to.
    pub async fn forward(&self, port: u16) -> Result<UnixStream, PodError> {
        if !self.knows(FEATURE_FORWARD) {
            return Err(too_old("connect to ports"));
        }
        Ok(self.0.vm.forward(port, PATIENCE).await?)
    }

    /// Tells the agent that an event is safely noted, as soon as all before it are.
    pub(crate) async fn noted(&self, seq: u64) {
        let upto = self.desk().noted(seq);
        self.acknowledge(upto).await;
    }

    async fn acknowledge(&self, upto: Option<u64>) {
        if let Some(seq) = upto {
            // If the connection is lost the events come again, and are noted again: no harm.
            let _ = self.agent().ack(seq).await;
        }
    }

    /// Waits for its end.
    pub async fn over(&self) -> Over {
        let mut over = self.0.over.subscribe();
        // The sender is in `self`, so it can't be gone.
        match over.wait_for(Option::is_some).await.map(|over| over.clone()) {
            Ok(Some(over)) => over,
            _ => std::future::pending().await,
        }
    }

    /// Whether it has come to its end.
    pub fn is_over(&self) -> bool {
        self.0.over.borrow().is_some()
    }

    /// Kills the VM. Whoever waits for its end hears of it.
    pub fn kill(&self) {
        if let Err(error) = self.0.vm.kill() {
            tracing::error!(vm = %self.0.vm.id(), %error, "a VM cannot be killed");
        }
    }

    /// Has the guest write out what its containers left, and power off; kills the VM if that takes too long.
    pub async fn power_off(&self) {
        let ask = async {
            // Answered before the power goes, or not at all: only the VM's end counts.
            let _ = self.agent().request(Request::Shutdown).await;
            self.0.vm.wait_exit().await
        };
        if tokio::time::timeout(POWER_OFF, ask).await.is_err() {
            tracing::warn!(vm = %self.0.vm.id(), "the guest does not power off and is killed");
            self.kill();
        }
    }

    /// Ends the VM, in order if there is something to be kept, and removes what is left of it on the host.
    pub async fn end(&self, in_order: bool) {
        if in_order {
            self.power_off().await;
        }
        start::end(&self.0.vm, in_order).await;
    }

    /// What it left in its logs, into ours: for an end that nobody wanted.
    pub fn say_last_words(&self, why: &str) {
        start::say_last_words(&self.0.vm, &why);
    }

    /// Hands out events until the end.
    async fn listen(self, mut events: Events) {
        let over = loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some((seq, event)) => self.take(seq, event).await,
                    None => match self.reconnect(&events).await {
                        Ok(fresh) => events = fresh,
                        Err(over) => break over,
                    },
                },
                exit = self.0.vm.wait_exit() => {
                    // How a container ended is a better story than that its VM did.
                    while let Ok(Some((seq, event))) = tokio::time::timeout(LAST_MOMENT, events.next()).await {
                        self.take(seq, event).await;
                    }
                    break Over::Vm(exit);
                }
            }
        };
        self.0.over.send_replace(Some(over));
        self.desk().close();
    }

    async fn take(&self, seq: u64, event: Event) {
        let vm = self.0.vm.id();
        match &event {
            Event::Log { .. } | Event::Oom { victim: Some(_), .. } if !self.may_speak() => {}
            Event::Log { message } => tracing::info!(%vm, agent = %message.escape_debug(), "the agent says"),
            Event::Oom { container, victim: Some(victim) } => {
                let container = container.escape_debug();
                tracing::warn!(%vm, %container, "{}", crate::oom::sentence(victim));
            }
            Event::Oom { .. } | Event::Exited { .. } => {}
        }
        let upto = self.desk().take(seq, event);
        self.acknowledge(upto).await;
    }

    /// Whether one more line of the log may be spent on the guest: it, or a container that runs into its limit again and again, could fill
    /// the host's disk with them.
    fn may_speak(&self) -> bool {
        let left = self.0.words.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left == Ok(1) {
            tracing::warn!(vm = %self.0.vm.id(), "{MOST_WORDS} lines were logged for this VM; the rest of what its agent tells is not");
        }
        left.is_ok()
    }

    /// After the control connection was lost: a new one, or the reason why there is none.
    async fn reconnect(&self, events: &Events) -> Result<Events, Over> {
        let why = events.client().closed().await;
        if let AgentCallError::Broken(why) = why {
            return Err(Over::Agent(why));
        }
        // The usual reason for a lost connection is that the VM is just ending, which is the better story.
        tokio::select! {
            biased;
            exit = self.0.vm.wait_exit() => Err(Over::Vm(exit)),
            fresh = self.0.vm.agent(PATIENCE, true) => match fresh {
                Ok((client, fresh)) => {
                    *lock(&self.0.agent) = client;
                    Ok(fresh)
                }
                Err(error) => match tokio::time::timeout(Duration::from_secs(2), self.0.vm.wait_exit()).await {
                    Ok(exit) => Err(Over::Vm(exit)),
                    Err(_) => Err(Over::Agent(format!("{why}; and again: {error}"))),
                },
            },
        }
    }

    /// The handle of a container in it.
    pub fn task(&self, container: ContainerId) -> Task {
        Task::new(self.clone(), container)
    }
}
