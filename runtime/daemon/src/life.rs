//! A container's life in the daemon: started, looked after, ended, started again, cleared away.
//!
//! Each step is in the store before the next one begins, so that a daemon that comes after a killed one knows what to do
//! (`recovery`).

use crate::error::{ApiError, Result};
use crate::home::{self, Home};
use crate::live::{Live, Phase};
use crate::paths::named;
use crate::recovery::{start_lost, vm_ended};
use crate::restart::{self, Again, Occasion, Past};
use crate::state::Shared;
use crate::store::{NewStart, Record};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use vial_api::{ErrorKind, Exit, State};
use vial_sandbox::log::{Limits, OutputLog};
use vial_sandbox::timing::{Timing, monotonic_us};
use vial_sandbox::upper::{self, UpperError};
use vial_sandbox::{
    Connections, ContainerId, Ended, Host, Over, SandboxPlan, Task, TaskExit, TaskPlan, now_ms, oom, sizing,
    spec,
};
use vial_vm::EndReason;

/// How long a container with `--rm` that has ended waits for attached clients to hear of it: one that does not read, or that is
/// gone for good, must not keep it.
const FAREWELL: Duration = Duration::from_secs(10);

/// A writable layer that is being made ready.
pub type Layer = JoinHandle<Result<PathBuf, UpperError>>;

/// The plan of a container, the same at each of its starts.
pub fn task_plan(daemon: &Shared, record: &Record, image: Vec<PathBuf>) -> TaskPlan {
    TaskPlan {
        container: record.id.clone(),
        image,
        upper: daemon.uppers.path(record.id.as_str()),
        spec: record.spec.clone(),
        stdin: record.stdin,
    }
}

/// The plan of the sandbox of a container that has one to itself.
///
/// # Errors
/// When its size is not possible.
pub fn sandbox_plan(record: &Record) -> Result<SandboxPlan> {
    Ok(SandboxPlan {
        pod: record.pod.clone(),
        hostname: record.spec["hostname"].as_str().unwrap_or_default().to_owned(),
        size: sizing::vm_size(record.memory, record.milli_cpus)
            .and_then(|size| size.fits(vial_vm::host_memory_mib()))
            .map_err(spec::SpecError::from)?,
        net: None,
        network: None,
        files: None,
    })
}

/// The bounds of a container's log.
pub fn log_limits(record: &Record) -> Limits {
    let log = record.request.log;
    Limits { segment: log.max_size, segments: log.max_file.into() }
}

/// Makes the writable layer of a container that was never started; looks for that of one that was.
pub fn layer(daemon: &Shared, record: &Record) -> Layer {
    let (uppers, id, new) = (daemon.uppers.clone(), record.id.clone(), record.is_new());
    let disk = record.request.disk.unwrap_or(upper::DEFAULT_SIZE);
    tokio::task::spawn_blocking(move || {
        if !new {
            return uppers.existing(id.as_str());
        }
        // What a start left that was cut off holds nothing of anybody's, and may be half a copy.
        uppers.remove(id.as_str())?;
        uppers.create(id.as_str(), disk)
    })
}

/// Starts a container that is there. Returns when that is in the store; [`Live::started`] tells the rest. None: it runs already.
///
/// # Errors
/// When it is paused, is being removed, or lacks something.
pub async fn start(daemon: &Shared, record: &Record) -> Result<Option<Arc<Live>>> {
    if *daemon.stopping.borrow() {
        return Err(ApiError::new(ErrorKind::ShuttingDown, "the daemon is just ending; try again"));
    }
    let timing = Timing::begin();
    // Before anything is noted: what it was before stays true when this can't be.
    let image = crate::images::resolve(daemon, &record.image_id).await?;
    if record.pod_name.is_none() {
        sandbox_plan(record)?;
    }
    let plan = task_plan(daemon, record, image.disk);
    let host = daemon.host()?;
    let gate = daemon.start_gate.lock().await;
    if let Some(live) = daemon.live(&record.id) {
        return match live.is_paused() {
            true => Err(crate::ending::paused(record)),
            false => Ok(None),
        };
    }
    let live = Live::new(open_log(daemon, record)?);
    let begun = NewStart { boot: daemon.boot.clone(), base: live.log.base(), ..NewStart::default() };
    if !note_start(daemon, record, begun).await? {
        return Err(ApiError::new(
            ErrorKind::Conflict,
            format!("container {} is just being started or removed by someone else", record.name),
        ));
    }
    daemon.adopt(&record.id, live.clone());
    drop(gate);
    let layer = layer(daemon, record);
    let start = Start {
        daemon: daemon.clone(),
        record: record.clone(),
        live: live.clone(),
        by_policy: false,
        timing,
    };
    tokio::spawn(start.run(host, plan, layer));
    Ok(Some(live))
}

