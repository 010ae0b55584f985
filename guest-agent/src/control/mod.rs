//! Control connections: requests in, responses and events out.
//!
//! A connection is three things at once: a reader, a worker that carries requests out in order, and a writer. The worker is
//! a task of its own: a request that was received is carried out even when the connection is lost meanwhile.

pub mod hello;

use crate::agent::Agent;
use crate::boot::{self, Mark};
use crate::{frames, init};
use agent_protocol::frame::{self, MAX_FRAME, MAX_HEADER};
use agent_protocol::{AgentError, ClientMessage, ErrorKind, Request, Response, ServerMessage};
use serde::Deserialize;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;

/// How long a new connection may take to say who it is.
pub const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Requests that may wait behind the one that is being carried out; further ones wait in the socket.
const PIPELINED: usize = 16;
/// How long the last answer may take to leave before the power goes.
const LAST_WORD: Duration = Duration::from_millis(200);

enum Out {
    Message(ServerMessage),
    /// Tells when everything before it has been written.
    Flushed(oneshot::Sender<()>),
}

type Answers = mpsc::Sender<Out>;

/// Serves one control connection until it ends.
///
/// # Errors
/// When the connection breaks or breaks the protocol.
pub async fn serve<R, W>(agent: Rc<Agent>, mut read: R, mut write: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let first = timeout(HELLO_LIMIT, frames::read(&mut read, MAX_HEADER)).await??;
    let ClientMessage::Hello(hello) = first else {
        return Err(io::Error::other("a control connection must begin with a hello"));
    };
    let answer = hello::answer(&hello, agent.token());
    let refused = answer.is_err();
    timeout(HELLO_LIMIT, frames::write(&mut write, &ServerMessage::Hello(answer), MAX_FRAME)).await??;
    if refused {
        return Ok(());
    }
    boot::reached(Mark::Greeted);
    let subscriber = hello.events.then(|| agent.events.subscribe());
    let (requests, todo) = mpsc::channel(PIPELINED);
    let (answers, out) = mpsc::channel(PIPELINED);
    spawn_local(work(Rc::clone(&agent), todo, answers.clone()));
    tokio::select! {
        result = receive(&agent, &mut read, requests, answers) => result,
        result = send(&agent, &mut write, out, subscriber) => result,
    }
}

async fn receive<R: AsyncRead + Unpin>(
    agent: &Rc<Agent>,
    read: &mut R,
    requests: mpsc::Sender<(u64, Request)>,
    answers: Answers,
) -> io::Result<()> {
    while let Some(body) = frames::body(read, MAX_FRAME).await? {
        match frame::decode(&body) {
            Ok(ClientMessage::Request { id, request }) => {
                if requests.send((id, request)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(ClientMessage::Ack { seq }) => agent.acknowledged(seq),
            Ok(ClientMessage::Hello(_)) => return Err(io::Error::other("a second hello")),
            Err(error) => {
                // A newer host may ask for what this build does not know: that is an answer, not the end.
                let id = unknown_request(&body).ok_or_else(|| io::Error::other(error))?;
                let result = Err(AgentError::new(
                    ErrorKind::Unsupported,
                    "this agent does not know the request, or its content",
                ));
                let _ = answers.send(Out::Message(ServerMessage::Response { id, result })).await;
            }
        }
    }
    Ok(())
}

/// The number of a request whose content can't be decoded.
fn unknown_request(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Outer {
        request: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        id: u64,
    }
    serde_json::from_slice(body).ok().map(|outer: Outer| outer.request.id)
}

async fn work(agent: Rc<Agent>, mut todo: mpsc::Receiver<(u64, Request)>, answers: Answers) {
    while let Some((id, request)) = todo.recv().await {
        match request {
            Request::Shutdown => shut_down(&agent, id, &answers).await,
            // Joining a container can be held up by the container, so nothing waits for it: not even its own kill.
            Request::Exec(_) => {
                let (agent, answers) = (Rc::clone(&agent), answers.clone());
                spawn_local(async move { answer(id, agent.carry_out(request).await, &answers).await });
            }
            request => answer(id, agent.carry_out(request).await, &answers).await,
        }
    }
}

async fn answer(id: u64, result: Result<Response, AgentError>, answers: &Answers) {
    // The connection may be gone; the host asks again on the next one.
    let _ = answers.send(Out::Message(ServerMessage::Response { id, result })).await;
}

async fn shut_down(agent: &Agent, id: u64, answers: &Answers) {
    agent.stop_everything();
    rustix::fs::sync();
    answer(id, Ok(Response::Done), answers).await;
    let (tell, told) = oneshot::channel();
    let _ = answers.send(Out::Flushed(tell)).await;
    let _ = timeout(LAST_WORD, told).await;
    init::power_off();
}

async fn send<W: AsyncWrite + Unpin>(
    agent: &Rc<Agent>,
    write: &mut W,
    mut out: mpsc::Receiver<Out>,
    subscriber: Option<u64>,
) -> io::Result<()> {
    let mut sent = 0;
    loop {
        let event = async {
            match subscriber {
                Some(subscriber) => agent.events.next(subscriber, sent).await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            biased;
            message = out.recv() => match message {
                Some(Out::Message(message)) => message,
                Some(Out::Flushed(tell)) => {
                    let _ = tell.send(());
                    continue;
                }
                None => return Ok(()),
            },
            (seq, event) = event => {
                sent = seq;
                ServerMessage::Event { seq, event }
            }
        };
        frames::write(write, &message, MAX_FRAME).await?;
    }
}
