//! The API server: Kubernetes' REST API over TLS, for clients that have a certificate.

mod absent;
mod accept;
mod discovery;
pub mod metrics;
mod openapi;
mod openapi_v2;
mod reply;
mod request;
mod resources;
mod reviews;
pub mod streams;
mod watch;

use crate::decode::MAX_BODY;
use crate::engine::Engine;
use crate::schema::schema;
use crate::status::{ApiError, Reason};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, USER_AGENT};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::Metrics;
use reply::Reply;
use request::{Query, Route};
use resources::Call;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use streams::Streams;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

/// Connections at a time that show a certificate, at most. A watch over HTTP/1.1 is one.
const MAX_CONNECTIONS: usize = 4096;
/// Descriptors that are left to the rest of the process, where there are twice as many.
const RESERVE: usize = 1024;
/// Connections at a time that have not shown a certificate, or have none: the oldest goes for a new one. Whoever has a certificate shows it within
/// milliseconds.
const MAX_STRANGERS: usize = 64;
/// A client that says nothing during the handshake, or between a request's first and last header, goes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// What is read of a body beyond what it may have, bytes.
const MAX_THROWN: usize = 64 << 20;

/// Connections for a process that may have so many descriptors (none: any number).
pub fn connections(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.and_then(|many| usize::try_from(many).ok()).unwrap_or(usize::MAX);
    descriptors.saturating_sub(RESERVE).max(descriptors / 2).min(MAX_CONNECTIONS)
}

/// Serves for ever, so many connections at a time (see [`connections`]). Dropping it ends the listener; connections end with their runtime.
pub async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    engine: Engine,
    streams: Arc<dyn Streams>,
    metrics: Arc<dyn Metrics>,
    connections: usize,
) {
    let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let room = Arc::new(Semaphore::new(connections));
    let server = Arc::new(Server { engine, streams: streams::Desk::new(streams), metrics, address, room });
    let mut strangers = Strangers::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // No descriptors, or the client has gone: others may do better in a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, server, sent_away) = (tls.clone(), Arc::clone(&server), strangers.admit());
        tokio::spawn(server.connection(tls, stream, sent_away));
    }
}

/// Connections that have not shown a certificate, the oldest first: who is dropped from here is sent away.
#[derive(Default)]
struct Strangers(VecDeque<oneshot::Sender<Infallible>>);

impl Strangers {
    fn admit(&mut self) -> oneshot::Receiver<Infallible> {
        self.0.retain(|stranger| !stranger.is_closed());
        if self.0.len() >= MAX_STRANGERS {
            self.0.pop_front();
        }
        let (sender, sent_away) = oneshot::channel();
        self.0.push_back(sender);
        sent_away
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Has a certificate, and a place.
    Known,
    /// Has a certificate, and there is no place.
    Late,
    /// Has none.
    Stranger,
}

/// Waits until a connection is sent away; one that is not among the strangers never is.
async fn told(sent_away: &mut Option<oneshot::Receiver<Infallible>>) {
    match sent_away {
        Some(sent_away) => drop(sent_away.await),
        None => std::future::pending().await,
    }
}

/// A request's body to its end. Half of one is none: what it would have said, such as not to delete, is not known.
async fn whole(body: Incoming) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_PATIENCE, gathered(body)).await {
        Ok(Ok(body)) if body.len() <= MAX_BODY => Ok(body),
        Ok(Ok(_)) => {
            let message = format!("the body has more than {MAX_BODY} bytes");
            Err(ApiError::new(Reason::RequestEntityTooLarge, message))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(format!("the body can't be read to its end: {error}"))),
        Err(_) => {
            let seconds = BODY_PATIENCE.as_secs();
            Err(ApiError::bad_request(format!("the body was not there within {seconds} s")))
        }
    }
}

