//! A back end that runs commands here instead of in a pod.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::process::Stdio as Pipe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use vial_orchestrator::http::streams::{Duplex, LogOptions, PIECES, Place, Process, Size, Stdio, Streams};
use vial_orchestrator::status::ApiError;
use vial_orchestrator::store::Stored;

/// Counts what it is asked, so that tests see what becomes of it.
#[derive(Default)]
pub struct Local {
    /// Logs that are followed by somebody.
    pub followed: AtomicUsize,
    /// Processes whose client is there.
    pub connected: Arc<AtomicUsize>,
}

async fn feed(mut from: mpsc::Receiver<Bytes>, mut to: ChildStdin) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn drain(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.send(Bytes::copy_from_slice(&buffer[..read])).await.is_err() {
            return;
        }
    }
}

/// With a terminal the sizes that come are printed, up to one that is asked for.
fn show_sizes() -> Process {
    let (sizes, mut seen) = mpsc::channel::<Size>(PIECES);
    let (out, stdout) = mpsc::channel(PIECES);
    let (told, end) = oneshot::channel();
    tokio::spawn(async move {
        if let Some(size) = seen.recv().await {
            let text = format!("{} columns, {} rows\r\n", size.cols, size.rows);
            out.send(text.into()).await.unwrap();
        }
        told.send(Ok(0)).unwrap();
    });
    Process { stdin: None, stdout: Some(stdout), stderr: None, sizes: Some(sizes), end }
}

fn connected(mut child: Child, stdio: Stdio, count: Arc<AtomicUsize>) -> Process {
    let (stdin, input) = mpsc::channel(PIECES);
    let (out, stdout) = mpsc::channel(PIECES);
    let (err, stderr) = mpsc::channel(PIECES);
    let (told, end) = oneshot::channel();
    count.fetch_add(1, Ordering::SeqCst);
    tokio::spawn(feed(input, child.stdin.take().unwrap()));
    let gone = out.clone();
    let outputs = [
        tokio::spawn(drain(child.stdout.take().unwrap(), out)),
        tokio::spawn(drain(child.stderr.take().unwrap(), err)),
    ];
    tokio::spawn(async move {
        let whole = async {
            for output in outputs {
                output.await.unwrap();
            }
            child.wait().await.unwrap().code().unwrap_or(137)
        };
        tokio::select! {
            code = whole => drop(told.send(Ok(code))),
            () = gone.closed() => {}
        }
        count.fetch_sub(1, Ordering::SeqCst);
    });
    let wanted = |wanted: bool, stream| wanted.then_some(stream);
    Process {
        stdin: wanted_sender(stdio.stdin, stdin),
        stdout: wanted(true, stdout),
        stderr: wanted(true, stderr),
        sizes: None,
        end,
    }
}

fn wanted_sender<T>(wanted: bool, sender: T) -> Option<T> {
    wanted.then_some(sender)
}

impl Streams for Local {
    fn exec(
        &self,
        place: Place,
        command: Vec<String>,
        stdio: Stdio,
    ) -> BoxFuture<'_, Result<Process, ApiError>> {
        Box::pin(async move {
            assert_eq!((&place.container[..], &place.id[..]), ("c", "local://1"));
            if command == ["show-sizes"] {
                return Ok(show_sizes());
            }
            let mut words = Command::new(&command[0]);
            words.args(&command[1..]);
            if stdio.tty {
                words = Command::new("script");
                words.args(["-qefc", &command.join(" "), "/dev/null"]);
            }
            words.kill_on_drop(true).stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped());
            let failed = |error| ApiError::bad_request(format!("cannot run {}: {error}", command[0]));
            Ok(connected(words.spawn().map_err(failed)?, stdio, Arc::clone(&self.connected)))
        })
    }

    fn attach(&self, place: Place, stdio: Stdio) -> BoxFuture<'_, Result<Process, ApiError>> {
        self.exec(place, ["sh", "-c", "echo attached; cat; exit 5"].map(str::to_owned).to_vec(), stdio)
    }

    fn log(
        &self,
        place: Place,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<Bytes>, ApiError>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(PIECES);
            self.followed.fetch_add(usize::from(options.follow), Ordering::SeqCst);
            let text = format!(
                "{} {} tail={:?} times={} since={}\n",
                place.container,
                place.id,
                options.tail,
                options.timestamps,
                options.since.is_some()
            );
            sender.send(text.into()).await.unwrap();
            if options.follow {
                tokio::spawn(async move {
                    sender.send("and more\n".into()).await.unwrap();
                    // Until the client goes.
                    sender.closed().await;
                });
            }
            Ok(receiver)
        })
    }

    fn dial(&self, _: Arc<Stored>, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, String>> {
        Box::pin(async move {
            let connected = TcpStream::connect(("127.0.0.1", port)).await;
            connected.map(|stream| Box::new(stream) as Box<dyn Duplex>).map_err(|error| error.to_string())
        })
    }
}
