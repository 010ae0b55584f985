//! One pod: from a plan to a running container, in the order in which it happens, and the handle that is left of it.

use crate::error::PodError;
use crate::ids::{ContainerId, PodId, random_hex};
use crate::sizing::VmSize;
use crate::timing::Timing;
use agent_protocol::{
    AgentError, CreateContainer, ErrorKind, EtcFiles, Exec, ExitStatus, FEATURE_NETWORK, GetArchive, Network,
    PutArchive, Request, Response, RootFs, Sandbox, StreamKind, Upper,
};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use vial_vm::spec::OWNER_POD;
use vial_vm::{
    AgentCallError, AgentClient, ConsoleSpec, DiskSource, DiskSpec, Events, Launcher, Limits, NetSpec,
    OutputStream, Parts, Registry, StdinStream, StreamError, Vm, VmId, VmSpec,
};

/// Serial of the disk with the image.
const IMAGE_DISK: &str = "image";
/// Serial of the disk with the writable layer.
const UPPER_DISK: &str = "upper";
/// How long the agent may take for an answer, and a guest to power off when asked to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Attempts to connect a stream again without a byte in between, before it is given up.
pub(crate) const STREAM_ATTEMPTS: u32 = 3;
/// How long a VM whose connections broke may take until its end is seen.
const LAST_MOMENT: Duration = Duration::from_millis(500);
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
    /// How long a VM may take until its agent reports.
    pub start_within: Duration,
    /// Whether kernel and agent of the guest tell all they do on its console, which is logged in the VM's folder.
    pub verbose: bool,
}

/// A pod to be made, with its one container.
#[derive(Debug)]
pub struct PodPlan {
    /// Its id.
    pub pod: PodId,
    /// The container's id.
    pub container: ContainerId,
    /// Host name.
    pub hostname: String,
    /// Files of the image's disk, in order.
    pub image: Vec<PathBuf>,
    /// The file of the writable layer.
    pub upper: PathBuf,
    /// The OCI runtime spec.
    pub spec: serde_json::Value,
    /// The VM's size.
    pub size: VmSize,
    /// Whether standard input will come over a stream.
    pub stdin: bool,
    /// Its network device.
    pub net: Option<NetSpec>,
    /// What the guest does with that device.
    pub network: Option<Network>,
    /// Its containers' files in /etc.
    pub files: Option<EtcFiles>,
}

/// A running pod. Clones are the same one; dropping them changes nothing for it.
#[derive(Debug, Clone)]
pub struct Pod(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) vm: Vm,
    pub(crate) container: ContainerId,
    /// The newest control connection.
    pub(crate) agent: Mutex<AgentClient>,
    /// Who waits for the ends of execs.
    pub(crate) execs: Mutex<HashMap<String, oneshot::Sender<ExitStatus>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a pod's supervisor needs: its events, and its output where that was opened already.
#[derive(Debug)]
pub struct Connections {
    pub(crate) events: Events,
    pub(crate) stdout: Option<OutputStream>,
    pub(crate) stderr: Option<OutputStream>,
}

impl Pod {
    /// Starts a pod: VM, agent, then sandbox, container and command in one write. When it fails, or `cancelled` comes first, nothing is
    /// left of its VM.
    ///
    /// # Errors
    /// Whatever step did not work.
    pub async fn start(
        host: &Host,
        mut plan: PodPlan,
        timing: &mut Timing,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Self, Connections), PodError> {
        let id: VmId = plan.pod.vm_name().parse()?;
        let spec = vm_spec(host, &mut plan);
        let mut cancelled = std::pin::pin!(cancelled);
        let vm = tokio::select! {
            // Dropped halfway, the launch leaves nothing behind.
            vm = Vm::launch(&host.launcher, &host.registry, &host.parts, id, spec) => vm?,
            () = &mut cancelled => return Err(PodError::Cancelled),
        };
        timing.reached("VM process spawned");
        let started = tokio::select! {
            started = start_container(host, &vm, plan, timing) => started,
            () = &mut cancelled => Err(PodError::Cancelled),
        };
        for milestone in vm.milestones() {
            timing.reached_at(&format!("VMM: {:?}", milestone.step), milestone.at_us);
        }
        let started = match started {
            Err(error) => Err(better_story(&vm, error).await),
            started => started,
        };
        if let Err(error) = &started {
            say_last_words(&vm, error);
            end(&vm, false).await;
        }
        started
    }

