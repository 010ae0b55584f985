//! The API server's port and its threads.

use super::place;
use crate::error::{ApiError, Result};
use crate::paths::{Paths, named};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use vial_api::ErrorKind;
use vial_orchestrator::engine::Engine;
use vial_orchestrator::http::metrics::Metrics;
use vial_orchestrator::http::{self, streams::Streams};
use vial_orchestrator::tls::Authority;

/// Names the port; 0 lets the kernel choose.
const PORT: &str = "VIAL_KUBERNETES_PORT";
/// Threads of the API server. They are its own, because its writes wait for the disk, and streams of containers must not.
const THREADS: usize = 2;

/// A port that is taken, with TLS.
pub struct Listening {
    listener: TcpListener,
    tls: TlsAcceptor,
    pub address: SocketAddr,
}

/// Takes the port that the environment names, else the one of last time, else Kubernetes' usual one; if that is somebody else's, any. The
/// choice is noted, so that kubeconfigs stay true as long as the port can be had.
///
/// # Errors
/// There is no port on the loopback, or no certificate for it.
pub fn listen(paths: &Paths, authority: &Authority) -> Result<Listening> {
    let file = place::port(paths);
    let wanted = match std::env::var(PORT) {
        Ok(text) if !text.is_empty() => {
            let bad = |_| {
                let message = format!("{PORT}={text} is no port: give a number up to 65535");
                ApiError::new(ErrorKind::InvalidArgument, message)
            };
            text.parse().map_err(bad)?
        }
        _ => std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(http::default_address().port()),
    };
    let listener = bind(wanted).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            tracing::warn!(port = wanted, "the API server's port is in use: it takes another; kubeconfigs that name this one lead elsewhere");
            bind(0)
        }
        _ => Err(error),
    });
    let failed = |error| io::Error::other(format!("cannot listen on port {wanted} of the loopback: {error}"));
    let listener = listener.map_err(failed)?;
    let address = listener.local_addr()?;
    std::fs::write(&file, address.port().to_string()).map_err(|error| named(error, "write", &file))?;
    let tls = authority.server(&[address.ip()]);
    let tls = tls.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    Ok(Listening { listener, tls, address })
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves for as long as the process lives.
///
/// # Errors
/// No thread can be had.
pub fn start(
    listening: Listening,
    engine: Engine,
    streams: Arc<dyn Streams>,
    metrics: Arc<dyn Metrics>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("kubernetes")
        .enable_all()
        .build()?;
    let Listening { listener, tls, .. } = listening;
    let serve = move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => http::serve(listener, tls, engine, streams, metrics).await,
                Err(error) => tracing::error!(%error, "declared objects can't be served"),
            }
        });
    };
    std::thread::Builder::new().name("kubernetes".into()).spawn(serve).map(drop)
}
