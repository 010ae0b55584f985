//! The SQLite file under the store.

use super::events::{Event, EventKind, KEPT_BYTES, Log};
use super::mark::Mark;
use super::seal::{SealError, SealKey};
use super::{Key, Stored, wal};
use crate::kinds::{KINDS, Kind};
use crate::object;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Version of the tables.
const VERSION: i64 = 2;
/// Bytes of a row's checksum.
const SUM: usize = 8;
/// The log in the file is cut when so many events were added to it since the last time.
const CUT_EVERY: usize = 1000;
/// Or so many bytes.
const CUT_EVERY_BYTES: usize = KEPT_BYTES / 4;

/// Why the store does not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite: a full disk, a damaged file, missing rights.
    #[error("the store of declared objects does not work: {0}")]
    Sqlite(rusqlite::Error),
    /// SQLite's own check, or a checksum, found damage. Nothing is salvaged: what is missing would look deleted, and pods would go for it.
    #[error(
        "the store of declared objects is damaged ({0}): move it away with its -wal, -shm and -mark, then put a good copy of the file in its place or declare the objects again; running pods go on"
    )]
    Damaged(String),
    /// A file beside it can't be read or written.
    #[error("the store of declared objects does not work: {path}: {source}")]
    Beside {
        /// Which.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Written by a version that nobody was given.
    #[error(
        "the store of declared objects is of version {0}, which came before the first release: move the file away and declare the objects again"
    )]
    Older(i64),
    /// Written by a newer version.
    #[error(
        "the store of declared objects is of version {0}, this program knows {VERSION}: it was used by a newer vial; use that one"
    )]
    Newer(i64),
    /// An object in it can't be read.
    #[error(
        "the store holds {key} that can't be read: {why}; the key is seal.key in the same folder: put the right one back, or move the folder away to begin anew"
    )]
    Unreadable {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
    /// As much is declared as the memory that objects may take.
    #[error(
        "no room for more objects: what is declared takes {held} MiB of memory, and {room} MiB at most are for it; delete what is not needed (kubectl get all,cm,secrets,events -A shows it)"
    )]
    Crowded {
        /// MiB that are taken.
        held: usize,
        /// MiB that may be.
        room: usize,
    },
    /// A secret can't be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}

/// One write of several.
pub(super) struct Write {
    pub key: Key,
    pub kind: EventKind,
    /// The new one; of a deletion the last one.
    pub object: Value,
    pub previous: Option<Arc<Stored>>,
}

/// A smaller file is not copied; in pages of 4 KiB.
const WORTH_A_COPY: u32 = 4096;

pub(super) struct File {
    connection: Connection,
    key: SealKey,
    /// Since the log was cut.
    writes: usize,
    bytes: usize,
    /// The last version that was given.
    newest: i64,
    mark: Mark,
}

type Contents = (File, BTreeMap<Key, Arc<Stored>>, Log);

