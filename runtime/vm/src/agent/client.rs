//! The control connection: pipelined requests, events with acknowledgements.

use super::{invalid, read_frame};
use agent_protocol::frame::{self, MAX_FRAME};
use agent_protocol::{
    AgentError, ClientHello, ClientMessage, Event, PROTOCOL, PROTOCOL_MIN, Request, Response, ServerHello,
    ServerMessage,
};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Upper bound of requests without an answer on one connection.
const MAX_PENDING: usize = 1024;
/// Upper bound of events that nobody has taken yet, in bytes of their frames.
const MAX_EVENT_BYTES: usize = 4 << 20;
/// Frames that may wait for a slow agent.
const QUEUE: usize = 64;

/// Why a call to the agent failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentCallError {
    /// The agent's own answer.
    #[error(transparent)]
    Refused(#[from] AgentError),
    /// The connection ended.
    #[error("the connection to the agent is lost: {0}")]
    Lost(String),
    /// The agent broke the protocol; the connection was closed.
    #[error("the agent in the guest broke the protocol: {0}")]
    Broken(String),
    /// The agent did not answer the hello.
    #[error("the agent did not answer within {0:?}")]
    Silent(Duration),
    /// Too many requests without an answer.
    #[error("the agent has left {MAX_PENDING} requests unanswered")]
    Stuck,
    /// The request can't be sent.
    #[error("the request can't be sent to the agent: {0}")]
    Unsendable(String),
}

impl AgentCallError {
    fn from_read(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::InvalidData => Self::Broken(e.to_string()),
            _ => Self::Lost(e.to_string()),
        }
    }
}

/// A control connection. Clones share it; it closes with the last of them and its [`Events`].
#[derive(Debug, Clone)]
pub struct AgentClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hello: ServerHello,
    calls: Arc<Calls>,
    out: mpsc::Sender<Vec<u8>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A hostile agent would keep its end open for ever.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

type Answer = Result<Response, AgentCallError>;

/// Requests that wait for their answers.
#[derive(Debug)]
struct Calls {
    state: Mutex<State>,
    end: watch::Sender<Option<AgentCallError>>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Calls {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why the connection ended and tells all who wait. The first reason counts.
    fn close(&self, why: AgentCallError) {
        self.end.send_if_modified(|end| end.is_none() && end.replace(why.clone()).is_none());
        let waiting = std::mem::take(&mut self.state().waiting);
        waiting.into_values().for_each(|w| {
            let _ = w.send(Err(why.clone()));
        });
    }

    fn ended(&self) -> Option<AgentCallError> {
        self.end.borrow().clone()
    }
}

/// An answer that will come.
#[derive(Debug)]
pub struct Pending {
    answer: oneshot::Receiver<Answer>,
    /// The answer needs the connection to live on.
    client: AgentClient,
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| match answer {
            Ok(answer) => answer,
            Err(_) => Err(self.client.0.calls.ended().unwrap_or_else(lost)),
        })
    }
}

fn lost() -> AgentCallError {
    AgentCallError::Lost("it was closed".into())
}

/// The agent's events, in order.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::UnboundedReceiver<(usize, u64, Event)>,
    waiting_bytes: Arc<AtomicUsize>,
    client: AgentClient,
}

impl Events {
    /// The next event and its number; none when the connection has ended ([`AgentClient::closed`] says why).
    /// May be dropped without losing an event.
    pub async fn next(&mut self) -> Option<(u64, Event)> {
        let (bytes, seq, event) = self.queue.recv().await?;
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some((seq, event))
    }

    /// The connection on which they come.
    pub fn client(&self) -> &AgentClient {
        &self.client
    }
}

impl AgentClient {
    /// Says hello on a fresh connection to the agent's control port.
    ///
    /// # Errors
    /// [`AgentCallError::Silent`] after `within`; [`AgentCallError::Refused`] for a wrong secret or version; or what the agent did wrong.
    pub async fn connect(
        stream: UnixStream,
        token: &str,
        events: bool,
        within: Duration,
    ) -> Result<(Self, Events), AgentCallError> {
        let (mut read, mut write) = stream.into_split();
        let hello =
            ClientHello { protocol: PROTOCOL, protocol_min: PROTOCOL_MIN, token: token.to_owned(), events };
        let exchange = async {
            let hello = encode(&ClientMessage::Hello(hello))?;
            write.write_all(&hello).await.map_err(|e| AgentCallError::Lost(e.to_string()))?;
            read_hello(&mut read).await
        };
        let hello =
            tokio::time::timeout(within, exchange).await.map_err(|_| AgentCallError::Silent(within))??;

        let calls = Arc::new(Calls { state: Mutex::default(), end: watch::Sender::new(None) });
        let (out, queue) = mpsc::channel(QUEUE);
        let (event_queue, taken) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let reader = Reader {
            read,
            calls: Arc::clone(&calls),
            events: events.then_some(event_queue),
            waiting_bytes: Arc::clone(&waiting_bytes),
            last_seq: None,
        };
        let tasks = [tokio::spawn(reader.run()), tokio::spawn(write_all(write, queue, Arc::clone(&calls)))];
        let client = Self(Arc::new(Inner { hello, calls, out, tasks }));
        Ok((client.clone(), Events { queue: taken, waiting_bytes, client }))
    }

