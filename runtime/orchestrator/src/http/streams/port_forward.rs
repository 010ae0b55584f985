//! port-forward: TCP connections to a pod's loopback, in the three forms that clients have.
//!
//! - `portforward.k8s.io` on SPDY: the client opens two streams for each connection, data and error, with the same `requestID`.
//! - `SPDY/3.1+portforward.k8s.io`: the same, in a WebSocket whose messages are that SPDY connection's bytes.
//! - `v4.channel.k8s.io`, `v5.channel.k8s.io`: ports named in the request, one connection for each, made at once; channel 2n is its data,
//!   2n + 1 its errors, and the first message on both is the port (two bytes, little-endian).

use super::backend::{Duplex, Streams};
use super::outlet::{Outlet, deliver};
use super::web::Said;
use super::{spdy, web};
use crate::object;
use crate::store::Stored;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// SPDY in messages.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
pub(super) const ON_WEBSOCKET: &[&str] = &[TUNNEL, "v5.channel.k8s.io", "v4.channel.k8s.io"];
pub(super) const ON_SPDY: &[&str] = &["portforward.k8s.io"];

/// How long the second stream of a pair may take.
const PAIRING: Duration = Duration::from_secs(30);
/// How long a client may take to go after the end.
const LINGER: Duration = Duration::from_secs(10);
/// Pieces of data that may wait.
const PIECES: usize = 8;
/// Bytes that are read of a port at a time.
const BUFFER: usize = 32 << 10;

/// A pod whose ports are asked for.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) streams: Arc<dyn Streams>,
    pub(super) pod: Arc<Stored>,
}

/// One connection of a client.
struct Forward {
    port: u16,
    input: mpsc::Receiver<Bytes>,
    data: Outlet,
    error: Outlet,
}

impl Target {
    async fn forward(self, forward: Forward) {
        let Forward { port, input, mut data, error } = forward;
        match self.streams.dial(Arc::clone(&self.pod), port).await {
            Ok(connection) => {
                let mut given_up = data.clone();
                tokio::select! {
                    () = copy(connection, input, &mut data, &error) => {}
                    () = given_up.reset() => {}
                }
            }
            Err(reason) => {
                let (name, uid) = (object::name(&self.pod.object), object::uid(&self.pod.object));
                let message = format!("error forwarding port {port} to pod {name}, uid {uid}: {reason}");
                // A client that is gone needs no reason.
                let _ = error.send(message.as_bytes()).await;
            }
        }
        data.finish().await;
        error.finish().await;
    }
}

/// Both ways, each until its end.
async fn copy(
    connection: Box<dyn Duplex>,
    mut input: mpsc::Receiver<Bytes>,
    data: &mut Outlet,
    error: &Outlet,
) {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let up = async {
        while let Some(bytes) = input.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // One that is closed already is what is wanted.
        let _ = writer.shutdown().await;
        // What nobody takes is dropped, so that others on this connection go on.
        while input.recv().await.is_some() {}
    };
    let down = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            if data.send(&buffer[..read]).await.is_err() {
                break;
            }
        }
        data.finish().await;
        // Clients before 1.30 wait for this before they let the connection go.
        error.finish().await;
    };
    tokio::join!(up, down);
}

/// Streams that are not paired yet.
#[derive(Default)]
struct Pairs(HashMap<String, (Instant, spdy::Stream)>);

impl Pairs {
    /// The two of a connection, when the second has come.
    fn add(&mut self, stream: spdy::Stream, now: Instant) -> Option<(spdy::Stream, spdy::Stream)> {
        self.0.retain(|_, (since, _)| now.duration_since(*since) < PAIRING);
        let key = match stream.headers.get("requestid") {
            Some(id) => id.clone(),
            // Clients before 1.3 open them one after the other, the error's first.
            None if is_data(&stream) => format!("#{}", stream.id.saturating_sub(2)),
            None => format!("#{}", stream.id),
        };
        match self.0.remove(&key) {
            Some((_, other)) if is_data(&other) != is_data(&stream) => {
                Some(if is_data(&stream) { (stream, other) } else { (other, stream) })
            }
            // Of two of a kind the newer counts.
            _ => {
                self.0.insert(key, (now, stream));
                None
            }
        }
    }
}

