//! exec and attach: a process's streams and a client's, passed on until either ends.
//!
//! Protocols `v4.channel.k8s.io` and `v5.channel.k8s.io`: channels for standard input, output, error, for sizes of a terminal, and one on which a
//! `Status` tells the end. On SPDY the client opens a stream for each.

use super::backend::{Process, Size, Stdio};
use super::outlet::{Outlet, deliver};
use super::web::Said;
use super::{spdy, web};
use crate::status::{ApiError, Reason};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Protocols that end channels, and that don't.
pub(super) const ON_WEBSOCKET: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
pub(super) const ON_SPDY: &[&str] = &["v4.channel.k8s.io", "v5.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// How long a client may take to go after the end.
const LINGER: Duration = Duration::from_secs(10);
/// Pieces of input that may wait; the connection is not read meanwhile.
const PIECES: usize = 8;
/// Longest word about a terminal's size.
const MAX_SIZE: usize = 256;

/// A client's side.
pub(super) struct Client {
    stdin: mpsc::Receiver<Bytes>,
    sizes: mpsc::Receiver<Size>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    error: Outlet,
}

#[derive(Deserialize)]
struct WireSize {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// `{"Width":80,"Height":24}`; nonsense is no size.
fn size(bytes: &[u8]) -> Option<Size> {
    if bytes.len() > MAX_SIZE {
        return None;
    }
    let WireSize { width, height } = serde_json::from_slice(bytes).ok()?;
    Some(Size { cols: width, rows: height })
}

/// Serves a client over a WebSocket; `start` makes the process.
pub(super) async fn over_websocket(
    io: Box<dyn web::Io>,
    protocol: &str,
    stdio: Stdio,
    start: impl Future<Output = Result<Process, ApiError>>,
) {
    let (reader, writer) = web::open(io).await;
    let (stdin_sender, stdin) = mpsc::channel(PIECES);
    let (size_sender, sizes) = mpsc::channel(PIECES);
    let outlet = |wanted: bool, channel| wanted.then(|| Outlet::Web(writer.clone(), channel));
    let client = Client {
        stdin,
        sizes,
        stdout: outlet(stdio.stdout, STDOUT),
        stderr: outlet(stdio.stderr, STDERR),
        error: Outlet::Web(writer.clone(), ERROR),
    };
    let can_end = protocol.starts_with("v5");
    let reading = read_channels(reader, &writer, can_end, stdin_sender, size_sender);
    let serving = async {
        // Tells clients that wait for it that the connection stands, as Kubernetes does.
        let first = client.stdout.as_ref().or(client.stderr.as_ref()).unwrap_or(&client.error).clone();
        if first.send(&[]).await.is_ok() {
            client.serve(start).await;
        }
        writer.close().await;
    };
    until_gone(reading, serving).await;
}

async fn read_channels(
    mut reader: web::Reader,
    writer: &web::Writer,
    can_end: bool,
    stdin: mpsc::Sender<Bytes>,
    sizes: mpsc::Sender<Size>,
) {
    let mut stdin = Some(stdin);
    while let Some(said) = reader.said(can_end).await {
        match said {
            Said::Data(STDIN, bytes) if !bytes.is_empty() => {
                if let Some(stdin) = &stdin
                    && deliver(stdin, bytes, || writer.ping()).await.is_err()
                {
                    return;
                }
            }
            Said::Data(RESIZE, bytes) => {
                if let Some(size) = size(&bytes)
                    && deliver(&sizes, size, || writer.ping()).await.is_err()
                {
                    return;
                }
            }
            Said::End(STDIN) => stdin = None,
            Said::Data(..) | Said::End(_) => {}
        }
    }
}

/// Runs both until the client is gone; after the end of serving it has a moment to go.
async fn until_gone(reading: impl Future<Output = ()>, serving: impl Future<Output = ()>) {
    tokio::pin!(reading, serving);
    tokio::select! {
        () = &mut reading => {}
        () = &mut serving => {
            // Who does not go by itself is cut off.
            let _ = timeout(LINGER, reading).await;
        }
    }
}

/// Serves a client over SPDY.
pub(super) async fn over_spdy(
    io: Box<dyn web::Io>,
    stdio: Stdio,
    start: impl Future<Output = Result<Process, ApiError>>,
) {
    let (session, mut streams, reading) = spdy::serve(io);
    let serving = async {
        if let Ok(Some(client)) = timeout(OPENING, spdy_client(&mut streams, stdio)).await {
            client.serve(start).await;
        }
        session.close().await;
        // Streams that come late are refused.
        drop(streams);
    };
    until_gone(reading, serving).await;
}

/// Waits for the streams that the request promised.
async fn spdy_client(streams: &mut mpsc::Receiver<spdy::Stream>, stdio: Stdio) -> Option<Client> {
    let (mut stdin, mut stdout, mut stderr, mut resize, mut error) = (None, None, None, None, None);
    let wanted = [stdio.stdin, stdio.stdout, stdio.stderr, stdio.tty, true];
    let mut missing = wanted.into_iter().filter(|wanted| *wanted).count();
    while missing > 0 {
        let stream = streams.recv().await?;
        let kind = stream.headers.get("streamtype").map(String::as_str).unwrap_or_default();
        let place = match kind {
            "stdin" if stdio.stdin => &mut stdin,
            "stdout" if stdio.stdout => &mut stdout,
            "stderr" if stdio.stderr => &mut stderr,
            "resize" if stdio.tty => &mut resize,
            "error" => &mut error,
            // None that was asked for.
            _ => continue,
        };
        if place.replace(stream).is_none() {
            missing -= 1;
        }
    }
    let outlet = |stream: spdy::Stream| Outlet::Spdy(stream.outlet);
    let (size_sender, sizes) = mpsc::channel(PIECES);
    if let Some(stream) = resize {
        tokio::spawn(read_sizes(stream.input, size_sender));
    }
    Some(Client {
        stdin: stdin.map_or_else(|| mpsc::channel(1).1, |stream| stream.input),
        sizes,
        stdout: stdout.map(outlet),
        stderr: stderr.map(outlet),
        error: outlet(error?),
    })
}

/// Sizes come as JSON objects, one after the other, cut anywhere.
async fn read_sizes(mut input: mpsc::Receiver<Bytes>, sizes: mpsc::Sender<Size>) {
    let mut buffer = Vec::new();
    while let Some(bytes) = input.recv().await {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'}') {
            let word: Vec<u8> = buffer.drain(..=end).collect();
            if let Some(size) = size(&word) {
                let _ = sizes.send(size).await;
            }
        }
        if buffer.len() > MAX_SIZE {
            // Nothing of which a size will come.
            buffer.clear();
        }
    }
}

impl Client {
    /// Passes everything on until the process has ended, and tells how.
    async fn serve(self, start: impl Future<Output = Result<Process, ApiError>>) {
        let Self { stdin, sizes, stdout, stderr, error } = self;
        let end = match start.await {
            Ok(process) => {
                // These end with the client or with the process. What a client sent before it went is still passed on.
                tokio::spawn(pass(stdin, process.stdin));
                tokio::spawn(pass(sizes, process.sizes));
                let (out, err) = tokio::join!(show(process.stdout, &stdout), show(process.stderr, &stderr));
                if out.and(err).is_err() {
                    return;
                }
                process.end.await.unwrap_or_else(|_| {
                    Err(ApiError::new(Reason::InternalError, "how the command ended can't be known any more"))
                })
            }
            Err(error) => Err(error),
        };
        for outlet in [&stdout, &stderr].into_iter().flatten() {
            outlet.finish().await;
        }
        // A client that is gone needs no end.
        let _ = error.send(status(end).to_string().as_bytes()).await;
        error.finish().await;
    }
}

/// Passes on what there is to whoever takes it. The rest is dropped, so that the client is still heard.
async fn pass<T>(mut from: mpsc::Receiver<T>, to: Option<mpsc::Sender<T>>) {
    if let Some(to) = to {
        while let Some(item) = from.recv().await {
            if to.send(item).await.is_err() {
                break;
            }
        }
    }
    while from.recv().await.is_some() {}
}

async fn show(from: Option<mpsc::Receiver<Bytes>>, to: &Option<Outlet>) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    while let Some(bytes) = from.recv().await {
        if let Some(to) = to {
            to.send(&bytes).await?;
        }
    }
    Ok(())
}

