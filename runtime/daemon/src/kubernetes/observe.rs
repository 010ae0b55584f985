//! What the store and this daemon know of declared pods, in the words of `vial_orchestrator::node`.

use crate::error::ApiError;
use crate::recovery;
use crate::state::Daemon;
use crate::store::{PodRecord, Record};
use std::collections::{BTreeMap, HashMap};
use vial_api::{ErrorKind, PodState, State};
use vial_orchestrator::chrono::{DateTime, Utc};
use vial_orchestrator::node::observed::{self, Attempt, End, Observed, Sandbox};

/// On sandboxes and containers: the uid of the Pod that they are of. Written with the row, before anything else is there, so no pod is ever
/// made twice. The names are those of the CRI's runtimes.
pub const UID: &str = "io.kubernetes.pod.uid";
/// The Pod's name.
pub const POD: &str = "io.kubernetes.pod.name";
/// Its namespace.
pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// On containers: its name in the Pod.
pub const CONTAINER: &str = "io.kubernetes.container.name";
/// On containers: [`Attempt::number`].
pub const ATTEMPT: &str = "vial.attempt";
/// On containers: [`Attempt::failures`].
pub const FAILURES: &str = "vial.failures";
/// On containers: [`Attempt::sandbox`], in milliseconds since the epoch.
pub const RUN: &str = "vial.sandbox-started";

/// What our own marks on what is declared begin with.
const MARKS: &str = "io.kubernetes.";

/// Whether the labels that a client gives are its own to give. With those of a Pod it would be taken for a part of one, and be removed with what is
/// left over of it, or never be seen.
///
/// # Errors
/// One of them is not.
pub fn refuse_marks(labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    match labels.keys().find(|key| key.starts_with(MARKS)) {
        Some(key) => {
            let message =
                format!("label {key}: those of {MARKS}* are the daemon's own; give it another name");
            Err(ApiError::new(ErrorKind::InvalidArgument, message))
        }
        None => Ok(()),
    }
}

/// All that is there of Pods, by uid.
#[derive(Default)]
pub struct There {
    pub sandboxes: HashMap<String, PodRecord>,
    pub containers: HashMap<String, Vec<Record>>,
    /// Those that nobody declared.
    pub others: (Vec<PodRecord>, Vec<Record>),
}

/// Looks.
///
/// # Errors
/// When the store can't be read.
pub fn look(daemon: &Daemon) -> Result<There, crate::store::StoreError> {
    let mut there = There::default();
    for pod in daemon.store.pods()? {
        match pod.request.labels.get(UID).cloned() {
            Some(uid) => drop(there.sandboxes.insert(uid, pod)),
            None => there.others.0.push(pod),
        }
    }
    for record in daemon.store.list()? {
        match record.request.labels.get(UID).cloned() {
            Some(uid) => there.containers.entry(uid).or_default().push(record),
            None => there.others.1.push(record),
        }
    }
    Ok(there)
}

/// One Pod.
pub fn pod(daemon: &Daemon, there: &There, uid: &str) -> Observed {
    let mut observed = Observed::default();
    if let Some(record) = there.sandboxes.get(uid) {
        observed.sandbox = match sandbox(record) {
            // A VM that is over is noted after the ends of its containers. What init containers did in it went with it: who looks in between
            // must not take that for done, or the next VM would have the others first.
            Sandbox::Running { .. } if daemon.pod(&record.id).is_some_and(|live| live.is_over()) => {
                Sandbox::Stopped
            }
            sandbox => sandbox,
        };
    }
    for record in there.containers.get(uid).map(Vec::as_slice).unwrap_or_default() {
        let attempts = observed.containers.entry(label(record, CONTAINER).to_owned()).or_default();
        attempts.push(attempt(daemon, record));
    }
    for attempts in observed.containers.values_mut() {
        attempts.sort_by_key(|attempt| attempt.number);
    }
    observed
}

/// A sandbox.
pub fn sandbox(record: &PodRecord) -> Sandbox {
    match record.state {
        PodState::Stopped | PodState::Removing => Sandbox::Stopped,
        PodState::Starting => Sandbox::Starting,
        PodState::Running => Sandbox::Running {
            since: record.started_ms.map_or(DateTime::UNIX_EPOCH, time),
            ips: record.network.as_ref().map(addresses).unwrap_or_default(),
        },
    }
}

/// A pod's addresses, the IPv4 one first.
pub fn addresses(lease: &vial_network::Lease) -> Vec<std::net::IpAddr> {
    std::iter::once(lease.v4.into()).chain(lease.v6.map(Into::into)).collect()
}

/// One start of a container.
pub fn attempt(daemon: &Daemon, record: &Record) -> Attempt {
    let live = daemon.live(&record.id).is_some();
    let (state, active) = match record.state {
        State::Starting => (observed::State::Starting, true),
        State::Running | State::Paused | State::Restarting => {
            (observed::State::Running { since: record.started_ms.map_or(DateTime::UNIX_EPOCH, time) }, true)
        }
        State::Created | State::Exited | State::Removing | State::Dead => {
            (observed::State::Ended(end(record)), live)
        }
    };
    Attempt {
        id: record.id.to_string(),
        number: number(record, ATTEMPT),
        failures: number(record, FAILURES),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        state,
        active,
        sandbox: label(record, RUN).parse().ok().map(time),
    }
}

fn end(record: &Record) -> End {
    let exit = record.exit.clone().unwrap_or_default();
    End {
        code: exit.code,
        signal: exit.signal,
        // Something may have been killed in one that ended well.
        oom: exit.oom && exit.code != 0,
        is_lost_start: recovery::is_start_lost(&exit),
        message: exit.reason.unwrap_or_default(),
        started: record.started_ms.map(time),
        finished: record.finished_ms.or(Some(record.created_ms)).map(time),
    }
}

/// Milliseconds since the epoch, as a time.
pub fn time(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::UNIX_EPOCH)
}

fn label<'a>(record: &'a Record, name: &str) -> &'a str {
    record.request.labels.get(name).map(String::as_str).unwrap_or_default()
}

fn number(record: &Record, name: &str) -> u32 {
    label(record, name).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_marks_are_nobody_elses_to_give() {
        let labels = |key: &str| BTreeMap::from([(key.to_owned(), "zzz".to_owned())]);
        for mark in [UID, POD, NAMESPACE, CONTAINER] {
            assert!(refuse_marks(&labels(mark)).is_err(), "{mark}");
        }
        for own in ["app", "app.kubernetes.io/name", "io.kubernetesx"] {
            assert!(refuse_marks(&labels(own)).is_ok(), "{own}");
        }
    }
}
