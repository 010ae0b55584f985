//! What the daemon remembers: pods and containers, in SQLite with a write-ahead log, synced at every commit.
//!
//! Each method is one transaction, so whatever kills the daemon, the store is between two of them. What has happened is never lost
//! for want of room (`unnoted`).

mod pods;
mod record;
mod schema;
mod unnoted;

pub use pods::PodRecord;
pub use record::Record;

use crate::reserve::Reserve;
use record::COLUMNS;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use unnoted::Unnoted;
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
    inner: Mutex<Inner>,
    /// Room for what can't wait until there is some.
    reserve: Option<Reserve>,
    /// Where what could not be written is left for the next daemon.
    aside: Option<PathBuf>,
    /// Whether all that has happened is written.
    settled: watch::Sender<bool>,
    /// Wakes when something here, or something that is looked at together with it, is another.
    news: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    unnoted: Unnoted,
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
        let inner = Mutex::new(Inner { connection, unnoted: Unnoted::default() });
        let (settled, news) = (watch::Sender::new(true), watch::Sender::new(()));
        Ok(Self { inner, reserve: None, aside: None, settled, news })
    }

    /// Has it lend the reserve when its disk is full, and keep in the file `aside` what not even that has room for. What a daemon before
    /// left there is taken over.
    pub fn with_room(mut self, reserve: Reserve, aside: PathBuf) -> Self {
        match Unnoted::load(&aside) {
            Ok(left) => self.lock().unnoted = left,
            Err(error) => tracing::error!(path = %aside.display(), %error, "what could not be noted is lost"),
        }
        (self.reserve, self.aside) = (Some(reserve), Some(aside));
        self.settled.send_replace(self.lock().unnoted.is_empty());
        self.catch_up(&mut self.lock());
        self
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in here leaves an open transaction at worst, which its drop has rolled back.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction, which also writes what could not be written before.
    fn change<T>(
        &self,
        inner: &mut Inner,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = inner.connection.transaction()?;
        inner.unnoted.apply(&transaction)?;
        let done = change(&transaction)?;
        transaction.commit()?;
        if !inner.unnoted.is_empty() {
            inner.unnoted = Unnoted::default();
            if let Some(path) = &self.aside {
                // One that stays says what is true already.
                let _ = std::fs::remove_file(path);
            }
            self.settled.send_replace(true);
            tracing::info!("there is room again: what could not be noted is");
        }
        self.tell();
        Ok(done)
    }

    /// A change that can be refused.
    fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.change(&mut self.lock(), change)
    }

    /// One that says what has happened already, or that makes room: it gets the reserve when there is no other room.
    fn must<T>(&self, change: impl Fn(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = self.insist(&mut self.lock(), change);
        if let Some(reserve) = self.reserve.as_ref().filter(|_| done.is_ok()) {
            reserve.keep();
        }
        done
    }

    fn insist<T>(
        &self,
        inner: &mut Inner,
        change: impl Fn(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.change(inner, &change) {
            Err(error) if error.is_no_space() && self.reserve.as_ref().is_some_and(Reserve::release) => {
                self.change(inner, &change)
            }
            done => done,
        }
    }

    /// Writes what could not be written before, if that is possible now.
    fn catch_up(&self, inner: &mut Inner) {
        if !inner.unnoted.is_empty() {
            // What is read is the same either way.
            let _ = self.insist(inner, |_| Ok(()));
        }
    }

    /// Keeps what has happened and could not be written.
    ///
    /// # Errors
    /// That it could not, when it is in memory only.
    fn keep(&self, error: StoreError, happened: impl FnOnce(&mut Unnoted)) -> Result<(), StoreError> {
        let inner = &mut *self.lock();
        happened(&mut inner.unnoted);
        self.settled.send_replace(false);
        self.tell();
        match self.aside.as_ref().map(|path| inner.unnoted.save(path)) {
            Some(Ok(())) => {
                tracing::warn!(%error, "what happened can't be noted; it is kept aside until it can");
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Wakes when something has changed.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Wakes those who look.
    pub fn tell(&self) {
        self.news.send_replace(());
    }

    /// Waits until all that has happened is written.
    pub async fn all_noted(&self) {
        // The sender is in `self`, so it can't be gone.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Notes a new container, and its pod if it has one to itself: in state created, or, with `record.state` so, starting.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], or when SQLite can't.
    pub fn insert(&self, record: &Record) -> Result<(), StoreError> {
        self.write(|transaction| Self::inserted(transaction, record))
    }

    fn inserted(transaction: &Transaction<'_>, record: &Record) -> Result<(), StoreError> {
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
        inserted.map(drop).map_err(|error| name_in_use(error, &record.name))
    }

    /// Notes that a container is being started again. Only one that does not run can be; says whether it is now.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_starting(&self, id: &ContainerId, start: &NewStart) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let changed = transaction.execute(
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
        })
    }

    /// Notes that a container's command runs. Only one that is starting can; says whether it did.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_running(&self, id: &ContainerId, started_ms: u64) -> Result<bool, StoreError> {
        self.must(|transaction| {
            let changed = transaction.execute(
                "UPDATE containers SET state = 'running', started_ms = ?2, finished_ms = NULL, exit = NULL
                 WHERE id = ?1 AND state = 'starting'",
                params![id.as_str(), started_ms],
            )?;
            Ok(changed == 1)
        })
    }

    /// Notes how a container ended. The first end of a start counts; says whether this was it. When there is no room for it, it counts and is
    /// kept aside.
    ///
    /// # Errors
    /// When SQLite can't, and it can't be kept aside either; what this store answers is right all the same.
    pub fn set_exited(&self, id: &ContainerId, exit: &Exit, finished_ms: u64) -> Result<bool, StoreError> {
        let noted = self.must(|transaction| unnoted::note_end(transaction, id.as_str(), exit, finished_ms));
        noted.or_else(|error| self.keep(error, |unnoted| unnoted.ended(id, exit, finished_ms)).map(|()| true))
    }

    /// Notes whether a person wants a container to stay stopped.
    ///
    /// # Errors
    /// As [`Self::set_exited`].
    pub fn set_stopped(&self, id: &ContainerId, stopped: bool) -> Result<(), StoreError> {
        let noted = self.must(|transaction| unnoted::note_stopped(transaction, id.as_str(), stopped));
        noted.or_else(|error| self.keep(error, |unnoted| unnoted.stopped(id, stopped)))
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
        self.write(|transaction| {
            let changed = "UPDATE pods SET network = ?2 WHERE id = ?1 AND network IS NOT ?2";
            transaction.execute(changed, params![pod.as_str(), text])?;
            Ok(())
        })
    }

    /// Notes which drives of its pod a container has.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_slot(&self, id: &ContainerId, slot: Option<Slot>) -> Result<(), StoreError> {
        let slot = slot.map(|slot| slot.0);
        let change = |transaction: &Transaction<'_>| {
            let change = "UPDATE containers SET slot = ?2 WHERE id = ?1";
            Ok(transaction.execute(change, params![id.as_str(), slot]).map(drop)?)
        };
        match slot {
            Some(_) => self.write(change),
            None => self.must(change),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], or when SQLite can't.
    pub fn rename(&self, id: &ContainerId, name: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            let change = "UPDATE containers SET name = ?2 WHERE id = ?1";
            let renamed = transaction.execute(change, params![id.as_str(), name]);
            renamed.map(drop).map_err(|error| name_in_use(error, name))
        })
    }

    /// Notes that a container is being removed, so that a killed removal is finished at the next start. Says whether it is
    /// there, is not being started, and is not being removed already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_removing(&self, id: &ContainerId) -> Result<bool, StoreError> {
        self.must(|transaction| {
            let changed = transaction.execute(
                "UPDATE containers SET state = 'removing' WHERE id = ?1 AND state IN ('created', 'exited', 'dead')",
                params![id.as_str()],
            )?;
            Ok(changed == 1)
        })
    }

    /// Notes that a container could not be removed.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_dead(&self, id: &ContainerId) -> Result<(), StoreError> {
        self.must(|transaction| {
            let change = "UPDATE containers SET state = 'dead' WHERE id = ?1";
            Ok(transaction.execute(change, params![id.as_str()]).map(drop)?)
        })
    }

    /// Forgets a container and the pod that it had to itself. Whatever belongs to it must be gone already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn delete(&self, id: &ContainerId) -> Result<(), StoreError> {
        self.must(|transaction| {
            transaction.execute("DELETE FROM containers WHERE id = ?1", params![id.as_str()])?;
            let pods = "DELETE FROM pods WHERE name IS NULL AND id NOT IN (SELECT pod FROM containers)";
            Ok(transaction.execute(pods, []).map(drop)?)
        })
    }

    /// All containers, newest first.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn list(&self) -> Result<Vec<Record>, StoreError> {
        let mut inner = self.lock();
        self.catch_up(&mut inner);
        let mut statement = inner.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM containers ORDER BY created_ms DESC, rowid DESC"
        ))?;
        let mut rows = statement.query([])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let mut record = Record::read(row)?;
            inner.unnoted.show(&mut record);
            records.push(record);
        }
        Ok(records)
    }

    /// One container.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn get(&self, id: &ContainerId) -> Result<Option<Record>, StoreError> {
        let mut inner = self.lock();
        self.catch_up(&mut inner);
        let one = format!("SELECT {COLUMNS} FROM containers WHERE id = ?1");
        let mut statement = inner.connection.prepare_cached(&one)?;
        let mut rows = statement.query(params![id.as_str()])?;
        let mut record = rows.next()?.map(Record::read).transpose()?;
        record.iter_mut().for_each(|record| inner.unnoted.show(record));
        Ok(record)
    }

    /// Whether a container, ended or not, was made from this image.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn image_in_use(&self, image_id: &str) -> Result<Option<String>, StoreError> {
        let inner = self.lock();
        let name = inner
            .connection
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
