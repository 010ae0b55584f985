//! The start of a pod, in the order in which it happens: VM, agent, sandbox, container.

use crate::error::PodError;
use crate::guest_clock::{Asked, lay};
use crate::ids::{ContainerId, PodId, random_hex};
use crate::sandbox::{Host, LAST_MOMENT, PATIENCE, Sandbox};
use crate::sizing::VmSize;
use crate::slots::{Shared, Slot};
use crate::task::{Connections, Task};
use crate::timing::{CONNECTED, Step, TURN, Timing, monotonic_us};
use crate::turns::Turn;
use agent_protocol::{
    AgentError, CreateContainer, ErrorKind, EtcFiles, FEATURE_BOOT_TIMES, FEATURE_NETWORK, FEATURE_PODS,
    Network, Request, Response, RootFs, StreamKind, Upper,
};
use serde_json::value::{RawValue, to_raw_value};
use std::path::PathBuf;
use std::time::Duration;
use vial_vm::spec::OWNER_POD;
use vial_vm::{ConsoleSpec, DiskSource, DiskSpec, Limits, NetSpec, Vm, VmId, VmSpec};

/// How long a guest may take to tell of its start, which somebody waits for but nobody needs.
const BOOT_TIMES_WITHIN: Duration = Duration::from_secs(2);
/// Serial of the disk with the image.
const IMAGE_DISK: &str = "image";
/// Serial of the disk with the writable layer.
const UPPER_DISK: &str = "upper";

/// A sandbox to be made.
#[derive(Debug)]
pub struct SandboxPlan {
    /// The pod's id.
    pub pod: PodId,
    /// Host name.
    pub hostname: String,
    /// The VM's size.
    pub size: VmSize,
    /// Its network device.
    pub net: Option<NetSpec>,
    /// What the guest does with that device.
    pub network: Option<Network>,
    /// Its containers' files in /etc.
    pub files: Option<EtcFiles>,
}

/// A container to be made in a sandbox.
#[derive(Debug)]
pub struct TaskPlan {
    /// The container's id.
    pub container: ContainerId,
    /// Files of the image's disk, in order.
    pub image: Vec<PathBuf>,
    /// The file of the writable layer.
    pub upper: PathBuf,
    /// The OCI runtime spec.
    pub spec: serde_json::Value,
    /// Whether standard input will come over a stream.
    pub stdin: bool,
}

impl Sandbox {
    /// Starts a sandbox with its only container: VM, agent, then sandbox, container and command in one write. When it fails, or `cancelled`
    /// comes first, nothing is left of its VM.
    ///
    /// # Errors
    /// Whatever step did not work.
    pub async fn start_with(
        host: &Host,
        plan: SandboxPlan,
        task: TaskPlan,
        timing: &mut Timing,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Task, Connections), PodError> {
        let container = task.container.clone();
        let (sandbox, connections) = launch(host, plan, Content::Task(task), timing, cancelled).await?;
        let connections = connections.ok_or_else(crate::task::wrong_answer)?;
        Ok((Task::new(sandbox, container), connections))
    }
}

/// What is in a sandbox at the beginning.
pub(crate) enum Content {
    /// Its only container.
    Task(TaskPlan),
    /// Room for some.
    Slots(Shared),
}

/// Makes the VM and what is in it at the beginning.
pub(crate) async fn launch(
    host: &Host,
    mut plan: SandboxPlan,
    content: Content,
    timing: &mut Timing,
    cancelled: impl Future<Output = ()>,
) -> Result<(Sandbox, Option<Connections>), PodError> {
    let id: VmId = plan.pod.vm_name().parse()?;
    let spec = vm_spec(host, &mut plan, &content);
    let mut cancelled = std::pin::pin!(cancelled);
    let turn = tokio::select! {
        turn = host.turns.take() => turn,
        () = &mut cancelled => return Err(PodError::Cancelled),
    };
    timing.reached(TURN);
    let vm = tokio::select! {
        // Dropped halfway, the launch leaves nothing behind.
        vm = Vm::launch(&host.launcher, &host.registry, &host.parts, id, spec) => vm?,
        () = &mut cancelled => return Err(PodError::Cancelled),
    };
    timing.reached("VM process spawned");
    for (step, at_us) in vm.launch_steps() {
        timing.reached_at(step, at_us);
    }
    let started = tokio::select! {
        started = first_write(host, &vm, turn, plan, content, timing) => started,
        () = &mut cancelled => Err(PodError::Cancelled),
    };
    for milestone in vm.milestones() {
        timing.reached_at(&milestone_name(milestone.step), milestone.at_us);
    }
    let started = match started {
        Err(error) => Err(better_story(&vm, error).await),
        started => started,
    };
    if let Err(error) = &started {
        if !matches!(error, PodError::Cancelled) {
            tracing::warn!(vm = %vm.id(), %error, "a start failed");
        }
        say_last_words(&vm, error);
        end(&vm, false).await;
    }
    started
}

fn milestone_name(step: impl std::fmt::Debug) -> String {
    format!("VMM: {step:?}")
}

