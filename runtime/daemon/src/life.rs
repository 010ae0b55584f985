//! A container's life in the daemon: made, started, looked after, ended, removed.
//!
//! Each step is in the store before the next one begins, so that a daemon that comes after a killed one knows what to do
//! (`recovery`).

use crate::error::{ApiError, Result};
use crate::live::{Live, Phase};
use crate::names;
use crate::paths::named;
use crate::recovery::vm_ended;
use crate::state::Shared;
use crate::store::{Record, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;
use vial_api::{CreateContainer, ErrorKind, Exit, State};
use vial_sandbox::log::OutputLog;
use vial_sandbox::timing::Timing;
use vial_sandbox::upper::UpperError;
use vial_sandbox::{
    Connections, ContainerId, Ended, Pod, PodError, PodId, PodPlan, now_ms, signals, sizing, spec, upper,
};
use vial_vm::EndReason;

/// Attempts at a made-up name without a number behind it.
const PLAIN_NAMES: u32 = 4;
/// Attempts in all.
const NAMES: u32 = 32;

/// Makes a container and begins to start it. Returns when it is in the store; [`Live::started`] tells the rest.
///
/// # Errors
/// When the request makes no sense, the image is missing, the name is in use.
pub async fn create(daemon: &Shared, request: CreateContainer) -> Result<(Record, Arc<Live>)> {
    let mut timing = Timing::begin();
    if *daemon.stopping.borrow() {
        return Err(ApiError::new(ErrorKind::ShuttingDown, "the daemon is just ending; try again"));
    }
    if let Some(name) = &request.name {
        names::check(name).map_err(|why| ApiError::new(ErrorKind::InvalidArgument, why))?;
    }
    let image = crate::images::resolve(daemon, &request.image).await?;
    timing.reached("image resolved");

    let (id, pod) = (ContainerId::random()?, PodId::random()?);
    let options = spec::Options {
        command: request.command,
        entrypoint: request.entrypoint,
        env: request.env,
        workdir: request.workdir,
        user: request.user,
        hostname: request.hostname.unwrap_or_else(|| id.short().to_owned()),
        memory: request.memory.unwrap_or(sizing::DEFAULT_MEMORY),
        milli_cpus: request.milli_cpus.unwrap_or(sizing::DEFAULT_MILLI_CPUS),
        terminal: request.terminal.map(|size| (size.cols, size.rows)),
    };
    let made = spec::container(id.as_str(), &image.config, &options)?;
    let size = sizing::vm_size(options.memory, options.milli_cpus)
        .and_then(|size| size.fits(vial_vm::host_memory_mib()))
        .map_err(spec::SpecError::from)?;
    let host = daemon.host()?;

    let record = Record {
        id: id.clone(),
        pod: pod.clone(),
        name: String::new(),
        image: request.image,
        image_id: image.id.to_string(),
        args: made.args,
        spec: made.oci.clone(),
        stop_signal: made.stop_signal,
        memory: options.memory,
        milli_cpus: options.milli_cpus,
        stdin: request.stdin,
        auto_remove: request.auto_remove,
        state: State::Created,
        exit: None,
        created_ms: now_ms(),
        started_ms: None,
        finished_ms: None,
    };
    let log_dir = daemon.paths.log(id.as_str());
    let log = OutputLog::open(&log_dir, false).map_err(|error| {
        // Its folder may have found room, and what goes into it not.
        remove_log(daemon, &id);
        named(error, "make the container's log", &log_dir)
    })?;
    // While the row is on its way to the disk. A layer or log without a row is swept at the next start.
    let (uppers, layer_id, disk) =
        (daemon.uppers.clone(), id.clone(), request.disk.unwrap_or(upper::DEFAULT_SIZE));
    let layer = tokio::task::spawn_blocking(move || uppers.create(layer_id.as_str(), disk));
    let record = match insert(daemon, record, request.name).await {
        Ok(record) => record,
        Err(error) => {
            // It is being made or was; the error of the insertion counts.
            let _ = layer.await;
            let _ = daemon.uppers.remove(id.as_str());
            remove_log(daemon, &id);
            return Err(error);
        }
    };
    timing.reached("container noted");
    let live = Live::new(log);
    daemon.adopt(&id, live.clone());
    let plan = PodPlan {
        pod,
        container: id,
        hostname: options.hostname,
        image: image.disk,
        upper: daemon.uppers.path(record.id.as_str()),
        spec: made.oci,
        size,
        stdin: request.stdin,
    };
    let start = Start {
        daemon: daemon.clone(),
        record: record.clone(),
        live: live.clone(),
        host,
        plan,
        layer,
        timing,
    };
    // A task of its own: whoever asked may go away, and the life goes on.
    tokio::spawn(start.run());
    Ok((record, live))
}

/// Notes a container under its name or a made-up one.
async fn insert(daemon: &Shared, mut record: Record, name: Option<String>) -> Result<Record> {
    let wanted = name.is_some();
    let daemon = daemon.clone();
    tokio::task::spawn_blocking(move || {
        for attempt in 0..NAMES {
            record.name = match &name {
                Some(name) => name.clone(),
                None => {
                    let mut bytes = [0; 3];
                    let digits = vial_sandbox::ids::random_hex(bytes.len())?;
                    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
                        // Two hexadecimal digits each.
                        *byte = std::str::from_utf8(pair)
                            .ok()
                            .and_then(|t| u8::from_str_radix(t, 16).ok())
                            .unwrap_or(0);
                    }
                    names::from_random(bytes, attempt >= PLAIN_NAMES)
                }
            };
            match daemon.store.insert(&record) {
                Err(StoreError::NameInUse(_)) if !wanted => {}
                other => return other.map(|()| record).map_err(ApiError::from),
            }
        }
        Err(ApiError::new(ErrorKind::Conflict, "every made-up name is in use; give one with --name"))
    })
    .await?
}

