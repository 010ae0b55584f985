//! Containers: `/v1/containers…`.

use crate::body::json;
use crate::error::{ApiError, Result};
use crate::kubernetes::refuse_marks;
use crate::live::Phase;
use crate::state::Shared;
use crate::store::Record;
use crate::streams::{self, Attach, Orphan};
use crate::{creation, ending, inspect, life};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::sync::oneshot;
use vial_api::frame::{self, Gap, Kind};
use vial_api::{
    Archive, AttachQuery, Container, CreateContainer, CreateQuery, Created, ErrorKind, Exec, Exit, KillQuery,
    ListQuery, LogsQuery, Put, RemoveQuery, RenameQuery, StopQuery,
};
use vial_sandbox::log::{Follower, Item, Position, Selector, Stream, Wanted};
use vial_sandbox::{ExecStreams, PodError, PutHow, Task, signals, spec};

/// `GET /v1/containers`
pub async fn list(
    State(daemon): State<Shared>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<Container>>> {
    let records = daemon.store.list()?;
    let shown = records.iter().filter(|record| query.all || daemon.state(record).is_active());
    Ok(Json(shown.map(|record| daemon.describe(record)).collect()))
}

/// `GET /v1/containers/{id}`
pub async fn inspect(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>> {
    let record = daemon.find(&id)?;
    Ok(Json(inspect::container(&record, &daemon.describe(&record))))
}

/// `POST /v1/containers`: makes one, and unless `start` says no starts it; answers when its command runs.
pub async fn create(
    State(daemon): State<Shared>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>)> {
    let request: CreateContainer = json(&body)?;
    refuse_marks(&request.labels)?;
    if !query.start {
        let record = tokio::spawn(async move { creation::create(&daemon, request).await }).await??;
        return Ok((StatusCode::CREATED, Json(created(record, None))));
    }
    // A task of its own, as in `run`: this handler is dropped when the client goes.
    let (record, live, warning) =
        tokio::spawn(async move { creation::create_and_start(&daemon, request).await }).await??;
    match live.started().await {
        Phase::Failed(error) => Err(error),
        _ => Ok((StatusCode::CREATED, Json(created(record, warning)))),
    }
}

fn created(record: Record, warning: Option<String>) -> Created {
    Created { id: record.id.to_string(), name: record.name, warning }
}

/// `POST /v1/containers/run`: makes one, upgrades, starts it, and streams.
pub async fn run(State(daemon): State<Shared>, request: Request) -> Result<Response> {
    let (upgrade, body) = upgrade(request).await?;
    let request: CreateContainer = json(&body)?;
    refuse_marks(&request.labels)?;
    let (stdin, timing) = (request.stdin, request.timing);
    let start = Some(Position::default());
    let attach = Attach { start, stdin, terminal: request.terminal.is_some(), owner: true, timing };
    let (answer, answered) = oneshot::channel();
    // This handler is dropped when the client goes, and a container that was noted by then would never be started nor given up.
    tokio::spawn(async move {
        let live = match creation::create_and_start(&daemon, request).await {
            Ok((record, live, warning)) => match answer.send(Ok((record.id, warning))) {
                Ok(()) => live,
                Err(_) => return live.cancel(),
            },
            Err(error) => {
                let _ = answer.send(Err(error));
                return;
            }
        };
        match upgrade.await {
            Ok(connection) => streams::attach(TokioIo::new(connection), live, attach).await,
            // The client went before the answer.
            Err(_) => live.cancel(),
        }
    });
    let gone = |_| ApiError::new(ErrorKind::Internal, "the daemon failed inside while it made the container");
    let (id, warning) = answered.await.map_err(gone)??;
    let mut response = switching(id.as_str(), Position::default());
    let plain = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let warning = warning.map(|text| HeaderValue::from_str(&text.chars().map(plain).collect::<String>()));
    if let Some(Ok(warning)) = warning {
        response.headers_mut().insert(vial_api::WARNING_HEADER, warning);
    }
    Ok(response)
}

/// `POST /v1/containers/{id}/start`; answers when its command runs.
pub async fn start(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<()> {
    let record = daemon.find(&id)?;
    detached(async move { ending::start(&daemon, &record).await }).await
}

/// `POST /v1/containers/{id}/start/attach`: upgrades, starts it if it does not run, and streams what comes from now on.
pub async fn start_attached(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<AttachQuery>,
    request: Request,
) -> Result<Response> {
    let record = daemon.find(&id)?;
    let (upgrade, _) = upgrade(request).await?;
    let (starting, wanted) = (daemon.clone(), record.clone());
    let begun = tokio::spawn(async move { life::start(&starting, &wanted).await }).await??;
    let owner = begun.is_some();
    let live = begun.or_else(|| daemon.live(&record.id));
    let live = live.ok_or_else(|| {
        ApiError::new(ErrorKind::Conflict, format!("container {} has just ended; try again", record.name))
    })?;
    let start = if owner { live.log.base() } else { live.log.position() };
    let terminal = spec::has_terminal(&record.spec);
    let stdin = query.stdin && record.stdin;
    let attach = Attach { start: Some(start), stdin, terminal, owner, timing: false };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => streams::attach(TokioIo::new(connection), live, attach).await,
            Err(_) if owner => live.cancel(),
            Err(_) => {}
        }
    });
    Ok(switching(record.id.as_str(), start))
}