impl Sandbox {
    /// What the guest knows of its own start, if that was this one: on the host's clock, with how far off it may be. Asked for when the
    /// start is over, so that it costs the start nothing; empty when the guest does not tell.
    pub async fn guest_steps(&self, timing: &Timing) -> Vec<Step> {
        let known = self.agent().hello().features.iter().any(|known| known == FEATURE_BOOT_TIMES);
        let (Some(ready), true) = (timing.ready(), known) else { return Vec::new() };
        let sent_us = monotonic_us();
        let answer = tokio::time::timeout(BOOT_TIMES_WITHIN, self.ask(Request::BootTimes)).await;
        let Ok(Ok(Response::BootTimes(times))) = answer else { return Vec::new() };
        let asked = Asked { sent_us, heard_us: monotonic_us() };
        lay(&times, asked, Some(ready), timing.at(&milestone_name(vial_vm::exit::Step::FirstRun)))
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

/// Kills a VM that may have ended already and removes its folder and cgroup.
pub(crate) async fn end(vm: &Vm, in_order: bool) {
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
pub(crate) fn say_last_words(vm: &Vm, error: &dyn std::fmt::Display) {
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

fn vm_spec(host: &Host, plan: &mut SandboxPlan, content: &Content) -> VmSpec {
    let disk = |id: &str, source, read_only| DiskSpec { id: id.into(), source, read_only, root: false };
    let mut labels = vec![("pod", plan.pod.as_str())];
    let disks = match content {
        Content::Task(task) => {
            labels.push(("container", task.container.as_str()));
            vec![
                disk(IMAGE_DISK, DiskSource::Concat(task.image.clone()), true),
                disk(UPPER_DISK, DiskSource::File(task.upper.clone()), false),
            ]
        }
        Content::Slots(shared) => Slot::drives(shared.slots),
    };
    VmSpec {
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
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
        disks,
        nets: plan.net.take().into_iter().collect(),
        // For the last words of a guest that panics. What it writes there counts against the memory of the VM's cgroup.
        console: ConsoleSpec::Log,
        agent: true,
        limits: Limits::for_vm(plan.size.vcpus, plan.size.memory_mib),
        ..VmSpec::new(OWNER_POD, host.parts.kernel.clone())
    }
}

/// Sets the guest up as soon as its agent is there, with its container if it has but one.
async fn first_write(
    host: &Host,
    vm: &Vm,
    turn: Turn,
    plan: SandboxPlan,
    content: Content,
    timing: &mut Timing,
) -> Result<(Sandbox, Option<Connections>), PodError> {
    let entropy = random_hex(32)?;
    let report = vm.ready(host.start_within).await?;
    timing.heard(report.uptime_us);
    timing.reached("agent ready");
    let (agent, events) = vm.agent(PATIENCE, true).await?;
    timing.reached(CONNECTED);
    drop(turn);
    // It would skip what it does not know, and a container would look in vain for its network or its disks.
    let lacks = |feature: &str| !agent.hello().features.iter().any(|known| known == feature);
    let (memory, task) = match content {
        Content::Task(task) => (None, Some(task)),
        Content::Slots(_) if lacks(FEATURE_PODS) => return Err(too_old("keep several containers", "")),
        Content::Slots(shared) => (Some(shared.memory), None),
    };
    if plan.network.is_some() && lacks(FEATURE_NETWORK) {
        return Err(too_old("set up a network", ", or run with --network none"));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut requests = vec![Request::ApplySandbox(agent_protocol::Sandbox {
        hostname: plan.hostname,
        // Good for 584 years.
        time_unix_ns: now.as_nanos() as u64,
        entropy,
        network: plan.network,
        files: plan.files,
        memory,
    })];
    let container = task.as_ref().map(|task| task.container.clone());
    if let Some(task) = task {
        let upper = Upper::Disk { serial: UPPER_DISK.into(), bytes: None };
        requests.extend(creation(task, RootFs { image: IMAGE_DISK.into(), image_bytes: None, upper })?);
    }
    let (sandbox, mut waits) = Sandbox::new(vm.clone(), agent, events, container.as_slice());
    let steps = ["sandbox applied", "container created", "command started"];
    carry_out(&sandbox, requests, &steps, host.start_within, timing).await?;
    let Some((container, mut connections)) = container.zip(waits.pop()) else { return Ok((sandbox, None)) };
    connections.open(vm, &container).await?;
    timing.reached("streams open");
    Ok((sandbox, Some(connections)))
}

pub(crate) fn too_old(what: &str, or: &str) -> PodError {
    let message = format!("the agent in the VM is too old to {what}; install the parts of one version{or}");
    PodError::Refused(AgentError::new(ErrorKind::Unsupported, message))
}

/// Sends requests in one write and waits for all answers; each is a step.
pub(crate) async fn carry_out(
    sandbox: &Sandbox,
    requests: Vec<Request>,
    steps: &[&str],
    within: Duration,
    timing: &mut Timing,
) -> Result<(), PodError> {
    let answers = async {
        for (answer, step) in sandbox.agent().send(requests).await?.into_iter().zip(steps) {
            answer.await?;
            timing.reached(step);
        }
        Ok(())
    };
    match tokio::time::timeout(within, answers).await {
        Ok(done) => done,
        Err(_) => Err(PodError::Slow { what: "making the container", within }),
    }
}

/// The requests that make a container and run its command.
pub(crate) fn creation(task: TaskPlan, root: RootFs) -> Result<[Request; 2], PodError> {
    let spec: Box<RawValue> = to_raw_value(&task.spec)?;
    let container = task.container.as_str().to_owned();
    let create = CreateContainer { container: container.clone(), root, spec, stdin: task.stdin };
    Ok([Request::CreateContainer(create), Request::Start { container }])
}

impl Connections {
    /// Opens the output from its beginning.
    pub(crate) async fn open(&mut self, vm: &Vm, container: &ContainerId) -> Result<(), PodError> {
        let (stdout, stderr) = tokio::try_join!(
            vm.output(container.as_str(), None, StreamKind::Stdout, 0, PATIENCE),
            vm.output(container.as_str(), None, StreamKind::Stderr, 0, PATIENCE),
        )?;
        (self.stdout, self.stderr) = (Some(stdout), Some(stderr));
        Ok(())
    }
}
