//! Where a container lives while it runs: in a VM of its own, which comes and goes with it, or in a slot of its pod's.

use crate::error::Result;
use crate::life::{Layer, sandbox_plan};
use crate::live::Live;
use crate::network;
use crate::pods::{self, LivePod, Place};
use crate::recovery;
use crate::state::Shared;
use crate::store::Record;
use vial_api::ErrorKind;
use vial_sandbox::timing::Timing;
use vial_sandbox::{Connections, ContainerId, Host, PodError, Sandbox, Task, TaskPlan};

/// Where.
#[derive(Debug)]
pub enum Home {
    /// A VM of its own.
    Own,
    /// A slot in its pod's VM.
    Shared(Place),
}

/// Starts a container where it lives. Nothing is left of it there when that fails.
///
/// # Errors
/// Whatever step did not work.
pub async fn enter(
    daemon: &Shared,
    record: &mut Record,
    live: &Live,
    (host, plan, layer): (&Host, TaskPlan, Layer),
    timing: &mut Timing,
) -> Result<(Task, Connections, Home)> {
    match record.pod_name {
        None => own(daemon, record, live, (host, plan, layer), timing).await,
        Some(_) => shared(daemon, record, live, (host, plan, layer), timing).await,
    }
}

async fn own(
    daemon: &Shared,
    record: &mut Record,
    live: &Live,
    (host, plan, mut layer): (&Host, TaskPlan, Layer),
    timing: &mut Timing,
) -> Result<(Task, Connections, Home)> {
    if !record.is_new() {
        // Of the start before, if that could not be cleared away.
        recovery::clear_vm(daemon, &record.pod).await;
    }
    // Not the one of the start before, whatever happens.
    record.network = None;
    let started = async {
        let mut sandbox = sandbox_plan(record)?;
        let (lease, held) = network::give(daemon, (&record.request).into(), &mut sandbox).await?;
        record.network = lease;
        timing.reached("network slot taken");
        let (layer, published) =
            tokio::join!(&mut layer, network::publish(daemon, &record.pod, record.network.as_ref()));
        layer??;
        published?;
        timing.reached("writable layer ready");
        let (task, connections) = Sandbox::start_with(host, sandbox, plan, timing, live.cancelled()).await?;
        if let Some(lease) = &record.network
            && let Err(error) = network::help(task.sandbox(), lease, &held)
        {
            task.sandbox().end(false).await;
            return Err(error.into());
        }
        Ok((task, connections, Home::Own))
    };
    let started = started.await;
    if started.is_err() {
        network::release(&daemon.network, record.network.as_ref()).await;
        if !layer.is_finished() {
            // Or it would still be made while it is removed; the error that is there counts.
            let _ = layer.await;
        }
    }
    started
}

async fn shared(
    daemon: &Shared,
    record: &Record,
    live: &Live,
    (host, plan, layer): (&Host, TaskPlan, Layer),
    timing: &mut Timing,
) -> Result<(Task, Connections, Home)> {
    // Ready in any case, or it could be made while it is removed.
    let layer = layer.await;
    let (pod, sandbox) = tokio::select! {
        pod = pods::life::sandbox(daemon, &record.pod) => pod?,
        () = live.cancelled() => return Err(PodError::Cancelled.into()),
    };
    timing.reached("pod running");
    layer??;
    again(daemon, &sandbox, &pod).await;
    let conflict = |why: String| crate::error::ApiError::new(ErrorKind::Conflict, why);
    let (stuck, all_stuck) = pod.is_stuck(&record.id);
    if stuck {
        return Err(conflict(format!(
            "another container of its pod still holds a file of container {} open, from before it ended; stop that one first",
            record.name
        )));
    }
    let Some(place) = pod.take() else {
        let held = match all_stuck {
            0 => String::new(),
            count => format!(" ({count} of them ended, and others still hold files of theirs open)"),
        };
        return Err(conflict(format!(
            "its pod has as many containers as it was made for{held}; stop one, or make a pod for more (vial pod create --containers)"
        )));
    };
    // Before the media are there: a daemon that comes after this one takes them out.
    note_slot(daemon, &record.id, Some(&place)).await?;
    let started = sandbox.start_task(place.slot, plan, host.start_within, timing, live.cancelled()).await;
    match started {
        Ok((task, connections)) => Ok((task, connections, Home::Shared(place))),
        Err(error) => {
            free(daemon, record, &sandbox, place).await;
            Err(error.into())
        }
    }
}

impl Home {
    /// Leaves it behind when the container has ended, and names that step. `in_order`: what the container wrote is kept.
    pub async fn leave(self, daemon: &Shared, record: &Record, task: &Task, in_order: bool) -> &'static str {
        match self {
            Self::Own => {
                task.sandbox().end(in_order).await;
                network::release(&daemon.network, record.network.as_ref()).await;
                "VM gone"
            }
            Self::Shared(place) => {
                free(daemon, record, task.sandbox(), place).await;
                "slot free"
            }
        }
    }
}

/// Makes a slot free for others.
pub async fn free(daemon: &Shared, record: &Record, sandbox: &Sandbox, place: Place) {
    let Some(pod) = place.pod() else { return };
    clear(daemon, sandbox, &pod, vec![(record.id.clone(), place)]).await;
    // What one container held of another it holds no longer when it is gone itself.
    again(daemon, sandbox, &pod).await;
}

/// Tries once more to clear what could not be.
async fn again(daemon: &Shared, sandbox: &Sandbox, pod: &LivePod) {
    clear(daemon, sandbox, pod, pod.unstick()).await;
}

async fn clear(daemon: &Shared, sandbox: &Sandbox, pod: &LivePod, places: Vec<(ContainerId, Place)>) {
    for (container, place) in places {
        let cleared = match sandbox.clear(&container, place.slot).await {
            Ok(()) => note_slot(daemon, &container, None).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = cleared {
            tracing::warn!(
                container = container.short(),
                error,
                "what is left of a container in its pod can't be removed yet; its slot is kept"
            );
            pod.stick(container, place);
        }
    }
}

async fn note_slot(daemon: &Shared, id: &ContainerId, place: Option<&Place>) -> Result<()> {
    let (daemon, id, slot) = (daemon.clone(), id.clone(), place.map(|place| place.slot));
    Ok(tokio::task::spawn_blocking(move || daemon.store.set_slot(&id, slot)).await??)
}
