//! The daemon's main loop: socket, recovery, handlers, orderly end.

use crate::detach::DaemonLock;
use crate::error::ApiError;
use crate::live::Phase;
use crate::paths::{Paths, named};
use crate::pods::{self, PodPhase};
use crate::reserve::{self, Reserve};
use crate::state::{Daemon, Shared};
use crate::store::Store;
use crate::{containers, images, network, recovery, registry, usage};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use vial_api::{ErrorBody, ErrorKind, PREFIX, Version};
use vial_image::ImageStore;
use vial_network::Network;
use vial_sandbox::upper::Uppers;
use vial_vm::{Launcher, Registry};

/// How long starts that are given up may take to clean up after themselves.
const LAST_ORDERS: Duration = Duration::from_secs(20);

/// How long answers may take that are on their way when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Every path of the API.
pub fn router(daemon: Shared) -> Router {
    let api = Router::new()
        .route("/version", get(version))
        .route("/daemon/stop", post(stop))
        .route("/system/df", get(crate::disk_use::df))
        .route("/images", get(images::list))
        .route("/images/load", post(images::load).layer(DefaultBodyLimit::disable()))
        .route("/images/import", post(images::import).layer(DefaultBodyLimit::disable()))
        .route("/images/pull", post(registry::pull))
        .route("/images/push", post(registry::push))
        .route("/images/tag", post(registry::tag))
        .route("/registries/login", post(registry::login))
        .route("/kubernetes", post(crate::kubernetes::kubeconfig))
        // Not below /images, where a word of ours takes that name from an image.
        .route("/save", post(crate::save::save))
        .route("/images/{name}", get(images::inspect).delete(images::remove))
        .route("/pods", get(pods::api::list).post(pods::api::create))
        .route("/pods/{id}", get(pods::api::inspect).delete(pods::api::remove))
        .route("/pods/{id}/start", post(pods::api::start))
        .route("/pods/{id}/stop", post(pods::api::stop))
        .route("/containers", get(containers::list).post(containers::create))
        .route("/containers/run", post(containers::run))
        .route("/containers/{id}", get(containers::inspect))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/exec", post(containers::exec))
        .route("/containers/{id}/archive", post(containers::archive))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/stats", get(usage::stats))
        .route("/containers/{id}/top", get(usage::top))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/start/attach", post(containers::start_attached))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename));
    Router::new()
        .nest(PREFIX, api)
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "this daemon knows no such path; are vial and its daemon of the same version?",
            )
        })
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method")
        })
        .layer(DefaultBodyLimit::max(vial_api::MAX_BODY))
        // Around all of it: what the framework refuses by itself (queries, lengths, methods) is told as our own errors are.
        .layer(axum::middleware::map_response(errors_as_json))
        .layer(axum::middleware::map_request(async |request| crate::body::read_to_the_end(request)))
        .with_state(daemon)
}

/// Upper bound of what is kept of a refusal's text, in bytes.
const MAX_REFUSAL: usize = 4096;

/// An error that is no [`ErrorBody`] yet becomes one, with the status that it has.
async fn errors_as_json(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !(status.is_client_error() || status.is_server_error()) || json {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_REFUSAL).await.unwrap_or_default();
    let kind = if status.is_client_error() { ErrorKind::InvalidArgument } else { ErrorKind::Internal };
    let message = match String::from_utf8_lossy(&text).trim() {
        "" => format!("the request can't be served: {status}"),
        text => format!("the request can't be served: {text}"),
    };
    (status, axum::Json(ErrorBody::new(kind, message))).into_response()
}

async fn version(State(daemon): State<Shared>) -> axum::Json<Version> {
    axum::Json(Version {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        data_dir: daemon.paths.data.display().to_string(),
        run_dir: daemon.paths.run.display().to_string(),
    })
}

async fn stop(State(daemon): State<Shared>) {
    daemon.stopping.send_replace(true);
}

