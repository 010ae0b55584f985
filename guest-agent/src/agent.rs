//! The agent's state, and carrying out what the host asks.

mod archive;
mod ending;

use crate::boot::{self, Mark};
use crate::cgroup::{self, Cgroup};
use crate::container::{Container, Process, Stage, check_id};
use crate::errors::{internal, invalid};
use crate::etc;
use crate::events::Events;
use crate::init;
use crate::inside::Inside;
use crate::interface;
use crate::ipc;
use crate::oom::Ooms;
use crate::own_stats;
use crate::processes;
use crate::reaper::{Ended, Reaper};
use crate::rootfs::{Layers, Mounted};
use crate::runtime::{Plan, Runtime};
use crate::spec;
use crate::streams::{self, Pumps, Size, Streams, Wish};
use crate::sys;
use crate::volumes;
use agent_protocol::{
    AgentError, CreateContainer, ErrorKind, Event, Exec, ExitStatus, Request, Response, Sandbox,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

/// Containers of one pod.
const MAX_CONTAINERS: usize = 64;
/// Execs of a container that are not forgotten; each may keep two rings of output.
const MAX_EXECS: usize = 64;

/// All that the agent knows.
pub struct Agent {
    token: String,
    /// What happened, for the host.
    pub events: Events,
    reaper: Rc<Reaper>,
    runtime: Box<dyn Runtime>,
    sandboxed: Cell<bool>,
    containers: RefCell<HashMap<String, Rc<Container>>>,
    /// Ids of containers that are being made.
    making: RefCell<HashSet<String>>,
    /// Held while a container is made or unmounted. A new container's mount namespace begins as a copy of the agent's, with
    /// the roots of all others in it, and lets go of those only when it stands: until then nothing is really unmounted.
    mounts: Mutex<()>,
    ooms: Ooms,
}

fn not_found(container: &str) -> AgentError {
    AgentError::new(ErrorKind::NotFound, format!("no container {container:?} in this VM"))
}

fn wrong_state(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::WrongState, message)
}

fn exists(what: &str, id: &str) -> AgentError {
    AgentError::new(ErrorKind::AlreadyExists, format!("{what} {id:?} exists already"))
}

impl Agent {
    /// An agent that opens to this secret.
    pub fn new(token: String, reaper: Rc<Reaper>, runtime: Box<dyn Runtime>) -> Rc<Self> {
        Rc::new(Self {
            ooms: Ooms::new(Rc::clone(&reaper)),
            token,
            events: Events::default(),
            reaper,
            runtime,
            sandboxed: Cell::new(false),
            containers: RefCell::default(),
            making: RefCell::default(),
            mounts: Mutex::default(),
        })
    }

    /// The VM's secret.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Carries out one request other than a shutdown.
    ///
    /// # Errors
    /// As the request's own documentation says.
    pub async fn carry_out(self: &Rc<Self>, request: Request) -> Result<Response, AgentError> {
        match request {
            Request::ApplySandbox(sandbox) => self.apply_sandbox(&sandbox),
            Request::PutVolume(volume) => volumes::put(&volume).map(|()| Response::Done),
            Request::PutFile(file) => {
                let bytes = hex(&file.bytes).ok_or_else(|| invalid("a file's bytes are not hexadecimal"))?;
                volumes::write(&file, &bytes).map(|()| Response::Done)
            }
            Request::CreateContainer(create) => self.create(create).await,
            Request::Start { container } => self.start(&container).await,
            Request::Exec(exec) => self.exec(exec).await,
            Request::Signal { container, exec, signal } => self.signal(&container, exec.as_deref(), signal),
            Request::Resize { container, exec, cols, rows } => {
                self.resize(&container, exec.as_deref(), Size { cols, rows })
            }
            Request::Stats { container } => Ok(Response::Stats(self.container(&container)?.cgroup.stats())),
            Request::GetArchive(get) => self.archive(archive::Job::Get(get)),
            Request::PutArchive(put) => self.archive(archive::Job::Put(put)),
            Request::Processes { container } => {
                Ok(Response::Processes(processes::read(&self.container(&container)?.cgroup.processes())))
            }
            Request::BootTimes => Ok(Response::BootTimes(boot::times())),
            Request::SandboxStats => Ok(Response::SandboxStats(own_stats::read())),
            Request::Delete { container } => self.delete(&container).await,
            Request::Shutdown => Err(invalid("a shutdown is carried out by its connection")),
        }
    }

