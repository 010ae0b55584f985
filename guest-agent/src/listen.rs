//! Accepting connections: only the host's, a bounded number, each in a task of its own.

use crate::agent::Agent;
use crate::control::{self, HELLO_LIMIT, hello};
use crate::{debug, forward, frames};
use agent_protocol::frame::MAX_HEADER;
use agent_protocol::{
    CONTROL_PORT, FORWARD_PORT, READY_PORT, Ready, STREAM_PORT, StreamHeader, StreamKind, StreamReply,
    Welcome,
};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// Control connections at a time: a daemon, its successor, and some room.
const CONTROLS: usize = 8;
/// Stream connections at a time.
const STREAMS: usize = 512;
/// Connections to ports of the pod at a time. Each has 16 KiB of buffers and two sockets.
const FORWARDS: usize = 128;

/// The agent's ports.
pub struct Ports {
    control: VsockListener,
    stream: VsockListener,
    forward: VsockListener,
}

impl Ports {
    /// Listens. Connections wait until [`Ports::serve`].
    ///
    /// # Errors
    /// When the VM has no vsock device.
    pub fn bind() -> io::Result<Self> {
        let listen = |port| VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port));
        Ok(Self {
            control: listen(CONTROL_PORT)?,
            stream: listen(STREAM_PORT)?,
            forward: listen(FORWARD_PORT)?,
        })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When a port can't accept any more.
    pub async fn serve(self, agent: Rc<Agent>) -> io::Result<()> {
        let controls = accept(&self.control, CONTROLS, |connection| {
            let agent = Rc::clone(&agent);
            async move {
                let (read, write) = connection.into_split();
                control::serve(agent, read, write).await
            }
        });
        let streams = accept(&self.stream, STREAMS, |connection| {
            let agent = Rc::clone(&agent);
            async move {
                let (read, write) = connection.into_split();
                stream(agent, read, write).await
            }
        });
        let forwards = accept(&self.forward, FORWARDS, |connection| {
            let agent = Rc::clone(&agent);
            async move { forward::serve(agent.token(), connection).await }
        });
        tokio::try_join!(controls, streams, forwards).map(drop)
    }
}

async fn accept<F>(
    listener: &VsockListener,
    at_once: usize,
    serve: impl Fn(VsockStream) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let places = Arc::new(Semaphore::new(at_once));
    loop {
        let (connection, peer) = listener.accept().await?;
        // Vsock is not namespaced: without this a container with a way around its filter could be a client.
        if peer.cid() != VMADDR_CID_HOST {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug::say(|| "a connection over the limit was closed".into());
            continue;
        };
        let served = serve(connection);
        spawn_local(async move {
            if let Err(error) = served.await {
                debug::say(|| format!("a connection ended: {error}"));
            }
            drop(place);
        });
    }
}

/// Serves one stdio stream's connection.
async fn stream<R, W>(agent: Rc<Agent>, mut read: R, mut write: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let header: StreamHeader = timeout(HELLO_LIMIT, frames::read(&mut read, MAX_HEADER)).await??;
    if !hello::same(&header.token, agent.token()) {
        let reply = StreamReply { result: Err(hello::unauthorized()) };
        return timeout(HELLO_LIMIT, frames::write(&mut write, &reply, MAX_HEADER)).await?;
    }
    let streams = agent.streams(&header.container, header.exec.as_deref());
    let offset =
        streams.as_ref().map_err(Clone::clone).and_then(|streams| match (header.stream, &streams.stdin) {
            (StreamKind::Stdin, Some(stdin)) => Ok(stdin.taken()),
            (StreamKind::Stdin, None) => {
                Err(crate::errors::invalid("the process was made without standard input"))
            }
            (StreamKind::Stdout, _) => streams.stdout.check(header.offset),
            (StreamKind::Stderr, _) => streams.stderr.check(header.offset),
        });
    let begin = offset.clone();
    frames::write(&mut write, &StreamReply { result: offset }, MAX_HEADER).await?;
    let (Ok(streams), Ok(begin)) = (streams, begin) else { return Ok(()) };
    let result = match (header.stream, &streams.stdin) {
        (StreamKind::Stdin, Some(stdin)) => stdin.serve(read, write).await,
        (StreamKind::Stdin, None) => Ok(()),
        (StreamKind::Stdout, _) => streams.stdout.serve(read, write, begin).await,
        (StreamKind::Stderr, _) => streams.stderr.serve(read, write, begin).await,
    };
    agent.forget_done(&header.container);
    result
}

/// Tells the host that the agent is ready, and learns the VM's secret. What can be done `meanwhile` costs no time.
///
/// # Errors
/// When the host does not answer as it should.
pub async fn introduce(ready: &Ready, meanwhile: impl FnOnce()) -> io::Result<Welcome> {
    let mut host = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)).await?;
    frames::write(&mut host, ready, MAX_HEADER).await?;
    meanwhile();
    frames::read(&mut host, MAX_HEADER).await
}