    /// Finds a running pod again: a new control connection, on which all events come that nobody has acknowledged.
    ///
    /// # Errors
    /// When there is no VM of that name, or its agent can't be spoken to.
    pub async fn attach(
        registry: &Registry,
        pod: &PodId,
        container: ContainerId,
    ) -> Result<(Self, Connections), PodError> {
        let vm = registry.attach(&pod.vm_name().parse()?).await?;
        let (agent, events) = vm.agent(PATIENCE, true).await?;
        let connections = Connections { events, stdout: None, stderr: None };
        Ok((Self::new(vm, container, agent), connections))
    }

    fn new(vm: Vm, container: ContainerId, agent: AgentClient) -> Self {
        Self(Arc::new(Inner { vm, container, agent: Mutex::new(agent), execs: Mutex::default() }))
    }

    /// The container in it.
    pub fn container(&self) -> &ContainerId {
        &self.0.container
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

    /// Sends the container's first process a signal.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn signal(&self, signal: i32) -> Result<(), PodError> {
        let container = self.0.container.as_str().to_owned();
        let agent = self.agent();
        let request = agent.request(Request::Signal { container, exec: None, signal });
        match tokio::time::timeout(PATIENCE, request).await {
            Ok(answer) => Ok(answer.map(drop)?),
            Err(_) => Err(PodError::Slow { what: "the agent's answer", within: PATIENCE }),
        }
    }

    /// Gives the container's terminal, or an exec's, another size.
    ///
    /// # Errors
    /// When there is no such terminal (any more), or the agent can't be spoken to.
    pub async fn resize(&self, exec: Option<&str>, cols: u16, rows: u16) -> Result<(), PodError> {
        let (container, exec) = (self.0.container.as_str().to_owned(), exec.map(str::to_owned));
        self.ask(Request::Resize { container, exec, cols, rows }).await.map(drop)
    }