/// `POST /v1/containers/{id}/restart`; answers when its command runs again.
pub async fn restart(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> Result<()> {
    let record = daemon.find(&id)?;
    let timeout = stop_timeout(query);
    detached(async move { ending::restart(&daemon, &record, timeout).await }).await
}

/// `POST /v1/containers/{id}/pause`
pub async fn pause(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<()> {
    let record = daemon.find(&id)?;
    detached(async move { ending::pause(&daemon, &record).await }).await
}

/// `POST /v1/containers/{id}/unpause`
pub async fn unpause(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<()> {
    let record = daemon.find(&id)?;
    detached(async move { ending::unpause(&daemon, &record).await }).await
}

/// `POST /v1/containers/{id}/rename`
pub async fn rename(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<RenameQuery>,
) -> Result<()> {
    let record = daemon.find(&id)?;
    detached(async move { ending::rename(&daemon, &record, query.name).await }).await
}

/// `POST /v1/containers/{id}/attach`
pub async fn attach(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<AttachQuery>,
    request: Request,
) -> Result<Response> {
    let record = daemon.find(&id)?;
    let (upgrade, _) = upgrade(request).await?;
    let start = (!query.tail).then_some(Position { stdout: query.stdout, stderr: query.stderr });
    let answer = switching(record.id.as_str(), start.unwrap_or_default());
    match daemon.live(&record.id) {
        Some(live) => {
            let terminal = spec::has_terminal(&record.spec);
            let stdin = query.stdin && record.stdin;
            let attach = Attach { start, stdin, terminal, owner: false, timing: false };
            tokio::spawn(async move {
                if let Ok(connection) = upgrade.await {
                    streams::attach(TokioIo::new(connection), live, attach).await;
                }
            });
        }
        None => {
            let exit = record.exit.clone().unwrap_or_default();
            let Some(start) = start else { return Err(ending::not_running(&record)) };
            let follower = daemon.log(&record.id).follow(start, false);
            tokio::spawn(async move {
                if let Ok(connection) = upgrade.await {
                    streams::attach_ended(TokioIo::new(connection), follower, exit).await;
                }
            });
        }
    }
    Ok(answer)
}

/// `POST /v1/containers/{id}/exec`
pub async fn exec(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let record = daemon.find(&id)?;
    let (upgrade, body) = upgrade(request).await?;
    let exec: Exec = json(&body)?;
    let options = spec::ExecOptions {
        command: exec.command,
        env: exec.env,
        workdir: exec.workdir,
        user: exec.user,
        terminal: exec.terminal.map(|size| (size.cols, size.rows)),
    };
    let process = spec::exec(&record.spec, &options)?;
    let task = ending::running(&daemon, &record).await?;
    let (opening, stdin) = (task.clone(), exec.stdin);
    let opening = async move { opening.exec(&process, stdin).await };
    exec_streams(&record, upgrade, (task, Orphan::GoesOn), opening).await
}

/// `POST /v1/containers/{id}/archive`
pub async fn archive(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let record = daemon.find(&id)?;
    let (upgrade, body) = upgrade(request).await?;
    let Archive { path, follow, put }: Archive = json(&body)?;
    let task = ending::running(&daemon, &record).await?;
    let opening = task.clone();
    exec_streams(&record, upgrade, (task, Orphan::Ends), async move {
        match put {
            Some(Put { contents, owners, stream }) => {
                opening.put_archive(path, PutHow { contents, owners, stream }).await
            }
            None => opening.get_archive(path, follow, None).await,
        }
    })
    .await
}

/// Opens the streams of a process in a container and passes them to the client.
async fn exec_streams(
    record: &Record,
    upgrade: OnUpgrade,
    (task, orphan): (Task, Orphan),
    opening: impl Future<Output = Result<ExecStreams, PodError>> + Send + 'static,
) -> Result<Response> {
    let (answer, answered) = oneshot::channel();
    // As in `run`: the handler is dropped when the client goes, and a process that was asked for by then would have nobody who
    // reads its output and hears of its end.
    tokio::spawn(async move {
        let streams = match opening.await {
            Ok(streams) => streams,
            Err(error) => return drop(answer.send(Err(ApiError::from(error)))),
        };
        if answer.send(Ok(())).is_ok()
            && let Ok(connection) = upgrade.await
        {
            streams::exec(TokioIo::new(connection), task, streams, orphan).await;
        } else {
            streams::abandon(&task, streams, orphan).await;
        }
    });
    let gone =
        |_| ApiError::new(ErrorKind::Internal, "the daemon failed inside while it started the command");
    answered.await.map_err(gone)??;
    Ok(switching(record.id.as_str(), Position::default()))
}

/// `GET /v1/containers/{id}/logs`: a body of frames.
pub async fn logs(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response> {
    let record = daemon.find(&id)?;
    let log = daemon.log(&record.id);
    let mut wanted =
        Wanted { since_ms: query.since_ms, until_ms: query.until_ms, skip: 0, timestamps: query.timestamps };
    if let Some(tail) = query.tail {
        let mut follower = log.follow(Position::default(), false);
        let mut counting = Selector::new(Wanted { timestamps: false, ..wanted });
        // The log is bounded, and so is this look at it; not on a thread that others wait for.
        let lines = tokio::task::spawn_blocking(move || {
            while let Some(item) = follower.now()? {
                counting.pick(item);
            }
            Ok::<_, ApiError>(counting.lines())
        });
        wanted.skip = lines.await??.saturating_sub(tail);
    }
    let state = (log.follow(Position::default(), false), Selector::new(wanted));
    let parts = futures_util::stream::unfold(
        state,
        move |(mut follower, mut selector): (Follower, Selector)| async move {
            loop {
                let next = if query.follow { follower.next().await } else { follower.now() };
                let seen = match next.transpose()? {
                    Ok(item) => selector.pick(item).map(|item| Ok(encode(item))),
                    Err(error) => Some(Err(error)),
                };
                if let Some(seen) = seen {
                    return Some((seen, (follower, selector)));
                }
            }
        },
    );
    Ok(Response::new(Body::from_stream(parts)))
}

fn encode(item: Item) -> Bytes {
    let (kind, payload) = match item {
        Item::Data { stream: Stream::Stdout, bytes, .. } => (Kind::Stdout, bytes),
        Item::Data { stream: Stream::Stderr, bytes, .. } => (Kind::Stderr, bytes),
        Item::Gap { stream, bytes } => {
            let gap = Gap { stderr: stream == Stream::Stderr, bytes };
            (Kind::Gap, serde_json::to_vec(&gap).unwrap_or_default())
        }
    };
    let mut out = BytesMut::with_capacity(frame::HEADER + payload.len());
    // A log's record is never longer than a frame.
    if let Ok(header) = frame::header(kind, payload.len()) {
        out.put_slice(&header);
        out.put_slice(&payload);
    }
    out.freeze()
}

/// `POST /v1/containers/{id}/wait`
pub async fn wait(State(daemon): State<Shared>, Path(id): Path<String>) -> Result<Json<Exit>> {
    let record = daemon.find(&id)?;
    if let Some(live) = daemon.live(&record.id) {
        return match live.ended().await {
            Phase::Leaving(exit) | Phase::Ended(exit) => Ok(Json(exit)),
            Phase::Failed(error) => Ok(Json(Exit {
                code: error.0.kind.exit_code(),
                reason: Some(error.to_string()),
                ..Exit::default()
            })),
            Phase::Starting | Phase::Running(_) => {
                Err(ApiError::new(ErrorKind::ShuttingDown, "the daemon is ending; ask its successor"))
            }
        };
    }
    // It may have ended between the two looks.
    let record = daemon.store.get(&record.id)?.unwrap_or(record);
    Ok(Json(record.exit.unwrap_or_default()))
}

/// `POST /v1/containers/{id}/stop`
pub async fn stop(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> Result<()> {
    let record = daemon.find(&id)?;
    let timeout = stop_timeout(query);
    detached(async move { ending::stop(&daemon, &record, timeout, ending::Rest::GoesOn).await }).await
}

/// `POST /v1/containers/{id}/kill`
pub async fn kill(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<KillQuery>,
) -> Result<()> {
    let text = query.signal.as_deref().unwrap_or("KILL");
    let signal = signals::parse(text).ok_or_else(|| {
        ApiError::new(
            ErrorKind::InvalidArgument,
            format!("{text} is no signal; write a number or a name, as in 9 or KILL"),
        )
    })?;
    let record = daemon.find(&id)?;
    detached(async move { ending::kill(&daemon, &record, signal).await }).await
}

/// `DELETE /v1/containers/{id}`
pub async fn remove(
    State(daemon): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<()> {
    let record = daemon.find(&id)?;
    detached(async move { ending::remove(&daemon, &record, query.force).await }).await
}

/// How long a stop waits before it kills.
pub fn stop_timeout(query: StopQuery) -> Duration {
    Duration::from_secs(query.timeout.unwrap_or(10).into())
}

/// Something that is finished even when the client that asked for it goes away.
async fn detached(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    tokio::spawn(work).await?
}

/// Takes an upgrade request apart.
async fn upgrade(mut request: Request) -> Result<(OnUpgrade, Bytes)> {
    let wanted = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes() == vial_api::UPGRADE.as_bytes());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wanted);
    let upgrade = upgrade.ok_or_else(|| {
        ApiError::new(
            ErrorKind::InvalidArgument,
            format!("this needs a connection upgrade to {}", vial_api::UPGRADE),
        )
    })?;
    let body = axum::body::to_bytes(request.into_body(), vial_api::MAX_BODY).await;
    let body = body
        .map_err(|error| ApiError::new(ErrorKind::InvalidArgument, format!("the request's body: {error}")))?;
    Ok((upgrade, body))
}

fn switching(container: &str, start: Position) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(vial_api::UPGRADE));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let position = format!("{},{}", start.stdout, start.stderr);
    for (name, value) in [(vial_api::CONTAINER_HEADER, container), (vial_api::POSITION_HEADER, &position)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}