impl StoreError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => {
                // The index of its log is a file of fixed size, for which SQLite has an error of its own.
                error.code == rusqlite::ErrorCode::DiskFull
                    || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }
            Self::Beside { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

impl File {
    pub(super) fn open(path: &Path, key: SealKey) -> Result<Contents, StoreError> {
        let mark = Mark::read(path)?;
        let gone = || StoreError::Damaged(format!("{} is empty or gone", path.display()));
        let is_empty = std::fs::metadata(path).map_or(true, |found| found.len() == 0);
        // SQLite would throw such a log away.
        if is_empty && (mark.is_some() || wal::is_there(path)) {
            return Err(gone());
        }
        wal::check(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        // What is refused stays as it was found.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(StoreError::Damaged(check));
        }
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        // The mark was made after the tables.
        if found == 0 && mark.is_some() {
            return Err(gone());
        }
        if found > VERSION {
            return Err(StoreError::Newer(found));
        }
        if (1..VERSION).contains(&found) {
            return Err(StoreError::Older(found));
        }
        let transaction = connection.transaction()?;
        if found == 0 {
            // AUTOINCREMENT: a version is never given twice, even when the newest rows of the log were cut off.
            transaction.execute_batch(
                "CREATE TABLE object (kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
                     body BLOB NOT NULL, PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;
                 CREATE TABLE log (version INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, namespace TEXT NOT NULL,
                     name TEXT NOT NULL, event INTEGER NOT NULL, body BLOB NOT NULL);",
            )?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        let objects = read_objects(&transaction, &key)?;
        let log = read_log(&transaction, &key)?;
        transaction.commit()?;
        let newest =
            i64::try_from(log.newest()).map_err(|_| StoreError::Damaged("a version is too high".into()))?;
        if let Some(mark) = mark.filter(|mark| newest < *mark) {
            let what = format!("it ends with version {newest}, and {mark} was answered");
            return Err(StoreError::Damaged(what));
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        give_back(&connection);
        let mark = Mark::open(path, newest)?;
        let file = Self { connection, key, writes: 0, bytes: 0, newest, mark };
        file.begin_log();
        Ok((file, objects, log))
    }

    /// Begins the log anew: behind its last whole write may lie frames of one that was cut short, and those would look like later writes once
    /// another was cut short before them. A disk without room for it keeps the log as it is.
    fn begin_log(&self) {
        let _ = self.settle();
    }

    /// Brings all writes from the log into the file, which has more ways to notice damage.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        Ok(self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// Writes all or none and syncs once; the version that each write got. Events up to version `floor` are not
    /// needed any more.
    pub(super) fn write(&mut self, writes: &[Write], floor: u64) -> Result<Vec<u64>, StoreError> {
        let written = self.try_write(writes, floor);
        if written.is_err() {
            self.begin_log();
        }
        written
    }

    fn try_write(&mut self, writes: &[Write], floor: u64) -> Result<Vec<u64>, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut written = Vec::with_capacity(writes.len());
        let (mut version, mut bytes) = (self.newest, self.bytes);
        for Write { key, kind: event, object, .. } in writes {
            // Known before the row is written, because the checksum is of it too.
            version += 1;
            let body = encode(key, version, object, &self.key)?;
            let kind = kind_name(key.kind());
            transaction
                .prepare_cached(
                    "INSERT INTO log (version, kind, namespace, name, event, body) VALUES (?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![version, kind, key.namespace, key.name, event_number(*event), body])?;
            match event {
                EventKind::Deleted => transaction
                    .prepare_cached("DELETE FROM object WHERE kind = ? AND namespace = ? AND name = ?")?
                    .execute(params![kind, key.namespace, key.name])?,
                EventKind::Added | EventKind::Modified => transaction
                    .prepare_cached("INSERT OR REPLACE INTO object (kind, namespace, name, version, body) VALUES (?, ?, ?, ?, ?)")?
                    .execute(params![kind, key.namespace, key.name, version, body])?,
            };
            bytes += body.len();
            written.push(version.unsigned_abs());
        }
        let count = self.writes + writes.len();
        let is_cut = count >= CUT_EVERY || bytes >= CUT_EVERY_BYTES;
        if is_cut {
            transaction.execute("DELETE FROM log WHERE version <= ?", [floor.cast_signed()])?;
        }
        transaction.commit()?;
        (self.writes, self.bytes) = if is_cut { (0, 0) } else { (count, bytes) };
        self.newest = version;
        self.mark.raise(version);
        Ok(written)
    }
}

#[cfg(test)]
impl File {
    /// As if the disk had room for so many pages of 4 KiB.
    pub(super) fn limit(&mut self, pages: Option<u32>) {
        self.connection.pragma_update(None, "max_page_count", pages.unwrap_or(1 << 30)).unwrap();
    }
}

/// Makes a file smaller that is mostly free, since SQLite never does by itself. It is copied for that, so a disk without room leaves it as it is.
fn give_back(connection: &Connection) {
    let count = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0)).unwrap_or(0);
    let (free, all) = (count("freelist_count"), count("page_count"));
    if all > WORTH_A_COPY && free > all / 2 {
        let _ = connection.execute_batch("VACUUM");
    }
}

/// `apps/Deployment`: names in the file outlive the order of the table.
fn kind_name(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.kind)
}

fn kind_of(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind_name(kind) == name)
}

fn event_number(event: EventKind) -> i64 {
    match event {
        EventKind::Added => 0,
        EventKind::Modified => 1,
        EventKind::Deleted => 2,
    }
}