/// A body, or a little more than may be. What comes after that is read and thrown away for a while: a client that is cut off while it sends sees
/// a broken connection, and not the answer.
async fn gathered(mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let (mut kept, mut seen) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        seen += bytes.len();
        if seen > MAX_BODY + MAX_THROWN {
            break;
        }
        let room = (MAX_BODY + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    Ok(kept.into())
}

struct Server {
    engine: Engine,
    streams: streams::Desk,
    metrics: Arc<dyn Metrics>,
    address: String,
    room: Arc<Semaphore>,
}

impl Server {
    async fn connection(
        self: Arc<Self>,
        tls: TlsAcceptor,
        stream: TcpStream,
        sent_away: oneshot::Receiver<Infallible>,
    ) {
        // Small answers must not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        let mut sent_away = Some(sent_away);
        let stream = tokio::select! {
            stream = tokio::time::timeout(PATIENCE, tls.accept(stream)) => stream,
            () = told(&mut sent_away) => return,
        };
        let Ok(Ok(stream)) = stream else { return };
        let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
        let place = has_certificate.then(|| Arc::clone(&self.room).try_acquire_owned().ok()).flatten();
        let caller = match (has_certificate, &place) {
            (true, Some(_)) => Caller::Known,
            (true, None) => Caller::Late,
            (false, _) => Caller::Stranger,
        };
        if caller == Caller::Known {
            // Nobody's turn comes before its own end.
            sent_away = None;
        }
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request, caller).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_headers(100);
        // Others are told once why, and go.
        http.keep_alive(caller == Caller::Known);
        tokio::select! {
            // A broken connection is the client's affair.
            _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades() => {}
            () = told(&mut sent_away) => {}
        }
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>, caller: Caller) -> Reply {
        if caller == Caller::Late {
            let message = "as many connections are open as there may be: each watch and each stream is one";
            return reply::error(&ApiError::new(Reason::TooManyRequests, message));
        }
        if caller == Caller::Stranger {
            let hint = if request.headers().contains_key(AUTHORIZATION) {
                "tokens are not known here; "
            } else {
                ""
            };
            let message =
                format!("Unauthorized: {hint}use the client certificate that `vial kubeconfig` writes");
            return reply::error(&ApiError::new(Reason::Unauthorized, message));
        }
        // There is one user: whoever asks to be another would be told of rights that are not that one's.
        if request.headers().keys().any(|name| name.as_str().starts_with("impersonate-")) {
            let message = "impersonation is not supported: there is one user, who may do everything";
            return reply::error(&ApiError::new(Reason::Forbidden, message));
        }
        let route = match Route::parse(request.uri().path()) {
            Ok(Route::Objects(objects)) if objects.is_stream() => {
                return self.streams.answer(&self.engine, &objects, request).await;
            }
            Ok(Route::Metrics(path)) => {
                return self.measured(&path, &request).await.unwrap_or_else(|error| reply::error(&error));
            }
            route => route,
        };
        let (head, body) = request.into_parts();
        let body = match whole(body).await {
            Ok(body) => body,
            Err(error) => return reply::error(&error),
        };
        if matches!(head.method, Method::GET | Method::HEAD) {
            return self.reply(route, &head, &body);
        }
        // What writes waits for the disk, thousands of times for a collection: whoever only asks must not wait behind it.
        let server = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || server.reply(route, &head, &body)).await;
        written.unwrap_or_else(|error| {
            reply::error(&ApiError::new(
                Reason::InternalError,
                format!("the request was not finished: {error}"),
            ))
        })
    }

    fn reply(&self, route: Result<Route, ApiError>, head: &Parts, body: &[u8]) -> Reply {
        let header = |name: HeaderName| {
            head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let outcome = Query::parse(head.uri.query().unwrap_or_default()).and_then(|query| {
            let call = Call {
                method: &head.method,
                query,
                accept: header(ACCEPT),
                agent: header(USER_AGENT),
                content_type: header(CONTENT_TYPE),
                body,
            };
            self.route(&route?, &call)
        });
        outcome.unwrap_or_else(|error| reply::error(&error))
    }

    /// Takes a while: what is used is asked for now.
    async fn measured(&self, path: &metrics::Path, request: &Request<Incoming>) -> Result<Reply, ApiError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(ApiError::new(Reason::MethodNotAllowed, "this can only be read"));
        }
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        metrics::answer(&*self.metrics, &self.engine, path, &query).await
    }

    fn route(&self, route: &Route, call: &Call<'_>) -> Result<Reply, ApiError> {
        let none = || ApiError::new(Reason::NotFound, "the server could not find the requested resource");
        let aggregated = |core: bool| {
            accept::aggregated(call.accept).map(|form| {
                let kind = match form {
                    "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                    _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                };
                reply::bytes(200, kind, discovery::aggregated(core, form).to_string())
            })
        };
        if !matches!(route, Route::Objects(_) | Route::Review(_) | Route::Absent(..))
            && !matches!(*call.method, Method::GET | Method::HEAD)
        {
            return Err(ApiError::new(Reason::MethodNotAllowed, "this can only be read"));
        }
        Ok(match route {
            Route::Version => reply::json(200, &version()),
            Route::Health => reply::bytes(200, "text/plain; charset=utf-8", "ok"),
            Route::Paths => reply::json(
                200,
                &json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            ),
            Route::CoreVersions => match aggregated(true) {
                Some(reply) => reply,
                None => reply::json(200, &discovery::core_versions(&self.address)),
            },
            Route::Groups => match aggregated(false) {
                Some(reply) => reply,
                None => reply::json(200, &discovery::group_list()),
            },
            Route::Group(group) => reply::json(200, &discovery::group(group).ok_or_else(none)?),
            Route::Resources(group, version) => {
                reply::json(200, &discovery::resources(group, version).ok_or_else(none)?)
            }
            Route::OpenApiV2
                if call.accept.contains("application/json") && !call.accept.contains("proto") =>
            {
                reply::json(
                    200,
                    &json!({"swagger": "2.0", "info": {"title": "Vial", "version": "v1"}, "paths": {}, "definitions": {}}),
                )
            }
            Route::OpenApiV2 => reply::bytes(200, openapi_v2::TYPE, openapi_v2::document()),
            Route::OpenApiIndex => reply::json(200, &openapi::index()),
            Route::OpenApi(group, version) => {
                reply::json(200, &openapi::document(group, version).ok_or_else(none)?)
            }
            Route::Review(review) => reviews::answer(review, call)?,
            Route::Absent(absent, name) => {
                absent.answer(name, call.method, call.query.flag("watch"), call.accept)?
            }
            // Answered before.
            Route::Metrics(_) => return Err(none()),
            Route::Objects(objects) => resources::serve(&self.engine, objects, call)?,
        })
    }
}

