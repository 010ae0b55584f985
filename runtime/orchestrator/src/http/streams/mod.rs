//! Streams of pods: logs, exec, attach, port-forward. What is asked is checked here, what does it is a [`Streams`].

mod backend;
mod log;
mod options;
mod outlet;
mod place;
mod port_forward;
mod remote_command;
pub mod spdy;
mod upgrade;
mod web;

pub use backend::{Duplex, LogOptions, NoStreams, PIECES, Place, Process, Size, Stdio, Streams};

use super::reply::{self, Reply};
use super::request::{Objects, Query};
use crate::engine::{Engine, Target};
use crate::status::{ApiError, Reason};
use crate::store::Stored;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::sync::Semaphore;
use upgrade::{Agreement, Transport, agree};

/// Connections with streams at a time.
const MAX_STREAMS: usize = 512;

/// Serves streams.
pub(super) struct Desk {
    streams: Arc<dyn Streams>,
    room: Arc<Semaphore>,
}

/// What an upgraded connection is served with.
type Work = Box<dyn FnOnce(Box<dyn web::Io>) -> BoxFuture<'static, ()> + Send>;

impl Desk {
    pub(super) fn new(streams: Arc<dyn Streams>) -> Self {
        Self { streams, room: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// Answers a request for a stream of a pod.
    pub(super) async fn answer(&self, engine: &Engine, pod: &Objects, request: Request<Incoming>) -> Reply {
        self.try_answer(engine, pod, request).await.unwrap_or_else(|error| reply::error(&error))
    }

    async fn try_answer(
        &self,
        engine: &Engine,
        objects: &Objects,
        request: Request<Incoming>,
    ) -> Result<Reply, ApiError> {
        let is_log = objects.subresource == "log";
        if *request.method() != Method::GET && (is_log || *request.method() != Method::POST) {
            return Err(ApiError::new(
                Reason::MethodNotAllowed,
                "a stream is asked for by GET, or by POST with an upgrade",
            ));
        }
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let Objects { kind, namespace, name, .. } = objects;
        let pod = engine.get(Target { kind, namespace, name, subresource: "" })?;
        if is_log {
            return self.log(engine, &pod, &query).await;
        }
        let (agreement, work) = match &objects.subresource[..] {
            "portforward" => self.port_forward(pod, &query, &request)?,
            part => self.remote_command(pod, part == "exec", &query, &request)?,
        };
        self.upgrade(request, &agreement, work)
    }

    async fn log(&self, engine: &Engine, pod: &Arc<Stored>, query: &Query) -> Result<Reply, ApiError> {
        let container = place::container(&pod.object, query.text("container"))?;
        let wanted = options::log(query, crate::object::name(&pod.object), engine.time())?;
        let id = place::logged(&pod.object, &container, wanted.previous)?;
        let place = Place { pod: Arc::clone(pod), container, id };
        Ok(log::reply(self.streams.log(place, wanted.options).await?, wanted.limit))
    }

    fn remote_command(
        &self,
        pod: Arc<Stored>,
        is_exec: bool,
        query: &Query,
        request: &Request<Incoming>,
    ) -> Result<(Agreement, Work), ApiError> {
        let stdio = options::stdio(query)?;
        let command = if is_exec { options::command(query)? } else { Vec::new() };
        let container = place::container(&pod.object, query.text("container"))?;
        let id = place::running(&pod.object, &container)?;
        let agreement = agree(request.headers(), remote_command::ON_WEBSOCKET, remote_command::ON_SPDY)?;
        let (transport, protocol, streams) =
            (agreement.transport, agreement.protocol, Arc::clone(&self.streams));
        let work = move |io: Box<dyn web::Io>| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                let place = Place { pod, container, id };
                let start = async {
                    match is_exec {
                        true => streams.exec(place, command, stdio).await,
                        false => streams.attach(place, stdio).await,
                    }
                };
                match transport {
                    Transport::WebSocket => remote_command::over_websocket(io, protocol, stdio, start).await,
                    Transport::Spdy => remote_command::over_spdy(io, stdio, start).await,
                }
            })
        };
        Ok((agreement, Box::new(work)))
    }

    fn port_forward(
        &self,
        pod: Arc<Stored>,
        query: &Query,
        request: &Request<Incoming>,
    ) -> Result<(Agreement, Work), ApiError> {
        let phase = crate::object::text(&pod.object, &["status", "phase"]);
        if phase != "Running" {
            let message =
                format!("unable to forward port because pod is not running. Current status={phase}");
            return Err(ApiError::bad_request(message));
        }
        let agreement = agree(request.headers(), port_forward::ON_WEBSOCKET, port_forward::ON_SPDY)?;
        let (transport, protocol) = (agreement.transport, agreement.protocol);
        let is_tunnel = protocol == port_forward::TUNNEL;
        let ports = match transport {
            Transport::WebSocket if !is_tunnel => options::ports(query)?,
            _ => Vec::new(),
        };
        let target = port_forward::Target { streams: Arc::clone(&self.streams), pod };
        let work = move |io: Box<dyn web::Io>| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                match transport {
                    Transport::Spdy => port_forward::over_spdy(io, target).await,
                    Transport::WebSocket if is_tunnel => port_forward::over_tunnel(io, target).await,
                    Transport::WebSocket => port_forward::over_channels(io, protocol, &ports, target).await,
                }
            })
        };
        Ok((agreement, Box::new(work)))
    }

    /// Answers 101 and serves what becomes of the connection.
    fn upgrade(
        &self,
        request: Request<Incoming>,
        agreement: &Agreement,
        work: Work,
    ) -> Result<Reply, ApiError> {
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            let message = format!("{MAX_STREAMS} streams are open already; close some of them");
            return Err(ApiError::new(Reason::TooManyRequests, message));
        };
        let upgrading = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let _place = place;
            // A client that went in between needs nothing.
            if let Ok(connection) = upgrading.await {
                work(Box::new(TokioIo::new(connection))).await;
            }
        });
        let mut reply = Response::new(Empty::new().boxed_unsync());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        agreement.headers(reply.headers_mut());
        Ok(reply)
    }
}