struct Start {
    daemon: Shared,
    record: Record,
    live: Arc<Live>,
    host: vial_sandbox::Host,
    plan: PodPlan,
    layer: JoinHandle<Result<PathBuf, UpperError>>,
    timing: Timing,
}

impl Start {
    async fn run(self) {
        let Self { daemon, record, live, host, plan, layer, mut timing } = self;
        let started = async {
            layer.await??;
            timing.reached("writable layer made");
            Ok::<_, ApiError>(Pod::start(&host, plan, &mut timing, live.cancelled()).await?)
        };
        match started.await {
            Ok((pod, connections)) => {
                live.set_timing(&timing);
                let (store_daemon, id) = (daemon.clone(), record.id.clone());
                let noted =
                    tokio::task::spawn_blocking(move || store_daemon.store.set_running(&id, now_ms())).await;
                if let Ok(Err(error)) = noted {
                    // It runs and its end will be noted; only a restart of the daemon before then would end it.
                    tracing::error!(container = record.id.short(), %error, "the start cannot be noted");
                }
                live.enter(Phase::Running(pod.clone()));
                look_after(daemon, record, live, pod, connections, timing).await;
            }
            Err(error) => {
                live.set_timing(&timing);
                fail(&daemon, &record, &live, error).await;
            }
        }
    }
}

/// Ends what could not be started.
pub async fn fail(daemon: &Shared, record: &Record, live: &Arc<Live>, error: ApiError) {
    live.log.complete();
    let exit = Exit { code: error.0.kind.exit_code(), reason: Some(error.to_string()), ..Exit::default() };
    finish(daemon, record, &exit).await;
    daemon.forget(&record.id);
    live.enter(Phase::Failed(error));
}

/// Looks after a running container until its end and after it.
pub async fn look_after(
    daemon: Shared,
    record: Record,
    live: Arc<Live>,
    pod: Pod,
    connections: Connections,
    mut timing: Timing,
) {
    let ended = pod.supervise(connections, &live.log).await;
    timing.reached("command ended");
    let exit = match &ended {
        Ended::Exited { status, .. } => {
            Exit { code: status.code, signal: status.signal, oom: status.oom, reason: None }
        }
        Ended::Vm(exit) => vm_ended(&exit.to_string(), exit.reason == EndReason::Killed),
        Ended::Agent(why) => vm_ended(&format!("the agent in it failed ({why}), so it was killed"), false),
    };
    live.log.complete();
    let (store_daemon, id, noted) = (daemon.clone(), record.id.clone(), exit.clone());
    let noted =
        tokio::task::spawn_blocking(move || store_daemon.store.set_exited(&id, &noted, now_ms())).await;
    if let Ok(Err(error)) = noted {
        tracing::error!(container = record.id.short(), %error, "an end cannot be noted");
    }
    let mut in_order = false;
    if let Ended::Exited { seq, .. } = ended {
        pod.ack(seq).await;
        // What goes with the container need not be written out.
        in_order = !record.auto_remove;
    }
    pod.end(in_order).await;
    timing.reached("VM gone");
    if record.auto_remove {
        discard(&daemon, &record).await;
        timing.reached("container removed");
    }
    daemon.forget(&record.id);
    live.set_timing(&timing);
    live.enter(Phase::Ended(exit));
}

