//! What the daemon remembers: pods and containers, in SQLite with a write-ahead log, synced at every commit.
//!
//! Each method is one transaction, so whatever kills the daemon, the store is between two of them.

mod pods;
mod record;
mod schema;

pub use pods::PodRecord;
pub use record::Record;

use record::COLUMNS;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vial_api::Exit;
use vial_network::Lease;
use vial_sandbox::log::Position;
use vial_sandbox::{ContainerId, PodId, Slot};

/// Why the store does not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error("the store does not work: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A value in it can't be what this daemon wrote.
    #[error("the store holds something that makes no sense in {column}: {text:?}")]
    Corrupt {
        /// Where.
        column: &'static str,
        /// What.
        text: String,
    },
    /// Written by a newer daemon.
    #[error(
        "the store is of version {found}, this daemon knows {known}: it was used by a newer vial; use that one"
    )]
    Newer {
        /// Version found.
        found: usize,
        /// Newest version known.
        known: usize,
    },
    /// A container of that name exists.
    #[error(
        "the name {0:?} is in use by another container; choose another one, or remove that one with: vial rm {0}"
    )]
    NameInUse(String),
    /// A pod of that name exists.
    #[error(
        "the name {0:?} is in use by another pod; choose another one, or remove that one with: vial pod rm {0}"
    )]
    PodNameInUse(String),
    /// The pod that a container is to live in is gone, or on its way.
    #[error("the pod is just being removed; see: vial pod ls")]
    NoSuchPod,
}

