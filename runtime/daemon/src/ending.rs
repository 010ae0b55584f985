//! What people do to a container that is there: signal, stop, pause, restart, rename, remove.

use crate::error::{ApiError, Result};
use crate::life;
use crate::live::{Live, Phase};
use crate::names;
use crate::reserve;
use crate::state::Shared;
use crate::store::Record;
use std::sync::Arc;
use std::time::Duration;
use vial_api::{ErrorKind, State};
use vial_sandbox::{PodError, Task, pause as freeze, signals};

/// How long a container may take to end once it was killed, before its VM is.
const KILL: Duration = Duration::from_secs(5);
/// The same where others are in that VM, which would end with it: a guest that is slow, or writes a lot back, is no reason for that.
const KILL_AMONG_OTHERS: Duration = Duration::from_secs(60);
/// How long whoever asks something of a container waits for a daemon that has just started and is still on its way back to it. The daemon itself is more
/// patient: what runs and does not answer is not ended for that.
const WAY_BACK: Duration = Duration::from_secs(30);

/// The error of what needs a running container.
pub fn not_running(record: &Record) -> ApiError {
    ApiError::new(ErrorKind::Conflict, format!("container {} is not running", record.name))
}

/// What asks something of a container that stands still.
pub fn paused(record: &Record) -> ApiError {
    let words = format!("container {0} is paused; let it go on first (vial unpause {0})", record.name);
    ApiError::new(ErrorKind::Conflict, words)
}

/// The task of a container that runs.
///
/// # Errors
/// When it does not, or stands still.
pub async fn running(daemon: &Shared, record: &Record) -> Result<Task> {
    let live = daemon.live(&record.id).ok_or_else(|| not_running(record))?;
    let phase = settled(record, &live).await?;
    if live.is_paused() {
        return Err(paused(record));
    }
    match phase {
        Phase::Running(task) => Ok(task),
        _ => Err(not_running(record)),
    }
}

/// What becomes of a container that is on its way; of one that runs, and that this daemon only has to find again, within a bounded time.
async fn settled(record: &Record, live: &Live) -> Result<Phase> {
    if record.state != State::Running {
        return Ok(live.settled().await);
    }
    tokio::time::timeout(WAY_BACK, live.settled()).await.map_err(|_| {
        let words = format!(
            "container {0} can't be asked: the daemon was just started, and the agent in the container's VM does not answer it; try again, or end it (vial kill {0})",
            record.name
        );
        ApiError::new(ErrorKind::Unavailable, words)
    })
}

/// Whether a signal is meant to end its receiver, so that the restart policy rests. Docker takes every signal for that, even the SIGHUP that
/// makes a server read its configuration again.
fn is_meant_to_end(record: &Record, signal: i32) -> bool {
    [signals::SIGKILL, signals::SIGTERM, libc::SIGINT, libc::SIGQUIT, record.stop_signal].contains(&signal)
}

/// Sends a container a signal for a person.
///
/// # Errors
/// When it does not run, is paused (SIGKILL ends it all the same), or the agent refuses.
pub async fn kill(daemon: &Shared, record: &Record, signal: i32) -> Result<()> {
    let live = daemon.live(&record.id).ok_or_else(|| not_running(record))?;
    if !is_meant_to_end(record, signal) {
        return send(daemon, record, &live, signal).await;
    }
    life::note_stopped(daemon, record, true).await;
    let sent = send(daemon, record, &live, signal).await;
    if sent.is_err() && !record.stopped && !live.is_stopping() {
        // It did not hear, and nobody else wants its end.
        life::note_stopped(daemon, record, false).await;
    }
    sent
}

/// Sends a signal; an agent that does not answer does not protect its container from SIGKILL.
async fn send(daemon: &Shared, record: &Record, live: &Arc<Live>, signal: i32) -> Result<()> {
    if record.state == State::Running
        && let Err(error) = settled(record, live).await
    {
        return match signal {
            signals::SIGKILL => Ok(freeze::kill(&daemon.registry, &record.pod).await?),
            _ => Err(error),
        };
    }
    match deliver(daemon, record, live, signal).await? {
        Heard::Yes => Ok(()),
        Heard::Not(task, _) if signal == signals::SIGKILL => {
            task.sandbox().kill();
            Ok(())
        }
        Heard::Not(_, error) => Err(error.into()),
    }
}

