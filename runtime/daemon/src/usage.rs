//! What containers use and what runs in them: `/v1/containers/{id}/stats` and `/top`.

use crate::ending;
use crate::error::Result;
use crate::state::Shared;
use axum::Json;
use axum::extract::{Path, State};
use vial_api::{Process, Usage};

/// `GET /v1/containers/{id}/stats`
pub async fn stats(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<Json<Usage>> {
    let record = daemon.find(&id)?;
    let now = ending::running(&daemon, &record).await?.stats().await?;
    Ok(Json(Usage {
        id: record.id.to_string(),
        name: record.name,
        at_us: now.at_us,
        cpu_usec: now.cpu_usec,
        // As Docker counts: what the kernel takes back at once, when somebody needs it, is not in use.
        memory_bytes: now.memory_bytes.saturating_sub(now.inactive_file_bytes),
        memory_limit_bytes: record.memory,
        pids: now.pids,
        read_bytes: now.read_bytes,
        written_bytes: now.written_bytes,
        received_bytes: now.received_bytes,
        sent_bytes: now.sent_bytes,
    }))
}

/// `GET /v1/containers/{id}/top`
pub async fn top(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<Json<Vec<Process>>> {
    let record = daemon.find(&id)?;
    let processes = ending::running(&daemon, &record).await?.processes().await?;
    let shown = processes.into_iter().map(|process| Process {
        pid: process.pid,
        ppid: process.ppid,
        uid: process.uid,
        state: process.state,
        threads: process.threads,
        cpu_usec: process.cpu_usec,
        resident_bytes: process.resident_bytes,
        command: process.command,
    });
    Ok(Json(shown.collect()))
}
