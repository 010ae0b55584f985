//! A pod's life in the daemon: started when somebody needs it, looked after, stopped, removed.
//!
//! Each step is in the store before the next one begins, so that a daemon that comes after a killed one knows what to do.

use super::live::{LivePod, PodPhase};
use crate::error::{ApiError, Result};
use crate::network;
use crate::recovery;
use crate::state::Shared;
use crate::store::{PodRecord, Record};
use crate::{ending, store};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use vial_api::{ErrorKind, PodState};
use vial_sandbox::timing::{self, Timing};
use vial_sandbox::{Over, PodId, Sandbox, now_ms};

/// How long the containers of a pod whose VM has ended may take until that is noted of each.
const LAST_NOTES: Duration = Duration::from_secs(30);

/// The sandbox of a pod, which is started if it has none.
///
/// # Errors
/// When it is not there (any more), or can't be started.
pub async fn sandbox(daemon: &Shared, id: &PodId) -> Result<(Arc<LivePod>, Sandbox)> {
    loop {
        let live = match daemon.pod(id) {
            Some(live) => live,
            None => {
                // In a task of its own: whoever asks may go away in the middle, and a start that is noted and that nobody does
                // would be waited for until the daemon's end.
                let (daemon, id) = (daemon.clone(), id.clone());
                tokio::spawn(async move { begin(&daemon, &id).await }).await??
            }
        };
        match live.started().await {
            PodPhase::Running(sandbox) if !sandbox.is_over() && !live.is_stopping() => {
                return Ok((live, sandbox));
            }
            PodPhase::Failed(error) => return Err(error),
            // On its way out: then it is started anew.
            PodPhase::Running(_) | PodPhase::Starting | PodPhase::Ended => live.ended().await,
        }
    }
}

/// Begins to start a pod that has no VM.
async fn begin(daemon: &Shared, id: &PodId) -> Result<Arc<LivePod>> {
    if *daemon.stopping.borrow() {
        return Err(ApiError::new(ErrorKind::ShuttingDown, "the daemon is just ending; try again"));
    }
    let _gate = daemon.start_gate.lock().await;
    if let Some(live) = daemon.pod(id) {
        return Ok(live);
    }
    let (store_daemon, wanted) = (daemon.clone(), id.clone());
    let record = tokio::task::spawn_blocking(move || {
        let begun = store_daemon.store.set_pod_starting(&wanted, &store_daemon.boot)?;
        Ok::<_, ApiError>(store_daemon.store.pod(&wanted)?.filter(|_| begun))
    });
    let record = record.await??.ok_or(store::StoreError::NoSuchPod)?;
    let live = LivePod::new(record.max_containers());
    daemon.adopt_pod(id, live.clone());
    // A task of its own: whoever asked may go away, and others may wait for it too.
    tokio::spawn(keep(daemon.clone(), record, live.clone()));
    Ok(live)
}

async fn keep(daemon: Shared, mut record: PodRecord, live: Arc<LivePod>) {
    match boot(&daemon, &mut record, &live).await {
        Ok(sandbox) => {
            let (store_daemon, id) = (daemon.clone(), record.id.clone());
            let noted =
                tokio::task::spawn_blocking(move || store_daemon.store.set_pod_running(&id, now_ms())).await;
            if let Ok(Err(error)) = noted {
                // Only a restart of the daemon would end it.
                tracing::error!(pod = record.name, %error, "the start of a pod cannot be noted");
            }
            live.enter(PodPhase::Running(sandbox.clone()));
            look_after(daemon, record, live, sandbox).await;
        }
        Err(error) => {
            network::release(&daemon.network, record.network.as_ref()).await;
            note_stopped(&daemon, &record.id, Some(error.to_string())).await;
            daemon.forget_pod(&record.id);
            live.enter(PodPhase::Failed(error));
        }
    }
}

async fn boot(daemon: &Shared, record: &mut PodRecord, live: &LivePod) -> Result<Sandbox> {
    let host = daemon.host()?;
    // Of the start before, if that could not be cleared away.
    recovery::clear_vm(daemon, &record.id).await;
    record.network = None;
    let (mut plan, shared) = record.plan()?;
    let (lease, held) = network::give(daemon, (&record.request).into(), &mut plan).await?;
    record.network = lease;
    network::publish(daemon, &record.id, record.network.as_ref()).await?;
    let mut timing = Timing::begin();
    let sandbox = Sandbox::start(&host, plan, shared, &mut timing, live.cancelled()).await?;
    if let Some(took) = timing.between(timing::TURN, timing::CONNECTED) {
        live.set_boot(took);
    }
    if let Some(lease) = &record.network
        && let Err(error) = network::help(&sandbox, lease, &held)
    {
        sandbox.end(false).await;
        return Err(error.into());
    }
    Ok(sandbox)
}