/// Whether a signal got through.
enum Heard {
    /// It did.
    Yes,
    /// The agent does not answer.
    Not(Task, PodError),
}

async fn deliver(daemon: &Shared, record: &Record, live: &Arc<Live>, signal: i32) -> Result<Heard> {
    if live.is_paused() {
        if signal != signals::SIGKILL {
            return Err(paused(record));
        }
        freeze::kill(&daemon.registry, &record.pod).await?;
        return Ok(Heard::Yes);
    }
    match live.phase() {
        // A start that nobody wants any more.
        Phase::Starting => {
            live.cancel();
            Ok(Heard::Yes)
        }
        Phase::Running(task) => match task.signal(signal).await {
            Err(error @ (PodError::Slow { .. } | PodError::Agent(_))) => Ok(Heard::Not(task, error)),
            other => Ok(other.map(|()| Heard::Yes)?),
        },
        Phase::Failed(_) | Phase::Leaving(_) | Phase::Ended(_) => Err(not_running(record)),
    }
}

/// What becomes of the pod that a container is in when that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It goes on: with the others, or with the next attempt.
    GoesOn,
    /// It ends too.
    Ends,
}

/// Asks a container to end, then kills it, then its VM; waits for the end. One that does not run is left alone; one that is paused goes on
/// first, or it could not hear.
///
/// # Errors
/// None of its own: whatever the agent answers, the container ends.
pub async fn stop(daemon: &Shared, record: &Record, timeout: Duration, rest: Rest) -> Result<()> {
    let live = daemon.live(&record.id);
    if let Some(live) = &live {
        live.set_stopping();
    }
    life::note_stopped(daemon, record, true).await;
    let Some(live) = live else { return Ok(()) };
    if record.state == State::Running && !timeout.is_zero() {
        // A daemon that has just started may still be on its way back to it: its time begins when it can hear.
        let _ = tokio::time::timeout(WAY_BACK, live.settled()).await;
    }
    for (signal, given) in [(record.stop_signal, Some(timeout)), (signals::SIGKILL, None)] {
        let within = match given {
            Some(given) => given,
            None if is_shared(daemon, record, rest).await => KILL_AMONG_OTHERS,
            None => KILL,
        };
        let ended = async {
            if record.state == State::Running {
                // Or it would be taken for a start that nobody wants.
                live.settled().await;
            }
            if live.is_paused() {
                // When that does not work the signals don't either, and the VM is killed.
                let _ = unpause(daemon, record).await;
            }
            // It may have just ended, or its agent may be stuck: the next step is harder, and comes in time whether it answers or not.
            let _ = deliver(daemon, record, &live, signal).await;
            live.ended().await
        };
        if tokio::time::timeout(within, ended).await.is_ok() {
            return Ok(());
        }
    }
    freeze::kill(&daemon.registry, &record.pod).await?;
    live.ended().await;
    Ok(())
}

/// Whether its VM is somebody's who is not being stopped: the pod's that goes on, or the others' in it that are asked to end later.
async fn is_shared(daemon: &Shared, record: &Record, rest: Rest) -> bool {
    if record.pod_name.is_none() {
        return false;
    }
    if rest == Rest::GoesOn {
        return true;
    }
    let asked = daemon.clone();
    let listed = tokio::task::spawn_blocking(move || asked.store.list()).await;
    let stays = |other: &Record| {
        let is_there = |live: Arc<Live>| {
            !live.is_stopping() && matches!(live.phase(), Phase::Starting | Phase::Running(_))
        };
        other.pod == record.pod && other.id != record.id && daemon.live(&other.id).is_some_and(is_there)
    };
    match listed {
        Ok(Ok(listed)) => listed.iter().any(stays),
        // What can't be found out gives more time, not less.
        _ => true,
    }
}

/// Stops a container if it runs, then starts it.
///
/// # Errors
/// As [`life::start`], and when the command can't be run.
pub async fn restart(daemon: &Shared, record: &Record, timeout: Duration) -> Result<()> {
    stop(daemon, record, timeout, Rest::GoesOn).await?;
    start(daemon, record).await
}

