//! What a starting daemon does about what its predecessor left: each container in the store meets the facts of its VM, then
//! whatever belongs to nobody goes.

mod decide;
mod pods;

pub use decide::{Decision, Observed, RecordAction, VmAction, decide, is_start_lost, start_lost, vm_ended};

use crate::error::{ApiError, Result};
use crate::home::Home;
use crate::life;
use crate::live::{Live, Phase};
use crate::restart::Occasion;
use crate::state::Shared;
use crate::store::Record;
use std::collections::HashSet;
use tokio::sync::oneshot;
use vial_api::{ErrorKind, Exit};
use vial_sandbox::log::OutputLog;
use vial_sandbox::timing::Timing;
use vial_sandbox::{ContainerId, PodId, Sandbox, pause};
use vial_vm::spec::OWNER_POD;
use vial_vm::{EndReason, VmExit, VmId, VmState};

/// How long a guest whose container has ended may take to write out what that left, and power off.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(10);

/// Brings store and machine together. Pods that run are found again in tasks of their own; all else is done on return,
/// and those that stand still are known to.
///
/// # Errors
/// When the store or the VMs' folder can't be read.
pub async fn recover(daemon: &Shared) -> Result<()> {
    let records = daemon.store.list()?;
    let shared = daemon.store.pods()?;
    let vms = records.iter().map(|record| &record.pod).chain(shared.iter().map(|pod| &pod.id));
    let known: HashSet<String> = vms.map(PodId::vm_name).collect();
    let (alone, mut members): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.pod_name.is_none());
    let mut looks = Vec::new();
    for record in alone {
        looks.extend(one(daemon, record).await?);
    }
    for pod in shared {
        let (its, others) = members.into_iter().partition(|record| record.pod == pod.id);
        members = others;
        pods::one(daemon, pod, its).await?;
    }
    // VMs of pods that no record knows: their maker died before it could note them, or after it forgot them.
    for vm in daemon.registry.list()? {
        if vm.owner == OWNER_POD && !known.contains(vm.id.as_str()) {
            tracing::warn!(vm = %vm.id, "a pod's VM that belongs to no container is removed");
            kill(daemon, &vm.id).await;
        }
    }
    daemon.registry.sweep_if(OWNER_POD, move |vm| !known.contains(vm.id.as_str())).await?;
    sweep_files(daemon)?;
    // Or the first to ask would hear of a container that stands still that it runs. All were asked at once, and each answers in bounded time.
    for look in looks {
        let _ = look.await;
    }
    Ok(())
}

/// What ends when it is known whether a pod that is being found again stands still.
type Look = oneshot::Receiver<()>;

/// What is found of a pod's VM. `boot`: the machine's boot id at its newest start.
fn observe(daemon: &Shared, vm: &VmId, boot: Option<&String>) -> Result<Observed> {
    if boot.is_some_and(|boot| *boot != daemon.boot) {
        return Ok(Observed::Rebooted);
    }
    Ok(match daemon.registry.info(vm) {
        Err(vial_vm::Error::NotFound(_)) => Observed::Nothing,
        Err(error) => return Err(error.into()),
        Ok(info) => match info.state {
            VmState::Running | VmState::Starting => Observed::Alive,
            VmState::Ended(exit) => {
                Observed::Dead { reason: exit.to_string(), killed: exit.reason == EndReason::Killed }
            }
        },
    })
}

async fn one(daemon: &Shared, record: Record) -> Result<Option<Look>> {
    let vm: VmId = record.pod.vm_name().parse()?;
    let observed = observe(daemon, &vm, record.boot.as_ref())?;
    let decision = decide(record.state, record.auto_remove, &observed);
    if decision != (Decision { vm: VmAction::Nothing, record: RecordAction::Keep }) {
        tracing::info!(
            container = record.id.short(),
            state = record.state.as_str(),
            ?observed,
            ?decision,
            "recovered"
        );
    }
    match decision.vm {
        VmAction::Nothing => {}
        VmAction::End => end(daemon, &record, &vm).await,
        VmAction::Kill | VmAction::Clean => kill(daemon, &vm).await,
        VmAction::Reattach => {
            let dir = daemon.paths.log(record.id.as_str());
            let live = Live::new(OutputLog::open(&dir, life::log_limits(&record), Some(record.base))?);
            daemon.adopt(&record.id, live.clone());
            // An agent that does not answer must not hold up the others.
            let (looked, look) = oneshot::channel();
            tokio::spawn(reattach(daemon.clone(), record, live, looked));
            return Ok(Some(look));
        }
    }
    settle(daemon, record, decision.record).await?;
    Ok(None)
}

/// Does what is to be done with what the store says of a container that has no VM (any more).
async fn settle(daemon: &Shared, record: Record, action: RecordAction) -> Result<()> {
    match action {
        RecordAction::Keep => {
            life::follow_policy(daemon, &record.id, Occasion::DaemonStart, true).await;
        }
        RecordAction::Exited(exit) => {
            life::finish(daemon, &record, &exit).await;
            let ran = record.state == vial_api::State::Running;
            life::follow_policy(daemon, &record.id, Occasion::DaemonStart, ran).await;
        }
        RecordAction::Leave(exit) => {
            if let Some(exit) = &exit {
                // What was seen of its end is cleaned up already: the next daemon, if it comes to that, could not say the same.
                daemon.store.set_exited(&record.id, exit, vial_sandbox::now_ms())?;
            }
            let exit = exit.or_else(|| record.exit.clone()).unwrap_or_default();
            let dir = daemon.paths.log(record.id.as_str());
            match OutputLog::open(&dir, life::log_limits(&record), Some(record.base)) {
                Ok(log) => {
                    let live = Live::new(log);
                    daemon.adopt(&record.id, live.clone());
                    tokio::spawn(life::leave(daemon.clone(), record, live, exit));
                }
                // Of a removal that was lost in the middle: then everybody knew.
                Err(_) => life::discard(daemon, &record).await,
            }
        }
        RecordAction::Remove => life::discard(daemon, &record).await,
    }
    Ok(())
}