    /// What the container uses now.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn stats(&self) -> Result<agent_protocol::Stats, PodError> {
        let container = self.0.container.as_str().to_owned();
        match self.ask(Request::Stats { container }).await? {
            Response::Stats(stats) => Ok(stats),
            _ => Err(wrong_answer()),
        }
    }

    /// What runs in the container.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn processes(&self) -> Result<Vec<agent_protocol::ProcessInfo>, PodError> {
        let container = self.0.container.as_str().to_owned();
        match self.ask(Request::Processes { container }).await? {
            Response::Processes(processes) => Ok(processes),
            _ => Err(wrong_answer()),
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, PodError> {
        match tokio::time::timeout(PATIENCE, self.agent().request(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(PodError::Slow { what: "the agent's answer", within: PATIENCE }),
        }
    }

    /// Kills the VM. Its supervisor sees the end.
    pub fn kill(&self) {
        if let Err(error) = self.0.vm.kill() {
            tracing::error!(vm = %self.0.vm.id(), %error, "a VM cannot be killed");
        }
    }

    /// Opens the container's standard input; its `taken` says where to go on.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn stdin(&self) -> Result<StdinStream, PodError> {
        Ok(self.0.vm.stdin(self.0.container.as_str(), None, PATIENCE).await?)
    }

    /// Puts a payload into the standard input of the container, or of an exec in it; an empty one is its end. A connection that is
    /// lost is made again: a process that waits for input that was given up would wait for ever.
    ///
    /// # Errors
    /// When the agent refuses (the process has ended), or no connection holds.
    pub async fn put_stdin(
        &self,
        stdin: &mut StdinStream,
        exec: Option<&str>,
        payload: &[u8],
    ) -> Result<(), PodError> {
        let begin = stdin.accepted();
        let mut attempts = 0;
        loop {
            let taken = stdin.taken();
            // Never more than the payload, which fits.
            let rest = &payload[(stdin.accepted() - begin) as usize..];
            let passed = if payload.is_empty() { stdin.finish().await } else { stdin.write(rest).await };
            let lost = match passed {
                Err(error @ StreamError::Lost(_)) => error,
                other => return Ok(other.map_err(vial_vm::Error::from)?),
            };
            attempts = if stdin.taken() > taken { 0 } else { attempts + 1 };
            tracing::warn!(container = self.container().short(), error = %lost, attempts, "standard input is connected again");
            if attempts >= STREAM_ATTEMPTS {
                return Err(vial_vm::Error::from(lost).into());
            }
            let container = self.0.container.as_str();
            self.0.vm.resume_stdin(stdin, container, exec, PATIENCE).await?;
        }
    }

    /// The next bytes of an exec's output; none at its end. A connection that is lost is made again: a process whose output nobody
    /// takes would wait for ever.
    ///
    /// # Errors
    /// When the agent refuses (the container has ended), or no connection holds.
    pub async fn exec_output(
        &self,
        output: &mut OutputStream,
        exec: &str,
        kind: StreamKind,
    ) -> Result<Option<Vec<u8>>, PodError> {
        let mut attempts = 0;
        loop {
            let lost = match output.next().await {
                Err(error @ StreamError::Lost(_)) => error,
                other => return Ok(other.map_err(vial_vm::Error::from)?),
            };
            attempts += 1;
            if attempts > STREAM_ATTEMPTS {
                return Err(vial_vm::Error::from(lost).into());
            }
            let container = self.0.container.as_str();
            // When the VM is gone this says so at once.
            *output = self.0.vm.output(container, Some(exec), kind, output.offset(), PATIENCE).await?;
            tracing::warn!(container = self.container().short(), error = %lost, "an exec's output was connected again");
        }
    }

    /// Runs one more process.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to.
    pub async fn exec(&self, process: &serde_json::Value, stdin: bool) -> Result<ExecStreams, PodError> {
        let process = to_raw_value(process)?;
        self.exec_of(stdin, |container, exec| Request::Exec(Exec { container, exec, process, stdin })).await
    }

    /// Has files of the container on the standard output.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub async fn get_archive(&self, path: String, follow: bool) -> Result<ExecStreams, PodError> {
        self.exec_of(false, |container, exec| {
            Request::GetArchive(GetArchive { container, exec, path, follow })
        })
        .await
    }

    /// Takes files for the container on the standard input.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub async fn put_archive(&self, path: String, how: PutHow) -> Result<ExecStreams, PodError> {
        let PutHow { contents, owners, stream } = how;
        self.exec_of(true, |container, exec| {
            Request::PutArchive(PutArchive { container, exec, path, contents, owners, stream })
        })
        .await
    }

    /// Sends a request that makes an exec, and opens its streams.
    async fn exec_of(
        &self,
        stdin: bool,
        request: impl FnOnce(String, String) -> Request,
    ) -> Result<ExecStreams, PodError> {
        let exec = random_hex(16)?;
        let (sender, exit) = oneshot::channel();
        lock(&self.0.execs).insert(exec.clone(), sender);
        let request = request(self.0.container.as_str().to_owned(), exec.clone());
        let opened = self.exec_inner(&exec, request, stdin, exit).await;
        if opened.is_err() {
            lock(&self.0.execs).remove(&exec);
        }
        opened
    }

    async fn exec_inner(
        &self,
        exec: &str,
        request: Request,
        stdin: bool,
        exit: oneshot::Receiver<ExitStatus>,
    ) -> Result<ExecStreams, PodError> {
        let (vm, container) = (&self.0.vm, self.0.container.as_str());
        match tokio::time::timeout(PATIENCE, self.agent().request(request)).await {
            Ok(answer) => answer.map(drop)?,
            Err(_) => return Err(PodError::Slow { what: "the start of the command", within: PATIENCE }),
        }
        let (stdout, stderr, stdin) = tokio::try_join!(
            vm.output(container, Some(exec), StreamKind::Stdout, 0, PATIENCE),
            vm.output(container, Some(exec), StreamKind::Stderr, 0, PATIENCE),
            async {
                match stdin {
                    true => vm.stdin(container, Some(exec), PATIENCE).await.map(Some),
                    false => Ok(None),
                }
            }
        )?;
        Ok(ExecStreams { id: exec.to_owned(), stdout, stderr, stdin, exit })
    }

    /// What it left in its logs, into ours: for an end that nobody wanted.
    pub fn say_last_words(&self, why: &str) {
        say_last_words(&self.0.vm, &why);
    }

    /// Ends the VM, in order if there is something to be kept, and removes what is left of it on the host.
    pub async fn end(&self, in_order: bool) {
        if in_order {
            let ask = async {
                // Answered before the power goes, or not at all: only the VM's end counts.
                let _ = self.agent().request(Request::Shutdown).await;
                self.0.vm.wait_exit().await
            };
            if tokio::time::timeout(POWER_OFF, ask).await.is_err() {
                tracing::warn!(vm = %self.0.vm.id(), "the guest does not power off and is killed");
            }
        }
        end(&self.0.vm, in_order).await;
    }
}

