//! One connection: a task that reads it, streams with their bytes, and whoever writes.

use super::super::outlet::deliver;
use super::frame::{self, Decoder, Encoder, Event, MAX_DATA, Status};
use super::headers::Headers;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc, watch};

/// Streams of a connection at a time. A forwarded connection takes two.
const MAX_STREAMS: usize = 256;
/// Pieces of at most [`MAX_DATA`] bytes that may wait in a stream.
const MAX_PIECES: usize = 8;

type Io = Box<dyn AsyncWrite + Send + Unpin>;

struct Writer {
    io: Io,
    encoder: Encoder,
    newest: u32,
}

/// A connection, for who writes to it.
#[derive(Clone)]
pub(in super::super) struct Session(Arc<Mutex<Writer>>);

/// A stream that the client has opened.
pub(in super::super) struct Stream {
    pub(in super::super) id: u32,
    pub(in super::super) headers: Headers,
    /// What the client sends; its end is the stream's.
    pub(in super::super) input: mpsc::Receiver<Bytes>,
    pub(in super::super) outlet: Outlet,
}

/// Where bytes to the client go.
#[derive(Clone)]
pub(in super::super) struct Outlet {
    id: u32,
    session: Session,
    is_reset: watch::Receiver<bool>,
}

/// Serves a connection until its end. Streams come out of the receiver; what it is dropped with is refused.
pub(in super::super) fn serve(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
) -> (Session, mpsc::Receiver<Stream>, impl Future<Output = ()> + Send) {
    let (reader, writer) = tokio::io::split(io);
    let writer = Writer { io: Box::new(writer), encoder: Encoder::default(), newest: 0 };
    let session = Session(Arc::new(Mutex::new(writer)));
    let (opened, streams) = mpsc::channel(MAX_PIECES);
    let reading = Reading { session: session.clone(), opened, open: HashMap::new() };
    (session, streams, reading.run(reader))
}

impl Session {
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.0.lock().await;
        writer.io.write_all(bytes).await?;
        writer.io.flush().await
    }

    /// Asks the client whether it is there.
    async fn ping(&self) -> io::Result<()> {
        // The server's are even (2.6.5), and its answer is looked at by nobody: one number is enough.
        self.write(&frame::ping(2)).await
    }

    /// Says that the connection ends here, and sends nothing more.
    pub(in super::super) async fn close(&self) {
        let mut writer = self.0.lock().await;
        let last = writer.newest;
        // A client that is gone needs no end.
        let _ = writer.io.write_all(&frame::go_away(last)).await;
        let _ = writer.io.shutdown().await;
    }
}

impl Outlet {
    /// Sends bytes.
    pub(in super::super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(MAX_DATA) {
            if *self.is_reset.borrow() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let mut writer = self.session.0.lock().await;
            writer.io.write_all(&frame::data(self.id, part.len(), false)).await?;
            writer.io.write_all(part).await?;
            writer.io.flush().await?;
        }
        Ok(())
    }

    /// Nothing more comes on this stream.
    pub(in super::super) async fn finish(&self) {
        if !*self.is_reset.borrow() {
            // A client that is gone needs no end.
            let _ = self.session.write(&frame::data(self.id, 0, true)).await;
        }
    }

    /// Waits until the client has given the stream up.
    pub(in super::super) async fn reset(&mut self) {
        if self.is_reset.wait_for(|is_reset| *is_reset).await.is_err() {
            // The client has ended it in order, or is gone: then other things fail.
            std::future::pending::<()>().await;
        }
    }
}

struct Open {
    input: mpsc::Sender<Bytes>,
    is_reset: watch::Sender<bool>,
    /// The client may still send.
    is_open: bool,
}

struct Reading {
    session: Session,
    opened: mpsc::Sender<Stream>,
    open: HashMap<u32, Open>,
}