    /// What the agent said of itself.
    pub fn hello(&self) -> &ServerHello {
        &self.0.hello
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// The agent's refusal, or why there is no answer.
    pub async fn request(&self, request: Request) -> Answer {
        let mut pending = self.send(vec![request]).await?;
        match pending.pop() {
            Some(answer) => answer.await,
            None => Err(lost()),
        }
    }

    /// Sends requests in one write, without waiting for an answer in between. Answers come in the same order.
    ///
    /// # Errors
    /// When they can't be sent; then none of them was.
    pub async fn send(&self, requests: Vec<Request>) -> Result<Vec<Pending>, AgentCallError> {
        let count = requests.len();
        let first = {
            let mut state = self.0.calls.state();
            let first = state.last_id + 1;
            state.last_id += count as u64;
            first
        };
        let mut bytes = Vec::new();
        for (id, request) in (first..).zip(requests) {
            bytes.extend(encode(&ClientMessage::Request { id, request })?);
        }
        let mut pending = Vec::with_capacity(count);
        {
            let mut state = self.0.calls.state();
            if let Some(end) = self.0.calls.ended() {
                return Err(end);
            }
            if state.waiting.len() + count > MAX_PENDING {
                return Err(AgentCallError::Stuck);
            }
            for id in first..first + count as u64 {
                let (sender, answer) = oneshot::channel();
                state.waiting.insert(id, sender);
                pending.push(Pending { answer, client: self.clone() });
            }
        }
        self.put(bytes).await?;
        Ok(pending)
    }

    /// Tells the agent that all events up to this one are safely noted.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn ack(&self, seq: u64) -> Result<(), AgentCallError> {
        self.put(encode(&ClientMessage::Ack { seq })?).await
    }

    async fn put(&self, bytes: Vec<u8>) -> Result<(), AgentCallError> {
        let sent = self.0.out.send(bytes).await;
        sent.map_err(|_| self.0.calls.ended().unwrap_or_else(lost))
    }

    /// Waits until the connection has ended; says why.
    pub async fn closed(&self) -> AgentCallError {
        let mut end = self.0.calls.end.subscribe();
        match end.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(why)) => why,
            _ => lost(),
        }
    }
}

fn encode(message: &ClientMessage) -> Result<Vec<u8>, AgentCallError> {
    frame::encode(message, MAX_FRAME).map_err(|e| AgentCallError::Unsendable(e.to_string()))
}

async fn read_hello(read: &mut OwnedReadHalf) -> Result<ServerHello, AgentCallError> {
    let body = read_frame(read, MAX_FRAME).await.map_err(AgentCallError::from_read)?.ok_or_else(lost)?;
    match frame::decode(&body) {
        Ok(ServerMessage::Hello(Ok(hello))) if (PROTOCOL_MIN..=PROTOCOL).contains(&hello.protocol) => {
            Ok(hello)
        }
        Ok(ServerMessage::Hello(Ok(hello))) => {
            Err(AgentCallError::Broken(format!("it chose version {}, which was not offered", hello.protocol)))
        }
        Ok(ServerMessage::Hello(Err(refusal))) => Err(refusal.into()),
        Ok(_) => Err(AgentCallError::Broken("it did not begin with a hello".into())),
        Err(e) => Err(AgentCallError::Broken(e.to_string())),
    }
}

/// Writes what is queued; what waits together goes in one write.
async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>, calls: Arc<Calls>) {
    while let Some(mut bytes) = queue.recv().await {
        while bytes.len() < MAX_FRAME
            && let Ok(more) = queue.try_recv()
        {
            bytes.extend(more);
        }
        if let Err(e) = write.write_all(&bytes).await {
            return calls.close(AgentCallError::Lost(e.to_string()));
        }
    }
}

struct Reader {
    read: OwnedReadHalf,
    calls: Arc<Calls>,
    events: Option<mpsc::UnboundedSender<(usize, u64, Event)>>,
    waiting_bytes: Arc<AtomicUsize>,
    last_seq: Option<u64>,
}

impl Reader {
    async fn run(mut self) {
        let why = loop {
            match read_frame(&mut self.read, MAX_FRAME).await {
                Ok(Some(body)) => {
                    if let Err(why) = self.take(&body) {
                        break why;
                    }
                }
                Ok(None) => break AgentCallError::Lost("the agent closed it".into()),
                Err(e) => break AgentCallError::from_read(e),
            }
        };
        self.calls.close(why);
    }

    fn take(&mut self, body: &[u8]) -> Result<(), AgentCallError> {
        let broken = |why: String| Err(AgentCallError::Broken(why));
        match frame::decode(body).map_err(|e| AgentCallError::from_read(invalid(e)))? {
            ServerMessage::Hello(_) => broken("a second hello".into()),
            ServerMessage::Response { id, result } => {
                // The state is let go before anybody is woken.
                let waiter = self.calls.state().waiting.remove(&id);
                match waiter {
                    Some(waiter) => {
                        // Whoever asked may have lost interest.
                        let _ = waiter.send(result.map_err(AgentCallError::from));
                        Ok(())
                    }
                    None => broken(format!("an answer to request {id}, which does not wait for one")),
                }
            }
            ServerMessage::Event { seq, event } => {
                let Some(events) = &self.events else {
                    return broken("an event that was not asked for".into());
                };
                if self.last_seq.is_some_and(|last| last.checked_add(1) != Some(seq)) || seq == 0 {
                    return broken(format!("event {seq} is out of order"));
                }
                self.last_seq = Some(seq);
                // An event costs memory beyond its frame: count that too, else a flood of tiny ones is free.
                let bytes = body.len() + 128;
                if self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_EVENT_BYTES {
                    return broken(format!("more than {MAX_EVENT_BYTES} bytes of events wait to be read"));
                }
                let _ = events.send((bytes, seq, event));
                Ok(())
            }
        }
    }
}
