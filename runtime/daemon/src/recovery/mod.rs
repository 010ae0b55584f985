//! What a starting daemon does about what its predecessor left: each container in the store meets the facts of its VM, then
//! whatever belongs to nobody goes.

mod decide;

pub use decide::{Decision, Observed, RecordAction, VmAction, decide, vm_ended};

use crate::error::{ApiError, Result};
use crate::life;
use crate::live::{Live, Phase};
use crate::state::Shared;
use crate::store::Record;
use std::collections::HashSet;
use vial_api::{ErrorKind, Exit};
use vial_sandbox::log::OutputLog;
use vial_sandbox::timing::Timing;
use vial_sandbox::{ContainerId, Pod};
use vial_vm::spec::OWNER_POD;
use vial_vm::{EndReason, VmId, VmState};

/// Brings store and machine together. Pods that run are found again in tasks of their own; all else is done on return.
///
/// # Errors
/// When the store or the VMs' folder can't be read.
pub async fn recover(daemon: &Shared) -> Result<()> {
    let records = daemon.store.list()?;
    let known: HashSet<String> = records.iter().map(|record| record.pod.vm_name()).collect();
    for record in records {
        one(daemon, record).await?;
    }
    // VMs of pods that no record knows: their maker died before it could note them, or after it forgot them.
    for vm in daemon.registry.list()? {
        if vm.owner == OWNER_POD && !known.contains(vm.id.as_str()) {
            tracing::warn!(vm = %vm.id, "a pod's VM that belongs to no container is removed");
            kill(daemon, &vm.id).await;
        }
    }
    daemon.registry.sweep_if(OWNER_POD, move |vm| !known.contains(vm.id.as_str())).await?;
    sweep_files(daemon)
}

async fn one(daemon: &Shared, record: Record) -> Result<()> {
    let vm: VmId = record.pod.vm_name().parse()?;
    let observed = match daemon.registry.info(&vm) {
        Err(vial_vm::Error::NotFound(_)) => Observed::Nothing,
        Err(error) => return Err(error.into()),
        Ok(info) => match info.state {
            VmState::Running | VmState::Starting => Observed::Alive,
            VmState::Ended(exit) => {
                Observed::Dead { reason: exit.to_string(), killed: exit.reason == EndReason::Killed }
            }
        },
    };
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
        VmAction::Kill | VmAction::Clean => kill(daemon, &vm).await,
        VmAction::Reattach => {
            let log = OutputLog::open(&daemon.paths.log(record.id.as_str()), false)?;
            let live = Live::new(log);
            daemon.adopt(&record.id, live.clone());
            // An agent that does not answer must not hold up the others.
            tokio::spawn(reattach(daemon.clone(), record, live));
            return Ok(());
        }
    }
    match decision.record {
        RecordAction::Keep => {}
        RecordAction::Exited(exit) => life::finish(daemon, &record, &exit).await,
        RecordAction::Remove => life::discard(daemon, &record).await,
    }
    Ok(())
}

async fn reattach(daemon: Shared, record: Record, live: std::sync::Arc<Live>) {
    let attached = tokio::select! {
        attached = Pod::attach(&daemon.registry, &record.pod, record.id.clone()) => attached.map_err(|error| error.to_string()),
        () = live.cancelled() => Err("it was not wanted any more".to_owned()),
    };
    match attached {
        Ok((pod, connections)) => {
            live.enter(Phase::Running(pod.clone()));
            life::look_after(daemon, record, live, pod, connections, Timing::begin()).await;
        }
        Err(why) => {
            let reason =
                format!("the daemon was restarted and could not find its way back into the VM: {why}");
            tracing::error!(container = record.id.short(), reason);
            if let Ok(vm) = record.pod.vm_name().parse() {
                kill(&daemon, &vm).await;
            }
            live.log.complete();
            let exit = Exit { code: 255, reason: Some(reason), ..Exit::default() };
            life::finish(&daemon, &record, &exit).await;
            daemon.forget(&record.id);
            live.enter(Phase::Ended(exit));
        }
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
