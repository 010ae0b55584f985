//! What has happened and could not be written to the store, for its disk is full: shown as if it were, and written with whatever is
//! written next.
//!
//! An end can't be refused: the container is over. So until there is room it is kept in memory, and in a file beside the daemon's
//! socket, which is on another disk (a tmpfs, as a rule) and outlives this daemon.

use super::{Record, StoreError, pods};
use crate::whole;
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use vial_api::{Exit, PodState, State};
use vial_sandbox::{ContainerId, PodId};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct End {
    exit: Exit,
    finished_ms: u64,
}

/// All of it, by id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unnoted {
    ends: BTreeMap<String, End>,
    stopped: BTreeMap<String, bool>,
    pods: BTreeMap<String, Option<String>>,
}

impl Unnoted {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.stopped.is_empty() && self.pods.is_empty()
    }

    /// A container ended; the first end counts.
    pub fn ended(&mut self, id: &ContainerId, exit: &Exit, finished_ms: u64) {
        self.ends.entry(id.to_string()).or_insert_with(|| End { exit: exit.clone(), finished_ms });
    }

    /// Whether a person wants it to stay stopped.
    pub fn stopped(&mut self, id: &ContainerId, stopped: bool) {
        self.stopped.insert(id.to_string(), stopped);
    }

    /// A pod has no VM any more.
    pub fn pod_stopped(&mut self, id: &PodId, reason: Option<&str>) {
        self.pods.entry(id.to_string()).or_insert_with(|| reason.map(str::to_owned));
    }

    /// Writes it to the store, before anything that comes later.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn apply(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        for (id, stopped) in &self.stopped {
            note_stopped(transaction, id, *stopped)?;
        }
        for (id, end) in &self.ends {
            note_end(transaction, id, &end.exit, end.finished_ms)?;
        }
        for (id, reason) in &self.pods {
            pods::note_pod_stopped(transaction, id, reason.as_deref())?;
        }
        Ok(())
    }

    /// What a row will say of a container.
    pub fn show(&self, record: &mut Record) {
        if let Some(end) = self.ends.get(record.id.as_str())
            && matches!(record.state, State::Starting | State::Running)
        {
            (record.state, record.exit) = (State::Exited, Some(end.exit.clone()));
            record.finished_ms = Some(end.finished_ms);
        }
        if let Some(stopped) = self.stopped.get(record.id.as_str()) {
            record.stopped = *stopped;
        }
        if self.pods.contains_key(record.pod.as_str()) {
            record.slot = None;
        }
    }

    /// What a row will say of a pod.
    pub fn show_pod(&self, pod: &mut pods::PodRecord) {
        if let Some(reason) = self.pods.get(pod.id.as_str())
            && matches!(pod.state, PodState::Starting | PodState::Running)
        {
            (pod.state, pod.reason) = (PodState::Stopped, reason.clone());
        }
    }

    /// What a daemon before this one has left.
    ///
    /// # Errors
    /// When the file is there and can't be read, or is none of ours.
    pub fn load(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Leaves it for the next daemon, whole or not at all.
    ///
    /// # Errors
    /// When that disk is full too.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        whole::write(path, &serde_json::to_vec(self)?)
    }
}

/// How a container ended; says whether this was its first end.
pub(super) fn note_end(
    transaction: &Transaction<'_>,
    id: &str,
    exit: &Exit,
    finished_ms: u64,
) -> Result<bool, StoreError> {
    let exit = serde_json::to_string(exit)
        .map_err(|error| StoreError::Corrupt { column: "exit", text: error.to_string() })?;
    let changed = transaction.execute(
        "UPDATE containers SET state = 'exited', exit = ?2, finished_ms = ?3
         WHERE id = ?1 AND state IN ('starting', 'running')",
        params![id, exit, finished_ms],
    )?;
    Ok(changed == 1)
}

/// Whether a person wants a container to stay stopped.
pub(super) fn note_stopped(transaction: &Transaction<'_>, id: &str, stopped: bool) -> Result<(), StoreError> {
    transaction.execute(
        "UPDATE containers SET stopped = ?2 WHERE id = ?1 AND stopped <> ?2",
        params![id, stopped],
    )?;
    Ok(())
}