/// What is told of a start that failed: a connection that broke is usually the VM's own end, a moment before that is seen.
async fn better_story(vm: &Vm, error: PodError) -> PodError {
    if matches!(error, PodError::Cancelled | PodError::Refused(_)) {
        return error;
    }
    match tokio::time::timeout(LAST_MOMENT, vm.wait_exit()).await {
        Ok(exit) => vial_vm::Error::Ended { id: vm.id().clone(), exit: Box::new(exit) }.into(),
        Err(_) => error,
    }
}

fn wrong_answer() -> PodError {
    PodError::Agent(AgentCallError::Broken("it answered another question than the one that was asked".into()))
}

/// How files are put into a container; see [`PutArchive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutHow {
    /// The first folder of the tar is left out.
    pub contents: bool,
    /// Owners and groups are the tar's.
    pub owners: bool,
    /// Any tar, whose entries keep their names.
    pub stream: bool,
}

/// One more process in a container.
#[derive(Debug)]
pub struct ExecStreams {
    /// Its id with the agent.
    pub id: String,
    /// Its standard output.
    pub stdout: OutputStream,
    /// Its standard error.
    pub stderr: OutputStream,
    /// Its standard input, if asked for.
    pub stdin: Option<StdinStream>,
    /// Its end; never, when the container ends first.
    pub exit: oneshot::Receiver<ExitStatus>,
}

/// Kills a VM that may have ended already and removes its folder and cgroup.
async fn end(vm: &Vm, in_order: bool) {
    if let Err(error) = vm.kill() {
        tracing::error!(vm = %vm.id(), %error, in_order, "a VM cannot be killed");
        return;
    }
    vm.wait_exit().await;
    if let Err(error) = vm.clone().remove().await {
        tracing::warn!(vm = %vm.id(), %error, "what is left of a VM stays until the next start of the daemon");
    }
}

/// What a VM that did not get ready left in its logs: its folder goes, and whoever looks for the reason has this.
fn say_last_words(vm: &Vm, error: &dyn std::fmt::Display) {
    use std::io::{Read, Seek, SeekFrom};
    const LAST: i64 = 4 << 10;
    for name in ["vmm.log", "console.log"] {
        let mut text = Vec::new();
        let read = std::fs::File::open(vm.dir().join(name)).and_then(|mut file| {
            // A shorter file is read from its beginning.
            let _ = file.seek(SeekFrom::End(-LAST));
            file.take(LAST as u64).read_to_end(&mut text)
        });
        if read.is_ok_and(|count| count > 0) {
            // Escaped, because a guest may have written it.
            let text = String::from_utf8_lossy(&text);
            let lines =
                text.lines().map(|line| line.escape_debug().to_string()).collect::<Vec<_>>().join("\n  ");
            tracing::warn!(vm = %vm.id(), %error, "the end of {name}:\n  {lines}");
        }
    }
}