/// The `Status` that tells the end.
fn status(end: Result<i32, ApiError>) -> Value {
    match end {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => error.to_status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::SinkExt;
    use proptest::prelude::*;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::{Message, protocol::Role as Protocol};

    #[test]
    fn ends_are_told_as_clients_read_them() {
        assert_eq!(status(Ok(0))["status"], "Success");
        let failure = status(Ok(7));
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(status(Err(ApiError::bad_request("no")))["message"], "no");
    }

    #[tokio::test]
    async fn sizes_are_cut_anywhere() {
        let (sender, input) = mpsc::channel(8);
        let (sizes, mut seen) = mpsc::channel(8);
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":-1,\"Height\":2}{\"Width\":100,\"Height\":50}";
        tokio::spawn(read_sizes(input, sizes));
        for part in text.chunks(7) {
            sender.send(Bytes::from_static(part)).await.unwrap();
        }
        drop(sender);
        assert_eq!(seen.recv().await, Some(Size { cols: 80, rows: 24 }));
        assert_eq!(seen.recv().await, Some(Size { cols: 100, rows: 50 }));
        assert_eq!(seen.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_is_noticed_while_nobody_takes_what_it_sent() {
        let (client, server) = tokio::io::duplex(1 << 20);
        let mut client = WebSocketStream::from_raw_socket(client, Protocol::Client, None).await;
        let (reader, writer) = web::open(Box::new(server)).await;
        let ((stdin, _taken_never), (sizes, _)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
        for _ in 0..2 * PIECES {
            client.send(Message::binary(vec![STDIN, 1])).await.unwrap();
        }
        drop(client);
        let reading = read_channels(reader, &writer, true, stdin, sizes);
        assert!(timeout(Duration::from_secs(3600), reading).await.is_ok(), "it waits for who does not read");
    }

    proptest! {
        #[test]
        fn no_size_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            size(&bytes);
        }
    }
}