fn open_log(daemon: &Shared, record: &Record) -> Result<Arc<OutputLog>> {
    let dir = daemon.paths.log(record.id.as_str());
    Ok(OutputLog::open(&dir, log_limits(record), None)
        .map_err(|error| named(error, "open the container's log", &dir))?)
}

async fn note_start(daemon: &Shared, record: &Record, start: NewStart) -> Result<bool> {
    let (daemon, id) = (daemon.clone(), record.id.clone());
    Ok(tokio::task::spawn_blocking(move || daemon.store.set_starting(&id, &start)).await??)
}

/// A start under way.
pub struct Start {
    pub daemon: Shared,
    pub record: Record,
    pub live: Arc<Live>,
    /// Whether the restart policy starts it, and nobody waits for the answer.
    pub by_policy: bool,
    pub timing: Timing,
}

impl Start {
    /// Goes through with it, and looks after the container until its end.
    pub async fn run(self, host: Host, plan: TaskPlan, layer: Layer) {
        let Self { daemon, mut record, live, by_policy, mut timing } = self;
        let started = home::enter(&daemon, &mut record, &live, (&host, plan, layer), &mut timing).await;
        match started {
            Ok((task, connections, home)) => {
                live.set_timing(&timing);
                note_running(&daemon, &record).await;
                live.enter(Phase::Running(task.clone()));
                look_after(daemon, record, live, (task, home), connections, timing).await;
            }
            Err(error) => {
                live.set_timing(&timing);
                fail(&daemon, &record, &live, error, by_policy).await;
            }
        }
    }
}

/// Notes that the command runs; it does already, so nothing waits for the disk.
async fn note_running(daemon: &Shared, record: &Record) {
    let (store_daemon, id, new) = (daemon.clone(), record.id.clone(), record.is_new());
    let noted = tokio::task::spawn_blocking(move || -> Result<()> {
        if new {
            // "It was started once" means that its layer is whole, even after a power cut.
            store_daemon.uppers.sync(id.as_str())?;
        }
        store_daemon.store.set_running(&id, now_ms())?;
        Ok(())
    });
    if let Ok(Err(error)) = noted.await {
        // It runs and its end will be noted; only a restart of the daemon before then would end it.
        tracing::error!(container = record.id.short(), %error, "the start cannot be noted");
    }
}

/// Does what the restart policy wants of a container that has ended and is not looked after any more, or is about to be so. Says whether it
/// will be started again. `ran`: whether its command ran at the newest start.
pub async fn follow_policy(daemon: &Shared, id: &ContainerId, occasion: Occasion, ran: bool) -> bool {
    if *daemon.stopping.borrow() {
        // The next daemon does.
        return false;
    }
    let (store_daemon, wanted) = (daemon.clone(), id.clone());
    let found = tokio::task::spawn_blocking(move || store_daemon.store.get(&wanted)).await;
    let record = match found {
        Ok(Ok(Some(record))) if record.state == State::Exited && !record.is_new() => record,
        _ => return false,
    };
    // Of the wall clock, for it counts over a restart of the daemon too. One that was set back makes the wait longer, no more.
    let ran_ms = match (record.started_ms, record.finished_ms) {
        (Some(started), Some(finished)) if ran => finished.saturating_sub(started),
        _ => 0,
    };
    let past = Past {
        exit_code: record.exit.as_ref().map_or(0, |exit| exit.code),
        stopped: record.stopped,
        restarts: record.restarts,
        backoff_ms: record.backoff_ms,
        ran_ms,
    };
    let Some(again) = restart::decide(record.request.restart, past, occasion) else { return false };
    match open_log(daemon, &record) {
        Ok(log) => {
            let live = Live::new(log);
            live.set_restarting(true);
            daemon.adopt(id, live.clone());
            spawn_again(daemon.clone(), record, live, again, occasion);
            true
        }
        Err(error) => {
            tracing::error!(container = id.short(), %error, "a container cannot be restarted");
            false
        }
    }
}

