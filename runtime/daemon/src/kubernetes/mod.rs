//! Declared objects (`vial-orchestrator`), served over TLS and brought about by what this daemon has.
//!
//! Nothing of it is there before somebody asks for a kubeconfig: no port, no certificates, no store. From then on each daemon opens it by
//! itself once it is ready, and whatever goes wrong with it is told and keeps no pod from running.

mod ask;
mod control;
mod facts;
mod grpc;
mod health;
mod image;
mod metrics;
mod mirror;
mod observe;
mod place;
mod pods;
mod room;
mod serve;
mod steps;
mod streams;
mod web;

pub use observe::refuse_marks;

use crate::error::{ApiError, Result};
use crate::paths::Paths;
use crate::reserve::Reserve;
use crate::state::Shared;
use axum::Json;
use axum::extract::State;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::OnceCell;
use vial_api::{ErrorKind, Kubeconfig};
use vial_orchestrator::engine::{Engine, RealWorld};
use vial_orchestrator::store::{SealKey, Store};
use vial_orchestrator::tls::{Authority, Credential, USER};

/// The API server of a daemon, once it is opened.
#[derive(Default)]
pub struct Kubernetes(OnceCell<Opened>);

/// What is there then.
pub struct Opened {
    engine: Engine,
    address: SocketAddr,
    /// One for all who ask: it opens everything in any case.
    credential: Credential,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kubernetes").field(&self.0.get().map(|opened| opened.address)).finish()
    }
}

/// Opens it if somebody has asked for it before, under this daemon or another.
pub fn open_again(daemon: &Shared) {
    if !place::objects(&daemon.paths).exists() {
        return;
    }
    let daemon = daemon.clone();
    tokio::spawn(async move {
        if let Err(error) = opened(&daemon).await {
            tracing::error!(%error, "declared objects are not served; pods go on");
        }
    });
}

/// What is there, opened if it is not yet.
///
/// # Errors
/// The store, the certificates or the port can't be had; the next who asks tries again.
pub async fn opened(daemon: &Shared) -> Result<&Opened> {
    daemon.kubernetes.0.get_or_try_init(|| open(daemon)).await
}

/// The daemon ends: brings what was written into the store's file itself.
pub async fn settle(daemon: &Shared) {
    let Some(opened) = daemon.kubernetes.0.get() else { return };
    let engine = opened.engine.clone();
    let settled = tokio::task::spawn_blocking(move || engine.store().settle()).await;
    if let Ok(Err(error)) = settled {
        tracing::warn!(%error, "the store of declared objects keeps its log");
    }
}

async fn open(daemon: &Shared) -> Result<Opened> {
    let paths = daemon.paths.clone();
    let Prepared { engine, listening, credential, node } =
        tokio::task::spawn_blocking(move || prepare(&paths)).await??;
    let address = listening.address;
    let connector = Arc::new(streams::Connector::new(daemon));
    serve::start(listening, engine.clone(), connector, Arc::new(metrics::Measures::of(daemon)))?;
    control::start(daemon, &engine, &node);
    tracing::info!(%address, "declared objects are served");
    Ok(Opened { engine, address, credential })
}

struct Prepared {
    engine: Engine,
    listening: serve::Listening,
    credential: Credential,
    /// The Node's name.
    node: String,
}

fn prepare(paths: &Paths) -> Result<Prepared> {
    let failed = |error: &dyn std::fmt::Display| ApiError::new(ErrorKind::Internal, error.to_string());
    place::make(paths)?;
    let node = facts::name(paths)?;
    let key = SealKey::at(&place::seal_key(paths)).map_err(|error| failed(&error))?;
    let store = Store::open(&place::objects(paths), key).map_err(|error| failed(&error))?;
    let reserve = Reserve::of(paths);
    store.set_way_out(move || reserve.release());
    let engine = Engine::new(store, Arc::new(RealWorld::default()));
    engine.bootstrap().map_err(|error| failed(&error))?;
    // Last: a store that was filled on a larger machine opens too, or nobody could delete anything.
    engine.store().set_room(facts::room_for_objects());
    let authority = Authority::at(&place::folder(paths)).map_err(|error| failed(&error))?;
    let listening = serve::listen(paths, &authority)?;
    let credential = authority.client(USER).map_err(|error| failed(&error))?;
    Ok(Prepared { engine, listening, credential, node })
}

/// `POST /v1/kubernetes`: opens it, and answers with what a client needs.
pub async fn kubeconfig(State(daemon): State<Shared>) -> Result<Json<Kubeconfig>> {
    // A task of its own: this handler is dropped when the client goes, and half an opening would hold the port.
    tokio::spawn(async move {
        let opened = opened(&daemon).await?;
        let address = opened.address.to_string();
        Ok(Json(Kubeconfig { kubeconfig: opened.credential.kubeconfig(&address), address }))
    })
    .await?
}