fn vm_spec(host: &Host, plan: &mut PodPlan) -> VmSpec {
    let labels = [("pod", plan.pod.as_str()), ("container", plan.container.as_str())];
    let disk = |id: &str, source, read_only| DiskSpec { id: id.into(), source, read_only, root: false };
    VmSpec {
        labels: BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned()))),
        initrd: Some(host.parts.initrd.clone()),
        // A panic reboots at once, which ends the VM: pvpanic has told the reason by then.
        cmdline: if host.verbose {
            "console=hvc0 loglevel=6 panic=-1 vial.debug"
        } else {
            "console=hvc0 quiet loglevel=4 panic=-1"
        }
        .into(),
        cpus: plan.size.vcpus,
        memory_mib: plan.size.memory_mib,
        disks: vec![
            disk(IMAGE_DISK, DiskSource::Concat(plan.image.clone()), true),
            disk(UPPER_DISK, DiskSource::File(plan.upper.clone()), false),
        ],
        nets: plan.net.take().into_iter().collect(),
        // For the last words of a guest that panics. What it writes there counts against the memory of the VM's cgroup.
        console: ConsoleSpec::Log,
        agent: true,
        limits: Limits::for_vm(plan.size.vcpus, plan.size.memory_mib),
        ..VmSpec::new(OWNER_POD, host.parts.kernel.clone())
    }
}

async fn start_container(
    host: &Host,
    vm: &Vm,
    plan: PodPlan,
    timing: &mut Timing,
) -> Result<(Pod, Connections), PodError> {
    let spec: Box<RawValue> = to_raw_value(&plan.spec)?;
    let entropy = random_hex(32)?;
    vm.ready(host.start_within).await?;
    timing.reached("agent ready");
    let (agent, events) = vm.agent(PATIENCE, true).await?;
    timing.reached("agent connected");
    // It would skip what it does not know, and the container would look in vain for its network.
    if plan.network.is_some() && !agent.hello().features.iter().any(|feature| feature == FEATURE_NETWORK) {
        let message = "the agent in the VM is too old to set up a network; install the parts of one version, or run with --network none";
        return Err(PodError::Refused(AgentError::new(ErrorKind::Unsupported, message)));
    }
    let container = plan.container.as_str().to_owned();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Good for 584 years.
    let time_unix_ns = now.as_nanos() as u64;
    let root = RootFs {
        image: IMAGE_DISK.into(),
        image_bytes: None,
        upper: Upper::Disk { serial: UPPER_DISK.into(), bytes: None },
    };
    let requests = vec![
        Request::ApplySandbox(Sandbox {
            hostname: plan.hostname,
            time_unix_ns,
            entropy,
            network: plan.network,
            files: plan.files,
            memory: None,
        }),
        Request::CreateContainer(CreateContainer {
            container: container.clone(),
            root,
            spec,
            stdin: plan.stdin,
        }),
        Request::Start { container: container.clone() },
    ];
    let steps = ["sandbox applied", "container created", "command started"];
    let answers = async {
        for (answer, step) in agent.send(requests).await?.into_iter().zip(steps) {
            answer.await?;
            timing.reached(step);
        }
        Ok::<_, PodError>(())
    };
    match tokio::time::timeout(host.start_within, answers).await {
        Ok(done) => done?,
        Err(_) => return Err(PodError::Slow { what: "making the container", within: host.start_within }),
    }
    let (stdout, stderr) = tokio::try_join!(
        vm.output(&container, None, StreamKind::Stdout, 0, PATIENCE),
        vm.output(&container, None, StreamKind::Stderr, 0, PATIENCE),
    )?;
    timing.reached("streams open");
    let pod = Pod::new(vm.clone(), plan.container, agent);
    Ok((pod, Connections { events, stdout: Some(stdout), stderr: Some(stderr) }))
}
