//! The handlers of `/v1/pods…`.

use super::{PodPhase, creation, life};
use crate::body::json;
use crate::error::{ApiError, Result};
use crate::state::Shared;
use crate::store::{PodRecord, Record};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use bytes::Bytes;
use vial_api::{CreatePod, CreateQuery, Created, Member, Pod, PodState, RemoveQuery, StopQuery};

/// `POST /v1/pods`
pub async fn create(
    State(daemon): State<Shared>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>)> {
    let request: CreatePod = json(&body)?;
    crate::kubernetes::refuse_marks(&request.labels)?;
    // A task of its own: this handler is dropped when the client goes.
    let made = tokio::spawn(async move {
        let record = creation::create(&daemon, request).await?;
        let mut warning = None;
        if query.start {
            if let Err(error) = life::sandbox(&daemon, &record.id).await {
                // As a container that could not be started: its name is free again.
                life::forget(&daemon, &record.id).await?;
                return Err(error);
            }
            warning = crate::network::foresee(&daemon, (&record.request).into()).await;
        }
        Ok((record, warning))
    });
    let (record, warning) = made.await??;
    Ok((StatusCode::CREATED, Json(Created { id: record.id.to_string(), name: record.name, warning })))
}

/// `GET /v1/pods`
pub async fn list(State(daemon): State<Shared>) -> Result<Json<Vec<Pod>>> {
    let containers = daemon.store.list()?;
    let pods = daemon.store.pods()?;
    Ok(Json(pods.iter().map(|pod| describe(&daemon, pod, &containers)).collect()))
}

/// `GET /v1/pods/{id}`
pub async fn inspect(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<Json<Pod>> {
    let pod = daemon.find_pod(&id)?;
    Ok(Json(describe(&daemon, &pod, &daemon.store.list()?)))
}

/// `POST /v1/pods/{id}/start`
pub async fn start(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<()> {
    let pod = daemon.find_pod(&id)?;
    tokio::spawn(async move { life::start(&daemon, &pod).await }).await?
}

/// `POST /v1/pods/{id}/stop`
pub async fn stop(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> Result<()> {
    let pod = daemon.find_pod(&id)?;
    let timeout = crate::containers::stop_timeout(query);
    tokio::spawn(async move { life::stop(&daemon, &pod, timeout).await }).await?
}

/// `DELETE /v1/pods/{id}`
pub async fn remove(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<()> {
    let pod = daemon.find_pod(&id)?;
    tokio::spawn(async move { life::remove(&daemon, &pod, query.force).await }).await?
}

fn describe(daemon: &Shared, pod: &PodRecord, containers: &[Record]) -> Pod {
    let lease = pod.network.as_ref().filter(|_| pod.state == PodState::Running);
    let vmm_pid = daemon.pod(&pod.id).and_then(|live| match live.phase() {
        PodPhase::Running(sandbox) => sandbox.vmm_pid(),
        _ => None,
    });
    let member = |record: &Record| Member {
        id: record.id.to_string(),
        name: record.name.clone(),
        image: record.image.clone(),
        state: daemon.state(record),
    };
    Pod {
        id: pod.id.to_string(),
        name: pod.name.clone(),
        state: pod.state,
        reason: pod.reason.clone(),
        hostname: pod.hostname(),
        memory: pod.memory(),
        milli_cpus: pod.milli_cpus(),
        max_containers: pod.max_containers(),
        created_ms: pod.created_ms,
        started_ms: pod.started_ms,
        network: lease.map(crate::network::described),
        ports: crate::network::ports(lease),
        labels: pod.request.labels.clone(),
        vmm_pid: vmm_pid.and_then(|pid| u32::try_from(pid).ok()),
        containers: containers.iter().filter(|record| record.pod == pod.id).map(member).collect(),
    }
}

/// The pod that a new container is to live in.
///
/// # Errors
/// When there is none of that name.
pub fn joined(daemon: &Shared, wanted: Option<&str>) -> Result<Option<PodRecord>> {
    let Some(wanted) = wanted else { return Ok(None) };
    let pod = daemon.find_pod(wanted)?;
    if life::can_be_joined(&pod) {
        Ok(Some(pod))
    } else {
        Err(ApiError::from(crate::store::StoreError::NoSuchPod))
    }
}
