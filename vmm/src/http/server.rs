//! Connections, and a loop that polls each when its stream changes. hyper does HTTP/1.1.

use super::action::{Answer, Fault, Outcome};
use super::events::Content;
use super::io::{RequestLine, Stream};
use super::{Deprecated, Desk, Served};
use crate::door::Spare;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde_json::Value;
use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Connections at a time, Firecracker's number; one more is told so and closed.
pub const MAX_CONNECTIONS: usize = 10;
/// Bytes that a connection keeps of what came in: a request's head fits, or is refused.
const BUFFER: usize = 16 << 10;

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const NEWS: u64 = 2;
const FIRST: u64 = 3;

// The body is Firecracker's.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nserver: Firecracker API\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }";

const DROPPED: &str = "All previous unanswered requests will be dropped.";

/// Remembers that a connection wants to be polled again.
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Serving = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

struct Connection {
    serving: Serving,
    again: Arc<Again>,
}

impl Connection {
    /// Does what can be done now; `false` when the connection is over.
    fn poll(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.again));
        loop {
            self.again.0.store(false, Ordering::Relaxed);
            match self.serving.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(_) => return false,
                Poll::Pending if self.again.0.load(Ordering::Relaxed) => {}
                Poll::Pending => return true,
            }
        }
    }
}

/// A server that does not run yet.
pub struct Server {
    listener: UnixListener,
    spare: Spare,
    news: Arc<EventFd>,
    epoll: Epoll,
    limit: usize,
}

impl Server {
    /// For a listener that does not block. Ends soon after `stop` is written to; polls all connections when `news` is.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new(listener: UnixListener, stop: &EventFd, news: Arc<EventFd>, limit: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let watch = |fd, token| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token));
        watch(listener.as_raw_fd(), LISTENER)?;
        watch(stop.as_raw_fd(), STOP)?;
        watch(news.as_raw_fd(), NEWS)?;
        Ok(Self { listener, spare: Spare::default(), news, epoll, limit })
    }

    /// Serves until it is stopped.
    pub fn run(mut self, desk: Desk) {
        let mut connections: HashMap<u64, Connection> = HashMap::new();
        let ending = Rc::new(Cell::new(false));
        let mut next = FIRST;
        loop {
            let mut events = [EpollEvent::default(); MAX_CONNECTIONS + 3];
            let Ok(count) = self.epoll.wait(-1, &mut events) else { continue };
            for event in &events[..count] {
                match event.data() {
                    STOP => {
                        // A last time, for answers and events that have not gone out.
                        ending.set(true);
                        connections.values_mut().for_each(|connection| {
                            connection.poll();
                        });
                        return;
                    }
                    LISTENER => {
                        if let Some(connection) = self.accept(&desk, &ending, connections.len(), next) {
                            connections.insert(next, connection);
                            next += 1;
                        }
                    }
                    NEWS => {
                        let _ = self.news.read();
                        // The streams of those that are over close, and with that they leave the epoll set.
                        connections.retain(|_, connection| connection.poll());
                    }
                    token => {
                        // One whose client is gone for good may wait for something that never comes.
                        let gone = event.event_set().contains(EventSet::HANG_UP);
                        if connections.get_mut(&token).is_some_and(|connection| !connection.poll() || gone) {
                            connections.remove(&token);
                        }
                    }
                }
            }
        }
    }

    fn accept(
        &mut self,
        desk: &Desk,
        ending: &Rc<Cell<bool>>,
        open: usize,
        token: u64,
    ) -> Option<Connection> {
        let mut stream = self.spare.accept(&self.listener)?;
        stream.set_nonblocking(true).ok()?;
        if open >= MAX_CONNECTIONS {
            // Fits into the socket's buffer; a client that is gone misses nothing.
            let _ = stream.write_all(FULL);
            return None;
        }
        // Edges are enough, since hyper reads and writes until it would block. The first comes at once.
        let edges = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.epoll.ctl(ControlOperation::Add, stream.as_raw_fd(), EpollEvent::new(edges, token)).ok()?;
        Some(serve(stream, desk.clone(), Rc::clone(ending), self.limit))
    }
}

fn serve(socket: UnixStream, desk: Desk, ending: Rc<Cell<bool>>, limit: usize) -> Connection {
    let line = Rc::new(RequestLine::default());
    let stream = Stream { socket, line: Rc::clone(&line), ending, refusal: &[] };
    let service = service_fn(move |request| {
        let (desk, line) = (desk.clone(), Rc::clone(&line));
        async move { Ok::<_, Infallible>(handle(request, &line, &desk, limit).await) }
    });
    let serving =
        http1::Builder::new().max_buf_size(BUFFER).half_close(true).serve_connection(stream, service);
    Connection { serving: Box::pin(serving), again: Arc::new(Again(AtomicBool::new(false))) }
}

async fn handle(
    request: Request<Incoming>,
    line: &RequestLine,
    desk: &Desk,
    limit: usize,
) -> Response<Content> {
    let (head, body) = request.into_parts();
    // What is announced is refused before it comes, what is not when it does.
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > limit as u64) {
        return closing(&too_long(announced, limit));
    }
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return closing(&too_long(None, limit)),
        Err(error) => return closing(&format!("the body did not come whole: {error}")),
    };
    line.next();
    // With what stands behind a question mark, as Firecracker has it: no path that is known has such a thing.
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    match desk.serve(head.method.as_str(), target, &body).await {
        Served::Answer(outcome, Deprecated(deprecated)) => {
            let mut response = respond(outcome);
            if deprecated {
                response.headers_mut().insert("deprecation", HeaderValue::from_static("true"));
            }
            response
        }
        Served::Events(reader) => {
            let kind = HeaderValue::from_static("application/x-ndjson");
            answer(StatusCode::OK, kind, Content::Events(reader))
        }
    }
}

fn too_long(length: Option<u64>, limit: usize) -> String {
    let size = length.map(|length| format!(" with size {length}")).unwrap_or_default();
    format!("Request payload{size} is larger than the limit of {limit} allowed by server.")
}

/// The rest of the request is not read, so nothing can follow it. In Firecracker's words and shape; but the end of a line in them, which
/// JSON has no room for in a string, is escaped.
fn closing(why: &str) -> Response<Content> {
    let why = Value::from(format!("{why}\n{DROPPED}"));
    let body = Content::Whole(Full::new(format!("{{ \"error\": {why} }}").into()));
    let mut response = answer(StatusCode::BAD_REQUEST, HeaderValue::from_static("application/json"), body);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn respond(outcome: Outcome) -> Response<Content> {
    let json = HeaderValue::from_static("application/json");
    let (status, kind, body) = match outcome {
        Ok(Answer::Empty) => (StatusCode::NO_CONTENT, json, Bytes::new()),
        Ok(Answer::Json(value)) => (StatusCode::OK, json, value.to_string().into()),
        Ok(Answer::Text(text)) => {
            (StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4"), text.into())
        }
        Err(Fault { status, message }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, json, serde_json::json!({ "fault_message": message }).to_string().into())
        }
    };
    answer(status, kind, Content::Whole(Full::new(body)))
}

fn answer(status: StatusCode, kind: HeaderValue, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, HeaderValue::from_static("Firecracker API"));
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