/// Not in the middle of an `async fn`: the compiler would go round in circles, since the end of that start leads back there.
fn spawn_again(daemon: Shared, record: Record, live: Arc<Live>, again: Again, occasion: Occasion) {
    tokio::spawn(start_again(daemon, record, live, again, occasion));
}

/// Waits as long as the restart policy says, then starts the container.
async fn start_again(daemon: Shared, record: Record, live: Arc<Live>, again: Again, occasion: Occasion) {
    let exit = record.exit.clone().unwrap_or_default();
    let mut go = tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(again.wait_ms)) => true,
        () = live.cancelled() => false,
    };
    if go {
        let begun = NewStart {
            boot: daemon.boot.clone(),
            restarts: again.restarts,
            backoff_ms: again.backoff_ms,
            base: live.log.base(),
            // Somebody may have stopped it between the decision and now.
            unless_stopped: occasion == Occasion::Ended,
        };
        go = match note_start(&daemon, &record, begun).await {
            Ok(noted) => noted,
            Err(error) => {
                tracing::error!(container = record.id.short(), %error, "a restart cannot be noted");
                false
            }
        };
    }
    live.set_restarting(false);
    if !go {
        live.log.complete();
        daemon.forget(&record.id);
        return live.enter(Phase::Ended(exit));
    }
    tracing::info!(
        container = record.id.short(),
        attempt = again.restarts,
        "the restart policy starts it again"
    );
    let prepared = async {
        let image = crate::images::resolve(&daemon, &record.image_id).await?;
        Ok::<_, ApiError>((daemon.host()?, task_plan(&daemon, &record, image.disk)))
    };
    match prepared.await {
        Ok((host, plan)) => {
            let layer = layer(&daemon, &record);
            let timing = Timing::begin();
            Start { daemon, record, live, by_policy: true, timing }.run(host, plan, layer).await;
        }
        Err(error) => fail(&daemon, &record, &live, error, true).await,
    }
}

/// Ends what could not be started.
async fn fail(daemon: &Shared, record: &Record, live: &Arc<Live>, error: ApiError, by_policy: bool) {
    live.log.complete();
    let lost = start_lost();
    let exit = match error.0.kind.exit_code() {
        // It was given up for that, whatever it says of itself.
        code if code == lost.code && *daemon.stopping.borrow() => lost,
        code => Exit { code, reason: Some(error.to_string()), ..Exit::default() },
    };
    if !by_policy && !record.is_new() {
        // Whoever wanted it started hears why it is not: that is theirs to mend, and not the policy's to try for ever.
        note_stopped(daemon, record, true).await;
    }
    finish(daemon, record, &exit).await;
    let again = by_policy && follow_policy(daemon, &record.id, Occasion::Ended, false).await;
    if !again {
        daemon.forget(&record.id);
    }
    live.enter(Phase::Failed(error));
}

/// Notes whether a person wants it to stay stopped.
pub async fn note_stopped(daemon: &Shared, record: &Record, stopped: bool) {
    let (store_daemon, id) = (daemon.clone(), record.id.clone());
    let noted = tokio::task::spawn_blocking(move || store_daemon.store.set_stopped(&id, stopped)).await;
    if let Ok(Err(error)) = noted {
        tracing::error!(container = record.id.short(), %error, "it cannot be noted that a container was stopped");
    }
}