    fn container(&self, id: &str) -> Result<Rc<Container>, AgentError> {
        self.containers.borrow().get(id).cloned().ok_or_else(|| not_found(id))
    }

    /// The streams of a process.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn streams(&self, container: &str, exec: Option<&str>) -> Result<Streams, AgentError> {
        Ok(self.container(container)?.process(exec)?.streams.clone())
    }

    fn apply_sandbox(&self, sandbox: &Sandbox) -> Result<Response, AgentError> {
        if self.sandboxed.get() {
            return Err(wrong_state("the sandbox is applied already"));
        }
        if sandbox.hostname.is_empty() || sandbox.hostname.len() > 64 {
            return Err(invalid("a host name has 1 to 64 bytes"));
        }
        let entropy = hex(&sandbox.entropy).ok_or_else(|| invalid("the entropy is not hexadecimal"))?;
        sys::ioctl::add_entropy(&entropy).map_err(internal("the entropy can't be mixed in"))?;
        rustix::system::sethostname(sandbox.hostname.as_bytes())
            .map_err(internal("the host name can't be set"))?;
        let time = rustix::time::Timespec {
            tv_sec: (sandbox.time_unix_ns / 1_000_000_000) as i64,
            tv_nsec: (sandbox.time_unix_ns % 1_000_000_000) as i64,
        };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)
            .map_err(internal("the clock can't be set"))?;
        if let Some(network) = &sandbox.network {
            interface::set_up(network).map_err(internal("the pod's network can't be set up"))?;
        }
        if let Some(files) = &sandbox.files {
            etc::write(files).map_err(internal("the pod's files in /etc can't be made"))?;
        }
        if let Some(memory) = sandbox.memory {
            cgroup::limit_all(memory).map_err(internal("the containers' memory can't be limited"))?;
        }
        self.sandboxed.set(true);
        boot::reached(Mark::SandboxApplied);
        Ok(Response::Done)
    }

    async fn create(self: &Rc<Self>, request: CreateContainer) -> Result<Response, AgentError> {
        let id = request.container.clone();
        check_id(&id)?;
        if !self.sandboxed.get() {
            return Err(wrong_state("the sandbox must be applied before a container is made"));
        }
        if self.containers.borrow().contains_key(&id) || !self.making.borrow_mut().insert(id.clone()) {
            return Err(exists("a container", &id));
        }
        let result = self.build(&id, request).await;
        self.making.borrow_mut().remove(&id);
        if result.is_err() {
            self.runtime.forget(&id);
            self.ooms.forget(&id);
            let _ = fs::remove_dir_all(Container::base(&id));
        }
        result
    }

    async fn build(self: &Rc<Self>, id: &str, request: CreateContainer) -> Result<Response, AgentError> {
        if self.containers.borrow().len() >= MAX_CONTAINERS {
            let message = format!("a VM holds at most {MAX_CONTAINERS} containers; delete one first");
            return Err(AgentError::new(ErrorKind::ResourceExhausted, message));
        }
        let base = Container::base(id);
        fs::create_dir_all(&base).map_err(internal("the container's folder can't be made"))?;
        let layers = Layers::find(&request.root).await?;
        let _alone = self.mounts.lock().await;
        let root = Mounted::mount(&base, layers)?;
        boot::reached(Mark::RootMounted);
        let prepared = spec::container(request.spec.get(), id, &root.path())?;
        for (name, value) in &prepared.network_settings {
            init::set_network(name, value).map_err(|error| invalid(error.to_string()))?;
        }
        if let Some(options) = &prepared.shared_memory {
            ipc::prepare(options).map_err(internal("the shared memory can't be mounted"))?;
        }
        prepared.spec.save(base.join("config.json")).map_err(internal("the spec can't be written"))?;
        let wish = Wish {
            stdin: request.stdin,
            terminal: prepared.terminal,
            uid: prepared.identity.uid,
            gid: prepared.identity.gid,
        };
        let (streams, ends, source) =
            streams::make(&wish).map_err(internal("the standard streams can't be made"))?;
        let cgroup = Cgroup::create(id, &prepared.devices).map_err(internal("the cgroup can't be made"))?;
        let container = Rc::new(Container {
            base: base.clone(),
            root: RefCell::new(root),
            cgroup,
            process: Process::new(streams),
            execs: RefCell::new(BTreeMap::new()),
            deleting: Cell::new(false),
            oom_told: Cell::new(0),
        });
        let plan = Plan { container: id.to_owned(), document: base, ends, caps: prepared.caps };
        let launching = self.reaper.launching();
        let made = match self.runtime.create(plan) {
            Ok(launch) => source.connect(&container.process.streams, launch.made(&self.reaper)).await,
            Err(error) => Err(internal("a helper can't be started")(error)),
        };
        let ((pid, verdict), pumps) = match made {
            Ok(made) => made,
            Err(error) => {
                self.discard(&container).await;
                return Err(error);
            }
        };
        let ended = self.reaper.ended(pid);
        drop(launching);
        container.process.pid.set(pid);
        container.process.verdict.replace(Some(verdict));
        container.process.reach(Stage::Created);
        boot::reached(Mark::ContainerCreated);
        self.containers.borrow_mut().insert(id.to_owned(), Rc::clone(&container));
        let process = Rc::clone(&container.process);
        spawn_local(Rc::clone(self).attend(
            id.to_owned(),
            None,
            Rc::clone(&container),
            process,
            ended,
            pumps,
        ));
        spawn_local(Rc::clone(self).attend_oom(id.to_owned(), container));
        Ok(Response::Done)
    }

    /// Accompanies a process: moves its output, notes its end, tells the host.
    async fn attend(
        self: Rc<Self>,
        id: String,
        exec: Option<String>,
        container: Rc<Container>,
        process: Rc<Process>,
        ended: impl Future<Output = Ended>,
        pumps: Pumps,
    ) {
        let end = async {
            let ended = ended.await;
            if exec.is_none() {
                // With its first process the container is over: nothing else in it may hold its output open.
                container.cgroup.kill();
                let _ = container.cgroup.emptied().await;
            }
            process.streams.process_over();
            ended
        };
        let ((), ended) = tokio::join!(process.streams.pump(pumps), end);
        let oom = container.cgroup.oom_kills() > process.oom_before.get();
        let status = ExitStatus { code: ended.code, signal: ended.signal, oom };
        self.tell_ooms(&id, &container, container.cgroup.oom_kills());
        let stage = process.decided().await;
        process.exit.set(Some(status));
        process.reach(Stage::Over);
        if stage != Stage::Over {
            self.events.push(Event::Exited { container: id, exec, status });
        }
    }

    async fn start(&self, id: &str) -> Result<Response, AgentError> {
        let container = self.container(id)?;
        let process = &container.process;
        if process.stage.get() != Stage::Created {
            return Err(wrong_state(format!("container {id:?} was started before")));
        }
        process.reach(Stage::Starting);
        let verdict = process.verdict.borrow_mut().take();
        let started = match (self.runtime.start(id), verdict) {
            (Ok(()), Some(verdict)) => verdict.running().await,
            (Ok(()), None) => Ok(()),
            (Err(error), _) => Err(error),
        };
        if let Err(error) = started {
            process.reach(Stage::Over);
            container.cgroup.kill();
            return Err(error);
        }
        process.reach(Stage::Running);
        boot::reached(Mark::CommandStarted);
        Ok(Response::Started { pid: process.pid.get() })
    }

    async fn exec(self: &Rc<Self>, request: Exec) -> Result<Response, AgentError> {
        check_id(&request.exec)?;
        let container = self.container(&request.container)?;
        if container.process.stage.get() != Stage::Running || container.deleting.get() {
            return Err(wrong_state(format!("container {:?} is not running", request.container)));
        }
        self.make_room(&container)?;
        if container.execs.borrow().contains_key(&request.exec) {
            return Err(exists("an exec", &request.exec));
        }
        let view = format!("/proc/{}/root", container.process.pid.get());
        let inside =
            Inside::open(Path::new(&view)).map_err(internal("the container's root can't be opened"))?;
        let (document, caps, identity) = spec::exec(request.process.get(), &inside)?;
        let place = container.base.join(format!("exec-{}.json", request.exec));
        let json = serde_json::to_vec(&document).map_err(internal("the process can't be written"))?;
        fs::write(&place, json).map_err(internal("the process can't be written"))?;
        let wish = Wish {
            stdin: request.stdin,
            terminal: spec::terminal(&document),
            uid: identity.uid,
            gid: identity.gid,
        };
        let (streams, ends, source) =
            streams::make(&wish).map_err(internal("the standard streams can't be made"))?;
        let process = Process::new(streams);
        process.oom_before.set(container.cgroup.oom_kills());
        container.execs.borrow_mut().insert(request.exec.clone(), Rc::clone(&process));

        let plan = Plan { container: request.container.clone(), document: place.clone(), ends, caps };
        let launching = self.reaper.launching();
        let made = match self.runtime.exec(plan) {
            Ok(launch) => source.connect(&process.streams, launch.made(&self.reaper)).await,
            Err(error) => Err(internal("a helper can't be started")(error)),
        };
        let _ = fs::remove_file(place);
        if wish.terminal.is_some() {
            self.runtime.forget_consoles(&request.container);
        }
        let ((pid, verdict), pumps) = match made {
            Ok(made) => made,
            Err(error) => {
                container.execs.borrow_mut().remove(&request.exec);
                return Err(error);
            }
        };
        let ended = self.reaper.ended(pid);
        drop(launching);
        process.pid.set(pid);
        process.reach(Stage::Starting);
        spawn_local(Rc::clone(self).attend(
            request.container,
            Some(request.exec.clone()),
            Rc::clone(&container),
            Rc::clone(&process),
            ended,
            pumps,
        ));
        if let Err(error) = verdict.running().await {
            process.reach(Stage::Over);
            container.execs.borrow_mut().remove(&request.exec);
            return Err(error);
        }
        process.reach(Stage::Running);
        Ok(Response::Started { pid })
    }

    fn make_room(&self, container: &Container) -> Result<(), AgentError> {
        let mut execs = container.execs.borrow_mut();
        execs.retain(|_, process| !process.is_forgettable());
        if execs.len() < MAX_EXECS {
            return Ok(());
        }
        // One whose end the host knows and whose output it never fetched is the least loss.
        let given_up = execs
            .iter()
            .find(|(_, p)| p.noted.get() && p.stage.get() == Stage::Over)
            .map(|(id, _)| id.clone());
        match given_up {
            Some(id) => {
                execs.remove(&id);
                Ok(())
            }
            None => {
                let message = format!("a container runs at most {MAX_EXECS} execs at a time");
                Err(AgentError::new(ErrorKind::ResourceExhausted, message))
            }
        }
    }

    fn signal(&self, id: &str, exec: Option<&str>, signal: i32) -> Result<Response, AgentError> {
        if !(1..=64).contains(&signal) {
            return Err(invalid(format!("{signal} is no signal: 1 to 64")));
        }
        let process = self.container(id)?.process(exec)?;
        let pid = process.pid.get();
        // Until it is reaped, its id can't have become another process's.
        if pid == 0 || !self.reaper.is_alive(pid) {
            return Err(wrong_state("the process is not running"));
        }
        sys::process::kill(pid, signal).map_err(internal("the signal can't be sent"))?;
        Ok(Response::Done)
    }

    fn resize(&self, id: &str, exec: Option<&str>, size: Size) -> Result<Response, AgentError> {
        let process = self.container(id)?.process(exec)?;
        let terminal =
            process.streams.terminal.as_ref().ok_or_else(|| invalid("the process has no terminal"))?;
        terminal.resize(size).map_err(|error| wrong_state(error.to_string()))?;
        Ok(Response::Done)
    }

    /// Kills every container, before the power goes.
    pub fn stop_everything(&self) {
        for container in self.containers.borrow().values() {
            container.cgroup.kill();
        }
    }

    /// The host has noted all events up to this one.
    pub fn acknowledged(&self, seq: u64) {
        for event in self.events.acknowledge(seq) {
            if let Event::Exited { container, exec, .. } = event {
                if let Ok(process) = self.container(&container).and_then(|c| c.process(exec.as_deref())) {
                    process.noted.set(true);
                }
                self.forget_done(&container);
            }
        }
    }

    /// Forgets the execs of a container of which the host has everything.
    pub fn forget_done(&self, container: &str) {
        if let Ok(container) = self.container(container) {
            container.execs.borrow_mut().retain(|_, process| !process.is_forgettable());
        }
    }
}

/// Bytes from hexadecimal.
fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        assert_eq!(hex("00fFa0"), Some(vec![0, 255, 160]));
        for bad in ["0", "zz", "äö"] {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }
}