/// Starts a container; returns when its command runs.
///
/// # Errors
/// As [`life::start`], and when the command can't be run.
pub async fn start(daemon: &Shared, record: &Record) -> Result<()> {
    match life::start(daemon, record).await? {
        Some(live) => match live.started().await {
            Phase::Failed(error) => Err(error),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

/// Makes a container's pod stand still: its VM, and so every process in it.
///
/// # Errors
/// When it does not run, is paused already, or its VMM refuses.
pub async fn pause(daemon: &Shared, record: &Record) -> Result<()> {
    if let Some(pod) = &record.pod_name {
        return Err(ApiError::new(
            ErrorKind::Conflict,
            format!(
                "container {} shares its VM with the others of pod {pod}, and only a whole VM can be paused; stop it instead (vial stop {0})",
                record.name
            ),
        ));
    }
    running(daemon, record).await?;
    let live = daemon.live(&record.id).ok_or_else(|| not_running(record))?;
    freeze::pause(&daemon.registry, &record.pod).await?;
    live.set_paused(true);
    Ok(())
}

/// Lets a container's pod go on.
///
/// # Errors
/// When it is not paused, or its VMM refuses.
pub async fn unpause(daemon: &Shared, record: &Record) -> Result<()> {
    let not_paused =
        || ApiError::new(ErrorKind::Conflict, format!("container {} is not paused", record.name));
    let live = daemon.live(&record.id).ok_or_else(not_paused)?;
    // A daemon that has just started may not have found out yet.
    settled(record, &live).await?;
    if !live.is_paused() {
        return Err(not_paused());
    }
    freeze::resume(&daemon.registry, &record.pod).await?;
    live.set_paused(false);
    Ok(())
}

/// Gives a container another name.
///
/// # Errors
/// When the name is not possible or in use.
pub async fn rename(daemon: &Shared, record: &Record, name: String) -> Result<()> {
    names::check(&name).map_err(|why| ApiError::new(ErrorKind::InvalidArgument, why))?;
    let (daemon, id) = (daemon.clone(), record.id.clone());
    Ok(tokio::task::spawn_blocking(move || daemon.store.rename(&id, &name)).await??)
}

/// Removes a container.
///
/// # Errors
/// When it runs and `force` is not given, or something of it can't be removed.
pub async fn remove(daemon: &Shared, record: &Record, force: bool) -> Result<()> {
    if let Some(live) = daemon.live(&record.id) {
        if !force && !matches!(live.phase(), Phase::Leaving(_)) {
            return Err(ApiError::new(
                ErrorKind::Conflict,
                format!(
                    "container {0} is running; stop it first (vial stop {0}) or force it (vial rm -f {0})",
                    record.name
                ),
            ));
        }
        // Or its restart policy would not let it end.
        life::note_stopped(daemon, record, true).await;
        // A daemon that has just started may still be on its way back to it; a start that is under way is given up below.
        if record.pod_name.is_some()
            && record.state == State::Running
            && settled(record, &live).await.is_err()
        {
            freeze::kill(&daemon.registry, &record.pod).await?;
        }
        match live.phase() {
            // One that stands still was perhaps found so by this daemon, which then has no other hand in it yet.
            _ if live.is_paused() => freeze::kill(&daemon.registry, &record.pod).await?,
            Phase::Starting => live.cancel(),
            // Nothing of it is kept, so nothing in it is asked.
            Phase::Running(task) if record.pod_name.is_none() => task.sandbox().kill(),
            Phase::Running(task) => match task.signal(signals::SIGKILL).await {
                Ok(()) => {}
                // It is just ending by itself.
                Err(error) if error.refusal().is_some() => {}
                // An agent that does not answer must not protect its containers.
                Err(_) => task.sandbox().kill(),
            },
            Phase::Failed(_) | Phase::Leaving(_) | Phase::Ended(_) => {}
        }
        live.ended().await;
    }
    let (daemon, record) = (daemon.clone(), record.clone());
    tokio::task::spawn_blocking(move || {
        // Said first and done then: a removal that is killed halfway is finished at the next start.
        let way_out = |error: ApiError| match error.0.kind {
            ErrorKind::NoSpace => reserve::with_way_out(&daemon.paths, error),
            _ => error,
        };
        if daemon.store.set_removing(&record.id).map_err(|error| way_out(error.into()))? {
            return life::discard_blocking(&daemon, &record).map_err(way_out);
        }
        match daemon.store.get(&record.id)? {
            // With its end, for it was to go with that.
            None => Ok(()),
            Some(_) => Err(ApiError::new(
                ErrorKind::Conflict,
                format!(
                    "container {} is just being started or removed by someone else; try again",
                    record.name
                ),
            )),
        }
    })
    .await?
}
