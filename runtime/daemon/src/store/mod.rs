//! What the daemon remembers: pods and containers, in SQLite with a write-ahead log, synced at every commit.
//!
//! Each method is one transaction, so whatever kills the daemon, the store is between two of them.

mod schema;

use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vial_api::{Exit, State};
use vial_sandbox::{ContainerId, PodId};

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
}

impl StoreError {
    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::DiskFull)
    }
}

/// A container as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: ContainerId,
    /// The pod that it lives in.
    pub pod: PodId,
    /// Its name, unique.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// Entrypoint and arguments.
    pub args: Vec<String>,
    /// The OCI runtime spec.
    pub spec: serde_json::Value,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Bytes.
    pub memory: u64,
    /// Thousandths of a processor.
    pub milli_cpus: u32,
    /// Whether its standard input is open.
    pub stdin: bool,
    /// Whether it goes when it has ended.
    pub auto_remove: bool,
    /// Where it is in its life.
    pub state: State,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Milliseconds since the epoch.
    pub started_ms: Option<u64>,
    /// Milliseconds since the epoch.
    pub finished_ms: Option<u64>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
}

const COLUMNS: &str = "id, pod, name, image, image_id, args, spec, stop_signal, memory, milli_cpus, stdin, \
    auto_remove, state, exit, created_ms, started_ms, finished_ms";

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

    /// Notes a new container and its pod, in state created.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], or when SQLite can't.
    pub fn insert(&self, record: &Record) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO pods (id, vm, created_ms) VALUES (?1, ?2, ?3)",
            params![record.pod.as_str(), record.pod.vm_name(), record.created_ms],
        )?;
        let inserted = transaction.execute(
            "INSERT INTO containers (id, pod, name, image, image_id, args, spec, stop_signal, memory, milli_cpus, stdin,
                auto_remove, state, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'created', ?13)",
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
                record.created_ms,
            ],
        );
        match inserted {
            Err(rusqlite::Error::SqliteFailure(error, Some(text)))
                if error.code == rusqlite::ErrorCode::ConstraintViolation
                    && text.contains("containers.name") =>
            {
                return Err(StoreError::NameInUse(record.name.clone()));
            }
            other => other?,
        };
        transaction.commit()?;
        Ok(())
    }

    /// Notes that a container's command runs. Only a created one can start; says whether it did.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_running(&self, id: &ContainerId, started_ms: u64) -> Result<bool, StoreError> {
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'running', started_ms = ?2 WHERE id = ?1 AND state = 'created'",
            params![id.as_str(), started_ms],
        )?;
        Ok(changed == 1)
    }

    /// Notes how a container ended. The first end counts; says whether this was it.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_exited(&self, id: &ContainerId, exit: &Exit, finished_ms: u64) -> Result<bool, StoreError> {
        let exit = serde_json::to_string(exit)
            .map_err(|error| StoreError::Corrupt { column: "exit", text: error.to_string() })?;
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'exited', exit = ?2, finished_ms = ?3
             WHERE id = ?1 AND state IN ('created', 'running')",
            params![id.as_str(), exit, finished_ms],
        )?;
        Ok(changed == 1)
    }

    /// Notes that a container is being removed, so that a killed removal is finished at the next start. Says whether it is
    /// there and not being removed already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_removing(&self, id: &ContainerId) -> Result<bool, StoreError> {
        let changed = self.lock().execute(
            "UPDATE containers SET state = 'removing' WHERE id = ?1 AND state <> 'removing'",
            params![id.as_str()],
        )?;
        Ok(changed == 1)
    }

    /// Forgets a container and, with its last one, its pod. Whatever belongs to it must be gone already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn delete(&self, id: &ContainerId) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM containers WHERE id = ?1", params![id.as_str()])?;
        transaction.execute("DELETE FROM pods WHERE id NOT IN (SELECT pod FROM containers)", [])?;
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
            records.push(record(row)?);
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
        rows.next()?.map(record).transpose()
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

fn record(row: &Row<'_>) -> Result<Record, StoreError> {
    fn corrupt(column: &'static str, text: &str) -> StoreError {
        StoreError::Corrupt { column, text: text.to_owned() }
    }
    fn json<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|_| corrupt(column, text))
    }
    let text = |column: &'static str| row.get::<_, String>(column);
    let (id, pod, state) = (text("id")?, text("pod")?, text("state")?);
    let exit: Option<String> = row.get("exit")?;
    Ok(Record {
        id: ContainerId::parse(&id).ok_or_else(|| corrupt("id", &id))?,
        pod: PodId::parse(&pod).ok_or_else(|| corrupt("pod", &pod))?,
        name: text("name")?,
        image: text("image")?,
        image_id: text("image_id")?,
        args: json("args", &text("args")?)?,
        spec: json("spec", &text("spec")?)?,
        stop_signal: row.get("stop_signal")?,
        memory: row.get("memory")?,
        milli_cpus: row.get("milli_cpus")?,
        stdin: row.get("stdin")?,
        auto_remove: row.get("auto_remove")?,
        state: match state.as_str() {
            "created" => State::Created,
            "running" => State::Running,
            "exited" => State::Exited,
            "removing" => State::Removing,
            other => return Err(corrupt("state", other)),
        },
        exit: exit.map(|text| json("exit", &text)).transpose()?,
        created_ms: row.get("created_ms")?,
        started_ms: row.get("started_ms")?,
        finished_ms: row.get("finished_ms")?,
    })
}

#[cfg(test)]
mod tests;