/// Notes an end of something that has no VM (any more), and removes it if it wants to go.
pub async fn finish(daemon: &Shared, record: &Record, exit: &Exit) {
    let (blocking, record, exit) = (daemon.clone(), record.clone(), exit.clone());
    let done = tokio::task::spawn_blocking(move || -> Result<()> {
        if let Err(error) = blocking.uppers.remove(record.id.as_str()) {
            tracing::warn!(%error, "a writable layer stays until the next start of the daemon");
        }
        if record.auto_remove {
            return discard_blocking(&blocking, &record);
        }
        blocking.store.set_exited(&record.id, &exit, now_ms())?;
        Ok(())
    });
    if let Ok(Err(error)) = done.await {
        tracing::error!(%error, "an end cannot be noted");
    }
}

/// Removes all that is left of a container whose VM is gone. What can't be removed now is at the next start.
pub async fn discard(daemon: &Shared, record: &Record) {
    let (daemon, record) = (daemon.clone(), record.clone());
    let done = tokio::task::spawn_blocking(move || discard_blocking(&daemon, &record)).await;
    if let Ok(Err(error)) = done {
        tracing::error!(%error, "a container cannot be removed; the next start of the daemon will try again");
    }
}

fn discard_blocking(daemon: &Shared, record: &Record) -> Result<()> {
    // Said first and done then: a removal that is killed halfway is finished at the next start. One that goes by itself has said
    // so from the beginning.
    if !record.auto_remove {
        daemon.store.set_removing(&record.id)?;
    }
    daemon.uppers.remove(record.id.as_str())?;
    remove_log(daemon, &record.id);
    daemon.store.delete(&record.id)?;
    Ok(())
}

/// Removes a container's log; a missing one is fine.
pub fn remove_log(daemon: &Shared, id: &ContainerId) {
    let path = daemon.paths.log(id.as_str());
    if let Err(error) = std::fs::remove_dir_all(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a log stays until the next start of the daemon");
    }
}

/// The error of what needs a running container.
pub fn not_running(record: &Record) -> ApiError {
    ApiError::new(ErrorKind::Conflict, format!("container {} is not running", record.name))
}

/// The pod of a container that runs.
///
/// # Errors
/// When it does not.
pub async fn running(daemon: &Shared, record: &Record) -> Result<Pod> {
    let live = daemon.live(&record.id).ok_or_else(|| not_running(record))?;
    match live.started().await {
        Phase::Running(pod) => Ok(pod),
        _ => Err(not_running(record)),
    }
}

/// Sends a container a signal.
///
/// # Errors
/// When it does not run, or the agent refuses.
pub async fn kill(daemon: &Shared, record: &Record, signal: i32) -> Result<()> {
    let live = daemon.live(&record.id).ok_or_else(|| not_running(record))?;
    match live.phase() {
        // A start that nobody wants any more.
        Phase::Starting => {
            live.cancel();
            Ok(())
        }
        Phase::Running(pod) => match pod.signal(signal).await {
            // An agent that does not answer must not protect its container.
            Err(PodError::Slow { .. } | PodError::Agent(_)) if signal == signals::SIGKILL => {
                pod.kill();
                Ok(())
            }
            other => Ok(other?),
        },
        Phase::Failed(_) | Phase::Ended(_) => Err(not_running(record)),
    }
}

/// Asks a container to end, then kills it, then its VM; waits for the end. One that does not run is left alone.
///
/// # Errors
/// None of its own: whatever the agent answers, the container ends.
pub async fn stop(daemon: &Shared, record: &Record, timeout: std::time::Duration) -> Result<()> {
    let Some(live) = daemon.live(&record.id) else { return Ok(()) };
    let kills = [(record.stop_signal, timeout), (signals::SIGKILL, std::time::Duration::from_secs(5))];
    for (signal, within) in kills {
        // It may have just ended, or its agent may be stuck: the next step is harder.
        let _ = kill(daemon, record, signal).await;
        if tokio::time::timeout(within, live.ended()).await.is_ok() {
            return Ok(());
        }
    }
    if let Phase::Running(pod) = live.phase() {
        pod.kill();
    }
    live.ended().await;
    Ok(())
}

/// Removes a container.
///
/// # Errors
/// When it runs and `force` is not given.
pub async fn remove(daemon: &Shared, record: &Record, force: bool) -> Result<()> {
    if let Some(live) = daemon.live(&record.id) {
        if !force {
            return Err(ApiError::new(
                ErrorKind::Conflict,
                format!(
                    "container {0} is running; stop it first (vial stop {0}) or force it (vial rm -f {0})",
                    record.name
                ),
            ));
        }
        match live.phase() {
            Phase::Starting => live.cancel(),
            // Nothing of it is kept, so nothing in it is asked.
            Phase::Running(pod) => pod.kill(),
            Phase::Failed(_) | Phase::Ended(_) => {}
        }
        live.ended().await;
    }
    let (daemon, record) = (daemon.clone(), record.clone());
    tokio::task::spawn_blocking(move || discard_blocking(&daemon, &record)).await?
}