/// Waits until a pod that stands still goes on, or its VM ends.
async fn wait_unpaused(
    daemon: &Shared,
    record: &Record,
    live: &Live,
    looked: oneshot::Sender<()>,
) -> Option<VmExit> {
    // A VMM that does not answer is found out about by who attaches next.
    if !matches!(pause::is_paused(&daemon.registry, &record.pod).await, Ok(true)) {
        return None;
    }
    live.set_paused(true);
    drop(looked);
    tokio::select! {
        () = live.unpaused() => None,
        () = live.cancelled() => {
            if let Err(error) = pause::kill(&daemon.registry, &record.pod).await {
                tracing::error!(container = record.id.short(), %error, "a VM cannot be killed");
            }
            pause::ended(&daemon.registry, &record.pod).await.ok()
        }
        ended = pause::ended(&daemon.registry, &record.pod) => ended.ok(),
    }
}

async fn reattach(daemon: Shared, record: Record, live: std::sync::Arc<Live>, looked: oneshot::Sender<()>) {
    if let Some(exit) = wait_unpaused(&daemon, &record, &live, looked).await {
        live.set_paused(false);
        return give_up(daemon, record, live, vm_ended(&exit.to_string(), exit.reason == EndReason::Killed))
            .await;
    }
    let attached = tokio::select! {
        attached = Sandbox::attach(&daemon.registry, &record.pod, std::slice::from_ref(&record.id)) => attached.map_err(|error| error.to_string()),
        () = live.cancelled() => Err("it was not wanted any more".to_owned()),
    };
    match attached.map(|(sandbox, waits)| (sandbox, waits.into_iter().next())) {
        Ok((sandbox, Some(connections))) => {
            if let Some(lease) = &record.network
                && let Err(error) = crate::network::help_again(&sandbox, lease)
            {
                tracing::warn!(container = record.id.short(), %error, "its network's helper can't be renewed");
            }
            let task = sandbox.task(record.id.clone());
            live.enter(Phase::Running(task.clone()));
            life::look_after(daemon, record, live, (task, Home::Own), connections, Timing::begin()).await;
        }
        refused => {
            // One container was asked for, so there is one, or an error.
            let why = refused.err().unwrap_or_default();
            let reason =
                format!("the daemon was restarted and could not find its way back into the VM: {why}");
            tracing::error!(container = record.id.short(), reason);
            let exit = Exit { code: 255, reason: Some(reason), ..Exit::default() };
            give_up(daemon, record, live, exit).await;
        }
    }
}

/// Ends what this daemon has no hand in (any more).
async fn give_up(daemon: Shared, record: Record, live: std::sync::Arc<Live>, exit: Exit) {
    if record.pod_name.is_none() {
        clear_vm(&daemon, &record.pod).await;
        crate::network::release(&daemon.network, record.network.as_ref()).await;
    }
    live.log.complete();
    life::finish(&daemon, &record, &exit).await;
    if !life::follow_policy(&daemon, &record.id, Occasion::Ended, true).await {
        daemon.forget(&record.id);
    }
    live.enter(Phase::Ended(exit));
}

/// Lets a guest whose container has ended write out what that left, then ends its VM.
async fn end(daemon: &Shared, record: &Record, vm: &VmId) {
    let in_order = async {
        let (sandbox, _) = Sandbox::attach(&daemon.registry, &record.pod, &[]).await?;
        sandbox.end(true).await;
        Ok::<_, vial_sandbox::PodError>(())
    };
    // One that does not answer must not hold up the others.
    match tokio::time::timeout(LAST_WORDS, in_order).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%vm, %error, "a guest cannot be asked to power off"),
        Err(_) => tracing::warn!(%vm, "a guest does not power off"),
    }
    kill(daemon, vm).await;
}

/// Ends a pod's VM, if it has one, and removes what is left of it.
pub async fn clear_vm(daemon: &Shared, pod: &PodId) {
    if let Ok(vm) = pod.vm_name().parse() {
        kill(daemon, &vm).await;
    }
}

/// Ends a VM, if it lives, and removes its folder and cgroup.
async fn kill(daemon: &Shared, id: &VmId) {
    let ended = async {
        let vm = daemon.registry.attach(id).await?;
        vm.kill()?;
        vm.wait_exit().await;
        vm.remove().await
    };
    match ended.await {
        Ok(()) | Err(vial_vm::Error::NotFound(_)) => {}
        Err(error) => tracing::error!(vm = %id, %error, "what is left of a VM cannot be removed"),
    }
}

/// Removes writable layers and logs of containers that no record knows.
fn sweep_files(daemon: &Shared) -> Result<()> {
    let known: HashSet<ContainerId> = daemon.store.list()?.into_iter().map(|record| record.id).collect();
    let belongs = |name: &str| ContainerId::parse(name).is_some_and(|id| known.contains(&id));
    for name in daemon.uppers.list()?.iter().filter(|name| !belongs(name)) {
        tracing::warn!(container = name, "a writable layer that belongs to nobody is removed");
        daemon.uppers.remove(name)?;
    }
    let logs = daemon.paths.logs();
    for entry in std::fs::read_dir(&logs)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !belongs(name)) {
            std::fs::remove_dir_all(&path).map_err(|error| {
                ApiError::new(ErrorKind::Internal, format!("cannot remove {}: {error}", path.display()))
            })?;
        }
    }
    Ok(())
}
