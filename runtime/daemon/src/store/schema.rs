//! The store's tables. Migrations are only ever added at the end; `user_version` counts those that were run.

use rusqlite::{Connection, TransactionBehavior};

pub(super) const MIGRATIONS: [&str; 4] = [
    "
    CREATE TABLE pods (
        id          TEXT PRIMARY KEY,
        vm          TEXT NOT NULL UNIQUE,
        created_ms  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE containers (
        id          TEXT PRIMARY KEY,
        pod         TEXT NOT NULL REFERENCES pods(id) ON DELETE CASCADE,
        name        TEXT NOT NULL UNIQUE,
        image       TEXT NOT NULL,
        image_id    TEXT NOT NULL,
        args        TEXT NOT NULL,
        spec        TEXT NOT NULL,
        stop_signal INTEGER NOT NULL,
        memory      INTEGER NOT NULL,
        milli_cpus  INTEGER NOT NULL,
        stdin       INTEGER NOT NULL,
        auto_remove INTEGER NOT NULL,
        state       TEXT NOT NULL CHECK (state IN ('created', 'running', 'exited', 'removing')),
        exit        TEXT,
        created_ms  INTEGER NOT NULL,
        started_ms  INTEGER,
        finished_ms INTEGER
    ) STRICT;
    CREATE INDEX containers_image ON containers (image_id);
    CREATE INDEX containers_pod ON containers (pod);
",
    // A container can be started again. `base_*`: where in its log the output of the newest start begins. `boot`: the host's boot id at the
    // newest start. SQLite changes a CHECK only with its table.
    "
    CREATE TABLE containers_2 (
        id          TEXT PRIMARY KEY,
        pod         TEXT NOT NULL REFERENCES pods(id) ON DELETE CASCADE,
        name        TEXT NOT NULL UNIQUE,
        image       TEXT NOT NULL,
        image_id    TEXT NOT NULL,
        args        TEXT NOT NULL,
        spec        TEXT NOT NULL,
        request     TEXT,
        stop_signal INTEGER NOT NULL,
        memory      INTEGER NOT NULL,
        milli_cpus  INTEGER NOT NULL,
        stdin       INTEGER NOT NULL,
        auto_remove INTEGER NOT NULL,
        state       TEXT NOT NULL CHECK (state IN ('created', 'starting', 'running', 'exited', 'removing', 'dead')),
        exit        TEXT,
        created_ms  INTEGER NOT NULL,
        started_ms  INTEGER,
        finished_ms INTEGER,
        boot        TEXT,
        stopped     INTEGER NOT NULL DEFAULT 0,
        restarts    INTEGER NOT NULL DEFAULT 0,
        backoff_ms  INTEGER NOT NULL DEFAULT 0,
        base_stdout INTEGER NOT NULL DEFAULT 0,
        base_stderr INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO containers_2 (id, pod, name, image, image_id, args, spec, stop_signal, memory, milli_cpus, stdin, auto_remove, state,
            exit, created_ms, started_ms, finished_ms)
        SELECT id, pod, name, image, image_id, args, spec, stop_signal, memory, milli_cpus, stdin, auto_remove,
            CASE state WHEN 'created' THEN 'starting' ELSE state END, exit, created_ms, started_ms, finished_ms FROM containers;
    DROP TABLE containers;
    ALTER TABLE containers_2 RENAME TO containers;
    CREATE INDEX containers_image ON containers (image_id);
    CREATE INDEX containers_pod ON containers (pod);
",
    // JSON of the lease of the pod's network; null is none.
    "ALTER TABLE pods ADD COLUMN network TEXT;",
    // Pods that are made by name; one without a name belongs to its only container. `slot`: which pair of drives of its pod a container has.
    "
    ALTER TABLE pods ADD COLUMN name TEXT;
    ALTER TABLE pods ADD COLUMN request TEXT;
    ALTER TABLE pods ADD COLUMN state TEXT;
    ALTER TABLE pods ADD COLUMN reason TEXT;
    ALTER TABLE pods ADD COLUMN started_ms INTEGER;
    ALTER TABLE pods ADD COLUMN boot TEXT;
    CREATE UNIQUE INDEX pods_name ON pods (name);
    ALTER TABLE containers ADD COLUMN slot INTEGER;
",
];

/// Brings a store up to date.
pub fn migrate(connection: &mut Connection) -> Result<(), super::StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: usize = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > MIGRATIONS.len() {
        return Err(super::StoreError::Newer { found: version, known: MIGRATIONS.len() });
    }
    if version == MIGRATIONS.len() {
        // A write would need room, which a full disk has not got.
        return Ok(());
    }
    for migration in &MIGRATIONS[version..] {
        transaction.execute_batch(migration)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {}", MIGRATIONS.len()))?;
    transaction.commit()?;
    Ok(())
}