fn is_data(stream: &spdy::Stream) -> bool {
    stream.headers.get("streamtype").is_some_and(|kind| kind == "data")
}

/// Serves a client over SPDY.
pub(super) async fn over_spdy(io: Box<dyn web::Io>, target: Target) {
    let (session, mut streams, reading) = spdy::serve(io);
    let serving = async {
        // Dropped with the client: so are its connections.
        let (mut pairs, mut forwards) = (Pairs::default(), JoinSet::new());
        loop {
            tokio::select! {
                stream = streams.recv() => {
                    let Some(stream) = stream else { return };
                    let Some((data, error)) = pairs.add(stream, Instant::now()) else { continue };
                    let port = data.headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
                    let error = Outlet::Spdy(error.outlet);
                    match port {
                        Some(port) => {
                            let forward = Forward { port, input: data.input, data: Outlet::Spdy(data.outlet), error };
                            forwards.spawn(target.clone().forward(forward));
                        }
                        None => {
                            let _ = error.send(b"the header port must be a number from 1 to 65535").await;
                            error.finish().await;
                            Outlet::Spdy(data.outlet).finish().await;
                        }
                    }
                }
                Some(_) = forwards.join_next() => {}
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = serving => {}
    }
    session.close().await;
}

/// Serves a client whose SPDY comes in messages.
pub(super) async fn over_tunnel(io: Box<dyn web::Io>, target: Target) {
    let (mut reader, writer) = web::open(io).await;
    let (outer, inner) = tokio::io::duplex(2 * BUFFER);
    let (mut from, mut to) = tokio::io::split(outer);
    let in_ward = async {
        while let Some(bytes) = reader.message().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The other end sees the client's end.
        let _ = to.shutdown().await;
    };
    let out_ward = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if writer.raw(Bytes::copy_from_slice(&buffer[..read])).await.is_err() {
                break;
            }
        }
        writer.close().await;
    };
    let work = async {
        let serving = over_spdy(Box::new(inner), target);
        tokio::pin!(out_ward, serving);
        tokio::select! {
            () = &mut serving => out_ward.await,
            // Before the other only when the client is gone.
            () = &mut out_ward => {}
        }
    };
    tokio::pin!(work);
    tokio::select! {
        () = in_ward => {
            // What is on its way ends with the inner connection.
            let _ = timeout(LINGER, work).await;
        }
        () = &mut work => {}
    }
}

/// Serves a client of channels: each port is one connection.
pub(super) async fn over_channels(io: Box<dyn web::Io>, protocol: &str, ports: &[u16], target: Target) {
    let (mut reader, writer) = web::open(io).await;
    let (mut inputs, mut forwards) = (Vec::new(), JoinSet::new());
    // At most 64 of them.
    for (channel, port) in (0u8..).step_by(2).zip(ports) {
        let (data, error) = (Outlet::Web(writer.clone(), channel), Outlet::Web(writer.clone(), channel + 1));
        for outlet in [&data, &error] {
            if outlet.send(&port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        let (sender, input) = mpsc::channel(PIECES);
        inputs.push(Some(sender));
        forwards.spawn(target.clone().forward(Forward { port: *port, input, data, error }));
    }
    let can_end = protocol.starts_with("v5");
    let reading = async {
        while let Some(said) = reader.said(can_end).await {
            let (Said::Data(channel, _) | Said::End(channel)) = &said;
            let Some(input) = inputs.get_mut(usize::from(channel / 2)) else { continue };
            match said {
                Said::Data(channel, bytes) if channel % 2 == 0 && !bytes.is_empty() => {
                    if let Some(input) = input
                        && deliver(input, bytes, || writer.ping()).await.is_err()
                    {
                        return;
                    }
                }
                Said::End(channel) if channel % 2 == 0 => *input = None,
                Said::Data(..) | Said::End(_) => {}
            }
        }
    };
    tokio::pin!(reading);
    let ended = async {
        while forwards.join_next().await.is_some() {}
        writer.close().await;
    };
    tokio::select! {
        () = &mut reading => {}
        () = ended => {
            let _ = timeout(LINGER, reading).await;
        }
    }
}