fn encode(key: &Key, version: i64, object: &Value, seal: &SealKey) -> Result<Vec<u8>, StoreError> {
    let json = serde_json::to_vec(object).expect("a JSON value is JSON");
    let body = if key.kind().is_secret() { seal.seal(&place(key), json)? } else { json };
    Ok([&sum(key, version, &body)[..], &body].concat())
}

fn decode(key: &Key, version: i64, mut body: Vec<u8>, seal: &SealKey) -> Result<Arc<Stored>, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable { key: place(key), why };
    let found: Vec<u8> = body.drain(..SUM.min(body.len())).collect();
    if found != sum(key, version, &body) {
        return Err(StoreError::Damaged(format!("{} is not as it was written", place(key))));
    }
    let json = if key.kind().is_secret() { seal.open(&place(key), body)? } else { body };
    let mut object: Value = serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
    if !object.is_object() {
        return Err(unreadable("it is no object".into()));
    }
    *object::entry(&mut object, &["metadata", "resourceVersion"]) = version.to_string().into();
    Ok(Arc::new(Stored { object, version: version.unsigned_abs() }))
}

/// SQLite notices damage of its own structures, not of what is in a row.
fn sum(key: &Key, version: i64, body: &[u8]) -> [u8; SUM] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [place(key).as_bytes(), b"\0", &version.to_le_bytes(), body] {
        context.update(part);
    }
    let mut sum = [0; SUM];
    sum.copy_from_slice(&context.finish().as_ref()[..SUM]);
    sum
}

/// What a sealed body belongs to: one can't be put in another's place.
fn place(key: &Key) -> String {
    format!("{} {}/{}", kind_name(key.kind()), key.namespace, key.name)
}

type Row = (i64, String, String, String, i64, Vec<u8>);

fn rows(transaction: &Transaction<'_>, sql: &str) -> Result<Vec<Row>, StoreError> {
    let mut statement = transaction.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_objects(
    transaction: &Transaction<'_>,
    seal: &SealKey,
) -> Result<BTreeMap<Key, Arc<Stored>>, StoreError> {
    let mut objects = BTreeMap::new();
    for (version, kind, namespace, name, _, body) in
        rows(transaction, "SELECT version, kind, namespace, name, 0, body FROM object")?
    {
        let Some(kind) = kind_of(&kind) else {
            return Err(StoreError::Damaged(format!("{name} is of kind {kind:?}, which there is not")));
        };
        let key = Key::new(kind, &namespace, &name);
        objects.insert(key.clone(), decode(&key, version, body, seal)?);
    }
    Ok(objects)
}

fn read_log(transaction: &Transaction<'_>, seal: &SealKey) -> Result<Log, StoreError> {
    let sequence: Option<i64> = transaction
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'log'", [], |row| row.get(0))
        .optional()?;
    let first: Option<i64> = transaction.query_row("SELECT min(version) FROM log", [], |row| row.get(0))?;
    let last: Option<i64> = transaction.query_row(
        "SELECT max(version) FROM (SELECT version FROM log UNION ALL SELECT version FROM object)",
        [],
        |row| row.get(0),
    )?;
    let newest = sequence.unwrap_or(0).max(last.unwrap_or(0)).unsigned_abs();
    let mut log = Log::new(first.map_or(newest, |first| (first - 1).unsigned_abs()));
    let mut last: BTreeMap<Key, Arc<Stored>> = BTreeMap::new();
    for (version, kind, namespace, name, event, body) in
        rows(transaction, "SELECT version, kind, namespace, name, event, body FROM log ORDER BY version")?
    {
        let Some(kind) = kind_of(&kind) else { continue };
        let key = Key::new(kind, &namespace, &name);
        let stored = decode(&key, version, body, seal)?;
        let previous = last.insert(key.clone(), Arc::clone(&stored));
        let kind = match event {
            0 => EventKind::Added,
            1 => EventKind::Modified,
            _ => EventKind::Deleted,
        };
        if kind == EventKind::Deleted {
            last.remove(&key);
        }
        log.push(Event::new(key, kind, stored, previous));
    }
    log.advance(newest);
    Ok(log)
}
