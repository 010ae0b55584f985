//! Firecracker's HTTP API over a Unix socket, in a thread that exists only if it is asked for.
//!
//! The HTTP thread reads and understands requests ([`route`]), one after the other; it owns nothing but its connections. Each request
//! goes as a typed [`Action`] to the VMM thread, which owns everything: before the start a [`Draft`] ([`before`]), afterwards the
//! machine ([`after`]). The HTTP thread waits for the answer, so an answer tells that the thing is done.

pub mod action;
pub mod after;
pub mod before;
mod deprecated;
pub mod draft;
mod events;
mod io;
pub mod route;
mod server;
mod shown;
mod trial;
pub mod waiting;

pub use action::{Action, Answer, Call, Fault, Outcome};
pub use draft::Draft;
pub use server::{MAX_CONNECTIONS, Server};

use action::{Asker, VmState};

use crate::feed::{Feed, MAX_READERS, Reader};
use crate::metrics::Requests;
use crate::seccomp::{Filter, SeccompError};
use crate::sys;
use std::io as std_io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of a body at most, unless told otherwise; Firecracker's default.
pub const MAX_BODY: usize = 51200;

/// Version of Firecracker's API that this one follows.
pub const API_VERSION: &str = "1.17.0";

/// Why there is no HTTP thread.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A descriptor or a thread.
    #[error("could not serve the API")]
    Io(#[from] std_io::Error),
    /// Its filter.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// The VMM thread's end of the API.
pub struct Front {
    calls: Receiver<Call>,
    bell: Arc<EventFd>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Starts the HTTP thread under `filter`, with bodies of `limit` bytes at most.
    ///
    /// # Errors
    /// No thread, no descriptors, no filter.
    pub fn serve(
        listener: UnixListener,
        limit: usize,
        filter: Filter,
        requests: Arc<Requests>,
        feed: Feed,
    ) -> Result<Self, ServeError> {
        let (sender, calls) = channel();
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let news = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        feed.ring_at(Arc::clone(&news));
        let server = Server::new(listener, &stop, Arc::clone(&news), limit)?;
        let desk = Desk { calls: sender, bell: Arc::clone(&bell), requests, feed, news };
        let (report, reports) = channel();
        let serve = move || {
            let result = filter.apply();
            let confined = result.is_ok();
            // Nobody listens any more only if the VMM thread has given up.
            let _ = report.send(result);
            if confined {
                server.run(desk);
            }
        };
        let thread = std::thread::Builder::new().name("api".into()).spawn(serve)?;
        // Not one byte of a client's is read before it is confined.
        reports.recv().map_err(|_| std_io::Error::other("the API's thread died"))??;
        Ok(Self { calls, bell, stop, thread: Some(thread) })
    }

    /// Becomes readable when there may be a call.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// The next call, if there is one.
    pub fn next(&self) -> Option<Call> {
        self.calls.try_recv().ok()
    }
}

impl Drop for Front {
    /// Answers whoever still waits that the VM has ended, lets answers out and ends the thread.
    fn drop(&mut self) {
        // With the receiver every call that was not looked at goes, and with it the sender that its asker waits at.
        drop(std::mem::replace(&mut self.calls, channel().1));
        // Fails only when nobody has read 2⁶⁴ − 2 of them.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It never waits for a client, so this takes no longer than a write.
            let _ = thread.join();
        }
    }
}

/// Where the HTTP thread asks.
#[derive(Debug, Clone)]
pub struct Desk {
    requests: Arc<Requests>,
    calls: Sender<Call>,
    bell: Arc<EventFd>,
    feed: Feed,
    // Rung when connections are to be polled that wait for something.
    news: Arc<EventFd>,
}

/// Whether the answer says that a field or value goes away.
#[derive(Clone, Copy)]
struct Deprecated(bool);

/// What a request comes to.
enum Served {
    /// A document, or nothing, or a refusal; whether Firecracker would rather not have been asked so.
    Answer(Outcome, Deprecated),
    /// A stream of events.
    Events(Reader),
}

/// An answer for which the HTTP thread does not stand still. Its connection is polled when the desk's `news` are rung.
struct Later(Receiver<Outcome>);

impl Future for Later {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Outcome> {
        match self.0.try_recv() {
            Ok(outcome) => Poll::Ready(outcome),
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Disconnected) => Poll::Ready(Err(Fault::ended())),
        }
    }
}

impl Desk {
    /// Understands a request, has it answered, counts it and tells the log.
    async fn serve(&self, method: &str, path: &str, body: &[u8]) -> Served {
        // What the guest is to know may be secret.
        if body.is_empty() || path.trim_start_matches('/').starts_with("mmds") {
            crate::log!(Info, "The API server received a {method} request on {path:?}.");
        } else {
            let body = String::from_utf8_lossy(body);
            crate::log!(Info, "The API server received a {method} request on {path:?} with body {body:?}.");
        }
        let action = route::route(method, path, body);
        let deprecated = Deprecated(action.as_ref().is_ok_and(|action| deprecated::is(action, body)));
        let timed = match action {
            Ok(Action::PatchVm(state)) => Some((state, sys::monotonic_us())),
            _ => None,
        };
        let outcome = match action {
            Ok(Action::Events) => match self.feed.reader() {
                Some(reader) => return Served::Events(reader),
                None => Err(Fault::busy(format!("{MAX_READERS} clients read the events already"))),
            },
            Ok(action) if action.may_wait() => self.ask_for_later(action).await,
            Ok(action) => self.ask(action),
            Err(fault) => Err(fault),
        };
        match &outcome {
            Ok(Answer::Empty) => {
                crate::log!(Info, "The request was executed successfully. Status code: 204 No Content.");
            }
            Ok(_) => crate::log!(Info, "The request was executed successfully. Status code: 200 OK."),
            Err(Fault { status, message }) => {
                crate::log!(Error, "Received Error. Status code: {status}. Message: {message}");
            }
        }
        self.requests.count(method, path, outcome.is_err());
        if deprecated.0 {
            self.requests.deprecated();
        }
        if let Some((state, began)) = timed.filter(|_| outcome.is_ok()) {
            let us = sys::monotonic_us() - began;
            match state {
                VmState::Paused => self.requests.paused(us),
                VmState::Resumed => self.requests.resumed(us),
            }
        }
        Served::Answer(outcome, deprecated)
    }

    /// Hands `action` over and waits for the answer.
    pub fn ask(&self, action: Action) -> Outcome {
        self.call(action, None).recv().unwrap_or_else(|_| Err(Fault::ended()))
    }

    /// Hands `action` over; the answer may come when the guest likes.
    fn ask_for_later(&self, action: Action) -> Later {
        Later(self.call(action, Some(Arc::clone(&self.news))))
    }

    fn call(&self, action: Action, bell: Option<Arc<EventFd>>) -> Receiver<Outcome> {
        let (sender, answer) = channel();
        // Without the other side the call is dropped at once, and with it who answers.
        if self.calls.send(Call { action, reply: Asker::new(sender, bell) }).is_ok() {
            // Fails only when nobody has read 2⁶⁴ − 2 of them: then the reader is awake anyway.
            let _ = self.bell.write(1);
        }
        answer
    }
}