/// `v1.33.0+vial.0.1.0`: Kubernetes' version and ours.
pub fn git_version() -> String {
    let (major, minor) = schema().release();
    format!("v{major}.{minor}.0+vial.{}", env!("CARGO_PKG_VERSION"))
}

/// What clients decide by what they may ask for: Kubernetes' version is that of the schema.
fn version() -> Value {
    let (major, minor) = schema().release();
    json!({
        "major": major, "minor": minor, "gitVersion": git_version(),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// Where a server listens when nobody says otherwise: loopback only.
pub fn default_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 6443))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_process_keeps_descriptors() {
        assert_eq!(connections(None), MAX_CONNECTIONS);
        assert_eq!(connections(Some(1 << 20)), MAX_CONNECTIONS);
        assert_eq!(connections(Some(4096)), 4096 - RESERVE);
        assert_eq!(connections(Some(1024)), 512);
    }

    #[tokio::test]
    async fn of_too_many_strangers_the_oldest_go() {
        let mut strangers = Strangers::default();
        let known = strangers.admit();
        let mut first = strangers.admit();
        drop(known);
        let rest: Vec<_> = (1..MAX_STRANGERS).map(|_| strangers.admit()).collect();
        assert!(matches!(first.try_recv(), Err(oneshot::error::TryRecvError::Empty)), "one had gone");
        let _newest = strangers.admit();
        assert!(matches!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert_eq!((strangers.0.len(), rest.len()), (MAX_STRANGERS, MAX_STRANGERS - 1));
    }
}
