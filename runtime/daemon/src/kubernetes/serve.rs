//! The API server's port and its threads.

use super::place;
use crate::error::{ApiError, Result};
use crate::paths::{Paths, named};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
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

/// How long a port that was a daemon's before this one is waited for. One that was killed holds it until the kernel comes to that descriptor, which
/// may be after its interfaces were taken down one by one; and a port that is not the same any more makes every kubeconfig untrue.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A port that is taken, with TLS.
pub struct Listening {
    listener: TcpListener,
    tls: TlsAcceptor,
    pub address: SocketAddr,
}

/// Takes the port that the environment names, else the one of last time, else Kubernetes' usual one; if one of these two is somebody else's, any.
/// The choice is noted, so that kubeconfigs stay true as long as the port can be had.
///
/// # Errors
/// There is no port on the loopback, or no certificate for it.
pub fn listen(paths: &Paths, authority: &Authority) -> Result<Listening> {
    let file = place::port(paths);
    let last: Option<u16> = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let named_port = std::env::var(PORT).ok().filter(|text| !text.is_empty());
    let wanted = match &named_port {
        Some(text) => {
            let bad = |_| {
                let message = format!("{PORT}={text} is no port: give a number up to 65535");
                ApiError::new(ErrorKind::InvalidArgument, message)
            };
            text.parse().map_err(bad)?
        }
        None => last.unwrap_or(http::default_address().port()),
    };
    let begin = Instant::now();
    let wait = || {
        let is_worth_it = last == Some(wanted) && begin.elapsed() < PATIENCE;
        if is_worth_it {
            std::thread::sleep(PAUSE);
        }
        is_worth_it
    };
    let listener = bind_after(wanted, wait).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse if named_port.is_none() => {
            tracing::warn!(port = wanted, "the API server's port is in use: it takes another; kubeconfigs that name this one lead elsewhere");
            bind(0)
        }
        _ => Err(error),
    });
    let hint = named_port.map_or(String::new(), |_| {
        format!("; {PORT} names it: end who has it (ss -ltnp), or start the daemon with another")
    });
    let failed =
        |error| io::Error::other(format!("cannot listen on port {wanted} of the loopback: {error}{hint}"));
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

/// Takes a port; as long as it is in use and `wait` says so, it is tried again.
fn bind_after(port: u16, mut wait: impl FnMut() -> bool) -> io::Result<TcpListener> {
    loop {
        match bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wait() => {}
            taken => return taken,
        }
    }
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
    let connections = http::connections(crate::limits::descriptors());
    let serve = move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => http::serve(listener, tls, engine, streams, metrics, connections).await,
                Err(error) => tracing::error!(%error, "declared objects can't be served"),
            }
        });
    };
    std::thread::Builder::new().name("kubernetes".into()).spawn(serve).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_its_last_owner_has_not_let_go_of_yet_is_waited_for() {
        let mut before = Some(bind(0).unwrap());
        let port = before.as_ref().unwrap().local_addr().unwrap().port();
        assert_eq!(bind_after(port, || false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let mine = bind_after(port, || before.take().is_some()).unwrap();
        assert_eq!(mine.local_addr().unwrap().port(), port);
    }
}
