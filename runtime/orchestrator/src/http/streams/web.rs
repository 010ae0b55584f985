//! Streams over a WebSocket: a message is a byte that names the channel, and bytes of it.

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

/// Longest message of a client. kubectl's have 32 KiB; libraries send what they are given in one.
const MAX_MESSAGE: usize = 4 << 20;
/// Bytes in a message to a client.
const MAX_SENT: usize = 32 << 10;
/// What ends a channel (v5).
const CLOSE: u8 = 255;

/// A connection that was upgraded.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Socket = WebSocketStream<Box<dyn Io>>;

/// For who reads.
pub(super) struct Reader(SplitStream<Socket>);

/// For who writes.
#[derive(Clone)]
pub(super) struct Writer(Arc<Mutex<SplitSink<Socket, Message>>>);

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Bytes of a channel, perhaps none.
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    End(u8),
}

/// Puts the protocol on a connection whose HTTP is done.
pub(super) async fn open(io: Box<dyn Io>) -> (Reader, Writer) {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    (Reader(stream), Writer(Arc::new(Mutex::new(sink))))
}

impl Reader {
    /// The next message's bytes; none when the client is gone or breaks the protocol.
    pub(super) async fn message(&mut self) -> Option<Bytes> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Binary(bytes) => return Some(bytes),
                Message::Text(text) => return Some(text.into()),
                // Pings are answered by the library, and the end comes after Close.
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
            }
        }
    }

    /// The next word about a channel. Channels end only in v5.
    pub(super) async fn said(&mut self, can_end: bool) -> Option<Said> {
        loop {
            let mut bytes = self.message().await?;
            match bytes.first() {
                None => {}
                Some(&CLOSE) if can_end => {
                    if let Some(channel) = bytes.get(1) {
                        return Some(Said::End(*channel));
                    }
                }
                Some(&channel) => return Some(Said::Data(channel, bytes.split_off(1))),
            }
        }
    }
}

impl Writer {
    /// Sends bytes on a channel; none is a message too.
    pub(super) async fn send(&self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        let mut sink = self.0.lock().await;
        let mut rest = bytes;
        loop {
            let (part, behind) = rest.split_at(rest.len().min(MAX_SENT));
            let mut message = BytesMut::with_capacity(part.len() + 1);
            message.extend_from_slice(&[channel]);
            message.extend_from_slice(part);
            sink.send(Message::Binary(message.freeze())).await.map_err(io::Error::other)?;
            rest = behind;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends a message as it is.
    pub(super) async fn raw(&self, bytes: Bytes) -> io::Result<()> {
        self.0.lock().await.send(Message::Binary(bytes)).await.map_err(io::Error::other)
    }

    /// Asks the client whether it is there. It answers to the library.
    pub(super) async fn ping(&self) -> io::Result<()> {
        self.0.lock().await.send(Message::Ping(Bytes::new())).await.map_err(io::Error::other)
    }

    /// Ends the connection in order.
    pub(super) async fn close(&self) {
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        // A client that is gone needs no end.
        let _ = self.0.lock().await.send(Message::Close(Some(close))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn channels_are_told_apart() {
        let (client, server) = tokio::io::duplex(1 << 20);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let (mut reader, writer) = open(Box::new(server)).await;
        for message in [&[0, 7, 8][..], &[], &[CLOSE], &[4], &[CLOSE, 0]] {
            client.send(Message::binary(message.to_vec())).await.unwrap();
        }
        client.send(Message::Text("0x".into())).await.unwrap();
        assert_eq!(reader.said(true).await, Some(Said::Data(0, Bytes::from_static(&[7, 8]))));
        assert_eq!(reader.said(true).await, Some(Said::Data(4, Bytes::new())));
        assert_eq!(reader.said(true).await, Some(Said::End(0)));
        assert_eq!(reader.said(true).await, Some(Said::Data(b'0', Bytes::from_static(b"x"))));
        writer.send(1, &vec![9; MAX_SENT + 1]).await.unwrap();
        writer.send(2, &[]).await.unwrap();
        writer.close().await;
        for length in [MAX_SENT + 1, 2, 1] {
            assert_eq!(client.next().await.unwrap().unwrap().into_data().len(), length);
        }
        assert!(matches!(client.next().await, Some(Ok(Message::Close(Some(_))))));
        drop(client);
        assert_eq!(reader.said(true).await, None);
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let (mut reader, _writer) = open(Box::new(server)).await;
        // The head of a masked binary frame (RFC 6455, 5.2).
        let length = (MAX_MESSAGE as u64 + 1).to_be_bytes();
        let head = [&[0x82, 0xff][..], &length, &[0; 4]].concat();
        tokio::io::AsyncWriteExt::write_all(&mut client, &head).await.unwrap();
        assert_eq!(reader.said(true).await, None);
    }
}