impl Reading {
    async fn run(mut self, mut reader: impl AsyncRead + Unpin) {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(event)) => {
                    if self.event(event).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    buffer.reserve(MAX_DATA);
                    if !matches!(reader.read_buf(&mut buffer).await, Ok(read) if read > 0) {
                        return;
                    }
                }
                // What it is can't be told to who does not speak it.
                Err(_) => return self.session.close().await,
            }
        }
    }

    async fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Open { stream, headers, fin } => self.open(stream, headers, fin).await?,
            Event::Data { stream, bytes } => {
                if let Some(open) = self.open.get(&stream).filter(|open| open.is_open) {
                    deliver(&open.input, bytes, || self.session.ping()).await?;
                }
            }
            Event::Fin { stream } => self.close(stream, false),
            Event::Reset { stream } => self.close(stream, true),
            // Those of the server are even (2.6.5): these are answers.
            Event::Ping { id } if id % 2 == 1 => self.session.write(&frame::ping(id)).await?,
            Event::Ping { .. } | Event::GoAway => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool) -> io::Result<()> {
        // Those that both sides are done with make room.
        self.open.retain(|_, open| open.is_open || !open.is_reset.is_closed());
        let mut writer = self.session.0.lock().await;
        let refused = match () {
            () if id.is_multiple_of(2) || id <= writer.newest => Some(Status::ProtocolError),
            () if self.open.len() >= MAX_STREAMS => Some(Status::RefusedStream),
            () => None,
        };
        writer.newest = writer.newest.max(id);
        let answer = match refused {
            Some(status) => frame::reset(id, status),
            None => writer.encoder.reply(id),
        };
        writer.io.write_all(&answer).await?;
        writer.io.flush().await?;
        drop(writer);
        if refused.is_some() {
            return Ok(());
        }
        let (input, receiver) = mpsc::channel(MAX_PIECES);
        let (is_reset, reset) = watch::channel(false);
        let outlet = Outlet { id, session: self.session.clone(), is_reset: reset };
        let stream = Stream { id, headers, input: receiver, outlet };
        if self.opened.send(stream).await.is_err() {
            return self.session.write(&frame::reset(id, Status::Cancel)).await;
        }
        self.open.insert(id, Open { input, is_reset, is_open: true });
        if fin {
            self.close(id, false);
        }
        Ok(())
    }

    /// The client sends nothing more on a stream, or wants nothing more of it either.
    fn close(&mut self, id: u32, is_reset: bool) {
        if is_reset {
            if let Some(open) = self.open.remove(&id) {
                open.is_reset.send_replace(true);
            }
        } else if let Some(open) = self.open.get_mut(&id) {
            open.is_open = false;
            // Dropping the sender is the end for who reads.
            open.input = mpsc::channel(1).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::{events, open};
    use super::super::headers::tests::Deflater;
    use super::*;

    async fn all(io: &mut (impl AsyncRead + Unpin)) -> Vec<Event> {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await.unwrap();
        let (events, error) = events(&bytes, usize::MAX);
        assert_eq!(error, None);
        events
    }

    #[tokio::test]
    async fn streams_are_accepted_echoed_and_ended() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (session, mut streams, reading) = serve(server);
        let reading = tokio::spawn(reading);
        let mut deflater = Deflater::new();
        client.write_all(&open(&mut deflater, 1, &[("streamType", "data")])).await.unwrap();
        client.write_all(&frame::data(1, 5, true)).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        // Even ones are the server's, and old ones are old.
        client.write_all(&open(&mut deflater, 4, &[])).await.unwrap();
        client.write_all(&open(&mut deflater, 1, &[])).await.unwrap();
        client.write_all(&frame::ping(9)).await.unwrap();
        let mut stream = streams.recv().await.unwrap();
        assert_eq!((stream.id, &stream.headers["streamtype"][..]), (1, "data"));
        while let Some(bytes) = stream.input.recv().await {
            stream.outlet.send(&bytes).await.unwrap();
        }
        stream.outlet.finish().await;
        client.shutdown().await.unwrap();
        reading.await.unwrap();
        session.close().await;
        drop((session, stream));
        let events = all(&mut client).await;
        let has = |event: &Event| assert!(events.contains(event), "{event:?} in {events:?}");
        has(&Event::Data { stream: 1, bytes: Bytes::from_static(b"hello") });
        [Event::Fin { stream: 1 }, Event::Reset { stream: 4 }, Event::Reset { stream: 1 }]
            .iter()
            .for_each(has);
        [Event::Ping { id: 9 }, Event::GoAway].iter().for_each(has);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_is_noticed_while_nobody_takes_what_it_sent() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (_session, mut streams, reading) = serve(server);
        let reading = tokio::spawn(reading);
        let mut deflater = Deflater::new();
        client.write_all(&open(&mut deflater, 1, &[("streamType", "stdin")])).await.unwrap();
        let stream = streams.recv().await.unwrap();
        for _ in 0..2 * MAX_PIECES {
            client.write_all(&frame::data(1, 1, false)).await.unwrap();
            client.write_all(b"x").await.unwrap();
        }
        drop(client);
        let hour = std::time::Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, reading).await.is_ok(), "it waits for who does not read");
        drop(stream);
    }

    #[tokio::test]
    async fn crowds_of_streams_are_refused_and_resets_are_heard() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (session, mut streams, reading) = serve(server);
        let reading = tokio::spawn(reading);
        let mut deflater = Deflater::new();
        let taking = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(stream) = streams.recv().await {
                taken.push(stream);
            }
            taken
        });
        for n in 0..=MAX_STREAMS as u32 {
            client.write_all(&open(&mut deflater, 2 * n + 1, &[])).await.unwrap();
        }
        client.write_all(&frame::reset(3, Status::Cancel)).await.unwrap();
        client.shutdown().await.unwrap();
        reading.await.unwrap();
        let mut taken = taking.await.unwrap();
        assert_eq!(taken.len(), MAX_STREAMS);
        taken[1].outlet.reset().await;
        assert!(taken[1].outlet.send(b"x").await.is_err() && taken[1].input.recv().await.is_none());
        session.close().await;
        drop((taken, session));
        let refused = Event::Reset { stream: 2 * MAX_STREAMS as u32 + 1 };
        assert!(all(&mut client).await.contains(&refused));
    }
}