impl StoreError {
    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        let Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        // The index of its journal is a file of fixed size, for which SQLite has an error of its own.
        error.code == rusqlite::ErrorCode::DiskFull
            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens the store, makes it when it is not there, brings it up to date.
    ///
    /// # Errors
    /// When SQLite can't, or a newer daemon has used it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        schema::migrate(&mut connection)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in here leaves an open transaction at worst, which its drop has rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a new container, and its pod if it has one to itself: in state created, or, with `record.state` so, starting.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], or when SQLite can't.
    pub fn insert(&self, record: &Record) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        if record.pod_name.is_none() {
            transaction.execute(
                "INSERT INTO pods (id, vm, created_ms) VALUES (?1, ?2, ?3)",
                params![record.pod.as_str(), record.pod.vm_name(), record.created_ms],
            )?;
        } else {
            let there = transaction
                .query_row(
                    "SELECT 1 FROM pods WHERE id = ?1 AND state <> 'removing'",
                    params![record.pod.as_str()],
                    |_| Ok(()),
                )
                .optional()?;
            there.ok_or(StoreError::NoSuchPod)?;
        }
        let inserted = transaction.execute(
            "INSERT INTO containers (id, pod, name, image, image_id, args, spec, stop_signal, memory, milli_cpus, stdin,
                auto_remove, state, created_ms, request, boot)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
                record.id.as_str(),
                record.pod.as_str(),
                record.name,
                record.image,
                record.image_id,
                serde_json::Value::from(record.args.clone()).to_string(),
                record.spec.to_string(),
                record.stop_signal,
                record.memory,
                record.milli_cpus,
                record.stdin,
                record.auto_remove,
                record.state.as_str(),
                record.created_ms,
                serde_json::to_string(&record.request)
                    .map_err(|error| StoreError::Corrupt { column: "request", text: error.to_string() })?,
                record.boot,
            ],
        );
        inserted.map_err(|error| name_in_use(error, &record.name))?;
        transaction.commit()?;
        Ok(())
    }

    /// Notes that a container is being started again. Only one that does not run can be; says whether it is now.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_starting(&self, id: &ContainerId, start: &NewStart) -> Result<bool, StoreError> {
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'starting', boot = ?2, stopped = 0, restarts = ?3, backoff_ms = ?4, base_stdout = ?5,
                base_stderr = ?6
             WHERE id = ?1 AND state IN ('created', 'exited') AND (stopped = 0 OR NOT ?7)",
            params![
                id.as_str(),
                start.boot,
                start.restarts,
                start.backoff_ms,
                start.base.stdout,
                start.base.stderr,
                start.unless_stopped,
            ],
        )?;
        Ok(changed == 1)
    }

    /// Notes that a container's command runs. Only one that is starting can; says whether it did.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_running(&self, id: &ContainerId, started_ms: u64) -> Result<bool, StoreError> {
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'running', started_ms = ?2, finished_ms = NULL, exit = NULL
             WHERE id = ?1 AND state = 'starting'",
            params![id.as_str(), started_ms],
        )?;
        Ok(changed == 1)
    }

    /// Notes how a container ended. The first end of a start counts; says whether this was it.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_exited(&self, id: &ContainerId, exit: &Exit, finished_ms: u64) -> Result<bool, StoreError> {
        let exit = serde_json::to_string(exit)
            .map_err(|error| StoreError::Corrupt { column: "exit", text: error.to_string() })?;
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'exited', exit = ?2, finished_ms = ?3
             WHERE id = ?1 AND state IN ('starting', 'running')",
            params![id.as_str(), exit, finished_ms],
        )?;
        Ok(changed == 1)
    }

    /// Notes whether a person wants a container to stay stopped.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_stopped(&self, id: &ContainerId, stopped: bool) -> Result<(), StoreError> {
        self.lock().execute(
            "UPDATE containers SET stopped = ?2 WHERE id = ?1 AND stopped <> ?2",
            params![id.as_str(), stopped],
        )?;
        Ok(())
    }

    /// Notes a pod's network, before its VM is made.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_network(&self, pod: &PodId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let text = lease
            .map(serde_json::to_string)
            .transpose()
            .map_err(|error| StoreError::Corrupt { column: "network", text: error.to_string() })?;
        self.lock().execute(
            "UPDATE pods SET network = ?2 WHERE id = ?1 AND network IS NOT ?2",
            params![pod.as_str(), text],
        )?;
        Ok(())
    }

    /// Notes which drives of its pod a container has.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_slot(&self, id: &ContainerId, slot: Option<Slot>) -> Result<(), StoreError> {
        let slot = slot.map(|slot| slot.0);
        self.lock().execute("UPDATE containers SET slot = ?2 WHERE id = ?1", params![id.as_str(), slot])?;
        Ok(())
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], or when SQLite can't.
    pub fn rename(&self, id: &ContainerId, name: &str) -> Result<(), StoreError> {
        let renamed =
            self.lock().execute("UPDATE containers SET name = ?2 WHERE id = ?1", params![id.as_str(), name]);
        renamed.map(drop).map_err(|error| name_in_use(error, name))
    }

    /// Notes that a container is being removed, so that a killed removal is finished at the next start. Says whether it is
    /// there, is not being started, and is not being removed already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_removing(&self, id: &ContainerId) -> Result<bool, StoreError> {
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'removing' WHERE id = ?1 AND state IN ('created', 'exited', 'dead')",
            params![id.as_str()],
        )?;
        Ok(changed == 1)
    }

    /// Notes that a container could not be removed.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_dead(&self, id: &ContainerId) -> Result<(), StoreError> {
        self.lock().execute("UPDATE containers SET state = 'dead' WHERE id = ?1", params![id.as_str()])?;
        Ok(())
    }

    /// Forgets a container and the pod that it had to itself. Whatever belongs to it must be gone already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn delete(&self, id: &ContainerId) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM containers WHERE id = ?1", params![id.as_str()])?;
        transaction
            .execute("DELETE FROM pods WHERE name IS NULL AND id NOT IN (SELECT pod FROM containers)", [])?;
        transaction.commit()?;
        Ok(())
    }

    /// All containers, newest first.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn list(&self) -> Result<Vec<Record>, StoreError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM containers ORDER BY created_ms DESC, rowid DESC"
        ))?;
        let mut rows = statement.query([])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(Record::read(row)?);
        }
        Ok(records)
    }

    /// One container.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn get(&self, id: &ContainerId) -> Result<Option<Record>, StoreError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM containers WHERE id = ?1"))?;
        let mut rows = statement.query(params![id.as_str()])?;
        rows.next()?.map(Record::read).transpose()
    }

    /// Whether a container, ended or not, was made from this image.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn image_in_use(&self, image_id: &str) -> Result<Option<String>, StoreError> {
        let connection = self.lock();
        let name = connection
            .query_row("SELECT name FROM containers WHERE image_id = ?1 LIMIT 1", params![image_id], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(name)
    }
}

/// What a start of a container that is there already notes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewStart {
    /// The host's boot id.
    pub boot: String,
    /// How often the restart policy has started it now.
    pub restarts: u32,
    /// What it waited for.
    pub backoff_ms: u64,
    /// Where in the log the new output begins.
    pub base: Position,
    /// Not if a person has stopped it.
    pub unless_stopped: bool,
}

fn name_in_use(error: rusqlite::Error, name: &str) -> StoreError {
    match error {
        rusqlite::Error::SqliteFailure(error, Some(text))
            if error.code == rusqlite::ErrorCode::ConstraintViolation && text.contains("containers.name") =>
        {
            StoreError::NameInUse(name.to_owned())
        }
        other => other.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