/// Looks after a running pod until its end and after it.
pub async fn look_after(daemon: Shared, record: PodRecord, live: Arc<LivePod>, sandbox: Sandbox) {
    let reason = match sandbox.over().await {
        _ if live.is_stopping() => None,
        Over::Vm(exit) => Some(format!("its VM ended: {exit}")),
        Over::Agent(why) => Some(format!("the agent in its VM failed ({why}), so that was killed")),
    };
    if let Some(reason) = &reason {
        sandbox.say_last_words(reason);
    }
    // Each of its containers hears the same, and what is noted of it must not be overtaken by a new start.
    live.empty(LAST_NOTES).await;
    sandbox.end(false).await;
    network::release(&daemon.network, record.network.as_ref()).await;
    note_stopped(&daemon, &record.id, reason).await;
    daemon.forget_pod(&record.id);
    live.enter(PodPhase::Ended);
}

/// Notes that a pod has no VM any more.
pub async fn note_stopped(daemon: &Shared, id: &PodId, reason: Option<String>) {
    let (store_daemon, stopped) = (daemon.clone(), id.clone());
    let noted =
        tokio::task::spawn_blocking(move || store_daemon.store.set_pod_stopped(&stopped, reason.as_deref()));
    if let Ok(Err(error)) = noted.await {
        tracing::error!(pod = id.short(), %error, "the end of a pod cannot be noted");
    }
}

/// The containers of a pod, ended ones too.
///
/// # Errors
/// When the store can't be read.
pub fn members(daemon: &Shared, id: &PodId) -> Result<Vec<Record>> {
    Ok(daemon.store.list()?.into_iter().filter(|record| record.pod == *id).collect())
}

/// Starts a pod and all containers in it that do not run; returns when their commands do.
///
/// # Errors
/// When the pod can't be started, or one of the containers; the others are.
pub async fn start(daemon: &Shared, record: &PodRecord) -> Result<()> {
    sandbox(daemon, &record.id).await?;
    let members = members(daemon, &record.id)?;
    let resting = members.iter().filter(|member| daemon.live(&member.id).is_none());
    let starts = resting.map(|member| async move {
        ending::start(daemon, member).await.map_err(|error| {
            ApiError::new(error.0.kind, format!("container {} can't be started: {error}", member.name))
        })
    });
    join_all(starts).await.into_iter().collect()
}

/// Asks a pod's containers to end, then ends its VM.
///
/// # Errors
/// When the store can't be read.
pub async fn stop(daemon: &Shared, record: &PodRecord, timeout: Duration) -> Result<()> {
    let members = members(daemon, &record.id)?;
    for ended in
        join_all(members.iter().map(|member| ending::stop(daemon, member, timeout, ending::Rest::Ends))).await
    {
        if let Err(error) = ended {
            tracing::warn!(pod = record.name, %error, "a container of a pod that is stopped does not stop");
        }
    }
    end(daemon, &record.id, true).await;
    Ok(())
}

/// Ends a pod's VM, if it has one, and waits until it is gone.
async fn end(daemon: &Shared, id: &PodId, in_order: bool) {
    let Some(live) = daemon.pod(id) else { return };
    live.set_stopping();
    live.cancel();
    if let PodPhase::Running(sandbox) = live.started().await {
        // Its keeper clears away what is left.
        if in_order {
            sandbox.power_off().await;
        } else {
            sandbox.kill();
        }
    }
    live.ended().await;
}

/// Removes a pod and its containers.
///
/// # Errors
/// When one of them runs and `force` is not given, or can't be removed.
pub async fn remove(daemon: &Shared, record: &PodRecord, force: bool) -> Result<()> {
    let active = members(daemon, &record.id)?.into_iter().find(|member| daemon.live(&member.id).is_some());
    if let Some(member) = active.filter(|_| !force) {
        return Err(ApiError::new(
            ErrorKind::Conflict,
            format!(
                "container {} in pod {1} is running; stop the pod first (vial pod stop {1}) or force it (vial pod rm -f {1})",
                member.name, record.name
            ),
        ));
    }
    // Said first and done then: a removal that is killed halfway is finished at the next start, and nobody joins any more.
    let (store_daemon, id) = (daemon.clone(), record.id.clone());
    tokio::task::spawn_blocking(move || store_daemon.store.set_pod_removing(&id)).await??;
    let members = members(daemon, &record.id)?;
    for member in &members {
        // Or a restart policy would try to start what is about to go.
        crate::life::note_stopped(daemon, member, true).await;
    }
    // Nothing of them is kept, so nothing in it is asked.
    end(daemon, &record.id, false).await;
    let mut failed = None;
    for member in members {
        // One that could not be removed does not spare the others.
        failed = ending::remove(daemon, &member, true).await.err().or(failed);
    }
    match failed {
        Some(error) => Err(error),
        None => forget(daemon, &record.id).await,
    }
}

/// Forgets a pod whose VM and containers are gone.
///
/// # Errors
/// When the store can't.
pub async fn forget(daemon: &Shared, id: &PodId) -> Result<()> {
    let (store_daemon, id) = (daemon.clone(), id.clone());
    Ok(tokio::task::spawn_blocking(move || store_daemon.store.delete_pod(&id)).await??)
}

/// Whether a pod can still be joined.
pub fn can_be_joined(record: &PodRecord) -> bool {
    record.state != PodState::Removing
}
