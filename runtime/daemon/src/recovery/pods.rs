//! Pods of several containers: the VM's fate is decided once, then each container's as if it had the VM to itself.

use super::{Observed, VmAction, decide, give_up, kill, observe, settle};
use crate::error::Result;
use crate::home::{self, Home};
use crate::life;
use crate::live::{Live, Phase};
use crate::pods::{LivePod, Place, PodPhase, life as pod_life};
use crate::state::Shared;
use crate::store::{PodRecord, Record};
use std::sync::Arc;
use vial_api::{Exit, PodState};
use vial_sandbox::log::OutputLog;
use vial_sandbox::timing::Timing;
use vial_sandbox::{ContainerId, Sandbox};
use vial_vm::VmId;

/// A container that is said to run in a VM that lives.
struct Member {
    record: Record,
    live: Arc<Live>,
    place: Place,
}

/// Brings a pod and its containers together with what is found of its VM.
pub async fn one(daemon: &Shared, pod: PodRecord, members: Vec<Record>) -> Result<()> {
    let vm: VmId = pod.id.vm_name().parse()?;
    let observed = observe(daemon, &vm, pod.boot.as_ref())?;
    tracing::info!(pod = pod.name, state = pod.state.as_str(), ?observed, "recovered");
    if (pod.state, &observed) == (PodState::Running, &Observed::Alive) {
        return again(daemon, pod, members).await;
    }
    kill(daemon, &vm).await;
    // Its start was not gone through with, so no container has run in what lives.
    let seen = if observed == Observed::Alive { Observed::Nothing } else { observed };
    let reason = match (pod.state, &seen) {
        (PodState::Starting, _) => Some("the daemon ended while it was started".to_owned()),
        (_, Observed::Rebooted) => Some("the machine was restarted, or lost its power".to_owned()),
        (_, Observed::Dead { reason, .. }) => Some(format!("its VM ended: {reason}")),
        _ => Some("its VM is gone without a trace".to_owned()),
    };
    // Before its containers: the restart policy of one may start it again.
    pod_life::note_stopped(daemon, &pod.id, reason).await;
    for member in members {
        if pod.state == PodState::Removing {
            life::discard(daemon, &member).await;
            continue;
        }
        let action = decide(member.state, member.auto_remove, &seen).record;
        settle(daemon, member, action).await?;
    }
    if pod.state == PodState::Removing {
        pod_life::forget(daemon, &pod.id).await?;
    }
    Ok(())
}

/// Finds a running pod again.
async fn again(daemon: &Shared, pod: PodRecord, members: Vec<Record>) -> Result<()> {
    let live = LivePod::new(pod.max_containers());
    daemon.adopt_pod(&pod.id, live.clone());
    let (mut running, mut left) = (Vec::new(), Vec::new());
    let decided = |record: &Record| decide(record.state, record.auto_remove, &Observed::Alive);
    // Nobody else's claim counts against one that runs.
    let (first, others): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|record| decided(record).vm == VmAction::Reattach);
    for record in first.into_iter().chain(others) {
        let place = record.slot.and_then(|slot| live.retake(slot));
        let decision = decided(&record);
        match (decision.vm, place) {
            (VmAction::Reattach, Some(place)) => {
                let dir = daemon.paths.log(record.id.as_str());
                let live = Live::new(OutputLog::open(&dir, life::log_limits(&record), Some(record.base))?);
                daemon.adopt(&record.id, live.clone());
                running.push(Member { record, live, place });
            }
            // No daemon notes one without the other.
            (VmAction::Reattach, None) => {
                let action = decide(record.state, record.auto_remove, &Observed::Nothing).record;
                settle(daemon, record, action).await?;
            }
            (_, place) => {
                left.extend(place.map(|place| (record.clone(), place)));
                settle(daemon, record, decision.record).await?;
            }
        }
    }
    // An agent that does not answer must not hold up other pods.
    tokio::spawn(reattach(daemon.clone(), pod, live, running, left));
    Ok(())
}

async fn reattach(
    daemon: Shared,
    pod: PodRecord,
    live: Arc<LivePod>,
    running: Vec<Member>,
    left: Vec<(Record, Place)>,
) {
    let ids: Vec<ContainerId> = running.iter().map(|member| member.record.id.clone()).collect();
    let attached = tokio::select! {
        attached = Sandbox::attach(&daemon.registry, &pod.id, &ids) => attached.map_err(|error| error.to_string()),
        () = live.cancelled() => Err("it was not wanted any more".to_owned()),
    };
    match attached {
        Ok((sandbox, waits)) => {
            if let Some(lease) = &pod.network
                && let Err(error) = crate::network::help_again(&sandbox, lease)
            {
                tracing::warn!(pod = pod.name, %error, "its network's helper can't be renewed");
            }
            for (Member { record, live, place }, connections) in running.into_iter().zip(waits) {
                let task = sandbox.task(record.id.clone());
                live.enter(Phase::Running(task.clone()));
                let member = (task, Home::Shared(place));
                let timing = Timing::begin();
                tokio::spawn(life::look_after(daemon.clone(), record, live, member, connections, timing));
            }
            for (record, place) in left {
                home::free(&daemon, &record, &sandbox, place).await;
            }
            live.enter(PodPhase::Running(sandbox.clone()));
            pod_life::look_after(daemon, pod, live, sandbox).await;
        }
        Err(why) => {
            let reason =
                format!("the daemon was restarted and could not find its way back into the VM: {why}");
            tracing::error!(pod = pod.name, reason);
            super::clear_vm(&daemon, &pod.id).await;
            crate::network::release(&daemon.network, pod.network.as_ref()).await;
            pod_life::note_stopped(&daemon, &pod.id, Some(reason.clone())).await;
            daemon.forget_pod(&pod.id);
            live.enter(PodPhase::Ended);
            for Member { record, live, .. } in running {
                let exit = Exit { code: 255, reason: Some(reason.clone()), ..Exit::default() };
                give_up(daemon.clone(), record, live, exit).await;
            }
        }
    }
}