/// Looks after a running container until its end and after it.
pub async fn look_after(
    daemon: Shared,
    record: Record,
    live: Arc<Live>,
    (task, home): (Task, Home),
    connections: Connections,
    mut timing: Timing,
) {
    let ended = async {
        let ended = task.supervise(connections, &live.log).await;
        (ended, monotonic_us())
    };
    // While the command runs, or the guest may be gone.
    let told = async {
        match record.request.timing {
            true => task.sandbox().guest_steps(&timing).await,
            false => Vec::new(),
        }
    };
    let ((ended, ended_us), told) = tokio::join!(ended, told);
    timing.reached_at("command ended", ended_us);
    told.into_iter().for_each(|step| timing.note(step));
    let exit = match &ended {
        Ended::Exited(TaskExit { status, victim, .. }) => {
            let reason = victim.as_ref().filter(|_| status.oom).map(oom::sentence);
            Exit { code: status.code, signal: status.signal, oom: status.oom, reason }
        }
        Ended::Sandbox(Over::Vm(exit)) => vm_ended(&exit.to_string(), exit.reason == EndReason::Killed),
        Ended::Sandbox(Over::Agent(why)) => {
            vm_ended(&format!("the agent in it failed ({why}), so it was killed"), false)
        }
    };
    live.log.complete();
    let (store_daemon, id, noted) = (daemon.clone(), record.id.clone(), exit.clone());
    let noted =
        tokio::task::spawn_blocking(move || store_daemon.store.set_exited(&id, &noted, now_ms())).await;
    let noted = noted.map_err(ApiError::from).and_then(|noted| Ok(noted?));
    let mut in_order = false;
    if let Ended::Exited(end) = &ended {
        match &noted {
            Ok(_) => task.noted(end).await,
            // Until then the agent keeps it for a daemon that comes after this one.
            Err(_) => drop(tokio::spawn(acknowledge_later(daemon.clone(), task.clone(), end.clone()))),
        }
        // What goes with the container need not be written out.
        in_order = !record.auto_remove;
    }
    if let Err(error) = noted {
        tracing::error!(container = record.id.short(), %error, "an end cannot be noted");
    }
    let left = home.leave(&daemon, &record, &task, in_order).await;
    timing.reached(left);
    live.set_timing(&timing);
    if record.auto_remove {
        live.enter(Phase::Leaving(exit.clone()));
        // First they hear of it: with the container goes all that a daemon after this one could tell them.
        live.everyone_knows(FAREWELL).await;
        discard(&daemon, &record).await;
    }
    if !follow_policy(&daemon, &record.id, Occasion::Ended, true).await {
        daemon.forget(&record.id);
    }
    live.enter(Phase::Ended(exit));
}

/// Tells the agent that an end is noted, once it is.
async fn acknowledge_later(daemon: Shared, task: Task, end: TaskExit) {
    daemon.store.all_noted().await;
    task.noted(&end).await;
}

/// Keeps a container with `--rm` that ended under another daemon until whoever was attached then has come and heard how; then removes it.
pub async fn leave(daemon: Shared, record: Record, live: Arc<Live>, exit: Exit) {
    live.log.complete();
    live.enter(Phase::Leaving(exit.clone()));
    live.someone_knows(FAREWELL).await;
    discard(&daemon, &record).await;
    daemon.forget(&record.id);
    live.enter(Phase::Ended(exit));
}

/// Notes an end of something that has no VM (any more), and removes it if it wants to go.
pub async fn finish(daemon: &Shared, record: &Record, exit: &Exit) {
    let (blocking, record, exit) = (daemon.clone(), record.clone(), exit.clone());
    let done = tokio::task::spawn_blocking(move || -> Result<()> {
        if record.auto_remove {
            return discard_blocking(&blocking, &record);
        }
        if record.is_new()
            && let Err(error) = blocking.uppers.remove(record.id.as_str())
        {
            tracing::warn!(%error, "a writable layer that nothing was written to stays until the container goes");
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

/// As [`discard`], on a thread that may block; a container that is at rest must be noted as being removed before.
pub fn discard_blocking(daemon: &Shared, record: &Record) -> Result<()> {
    if let Err(error) = daemon.uppers.remove(record.id.as_str()) {
        // Neither there nor gone; the error that is on its way to the user counts.
        let _ = daemon.store.set_dead(&record.id);
        return Err(error.into());
    }
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
