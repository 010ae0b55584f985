//! `vial load`, `vial import`.

use super::say;
use crate::args::{ImportArgs, LoadArgs};
use crate::client::{Body, Client, body, escape};
use crate::error::{Error, Result};
use crate::units;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Frame;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use vial_api::LoadEvent;

/// Loads images from an archive, a folder or standard input.
///
/// # Errors
/// When it can't be read or holds no usable image.
pub async fn load(client: &Client, args: &LoadArgs) -> Result<i32> {
    let input = &args.input;
    if input == Path::new("-") {
        refuse_terminal("vial load -i FILE")?;
        return follow(client, "/images/load".into(), stream(tokio::io::stdin()), args.quiet).await;
    }
    let meta = std::fs::metadata(input).map_err(Error::io(format!("open {}", input.display())))?;
    // The daemon opens plain files and folders itself; what only this process can open (a pipe, /dev/fd/…) is passed on.
    if meta.is_file() || meta.is_dir() {
        let whole = std::fs::canonicalize(input).map_err(Error::io(format!("open {}", input.display())))?;
        let Some(text) = whole.to_str() else {
            return Err(Error::Message(format!(
                "the path {} is not UTF-8; pass the archive on standard input",
                whole.display()
            )));
        };
        return follow(client, format!("/images/load?path={}", escape(text)), body(""), args.quiet).await;
    }
    let file = tokio::fs::File::open(input).await.map_err(Error::io(format!("open {}", input.display())))?;
    follow(client, "/images/load".into(), stream(file), args.quiet).await
}

/// Makes an image of a tar.
///
/// # Errors
/// When it can't be read or is no root file system.
pub async fn import(client: &Client, args: &ImportArgs) -> Result<i32> {
    let mut path = format!("/images/import?name={}", escape(&args.name));
    if !args.change.is_empty() {
        path += &format!("&changes={}", escape(&args.change.join("\n")));
    }
    if args.tar == Path::new("-") {
        refuse_terminal("vial import FILE NAME")?;
        return follow(client, path, stream(tokio::io::stdin()), false).await;
    }
    let file =
        tokio::fs::File::open(&args.tar).await.map_err(Error::io(format!("open {}", args.tar.display())))?;
    follow(client, path, stream(file), false).await
}

fn refuse_terminal(instead: &str) -> Result<()> {
    if std::io::stdin().is_terminal() {
        return Err(Error::Message(format!("standard input is a terminal, not an archive; say: {instead}")));
    }
    Ok(())
}

async fn follow(client: &Client, path: String, body: Body, quiet: bool) -> Result<i32> {
    if matches!(body, Body::Streamed(_)) {
        // An archive from a pipe can be sent once: not to a daemon that is just ending.
        client.json::<vial_api::Version>(Method::GET, "/version").await?;
    }
    let mut answer = client.send(Method::POST, &path, body, &[]).await?.into_body();
    let progress = Progress::new(quiet);
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(part) = answer.frame().await {
        if let Some(data) = part?.data_ref() {
            buffer.extend_from_slice(data);
        }
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                LoadEvent::Progress { what, done, total } => progress.show(&what, done, total),
                LoadEvent::Warning { message } => {
                    progress.clear();
                    crate::output::tell(&format!("warning: {message}"));
                }
                LoadEvent::Loaded { .. } if quiet => {}
                LoadEvent::Loaded { id, names } => {
                    progress.clear();
                    if names.is_empty() {
                        say(&format!("Loaded image: {id}"))?;
                    }
                    for name in names {
                        say(&format!("Loaded image: {name}"))?;
                    }
                }
                LoadEvent::Done => {
                    progress.clear();
                    return Ok(0);
                }
                LoadEvent::Failed(body) => {
                    progress.clear();
                    return Err(Error::Api(body));
                }
            }
        }
    }
    Err(Error::Connection(
        "the daemon ended while it was loading; nothing half-loaded stays, load again".into(),
    ))
}

/// A line that moves, on standard error, if that is a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing is shown when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let target = if std::io::stderr().is_terminal() && !quiet {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Bytes or steps that are done.
    pub fn show(&self, what: &str, done: u64, total: Option<u64>) {
        let what = units::cell(what, 60);
        self.0.set_message(match total {
            Some(total) => format!("{what}: {} of {}", units::bytes(done), units::bytes(total)),
            None if done == 0 => what,
            None => format!("{what}: {}", units::bytes(done)),
        });
        self.0.tick();
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// A request body that is read as it is sent.
fn stream(source: impl AsyncRead + Send + Sync + Unpin + 'static) -> Body {
    Body::Streamed(Source(source).boxed())
}

struct Source<R>(R);

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;

impl<R: AsyncRead + Unpin> hyper::body::Body for Source<R> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let mut bytes = BytesMut::zeroed(CHUNK);
        let mut buffer = ReadBuf::new(&mut bytes);
        if let Err(error) = ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer)) {
            return Poll::Ready(Some(Err(error)));
        }
        let count = buffer.filled().len();
        bytes.truncate(count);
        Poll::Ready((count > 0).then(|| Ok(Frame::data(bytes.freeze()))))
    }
}