/// Runs the daemon until it is asked to end. `ready` is called when the socket listens.
///
/// # Errors
/// When it can't start; nothing has changed then but folders that were made.
pub async fn run(
    paths: Paths,
    launcher: Launcher,
    wait_for_lock: bool,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), ApiError> {
    paths.make()?;
    let _lock = DaemonLock::take(&paths, wait_for_lock)?;
    // Before recovery: clients queue up meanwhile, and nobody starts a second daemon.
    let path = paths.socket();
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(named(error, "remove the old socket", &path).into());
    }
    let listener = UnixListener::bind(&path).map_err(|error| named(error, "listen on", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| named(error, "close to others", &path))?;

    let opening = paths.clone();
    let told = paths.clone();
    let way_out = |error: ApiError| reserve::with_way_out(&told, error);
    let (store, images, uppers, registry) = tokio::task::spawn_blocking(move || {
        Reserve::of(&opening).release_if_full();
        Ok::<_, ApiError>((
            Store::open(&opening.store())?.with_room(Reserve::of(&opening), opening.unnoted()),
            ImageStore::open(opening.images())?,
            Uppers::open(&opening.uppers())?,
            Registry::open(&opening.run)?,
        ))
    })
    .await?
    .map_err(way_out)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    ready()?;
    // Before recovery, which gives networks of ended pods back.
    let config = vial_network::Config::new(paths.run.clone(), std::env::var("VIAL_POOL").ok());
    let network = Network::open(config, network::running(&store, &registry)?).await;
    let daemon = Daemon::new(paths, store, images, uppers, launcher, registry, boot, network);
    recovery::recover(&daemon).await.map_err(way_out)?;
    Reserve::of(&daemon.paths).keep();
    // The last of all: who waits for a container does not wait for this.
    crate::kubernetes::open_again(&daemon);
    tracing::info!(pid = std::process::id(), run = %daemon.paths.run.display(), "the daemon is ready");

    let mut stopping = daemon.stopping.subscribe();
    let stop = async move {
        // The sender lives as long as the daemon.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let serving = axum::serve(listener, router(daemon.clone())).with_graceful_shutdown(stop);
    let serving = tokio::spawn(std::future::IntoFuture::into_future(serving));
    asked_to_end(&daemon).await?;
    // The socket first: from now on a command line starts a new daemon, which waits for the lock.
    let _ = std::fs::remove_file(&path);
    daemon.stopping.send_replace(true);
    // Pulls that nobody can wait for any more leave nothing behind.
    if tokio::time::timeout(LAST_ORDERS, daemon.transfers.end()).await.is_err() {
        tracing::warn!("a pull does not end; the next daemon cleans up after it");
    }
    finish_starts(&daemon).await;
    // Answers that are on their way get there; those that wait for a pod's end do not hold the daemon.
    if let Ok(served) = tokio::time::timeout(LAST_ANSWERS, serving).await {
        served??;
    }
    crate::kubernetes::settle(&daemon).await;
    let pods =
        daemon.all_live().iter().any(|live| !matches!(live.phase(), Phase::Failed(_) | Phase::Ended(_)));
    daemon.network.close(pods || !daemon.all_pods().is_empty()).await;
    tracing::info!("the daemon ends; pods go on");
    Ok(())
}

async fn asked_to_end(daemon: &Shared) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut stopping = daemon.stopping.subscribe();
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    Ok(())
}

/// Starts that nobody can wait for any more are given up and cleaned up; pods that run are left alone.
async fn finish_starts(daemon: &Arc<Daemon>) {
    let waits: Vec<_> = daemon
        .all_live()
        .into_iter()
        .filter(|live| matches!(live.phase(), Phase::Starting))
        .map(|live| {
            tokio::spawn(async move {
                live.cancel();
                live.started().await;
            })
        })
        .chain(daemon.all_pods().into_iter().filter(|pod| matches!(pod.phase(), PodPhase::Starting)).map(
            |pod| {
                tokio::spawn(async move {
                    pod.cancel();
                    pod.started().await;
                })
            },
        ))
        .collect();
    for wait in waits {
        if tokio::time::timeout(LAST_ORDERS, wait).await.is_err() {
            tracing::warn!("a start does not end; the next daemon cleans up after it");
        }
    }
}
